// The taggram: a row for each of the likeliest tags, time from left to right, and a cursor.

import { clock } from "./song.js";

const MAX_ROWS = 15;
const AXIS_HEIGHT = 20;
const TICK_DISTANCE = 70;
const TICK_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300];

export class Taggram {
  #area = document.getElementById("area");
  #canvas = document.getElementById("canvas");
  #cursor = document.getElementById("cursor");
  #labels = document.getElementById("labels");
  #shown = null;

  // `jump(seconds)` is called for clicks and keys, `toggle()` for the space bar.
  constructor(jump, toggle) {
    const jumpTo = (event) => {
      const { left, width } = this.#area.getBoundingClientRect();
      jump(this.#clamped(((event.clientX - left) / width) * this.#shown.seconds));
    };
    this.#area.addEventListener("pointerdown", (event) => {
      this.#area.setPointerCapture(event.pointerId);
      jumpTo(event);
    });
    this.#area.addEventListener("pointermove", (event) => event.buttons === 1 && jumpTo(event));
    this.#area.addEventListener("keydown", (event) => {
      const now = Number(this.#area.getAttribute("aria-valuenow"));
      const targets = {
        ArrowLeft: now - this.#shown.hopSeconds,
        ArrowRight: now + this.#shown.hopSeconds,
        ArrowDown: now - this.#shown.hopSeconds,
        ArrowUp: now + this.#shown.hopSeconds,
        PageDown: now - 10,
        PageUp: now + 10,
        Home: 0,
        End: this.#shown.seconds,
      };
      if (event.key === " ") toggle();
      else if (event.key in targets) jump(this.#clamped(targets[event.key]));
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => this.#draw()).observe(this.#area);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  #clamped(seconds) {
    return Math.min(Math.max(seconds, 0), this.#shown.seconds);
  }

  // `ranked` are columns of `rows` (the tags of each window), the likeliest first.
  show({ tagNames, ranked, rows, startSeconds, windowSeconds, hopSeconds, seconds }) {
    const columns = ranked.slice(0, MAX_ROWS);
    this.#shown = { columns, rows, startSeconds, windowSeconds, hopSeconds, seconds };
    const label = (name) => Object.assign(document.createElement("li"), { textContent: name, title: name });
    this.#labels.replaceChildren(...columns.map((column) => label(tagNames[column])));
    this.#area.setAttribute("aria-valuemax", seconds.toFixed(1));
    this.#draw();
  }

  moveCursor(seconds, description) {
    this.#cursor.style.left = `${(100 * seconds) / this.#shown.seconds}%`;
    this.#area.setAttribute("aria-valuenow", seconds.toFixed(2));
    this.#area.setAttribute("aria-valuetext", description);
  }

  #draw() {
    if (!this.#shown) return;
    const { columns, rows, startSeconds, windowSeconds, hopSeconds, seconds } = this.#shown;
    const style = getComputedStyle(this.#area);
    const rowHeight = parseFloat(style.getPropertyValue("--row"));
    const [width, height] = [this.#area.clientWidth, columns.length * rowHeight];
    const scale = devicePixelRatio;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round((height + AXIS_HEIGHT) * scale);
    this.#canvas.style.height = `${height + AXIS_HEIGHT}px`;
    const context = this.#canvas.getContext("2d");
    const place = (time) => Math.round((scale * width * time) / seconds);

    // Probabilities of many models never come near 1, so the strongest colour is the largest of this song.
    let largest = 1e-6;
    for (const tags of rows) for (const column of columns) largest = Math.max(largest, tags[column]);
    context.fillStyle = style.getPropertyValue("--surface");
    context.fillRect(0, 0, this.#canvas.width, Math.round(height * scale));
    context.fillStyle = style.getPropertyValue("--accent");
    rows.forEach((tags, window) => {
      // A column is centred on the middle of its window, also if windows overlap.
      const left = startSeconds[window] + (windowSeconds - hopSeconds) / 2;
      const [start, end] = [place(left), place(left + hopSeconds)];
      columns.forEach((column, row) => {
        const [top, bottom] = [Math.round(row * rowHeight * scale), Math.round((row + 1) * rowHeight * scale)];
        context.globalAlpha = tags[column] / largest;
        context.fillRect(start, top, end - start, bottom - top - 1);
      });
    });

    context.globalAlpha = 1;
    context.fillStyle = style.getPropertyValue("--faint");
    context.font = `${12 * scale}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    const step = TICK_SECONDS.find((tick) => (tick * width) / seconds >= TICK_DISTANCE) ?? TICK_SECONDS.at(-1);
    for (let time = 0; time <= seconds; time += step) {
      const text = clock(time);
      const left = Math.min(place(time), this.#canvas.width - context.measureText(text).width);
      context.fillText(text, left, this.#canvas.height);
    }
  }
}
