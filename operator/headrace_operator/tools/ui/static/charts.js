// Lines over time as SVG: drawn here, described in words for those who do not see them.

import { s } from "./dom.js";
import { clock } from "./format.js";

const WIDTH = 420, HEIGHT = 168, LEFT = 52, RIGHT = 12, TOP = 20, BOTTOM = 24;
const STEPS = [1, 2, 2.5, 5, 10];

// The lowest round number, in the unit of the values, of which a few make `most`.
const roundStep = (most, whole) => {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * STEPS.find((factor) => factor * power >= rough * 0.999);
  return whole ? Math.max(1, Math.ceil(step)) : step;
};

// points: [[at, value or null], ...] in order. gap: seconds without a point after which a line is broken
const pieces = (points, gap) => {
  const found = [];
  let last = null;
  for (const point of points) {
    if (point[1] === null) last = null;
    else {
      if (last === null || point[0] - last > gap) found.push([]);
      found.at(-1).push(point);
      last = point[0];
    }
  }
  return found;
};

const path = (piece, x, y, isStep) =>
  piece.map(([at, value], index) => {
    const to = `${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    if (index === 0) return `M${to}`;
    return isStep ? `H${x(at).toFixed(1)}V${y(value).toFixed(1)}` : `L${to}`;
  }).join("");

// The moment under a pointer over a chart, or null beside it.
export const momentAt = (picture, pointer, now, seconds) => {
  const box = picture.getBoundingClientRect();
  const share = (((pointer.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
  return share < 0 || share > 1 ? null : now - seconds * (1 - share);
};

// The latest value that was known at a moment, and not long before it.
const valueAt = (points, at, gap) => {
  const known = points.filter((point) => point[0] <= at && at - point[0] <= gap).at(-1);
  return known ? known[1] : null;
};

// lines: [{points, name, dashed, step}], the first is filled. target: a value, or null. marks: [{at, up, text}]
export const chart = ({ id, title, described, lines, now, seconds, target, targetText, format, whole, marks, cursor, gap }) => {
  const from = now - seconds;
  const seen = lines.map((line) => ({ ...line, points: line.points.filter(([at]) => at >= from - gap) }));
  const values = seen.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
  const most = Math.max(...values, target ?? 0, whole ? 1 : 0) || 1;
  const step = roundStep(most * 1.08, whole);
  const top = Math.ceil((most * 1.08) / step) * step;
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * (Math.max(at, from) - from)) / seconds;
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / top;
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
  const minute = seconds <= 300 ? 60 : seconds <= 900 ? 300 : 600;
  const times = [];
  for (let at = Math.ceil(from / minute) * minute; at <= now; at += minute) times.push(at);
  return s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${described}` },
    s("g", { class: "grid" },
      ticks.map((value) => [
        s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
        s("text", { x: LEFT - 8, y: y(value) + 3.5, "text-anchor": "end" }, format(value)),
      ]),
      times.map((at) => [
        s("line", { x1: x(at), x2: x(at), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }),
        s("text", { x: x(at), y: HEIGHT - 6, "text-anchor": "middle" }, clock(at, false)),
      ])),
    s("g", { class: "marks" }, marks.filter((mark) => mark.at >= from && mark.at <= now).map((mark) =>
      s("g", { class: mark.up ? "up" : "down" },
        s("title", {}, mark.text),
        s("line", { x1: x(mark.at), x2: x(mark.at), y1: TOP - 4, y2: HEIGHT - BOTTOM }),
        s("path", { d: mark.up ? triangle(x(mark.at), TOP - 12, 8) : triangle(x(mark.at), TOP - 4, -8) })))),
    target === null ? null : [
      s("clipPath", { id: `${id}-late` }, s("rect", { x: 0, y: 0, width: WIDTH, height: Math.max(0, y(target)) })),
      s("line", { class: "target", x1: LEFT, x2: WIDTH - RIGHT, y1: y(target), y2: y(target) }),
    ],
    seen.map((line, index) => pieces(line.points, gap).map((piece) => [
      index === 0 ? s("path", { class: "area", d: area(piece, x, y, line.step) }) : null,
      s("path", { class: line.dashed ? "line dashed" : "line", d: path(piece, x, y, line.step) }),
      target === null ? null : s("path", { class: "line late", d: path(piece, x, y, line.step), "clip-path": `url(#${id}-late)` }),
      piece.length === 1 ? s("circle", { class: "dot", cx: x(piece[0][0]), cy: y(piece[0][1]), r: 2.5 }) : null,
    ])),
    target === null ? null : s("text", { class: "target", x: WIDTH - RIGHT, y: y(target) - 5, "text-anchor": "end" }, targetText),
    cursor === null || cursor < from || cursor > now ? null : s("g", { class: "cursor" },
      s("line", { x1: x(cursor), x2: x(cursor), y1: TOP, y2: HEIGHT - BOTTOM }),
      s("text", { x: x(cursor) + (x(cursor) > WIDTH / 2 ? -6 : 6), y: TOP + 10, "text-anchor": x(cursor) > WIDTH / 2 ? "end" : "start" },
        `${clock(cursor)}  ${seen.map((line) => format(valueAt(line.points, cursor, gap))).join(" / ")}`)),
    values.length ? null : s("text", { class: "none", x: (LEFT + WIDTH) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing measured yet"));
};

const area = (piece, x, y, isStep) =>
  `${path(piece, x, y, isStep)}V${y(0).toFixed(1)}H${x(piece[0][0]).toFixed(1)}Z`;

const triangle = (x, y, size) => `M${x},${y}l${size / 2},${size}h${-size}z`;

// A small line without scales, for a table's cell.
export const spark = (points, { now, seconds, gap, target = null, described }) => {
  const width = 112, height = 28, from = now - seconds;
  const seen = points.filter(([at]) => at >= from);
  const most = Math.max(...seen.map(([, value]) => value ?? 0), target ?? 0) * 1.1 || 1;
  const x = (at) => (width * (at - from)) / seconds;
  const y = (value) => height - 2 - ((height - 4) * value) / most;
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": described },
    target === null ? null : s("line", { class: "target", x1: 0, x2: width, y1: y(target), y2: y(target) }),
    pieces(seen, gap).map((piece) => s("path", { class: "line", d: path(piece, x, y, false) })));
};
