// Pictures of numbers over time, as inline SVG. The caller owns the element that `Chart` fills.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;

/** An element with a class, a text and children; nothing is ever parsed as HTML. */
function make(name, className = "", text = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  element.append(...children);
  return element;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** The next of 1, 2, 5, 10, 20, ... times a power of `base`: the scale of a picture seldom changes. */
function niceTop(value, base) {
  if (!(value > 0)) return 1;
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  const decade = 10 ** Math.floor(Math.log10(value / unit));
  return [1, 2, 5, 10].map((step) => step * decade * unit).find((step) => value <= step * 1.0001);
}

class Chart {
  /** `lines` are {className, hasArea, label}; `format` turns a number into a text, in units of `base`. */
  constructor(title, lines, format, length, base = 10) {
    this.base = base;
    this.lines = lines;
    this.format = format;
    this.length = length;
    this.columns = [];
    this.now = make("span", "now");
    const keys = lines.length > 1
      ? lines.map((line) => make("span", `quiet key ${line.className}`, line.label))
      : [make("span", "quiet", title)];
    this.element = make("div", "chart");
    const heading = make("div", "title", "", this.now, make("span", "", "", ...keys));
    this.svg = shape("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title,
    });
    this.top = make("span", "top");
    this.middle = make("span", "middle");
    this.readout = make("span", "readout");
    this.readout.hidden = true;
    this.plot = make("div", "plot", "", this.svg, this.top, this.middle, this.readout);
    const minutes = Math.round(length / 60);
    const axis = make("div", "axis", "", make("span", "", `${minutes} min ago`), make("span", "", "now"));
    this.element.append(heading, this.plot, axis);
    for (const name of ["pointermove", "pointerdown"]) {
      this.plot.addEventListener(name, (event) => this.point(event));
    }
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  /** Draw these columns of numbers (null where there is none); `marks` are places of reloads. */
  draw(columns, marks, nowText) {
    this.columns = columns;
    this.now.replaceChildren(...nowText);
    const values = columns.flat().filter((value) => value !== null);
    const top = niceTop(Math.max(...values, 0), this.base);
    this.top.textContent = this.format(top);
    this.middle.textContent = this.format(top / 2);
    const shapes = [0, 0.5, 1].map((share) => shape("path", {
      class: "grid", d: `M0 ${share * HEIGHT}H${WIDTH}`,
    }));
    for (const place of marks) {
      shapes.push(shape("path", {class: "mark", d: `M${this.x(place)} 0V${HEIGHT}`}));
    }
    this.lines.forEach((line, index) => {
      for (const run of this.runs(columns[index])) {
        const points = run.map(([place, value]) => `${this.x(place)} ${this.y(value, top)}`);
        if (line.hasArea) {
          shapes.push(shape("path", {
            class: `area ${line.className}`,
            d: `M${this.x(run[0][0])} ${HEIGHT}L${points.join("L")}L${this.x(run.at(-1)[0])} ${HEIGHT}Z`,
          }));
        }
        // A single point would be invisible as a line of no length.
        const path = points.length > 1 ? points.join("L") : `${points[0]}h2`;
        shapes.push(shape("path", {class: `line ${line.className}`, d: `M${path}`}));
      }
    });
    this.cursor = shape("path", {class: "cursor", d: "", visibility: "hidden"});
    this.svg.replaceChildren(...shapes, this.cursor);
  }

  /** The parts of a column without a gap, as lists of [place, value]. */
  runs(column) {
    const runs = [];
    let run = [];
    column.forEach((value, place) => {
      if (value !== null) {
        run.push([place, value]);
      } else if (run.length) {
        runs.push(run);
        run = [];
      }
    });
    return run.length ? [...runs, run] : runs;
  }

  /** New samples come in on the right. */
  x(place) {
    const shown = this.columns[0].length;
    return (WIDTH * (this.length - shown + place) / (this.length - 1)).toFixed(1);
  }

  y(value, top) {
    return (HEIGHT * (1 - value / top)).toFixed(2);
  }

  /** Say what was where the pointer is. */
  point(event) {
    const shown = this.columns[0]?.length ?? 0;
    const box = this.plot.getBoundingClientRect();
    const share = event === null ? -1 : (event.clientX - box.left) / box.width;
    const place = Math.round(share * (this.length - 1)) - (this.length - shown);
    const parts = this.lines
      .map((line, index) => [line.label, this.columns[index]?.[place] ?? null])
      .filter(([, value]) => value !== null)
      .map(([label, value]) => `${label} ${this.format(value)}`.trim());
    const isSaid = event !== null && place >= 0 && place < shown && parts.length > 0;
    this.readout.hidden = !isSaid;
    this.cursor?.setAttribute("visibility", isSaid ? "visible" : "hidden");
    if (!isSaid) return;
    this.cursor.setAttribute("d", `M${this.x(place)} 0V${HEIGHT}`);
    this.readout.textContent = `${parts.join(", ")}, ${shown - 1 - place} s ago`;
    const isLeft = share < 0.5;
    this.readout.style.left = isLeft ? `calc(${share * 100}% + 10px)` : "auto";
    this.readout.style.right = isLeft ? "auto" : `calc(${(1 - share) * 100}% + 10px)`;
  }
}
