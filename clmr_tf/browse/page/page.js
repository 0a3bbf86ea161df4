// The page: what is shown, what was chosen, and what is asked of the server.

import { SongList } from "./list.js";
import { SongMap } from "./map.js";
import { Taggram, heat, minutes } from "./taggram.js";

const COLOURS = ["#4e79a7", "#e07b1f", "#3f9f55", "#d1495b", "#8a63b8", "#8c6d4f", "#d96bb0", "#7f8790", "#b5a62b", "#2aa7b8", "#8fb4dc", "#f2a88d"];
const OTHERS = "#9a96a3";
const get = (id) => document.getElementById(id);

let songs; // what /api/songs says
let names, folders, searched; // of each song: name, folder, and both in lower case
let tags = []; // of the model, then taught ones
let colourOf = [];
let filterValues = null; // probabilities of the tag that is filtered by
let lassoed = null; // rows, or null
let tab = "songs";
let playing = -1;
let query = { like: [], unlike: [] };
let taught = null; // the tag that is being taught, as the server describes it
let probabilities = null; // of that tag
let teachView = "offers";
const answers = new Map(); // row -> "yes" or "no", for whole songs

// With the table that the rows are of: the server may have another one by now.
function ofTable(path) {
  const address = new URL(path, location.href);
  if (songs) address.searchParams.set("table", songs.key);
  return address.href;
}
async function ask(path, body) {
  const request = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(ofTable(path), request);
  } catch {
    throw new Error("The command that serves this page has ended; start it again.");
  }
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: `The server answered with ${answer.status}.` }));
    throw new Error(error);
  }
  return answer;
}
const askJson = async (path, body) => (await ask(path, body)).json();
const askFloats = async (path) => new Float32Array(await (await ask(path)).arrayBuffer());

// Runs what a click starts, and shows its error as a sentence.
async function attempt(action) {
  try {
    say("");
    await action();
  } catch (error) {
    say(error.message);
  }
}
function say(problem) { get("problem").textContent = problem; }

// ---------------------------------------------------------------- map

const map = new SongMap(get("map"), {
  hover(row, x, y) {
    const box = get("hover");
    box.hidden = row < 0;
    if (row < 0) return;
    box.textContent = `${names[row]} · ${minutes(songs.durations_seconds[row])}${folders[row] ? ` · ${folders[row]}` : ""}`;
    const isRight = x > get("map").clientWidth / 2;
    box.style.left = isRight ? "" : `${x + 14}px`;
    box.style.right = isRight ? `${get("map").clientWidth - x + 14}px` : "";
    box.style.top = `${Math.min(y + 12, get("map").clientHeight - 50)}px`;
  },
  choose: (row) => play(row),
  lasso(rows) {
    setLasso(false);
    lassoed = rows.length ? rows : null;
    openTab("songs");
  },
});

let shownLayout;
async function placeSongs() {
  const answer = await ask("/api/layout");
  const layout = answer.headers.get("x-layout");
  const positions = new Float32Array(await answer.arrayBuffer());
  if (layout !== shownLayout) map.place(positions, true);
  shownLayout = layout;
  const isFinal = layout === "tsne";
  get("map-state").textContent = isFinal ? "" : "Preliminary map; t-SNE is being computed";
  // Not by `attempt`, which takes away the sentence about what the user does meanwhile.
  if (!isFinal) setTimeout(() => placeSongs().catch((error) => say(error.message)), 3000);
}

async function colourSongs() {
  const choice = get("colour").value;
  const entries = [];
  if (choice === "cluster") {
    const count = new Set(songs.cluster).size;
    colourOf = songs.cluster.map((cluster) => COLOURS[cluster % COLOURS.length]);
    for (let cluster = 0; cluster < count; cluster++) entries.push([COLOURS[cluster % COLOURS.length], `cluster ${cluster + 1}`]);
  } else if (choice === "folder") {
    const counts = new Map();
    for (const folder of folders) counts.set(folder, (counts.get(folder) ?? 0) + 1);
    const greatest = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, COLOURS.length).map(([folder]) => folder);
    const colours = new Map(greatest.map((folder, index) => [folder, COLOURS[index]]));
    colourOf = folders.map((folder) => colours.get(folder) ?? OTHERS);
    greatest.forEach((folder) => entries.push([colours.get(folder), folder || "no folder"]));
    if (counts.size > greatest.length) entries.push([OTHERS, `${counts.size - greatest.length} others`]);
  } else {
    const values = await valuesOf(choice);
    if (get("colour").value !== choice) return;
    const greatest = values.reduce((one, other) => Math.max(one, other), 1e-9);
    // Few colours, so that points are drawn quickly.
    colourOf = Array.from(values, (value) => heat(Math.round((value / greatest) * 24) / 24));
    entries.push(["bar", `0 to ${greatest.toFixed(2)}`]);
  }
  map.colour(colourOf);
  get("legend").replaceChildren(...entries.map(([colour, text]) => {
    const item = document.createElement("li");
    const mark = document.createElement("i");
    if (colour === "bar") {
      mark.className = "bar";
      mark.style.background = `linear-gradient(90deg, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map(heat).join(",")})`;
    } else mark.style.background = colour;
    item.append(mark, text);
    return item;
  }));
}

// `key` is a value of the selects: "taught:" or "model:", and the name.
function valuesOf(key) {
  const [kind, name] = [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)];
  return askFloats(`/api/tag?name=${encodeURIComponent(name)}&taught=${kind === "taught"}`);
}

function setLasso(isOn) {
  map.isLasso = isOn;
  get("map").classList.toggle("lasso", isOn);
  get("lasso").setAttribute("aria-pressed", isOn);
}
get("lasso").addEventListener("click", () => setLasso(!map.isLasso));
get("zoom-in").addEventListener("click", () => map.zoom(1.4));
get("zoom-out").addEventListener("click", () => map.zoom(1 / 1.4));
get("zoom-all").addEventListener("click", () => map.reset());
get("colour").addEventListener("change", () => attempt(colourSongs));

// ---------------------------------------------------------------- list

function button(text, name, label, action, isPressed) {
  const made = document.createElement("button");
  made.textContent = text;
  made.className = name;
  made.setAttribute("aria-label", label);
  made.title = label;
  if (isPressed !== undefined) made.setAttribute("aria-pressed", isPressed);
  made.addEventListener("click", () => attempt(action));
  return made;
}

const list = new SongList(get("list"), (item, element) => {
  const text = document.createElement("div");
  text.className = "text";
  const [name, about] = [document.createElement("div"), document.createElement("div")];
  name.className = "name";
  about.className = "about";
  text.append(name, about);
  element.append(text);
  if (item.mark) element.append(button("Take back", "back", `Take back the mark of ${names[item.row] ?? item.name}`, () => change("/api/mark", { marks: [{ ...item.mark, answer: "unmarked" }] })));
  if (item.row === undefined) {
    name.textContent = item.name;
    about.textContent = item.about;
    element.title = `${item.name}: ${item.about}`;
    return;
  }
  const { row } = item;
  name.textContent = names[row];
  about.textContent = item.about ?? describe(row);
  element.title = songs.paths[row];
  element.classList.toggle("playing", row === playing);
  if (item.score !== undefined) {
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = item.score.toFixed(2);
    element.append(score);
  }
  if (item.match) {
    const { like_row: like, like_seconds: likeSeconds, seconds } = item.match;
    element.append(button(`▶ ${minutes(seconds)}`, "theirs", `Play ${names[row]} at ${minutes(seconds)}`, () => play(row, seconds)));
    element.append(button(`▶ mine ${minutes(likeSeconds)}`, "mine", `Play ${names[like]} at ${minutes(likeSeconds)}`, () => play(like, likeSeconds)));
  }
  if (item.other !== undefined) element.append(button("▶ other", "other", `Play ${names[item.other]}`, () => play(item.other)));
  if (!item.mark && tab === "teach" && taught) {
    for (const answer of ["yes", "no"]) {
      const isPressed = answers.get(row) === answer;
      element.append(button(answer, answer, `${answer}: ${names[row]}`, () => mark(row, isPressed ? "unmarked" : answer, null), isPressed));
    }
  }
}, (item) => {
  if (item.row !== undefined) attempt(() => play(item.row, item.mark?.seconds ?? item.match?.seconds));
});

const silent = new Set();
function describe(row) {
  const parts = [minutes(songs.durations_seconds[row])];
  if (folders[row]) parts.push(folders[row]);
  if (silent.has(row)) parts.push("silent");
  if (songs.lost_seconds[row]) parts.push(`${songs.lost_seconds[row].toFixed(1)} s are damaged`);
  return parts.join(" · ");
}

// Rows that pass search and filters, and the lasso.
function shownRows() {
  const words = get("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const least = Number(get("filter-least").value);
  const shortest = 60 * Number(get("filter-shortest").value);
  const longest = get("filter-longest").value ? 60 * Number(get("filter-longest").value) : Infinity;
  const inside = lassoed && new Set(lassoed);
  const rows = [];
  for (let row = 0; row < names.length; row++) {
    const seconds = songs.durations_seconds[row];
    if (seconds < shortest || seconds > longest || (inside && !inside.has(row))) continue;
    if (filterValues && filterValues[row] < least) continue;
    if (words.every((word) => searched[row].includes(word))) rows.push(row);
  }
  return rows;
}

function isFiltered() {
  return Boolean(lassoed || filterValues || ["search", "filter-shortest", "filter-longest"].some((id) => get(id).value));
}

// Shows filters and list again, after anything they depend on has changed.
let numRefreshes = 0;
async function refresh() {
  const own = ++numRefreshes;
  const rows = shownRows();
  get("clear-filters").hidden = !isFiltered();
  if (isFiltered()) {
    const shown = new Uint8Array(names.length);
    rows.forEach((row) => { shown[row] = 1; });
    map.show(shown);
  } else map.show(null);
  for (const [id, isShown] of [["similar-query", tab === "similar"], ["teach", tab === "teach"]]) get(id).hidden = !isShown;
  let shown;
  try {
    shown = await listed(rows);
  } catch (error) {
    if (own !== numRefreshes) return;
    get("list-count").textContent = "";
    throw error;
  }
  // Another tab or filter was chosen while the server was busy.
  if (own !== numRefreshes) return;
  get("list-count").textContent = shown.count;
  get("save").hidden = !shown.items.some((item) => item.row !== undefined);
  list.set(shown.items);
}

// The list of the tab that is open, of the rows that pass the filters.
async function listed(rows) {
  let items = [];
  let count = "";
  const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
  if (tab === "songs") {
    if (filterValues) rows.sort((a, b) => filterValues[b] - filterValues[a]);
    items = rows.map((row) => ({ row, score: filterValues?.[row] }));
    count = counted(items.length, "song") + (lassoed ? " in the lasso" : "");
  } else if (tab === "similar") {
    if (query.like.length) {
      get("list-count").textContent = "Comparing …";
      const cosines = await askFloats(`/api/similarities?like=${query.like}&unlike=${query.unlike}`);
      const nearest = rows.filter((row) => cosines[row] > -Infinity).sort((a, b) => cosines[b] - cosines[a]).slice(0, 30);
      const found = await askJson(`/api/matches?like=${query.like}&rows=${nearest}`);
      items = found.map((match) => ({
        row: match.row,
        score: cosines[match.row],
        match,
        about: `${minutes(match.seconds)} sounds like ${minutes(match.like_seconds)}${query.like.length > 1 ? ` of ${names[match.like_row]}` : ""} (${match.window_cosine.toFixed(2)})`,
      }));
      count = `${counted(items.length, "song")}, the most similar first`;
    }
  } else if (tab === "duplicates") {
    get("list-count").textContent = "Comparing all songs …";
    const { pairs, num_pairs: numPairs } = await askJson("/api/duplicates");
    const allowed = new Set(rows);
    items = pairs.filter((pair) => allowed.has(pair.first) || allowed.has(pair.second)).map((pair) => ({
      row: pair.first,
      other: pair.second,
      score: pair.cosine,
      about: `${minutes(songs.durations_seconds[pair.first])} and ${minutes(songs.durations_seconds[pair.second])}: ${names[pair.second]}`,
    }));
    const all = `${counted(numPairs, "pair")} that may be the same`;
    count = items.length === numPairs ? all : `${items.length} of ${all}${numPairs > pairs.length ? `; only the ${pairs.length} most similar are listed` : ""}`;
  } else if (tab === "skipped") {
    items = songs.skipped.map(([name, about]) => ({ name, about }));
    count = `${counted(items.length, "file")} could not be used`;
  } else if (taught) {
    if (teachView === "offers" && isFiltered()) {
      // Whoever searches now wants to mark what is found.
      items = rows.map((row) => ({ row, score: taught.has_head ? probabilities[row] : undefined }));
      count = counted(items.length, "song");
    } else if (teachView === "offers") {
      const offers = await askJson(`/api/offers?name=${encodeURIComponent(taught.name)}&count=12`);
      items = offers.map((row) => ({ row, score: taught.has_head ? probabilities[row] : undefined }));
      count = taught.has_head ? "These would improve it most" : "Mark a song that it fits; these are all different";
    } else if (teachView === "ranking") {
      items = taught.has_head ? rows.filter((row) => !silent.has(row)).sort((a, b) => probabilities[b] - probabilities[a]).map((row) => ({ row, score: probabilities[row] })) : [];
      count = taught.has_head ? counted(items.length, "song") : "Mark a song that it fits first";
    } else {
      items = taught.marks.map((one) => ({
        row: songs.row_of.get(one.path),
        name: one.path,
        mark: one,
        about: `${one.answer}${one.seconds === null ? "" : `, at ${minutes(one.seconds)}`}${songs.row_of.has(one.path) ? "" : "; no longer in the table"}`,
      }));
      count = counted(items.length, "mark");
    }
  }
  return { items, count };
}

function openTab(name) {
  tab = name;
  // Nothing of another list is shown while the server is busy.
  list.set([]);
  get("list-count").textContent = "";
  for (const one of document.querySelectorAll("[role=tab]")) {
    one.setAttribute("aria-selected", one.id === `tab-${name}`);
    one.tabIndex = one.id === `tab-${name}` ? 0 : -1;
  }
  return attempt(refresh);
}
for (const one of document.querySelectorAll("[role=tab]")) {
  one.addEventListener("click", () => openTab(one.id.slice(4)));
  one.addEventListener("keydown", (event) => {
    const next = { ArrowRight: one.nextElementSibling, ArrowLeft: one.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    next.focus();
    next.click();
  });
}

get("save").addEventListener("click", () => {
  const rows = list.items.flatMap((item) => (item.row === undefined ? [] : item.other === undefined ? [item.row] : [item.row, item.other]));
  const lines = rows.flatMap((row) => [`#EXTINF:${Math.round(songs.durations_seconds[row])},${names[row]}`, songs.paths[row]]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["#EXTM3U", ...lines, ""].join("\n")], { type: "audio/x-mpegurl" }));
  link.download = `${songs.table}-${tab === "teach" ? taught.name.replace(/[^\p{L}\p{N}]+/gu, "-") : tab}.m3u8`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

let waiting;
for (const id of ["search", "filter-least", "filter-shortest", "filter-longest"]) {
  get(id).addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (tab === "skipped" || (id === "search" && tab === "duplicates") ? openTab("songs") : attempt(refresh)), 80);
  });
}
get("filter-tag").addEventListener("change", () => attempt(async () => {
  const key = get("filter-tag").value;
  const values = key ? await valuesOf(key) : null;
  if (get("filter-tag").value !== key) return;
  filterValues = values;
  get("filter-least-label").hidden = !key;
  await openTab("songs");
}));
get("clear-filters").addEventListener("click", () => {
  for (const id of ["search", "filter-shortest", "filter-longest", "filter-tag"]) get(id).value = "";
  lassoed = filterValues = null;
  get("filter-least-label").hidden = true;
  attempt(refresh);
});

// ---------------------------------------------------------------- similar songs

function addToQuery(row, kind) {
  const other = kind === "like" ? "unlike" : "like";
  query[other] = query[other].filter((one) => one !== row);
  if (!query[kind].includes(row)) query[kind].push(row);
  showQuery();
}
function showQuery() {
  get("similar-hint").hidden = query.like.length > 0;
  get("chips").replaceChildren(...["like", "unlike"].flatMap((kind) => query[kind].map((row) => {
    const [chip, text] = [document.createElement("li"), document.createElement("span")];
    chip.className = kind;
    text.textContent = `${kind === "like" ? "more like" : "less like"} ${names[row]}`;
    chip.append(text, button("×", "drop", `Leave out ${names[row]}`, () => {
      query[kind] = query[kind].filter((one) => one !== row);
      showQuery();
    }));
    return chip;
  })));
  return openTab("similar");
}
get("more-like").addEventListener("click", () => addToQuery(playing, "like"));
get("less-like").addEventListener("click", () => addToQuery(playing, "unlike"));

// ---------------------------------------------------------------- teaching

async function readTags() {
  tags = await askJson("/api/tags");
  for (const [id, first] of [["filter-tag", [["", "any"]]], ["colour", [["cluster", "cluster"], ["folder", "folder"]]]]) {
    const select = get(id);
    const before = select.value;
    const known = tags.filter((tag) => !tag.is_taught || tag.has_head).map((tag) => [`${tag.is_taught ? "taught" : "model"}:${tag.name}`, `${tag.name}${tag.is_taught ? " (taught)" : ""}`]);
    select.replaceChildren(...[...first, ...known].map(([value, text]) => new Option(text, value)));
    select.value = [...select.options].some((option) => option.value === before) ? before : first[0][0];
  }
  get("taught-names").replaceChildren(...tags.filter((tag) => tag.is_taught).map((tag) => new Option(tag.name, tag.name)));
}

// `tag`: as the server describes it. `values`: of all songs, if it has a head.
function setTaught(tag, values) {
  taught = tag;
  probabilities = values;
  answers.clear();
  for (const one of tag.marks) if (one.seconds === null) answers.set(songs.row_of.get(one.path), one.answer);
  const count = (answer) => tag.marks.filter((one) => one.answer === answer).length;
  const { precision } = tag;
  const known = precision ? `${precision.estimate.toFixed(2)} (95 %: ${precision.low.toFixed(2)} to ${precision.high.toFixed(2)}), cross-validated; ${precision.num_marks} marked songs or moments were predicted to have the tag` : `unknown${tag.marks.length < 5 ? " before five marks" : ""}`;
  get("teach-summary").textContent = `${count("yes")} yes, ${count("no")} no. Precision: ${known}.`;
  get("teach-state").hidden = get("marking").hidden = false;
  get("teach-tag").value = tag.name;
  get("marking-tag").textContent = `${tag.name}?`;
  get("teach-undo").disabled = !tag.num_changes;
  get("teach-remove").disabled = !tag.num_changes;
}

// Changes the tag that is taught, one change at a time: a second click would mark the song that slides below it.
let isChanging = false;
async function change(path, what) {
  if (isChanging) return;
  isChanging = true;
  try {
    const tag = await askJson(path, { name: taught.name, ...what });
    const key = `taught:${tag.name}`;
    const values = tag.has_head ? await valuesOf(key) : null;
    const [colour, filter] = [get("colour").value, get("filter-tag").value];
    await readTags();
    // Another tag may be taught by now.
    if (taught.name === tag.name) setTaught(tag, values);
    // A tag without a head is no longer in the selects.
    if (colour === key) await colourSongs();
    if (filter === key) {
      filterValues = values;
      get("filter-least-label").hidden = !values;
    }
    await refresh();
  } finally {
    isChanging = false;
  }
  // Meanwhile, further clicks count.
  if (playing >= 0) await showTaggram(playing);
}

const mark = (row, answer, seconds) => change("/api/mark", { marks: [{ row, answer, seconds }] });
const markPlaying = (answer, isMoment) => attempt(() => mark(playing, answer, isMoment ? Math.round(audio.currentTime * 10) / 10 : null));

get("teach-name").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = get("teach-tag").value.trim();
  if (!name) return;
  attempt(async () => {
    const tag = tags.find((one) => one.is_taught && one.name === name) ?? { name, has_head: false, marks: [], precision: null, num_changes: 0 };
    const values = tag.has_head ? await valuesOf(`taught:${name}`) : null;
    if (get("teach-tag").value.trim() !== name) return;
    setTaught(tag, values);
    await refresh();
  });
});
get("teach-undo").addEventListener("click", () => attempt(() => change("/api/undo")));
get("teach-remove").addEventListener("click", () => {
  if (confirm(`Remove the tag “${taught.name}” with all its marks?`)) attempt(() => change("/api/remove"));
});
for (const view of ["offers", "ranking", "marks"]) {
  get(`show-${view}`).addEventListener("click", () => {
    teachView = view;
    for (const one of ["offers", "ranking", "marks"]) get(`show-${one}`).setAttribute("aria-pressed", one === view);
    attempt(refresh);
  });
}
get("mark-yes").addEventListener("click", () => markPlaying("yes", false));
get("mark-no").addEventListener("click", () => markPlaying("no", false));
get("mark-moment-yes").addEventListener("click", () => markPlaying("yes", true));
get("mark-moment-no").addEventListener("click", () => markPlaying("no", true));

// ---------------------------------------------------------------- player

const audio = get("audio");
const taggram = new Taggram(get("taggram"), (seconds) => {
  audio.currentTime = seconds;
  attempt(() => start());
});

async function start() {
  try {
    await audio.play();
  } catch (error) {
    // Another song was chosen before this one had begun, or the error event says what is wrong.
    if (error.name !== "AbortError" && !audio.error) throw new Error("The browser did not start the song; press play.");
  }
}

async function play(row, seconds) {
  if (row !== playing) {
    playing = row;
    get("taggram-section").hidden = true;
    audio.src = ofTable(`/api/songs/${row}/audio`);
    get("now-name").textContent = names[row];
    get("now-details").textContent = describe(row);
    document.title = `${names[row]} · ${songs.table}`;
    get("now-actions").hidden = false;
    get("play").disabled = get("seek").disabled = false;
    get("seek").max = songs.durations_seconds[row];
    map.playing = row;
    map.reveal(row);
    list.render();
    attempt(() => showTaggram(row));
  }
  if (seconds !== undefined && seconds !== null) audio.currentTime = seconds;
  await start();
}

async function showTaggram(row) {
  const shown = await askJson(`/api/songs/${row}/taggram`);
  if (row !== playing) return;
  get("taggram-section").hidden = false;
  taggram.show(shown, songs.durations_seconds[row], songs.window_seconds);
}

let frame = 0;
function showTime() {
  cancelAnimationFrame(frame);
  const seconds = audio.currentTime;
  taggram.cursor(seconds);
  if (document.activeElement !== get("seek") || !audio.paused) get("seek").value = seconds;
  get("seek").setAttribute("aria-valuetext", minutes(seconds));
  get("time").textContent = playing < 0 ? "" : `${minutes(seconds)} / ${minutes(songs.durations_seconds[playing])}`;
  if (!audio.paused) frame = requestAnimationFrame(showTime);
}
for (const event of ["play", "pause", "seeked", "loadedmetadata"]) {
  audio.addEventListener(event, () => {
    get("play").textContent = audio.paused ? "▶" : "❚❚";
    get("play").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    showTime();
  });
}
audio.addEventListener("error", () => attempt(async () => {
  const row = playing;
  // Says why, if the file is the reason.
  await ask(audio.src, undefined).then((answer) => answer.body?.cancel());
  if (row === playing) throw new Error(`This browser cannot play ${names[row]}; it may not know the format.`);
}));
get("seek").addEventListener("input", () => { audio.currentTime = Number(get("seek").value); });
const toggle = () => attempt(() => (audio.paused ? start() : audio.pause()));
get("play").addEventListener("click", toggle);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  const isTyping = target.matches("input:not([type=range]), select, textarea");
  if (key === "Escape") {
    setLasso(false);
    if (isTyping) target.blur();
    return;
  }
  if (isTyping) {
    if (target.id === "search" && (key === "ArrowDown" || key === "Enter")) {
      event.preventDefault();
      get("list").focus();
      list.move(1);
    }
    return;
  }
  const hasSong = playing >= 0;
  const actions = {
    "/": () => get("search").focus(),
    " ": () => (target.matches("button, [role=tab]") ? false : hasSong && toggle()),
    ArrowLeft: () => hasSong && (audio.currentTime -= 5),
    ArrowRight: () => hasSong && (audio.currentTime += 5),
    ArrowDown: () => list.move(1),
    ArrowUp: () => list.move(-1),
    PageDown: () => list.move(10),
    PageUp: () => list.move(-10),
    Home: () => list.select(0),
    End: () => list.select(list.items.length - 1),
    Enter: () => (target.matches("button, [role=tab]") ? false : list.selected >= 0 && list.choose(list.items[list.selected])),
    l: () => hasSong && addToQuery(playing, "like"),
    y: () => hasSong && taught && markPlaying("yes", false),
    n: () => hasSong && taught && markPlaying("no", false),
    Y: () => hasSong && taught && markPlaying("yes", true),
    N: () => hasSong && taught && markPlaying("no", true),
  };
  if (actions[key] && actions[key]() !== false) event.preventDefault();
});

// ---------------------------------------------------------------- start

await attempt(async () => {
  songs = await askJson("/api/songs");
  songs.row_of = new Map(songs.paths.map((path, row) => [path, row]));
  songs.silent.forEach((row) => silent.add(row));
  names = songs.paths.map((path) => path.slice(path.lastIndexOf("/") + 1).replace(/\.[^.]{1,5}$/, ""));
  folders = songs.paths.map((path) => path.split("/").at(-2) ?? "");
  searched = songs.paths.map((path) => path.split("/").slice(-3).join("/").toLowerCase());
  const [title, count] = [document.createTextNode(`${songs.table} `), document.createElement("small")];
  count.textContent = `${names.length.toLocaleString("en")} songs${songs.skipped.length ? `, ${songs.skipped.length.toLocaleString("en")} file${songs.skipped.length === 1 ? "" : "s"} skipped` : ""}`;
  get("title").replaceChildren(title, count);
  get("tab-skipped").textContent = `Skipped (${songs.skipped.length})`;
  document.title = songs.table;
  await readTags();
  await colourSongs();
  await Promise.all([placeSongs(), openTab("songs")]);
  document.body.dataset.ready = "true";
});
