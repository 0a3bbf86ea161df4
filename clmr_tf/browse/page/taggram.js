// The tags of a song over time, with a cursor.

const ROW = 19;
const AXIS = 18;
const LABELS = 150;

export class Taggram {
  // `jump(seconds)` is called by a click.
  constructor(canvas, jump) {
    this.canvas = canvas;
    this.jump = jump;
    this.tags = null;
    canvas.addEventListener("click", (event) => {
      const x = event.clientX - canvas.getBoundingClientRect().left;
      if (this.tags && x >= LABELS) this.jump(((x - LABELS) / this.width) * this.duration);
    });
    new ResizeObserver(() => this.paint()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  get width() { return this.canvas.clientWidth - LABELS; }

  // `tags`: what the server says of a song.
  show(tags, duration, windowSeconds) {
    Object.assign(this, { tags, duration, windowSeconds });
    const means = tags.probabilities.map((row) => row.reduce((sum, value) => sum + value, 0) / row.length);
    const top = means.map((mean, index) => [mean, tags.names[index]]).sort((a, b) => b[0] - a[0]).slice(0, 5);
    this.canvas.setAttribute("aria-label", tags.names.length ? `Tags over time, most likely: ${top.map(([mean, name]) => `${name} ${mean.toFixed(2)}`).join(", ")}` : "No tags yet");
    this.paint();
  }

  paint() {
    if (!this.tags) return;
    const { canvas, tags } = this;
    const ratio = devicePixelRatio || 1;
    const height = tags.names.length * ROW + AXIS;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(height * ratio);
    const still = document.createElement("canvas");
    [still.width, still.height] = [canvas.width, canvas.height];
    const context = still.getContext("2d");
    const style = getComputedStyle(canvas);
    const [text, faint, line] = ["--text", "--faint", "--line"].map((name) => style.getPropertyValue(name));
    context.scale(ratio, ratio);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    // Each column is centred on the middle of its window.
    const middles = tags.times_seconds.map((seconds) => seconds + this.windowSeconds / 2);
    const edges = middles.map((middle, index) => (index ? (middles[index - 1] + middle) / 2 : 0));
    edges.push(this.duration);
    const x = (seconds) => LABELS + (seconds / this.duration) * this.width;
    const greatest = Math.max(0.5, ...tags.probabilities.map((row) => Math.max(...row)));
    tags.names.forEach((name, index) => {
      const y = index * ROW;
      context.fillStyle = index < tags.num_taught ? style.getPropertyValue("--accent") : text;
      context.textAlign = "right";
      context.fillText(shortened(context, name, LABELS - 10), LABELS - 8, y + ROW / 2);
      tags.probabilities[index].forEach((value, column) => {
        context.fillStyle = heat(value / greatest);
        context.fillRect(x(edges[column]), y, x(edges[column + 1]) - x(edges[column]) + 0.5, ROW - 2);
      });
    });
    const y = tags.names.length * ROW;
    context.fillStyle = line;
    context.fillRect(LABELS, y, this.width, 1);
    context.fillStyle = faint;
    const step = [5, 10, 15, 30, 60, 120, 300, 600, 1800].find((one) => (one / this.duration) * this.width > 60) ?? 3600;
    for (let seconds = 0; seconds < this.duration; seconds += step) {
      context.textAlign = seconds ? "center" : "left";
      context.fillText(minutes(seconds), x(seconds), y + 10);
    }
    if (!tags.names.length) {
      context.textAlign = "right";
      context.fillText("no tags yet", LABELS - 8, y + 9);
    }
    this.still = still;
    this.cursor(this.seconds ?? 0);
  }

  cursor(seconds) {
    this.seconds = seconds;
    // It has no width while it is hidden.
    if (!this.still?.width) return;
    const ratio = devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.still, 0, 0);
    context.fillStyle = getComputedStyle(this.canvas).getPropertyValue("--text");
    const x = LABELS + (Math.min(seconds, this.duration) / this.duration) * this.width;
    context.fillRect((x - 1) * ratio, 0, 2 * ratio, this.canvas.height);
  }
}

export function minutes(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// From dark blue to yellow; `value` in [0, 1].
export function heat(value) {
  const stops = [[30, 32, 74], [66, 58, 138], [132, 56, 140], [205, 74, 110], [246, 140, 76], [252, 227, 130]];
  const place = Math.min(1, Math.max(0, value)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(place));
  const mixed = stops[index].map((low, channel) => Math.round(low + (place - index) * (stops[index + 1][channel] - low)));
  return `rgb(${mixed.join(",")})`;
}

function shortened(context, name, width) {
  if (context.measureText(name).width <= width) return name;
  let short = name;
  while (short && context.measureText(`${short}…`).width > width) short = short.slice(0, -1);
  return `${short}…`;
}
