// A list of any length: only the rows in sight are in the document.

const ROW_HEIGHT = 46;

export class SongList {
  // `element` is a grid; `render(item, row)` fills a row; `choose(item)` is called by a click or Enter.
  constructor(element, render, choose) {
    this.element = element;
    this.renderRow = render;
    this.choose = choose;
    this.items = [];
    this.selected = -1;
    this.space = document.createElement("div");
    element.append(this.space);
    element.addEventListener("scroll", () => this.render());
    new ResizeObserver(() => this.render()).observe(element);
  }

  set(items) {
    this.items = items;
    this.selected = -1;
    this.element.setAttribute("aria-rowcount", items.length);
    this.space.style.height = `${items.length * ROW_HEIGHT}px`;
    this.element.scrollTop = 0;
    this.render();
  }

  // Selects the next or an earlier item and brings it into sight.
  move(by) {
    if (!this.items.length) return;
    this.select(this.selected < 0 ? (by > 0 ? 0 : this.items.length - 1) : Math.min(this.items.length - 1, Math.max(0, this.selected + by)));
  }

  select(index) {
    if (!(index in this.items)) return;
    this.selected = index;
    const [top, height] = [index * ROW_HEIGHT, this.element.clientHeight];
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    if (top + ROW_HEIGHT > this.element.scrollTop + height) this.element.scrollTop = top + ROW_HEIGHT - height;
    this.render();
  }

  render() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_HEIGHT) - 3);
    const last = Math.min(this.items.length, Math.ceil((this.element.scrollTop + this.element.clientHeight) / ROW_HEIGHT) + 3);
    const rows = [];
    for (let index = first; index < last; index++) {
      const row = document.createElement("div");
      row.className = "row";
      row.id = `item-${index}`;
      row.setAttribute("role", "row");
      row.setAttribute("aria-rowindex", index + 1);
      row.setAttribute("aria-selected", index === this.selected);
      row.style.top = `${index * ROW_HEIGHT}px`;
      row.addEventListener("click", (event) => {
        if (event.target.closest("button")) return;
        this.select(index);
        this.choose(this.items[index]);
      });
      this.renderRow(this.items[index], row);
      for (const child of [...row.children]) {
        const cell = child.matches("button") ? document.createElement("span") : child;
        cell.setAttribute("role", "gridcell");
        if (cell === child) continue;
        child.replaceWith(cell);
        cell.append(child);
        // Tab goes to the buttons of the selected row only, and then on.
        child.tabIndex = index === this.selected ? 0 : -1;
      }
      rows.push(row);
    }
    // A button of the list keeps the focus when the rows are made again.
    const focused = document.activeElement;
    const key = this.element.contains(focused) && focused !== this.element ? [focused.closest(".row")?.id, focused.className] : null;
    this.space.replaceChildren(...rows);
    if (key) document.getElementById(key[0])?.querySelector(`button.${key[1]}`)?.focus({ preventScroll: true });
    if (this.selected >= 0) this.element.setAttribute("aria-activedescendant", `item-${this.selected}`);
    else this.element.removeAttribute("aria-activedescendant");
  }
}
