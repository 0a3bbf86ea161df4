// The map: every song is a point; pan, zoom, hover, click, and a lasso.

const FAR = 14; // pixels within which a point is hit
const PADDING = 0.06;
const ABOVE = 40; // pixels for the buttons
const BELOW = 55; // and for the legend

export class SongMap {
  // `on`: {hover(row, x, y), choose(row), lasso(rows)}; row is -1 for none.
  constructor(canvas, on) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.on = on;
    this.positions = new Float32Array(0);
    this.colours = []; // colour of each point
    this.shown = null; // Uint8Array, or null for all
    this.playing = this.hovered = -1;
    this.width = this.height = 0;
    this.scale = 1;
    this.left = this.top = 0;
    this.isLasso = false;
    this.path = null;
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  // Positions in any unit, [songs, 2]; they move there from where they were.
  place(positions, isAnimated) {
    const target = fitted(positions);
    const from = this.positions;
    this.positions = target;
    if (!isAnimated || from.length !== target.length || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.draw();
      return;
    }
    const start = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - start) / 800);
      const eased = t * t * (3 - 2 * t);
      this.positions = t < 1 ? from.map((value, index) => value + eased * (target[index] - value)) : target;
      this.draw();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  colour(colours) {
    this.colours = colours;
    // Points of one colour are drawn together.
    this.order = Uint32Array.from(colours.keys()).sort((a, b) => (colours[a] < colours[b] ? -1 : colours[a] > colours[b] ? 1 : a - b));
    this.draw();
  }

  show(shown) {
    this.shown = shown;
    this.draw();
  }

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    // Kept, because reading them from the page for every point takes long.
    [this.width, this.height] = [width, height];
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.draw();
  }

  // Pixels of the page, within the canvas.
  x(row) { return this.middleX + this.halfWidth * this.positions[2 * row]; }
  y(row) { return this.middleY - this.halfHeight * this.positions[2 * row + 1]; }
  get middleX() { return this.left + this.width / 2; }
  get middleY() { return this.top + (this.height + ABOVE - BELOW) / 2; }
  get halfHeight() { return (this.scale * (Math.min(this.height, this.width) - ABOVE - BELOW)) / 2; }
  // The axes have no meaning, so a wide map may be stretched.
  get halfWidth() { return Math.min((this.scale * this.width) / 2, 1.5 * this.halfHeight); }

  draw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { context, width, height } = this;
    const style = getComputedStyle(this.canvas);
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const count = this.positions.length / 2;
    if (!this.order || this.order.length !== count) return;
    const radius = Math.min(9, Math.max(1.6, (90 / Math.sqrt(count)) * Math.sqrt(this.scale)));
    const { middleX, middleY, halfWidth, halfHeight } = this;
    const circles = (rows, colourOf, size, isShown) => {
      let colour = null;
      for (const row of rows) {
        if (this.shown && Boolean(this.shown[row]) !== isShown) continue;
        const x = middleX + halfWidth * this.positions[2 * row];
        const y = middleY - halfHeight * this.positions[2 * row + 1];
        if (x < -size || y < -size || x > width + size || y > height + size) continue;
        const own = colourOf(row);
        if (own !== colour) {
          if (colour !== null) context.fill();
          context.fillStyle = colour = own;
          context.beginPath();
        }
        if (size < 2.5) context.rect(x - size, y - size, 2 * size, 2 * size);
        else {
          context.moveTo(x + size, y);
          context.arc(x, y, size, 0, 2 * Math.PI);
        }
      }
      if (colour !== null) context.fill();
    };
    const dim = style.getPropertyValue("--dim");
    if (this.shown) circles(this.order, () => dim, radius * 0.7, false);
    circles(this.order, (row) => this.colours[row], radius, true);
    const ring = (row, size, line) => {
      if (row < 0) return;
      context.beginPath();
      context.arc(this.x(row), this.y(row), size, 0, 2 * Math.PI);
      context.lineWidth = line;
      context.strokeStyle = style.getPropertyValue("--text");
      context.stroke();
    };
    ring(this.hovered, radius + 3, 1.5);
    ring(this.playing, radius + 5, 3);
    if (this.path) {
      context.beginPath();
      this.path.forEach(([x, y]) => context.lineTo(x, y));
      context.closePath();
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.strokeStyle = style.getPropertyValue("--accent");
      context.stroke();
      context.setLineDash([]);
    }
  }

  // The nearest shown point; -1 if none is near.
  at(x, y) {
    let best = -1;
    let least = FAR * FAR;
    for (let row = 0; row < this.positions.length / 2; row++) {
      if (this.shown && !this.shown[row]) continue;
      const distance = (this.x(row) - x) ** 2 + (this.y(row) - y) ** 2;
      if (distance < least) [least, best] = [distance, row];
    }
    return best;
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(200, Math.max(0.5, this.scale * factor));
    const real = scale / this.scale;
    // The place below the pointer stays there.
    this.left += (1 - real) * (x - this.middleX);
    this.top += (1 - real) * (y - this.middleY);
    this.scale = scale;
    this.draw();
  }

  reset() {
    [this.scale, this.left, this.top] = [1, 0, 0];
    this.draw();
  }

  // Moves the map if a point is out of sight.
  reveal(row) {
    const [x, y] = [this.x(row), this.y(row)];
    if (x < 0 || x > this.width) this.left += this.width / 2 - x;
    if (y < 0 || y > this.height) this.top += this.height / 2 - y;
    this.draw();
  }

  listen() {
    const { canvas } = this;
    let start = null; // where a pointer went down, and where the map was
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const [x, y] = place(event);
      canvas.setPointerCapture(event.pointerId);
      start = { x, y, left: this.left, top: this.top, moved: false };
      if (this.isLasso) this.path = [[x, y]];
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (start) {
        start.moved ||= Math.hypot(x - start.x, y - start.y) > 4;
        if (this.path) this.path.push([x, y]);
        else if (start.moved) [this.left, this.top] = [start.left + x - start.x, start.top + y - start.y];
        this.draw();
        return;
      }
      const row = this.at(x, y);
      canvas.classList.toggle("over", row >= 0);
      if (row !== this.hovered) {
        this.hovered = row;
        this.draw();
      }
      this.on.hover(row, x, y);
    });
    canvas.addEventListener("pointerup", (event) => {
      const [x, y] = place(event);
      if (!start) return;
      const { moved } = start;
      const path = this.path;
      start = this.path = null;
      if (path && moved) this.on.lasso(this.inside(path));
      else if (!moved) {
        const row = this.at(x, y);
        if (row >= 0) this.on.choose(row);
      }
      this.draw();
    });
    canvas.addEventListener("pointercancel", () => {
      start = this.path = null;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.hovered = -1;
      this.on.hover(-1, 0, 0);
      this.draw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const action = { "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), 0: () => this.reset() }[event.key];
      if (action && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        action();
      }
    });
  }

  inside(path) {
    const rows = [];
    for (let row = 0; row < this.positions.length / 2; row++) {
      if (this.shown && !this.shown[row]) continue;
      const [x, y] = [this.x(row), this.y(row)];
      let isInside = false;
      for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
        const [[xi, yi], [xj, yj]] = [path[i], path[j]];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) isInside = !isInside;
      }
      if (isInside) rows.push(row);
    }
    return rows;
  }
}

// Both axes within [-1, 1], centred.
function fitted(positions) {
  const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
  positions.forEach((value, index) => {
    low[index % 2] = Math.min(low[index % 2], value);
    high[index % 2] = Math.max(high[index % 2], value);
  });
  const sizes = [high[0] - low[0] || 1, high[1] - low[1] || 1];
  return positions.map((value, index) => ((value - (low[index % 2] + high[index % 2]) / 2) / sizes[index % 2]) * 2 * (1 - PADDING));
}
