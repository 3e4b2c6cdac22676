"use strict";
// The loss curve of one job.

const SVG = document.querySelector("#curve svg");
const EDGES = { left: 46, right: 24, top: 12, bottom: 38 };
const HEIGHT = 260;
let curve = null; // what is drawn: its points and the scale of its steps
let pointed = null; // where the mouse is, in pixels from the left, while it is over the curve

function ticks(low, high, about) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const n_ticks = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: n_ticks }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

function scales(points, width) {
  const losses = points.flatMap((point) => [point.train_loss, point.valid_loss]).filter(Number.isFinite);
  const [least, most] = [Math.min(...losses), Math.max(...losses)];
  const spare = 0.06 * (most - least) || 0.1;
  const [low, high, n_steps] = [Math.max(0, least - spare), most + spare, Math.max(2, points.at(-1).total_steps)];
  return {
    low, high, n_steps,
    x: (step) => EDGES.left + ((step - 1) / (n_steps - 1)) * (width - EDGES.left - EDGES.right),
    y: (loss) => EDGES.top + ((high - loss) / (high - low)) * (HEIGHT - EDGES.top - EDGES.bottom),
  };
}

function axes({ low, high, n_steps, x, y }, width) {
  const middle = (EDGES.top + HEIGHT - EDGES.bottom) / 2;
  const centred = { "text-anchor": "middle" };
  return [
    ...ticks(low, high, 4).flatMap((loss) => [
      draw("line", { class: "grid", x1: EDGES.left, x2: width - EDGES.right, y1: y(loss), y2: y(loss) }),
      draw("text", { x: EDGES.left - 8, y: y(loss) + 4, "text-anchor": "end" }, String(loss)),
    ]),
    ...ticks(1, n_steps, width < 500 ? 4 : 8).filter(Number.isInteger).map((step) =>
      draw("text", { x: x(step), y: HEIGHT - EDGES.bottom + 18, ...centred }, count(step))),
    draw("text", { x: (EDGES.left + width - EDGES.right) / 2, y: HEIGHT - 3, ...centred }, "step"),
    draw("text", { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, ...centred }, "loss (nats)"),
  ];
}

function line(points, name, kind, { x, y }) {
  const path = points.map((point) => `${x(point.step).toFixed(1)},${y(point[name]).toFixed(1)}`).join(" ");
  const dotted = points.length < 40 ? points : points.slice(-1);
  return [
    draw("polyline", { class: `line ${kind}`, points: path }),
    ...dotted.map((point) => draw("circle", { class: `dot ${kind}`, r: 2.6, cx: x(point.step), cy: y(point[name]) })),
  ];
}

function drawCurve(points) {
  const width = SVG.clientWidth || 600;
  const scale = scales(points, width);
  const trained = points.filter((point) => Number.isFinite(point.train_loss));
  const validated = points.filter((point) => Number.isFinite(point.valid_loss));
  SVG.replaceChildren(
    ...axes(scale, width),
    ...line(trained, "train_loss", "train", scale),
    ...line(validated, "valid_loss", "valid", scale),
    draw("line", { class: "here", y1: EDGES.top, y2: HEIGHT - EDGES.bottom, visibility: "hidden" }),
  );
  const last = points.at(-1);
  SVG.setAttribute("aria-label", `Loss by step, up to step ${last.step} of ${last.total_steps}`);
  document.querySelector(".key.valid").hidden = validated.length === 0;
  curve = { points, x: scale.x };
  tellPoint();
}

function nearest(place) {
  const away = (point) => Math.abs(curve.x(point.step) - place);
  return curve.points.reduce((best, point) => (away(point) < away(best) ? point : best));
}

function tellPoint() {
  const point = pointed === null ? curve.points.at(-1) : nearest(pointed);
  const here = SVG.querySelector(".here");
  for (const name of ["x1", "x2"]) here.setAttribute(name, curve.x(point.step));
  here.setAttribute("visibility", pointed === null ? "hidden" : "visible");
  const parts = [`step ${point.step}: training ${number(point.train_loss)}`];
  for (const [name, value] of Object.entries(point)) {
    if (!name.startsWith("train_") || name === "train_loss") continue;
    parts.push(`${name.slice(6).replaceAll("_", " ")} ${number(value)}`);
  }
  if (Number.isFinite(point.valid_loss)) parts.push(`validation ${number(point.valid_loss)}`);
  setText(at("point"), parts.join(", "));
}

function pointAt(place) {
  pointed = place;
  tellPoint();
}

SVG.addEventListener("pointermove", (event) => pointAt(event.clientX - SVG.getBoundingClientRect().left));
SVG.addEventListener("pointerleave", () => pointAt(null));
new ResizeObserver(() => curve && !at("curve").hidden && drawCurve(curve.points)).observe(at("curve"));
