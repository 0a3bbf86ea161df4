// The page: opens songs, shows tags, neighbours and progress.

import { Encoder } from "./encoder.js";
import { Recording, Song, clock, lengthOf } from "./song.js";
import { Taggram } from "./taggram.js";

const MAX_TAGS = 10;
const MAX_NEIGHBOURS = 10;

const element = (id) => document.getElementById(id);
const player = element("player");
const encoder = new Encoder();
const taggram = new Taggram(jump, togglePlaying);

let model;
let songs = null;
// The song on the page with its results: { song, embeddings, tags }, one row per window.
let current = null;

listen();
start();

async function start() {
  try {
    say("Loading the model …");
    model = await readModel();
    element("model").textContent = document.title = model.name;
    element("about").textContent = describe(model);
    element("licence").textContent = `Weights: ${model.licence}. Page and ${model.runtime.title}: Apache-2.0.`;
    const report = await encoder.load(model);
    element("check").textContent = describeCheck(report);
    if (!report.isExact) {
      throw new Error(
        "The golden clips give other numbers here than when the model was exported, so songs are not opened; " +
          "try another browser.",
      );
    }
    songs = await readSongs();
    say("Ready.");
    element("open").hidden = false;
    element("record").hidden = !Recording.isPossible;
  } catch (error) {
    say("");
    complain(error);
  }
}

function listen() {
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    // Choosing the same file again must count as a change.
    event.target.value = "";
    if (file) open(file, file.name);
  });
  element("record").addEventListener("click", record);
  element("save").addEventListener("click", save);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    // Not ready yet, or not able to open songs.
    if (element("open").hidden) return;
    const [file] = event.dataTransfer.files;
    if (file) open(file, file.name);
    else complain(new Error("What was dropped is not a file; drop an audio file."));
  });
  for (const name of ["timeupdate", "seeking", "play"]) player.addEventListener(name, showPosition);
}

// --- songs -----------------------------------------------------------------------------------------------------------

let latest = 0;

async function open(file, name) {
  const turn = ++latest;
  complain(null);
  say(`Decoding ${name} …`);
  try {
    const song = await Song.open(file, name, model);
    if (turn !== latest) return URL.revokeObjectURL(song.url);
    say("");
    await show(song);
  } catch (error) {
    if (turn === latest) {
      say("");
      element("progress-line").hidden = true;
    }
    complain(error);
  }
}

async function show(song) {
  if (current) URL.revokeObjectURL(current.song.url);
  const shown = { song, embeddings: [], tags: [] };
  current = shown;
  element("song").hidden = false;
  element("song-name").textContent = song.name;
  // Shown with the first tags.
  element("taggram").hidden = element("top").hidden = true;
  element("nearest").hidden = element("save").hidden = true;
  lengthOf(player, song.url).catch(() => {});
  element("progress-line").hidden = false;
  const numWindows = song.startSamples.length;
  element("progress").max = numWindows;
  for (let index = 0; index < numWindows; index++) {
    const { embedding, tags } = await encoder.encode(song.window(index));
    if (current !== shown) return;
    shown.embeddings.push(embedding);
    if (tags) shown.tags.push(tags);
    element("progress").value = index + 1;
    element("progress-text").textContent = `${index + 1} of ${numWindows} windows`;
    drawSoon();
  }
  element("progress-line").hidden = true;
  element("save").hidden = false;
  showNeighbours();
}

function jump(seconds) {
  player.currentTime = seconds;
  showPosition();
}

function togglePlaying() {
  if (player.paused) player.play();
  else player.pause();
}

let recording = null;

async function record() {
  if (recording) return recording.stop();
  complain(null);
  // Until the browser has been allowed to record, a second click would start another recording.
  element("record").disabled = true;
  try {
    recording = await Recording.start();
    element("record").disabled = false;
    element("record").textContent = "Stop recording";
    say("Recording …");
    open(await recording.finished, "Recording");
  } catch (error) {
    complain(error);
  } finally {
    recording = null;
    element("record").disabled = false;
    element("record").textContent = "Record from the microphone";
  }
}

// --- what is shown ---------------------------------------------------------------------------------------------------

let isDrawing = false;

function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw();
  });
}

function draw() {
  const { song, tags } = current;
  const flaws = [song.isPadded && "shorter than a window", song.isSilent && "silent, so its numbers mean nothing"];
  element("song-details").textContent = [clock(song.seconds), ...flaws].filter(Boolean).join(", ");
  if (!tags.length) return;
  element("taggram").hidden = element("top").hidden = false;
  const means = mean(tags);
  const ranked = [...means.keys()].sort((one, other) => means[other] - means[one]);
  taggram.show({
    tagNames: model.tag_names,
    ranked,
    rows: tags,
    startSeconds: startSeconds(song),
    windowSeconds: model.clip_num_samples / model.sample_rate_hz,
    hopSeconds: model.hop_num_samples / model.sample_rate_hz,
    seconds: song.seconds,
  });
  const top = ranked.slice(0, MAX_TAGS);
  const items = top.map((column) => listItem(model.tag_names[column], means[column], means[column]));
  element("tags").replaceChildren(...items);
  showPosition();
}

const startSeconds = (song) => song.startSamples.map((sample) => sample / model.sample_rate_hz);

let positionFrame = 0;

function showPosition() {
  cancelAnimationFrame(positionFrame);
  if (!current?.tags.length) return;
  const seconds = player.currentTime;
  const middle = seconds - (model.clip_num_samples - model.hop_num_samples) / 2 / model.sample_rate_hz;
  const window = Math.max(0, Math.floor((middle * model.sample_rate_hz) / model.hop_num_samples));
  const tags = current.tags[Math.min(window, current.tags.length - 1)];
  const top = [...tags.keys()].sort((one, other) => tags[other] - tags[one]).slice(0, 3);
  const description = top.map((column) => `${model.tag_names[column]} ${tags[column].toFixed(2)}`).join(", ");
  element("now").textContent = `${clock(seconds)}  ${description}`;
  taggram.moveCursor(seconds, `${clock(seconds)}, ${description}`);
  if (!player.paused) positionFrame = requestAnimationFrame(showPosition);
}

function showNeighbours() {
  if (!songs) return;
  const query = unit(mean(current.embeddings));
  const cosines = songs.vectors.map((vector) => vector.reduce((sum, value, index) => sum + value * query[index], 0));
  const nearest = [...cosines.keys()].sort((one, other) => cosines[other] - cosines[one]).slice(0, MAX_NEIGHBOURS);
  element("neighbours").replaceChildren(...nearest.map((row) => listItem(songs.names[row], cosines[row])));
  element("nearest").hidden = false;
}

function listItem(name, number, barFraction = null) {
  const part = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
  const item = document.createElement("li");
  item.append(part("name", name), part("number", number.toFixed(barFraction === null ? 4 : 3)));
  if (barFraction !== null) {
    const bar = part("bar", "");
    bar.style.width = `${100 * barFraction}%`;
    item.append(bar);
  }
  return item;
}

function save() {
  const { song, embeddings, tags } = current;
  const content = {
    model: model.name,
    file: song.name,
    duration_seconds: song.seconds,
    is_padded: song.isPadded,
    is_silent: song.isSilent,
    times_seconds: startSeconds(song),
    embedding: Array.from(mean(embeddings)),
    vectors: embeddings.map((vector) => Array.from(vector)),
    ...(tags.length && {
      tag_names: model.tag_names,
      tags: Array.from(mean(tags)),
      tags_of_windows: tags.map((row) => Array.from(row)),
    }),
  };
  const url = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: `${song.name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url));
}

function describe({ clip_num_samples, sample_rate_hz, tag_names, embedding_dim }) {
  const tags = tag_names.length ? ` and ${tag_names.length} tags` : "";
  const windows = `${(clip_num_samples / sample_rate_hz).toFixed(1)} s at ${sample_rate_hz / 1000} kHz`;
  return `Takes windows of ${windows}, and gives ${embedding_dim} numbers${tags} for each.`;
}

function describeCheck({ accelerator, isExact, largestError, leastCosine, milliseconds }) {
  const verdict = isExact ? "as exported" : "not as exported";
  const error = `largest difference ${largestError.toExponential(1)} of the largest value`;
  const speed = `Runs on ${accelerator}, ${milliseconds.toFixed(0)} ms a window.`;
  return `Golden clips: ${verdict} (${error}, cosine at least ${leastCosine.toFixed(6)}). ${speed}`;
}

function say(sentence) {
  element("status").textContent = sentence;
}

function complain(error) {
  element("problem").textContent = error ? error.message : "";
}

// --- files and numbers -----------------------------------------------------------------------------------------------

async function readModel() {
  try {
    return await (await fetch("model.json")).json();
  } catch {
    throw new Error("model.json cannot be read; check the connection, or export the page again.");
  }
}

async function readSongs() {
  if (!model.songs) return null;
  const response = await fetch("songs.bin", { integrity: model.songs.integrity }).catch(() => null);
  if (!response?.ok) {
    complain(new Error("songs.bin cannot be fetched, or is not the file of the export; nearest songs are not shown."));
    return null;
  }
  const all = new Float32Array(await response.arrayBuffer());
  const { names } = model.songs;
  const vectors = names.map((_, row) => all.subarray(row * model.embedding_dim, (row + 1) * model.embedding_dim));
  return { names, vectors };
}

function mean(rows) {
  const sums = new Float64Array(rows[0].length);
  for (const row of rows) row.forEach((value, column) => (sums[column] += value / rows.length));
  return sums;
}

function unit(vector) {
  const norm = Math.max(Math.hypot(...vector), 1e-12);
  return vector.map((value) => value / norm);
}
