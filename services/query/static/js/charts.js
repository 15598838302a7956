// Diagrams as SVG, each beside a table that says the same.

const NS = "http://www.w3.org/2000/svg";

function svg(tag, properties = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const SIZE = 240;
const PAD = 52;
const x = (share) => PAD + share * SIZE;
const y = (share) => 8 + (1 - share) * SIZE;

// Both axes run from 0 to 1. `series`: [{name, points: [[x, y]], bars?: [[x, low, high]]}].
export function square(title, across, up, series, { dots = false } = {}) {
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((tick) => [
    svg("path", { class: "gridline", d: `M${x(0)} ${y(tick)}H${x(1)}M${x(tick)} ${y(0)}V${y(1)}` }),
    svg("text", { x: x(tick), y: y(0) + 16, "text-anchor": "middle" }, String(tick)),
    svg("text", { x: x(0) - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
  ]);
  const drawn = series.flatMap(({ points, bars = [] }, at) => [
    ...bars.map(([place, low, high]) => svg("path", { class: `line s${at}`, d: `M${x(place)} ${y(low)}V${y(high)}` })),
    svg("path", { class: `line s${at}`, d: points.map(([a, b], place) => `${place ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") }),
    ...(dots ? points.map(([a, b]) => svg("circle", { class: `dot s${at}`, cx: x(a), cy: y(b), r: 3.5 })) : []),
  ]);
  return svg("svg", { class: "chart", viewBox: `0 0 ${SIZE + PAD + 14} ${SIZE + 50}`, role: "img", "aria-label": `${title}; its numbers are in the table beside it` },
    ...grid, svg("path", { class: "diagonal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }), ...drawn,
    svg("text", { x: x(0.5), y: y(0) + 36, "text-anchor": "middle" }, across),
    svg("text", { transform: `translate(10 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, up));
}
