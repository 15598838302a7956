// A region of interest: a box drawn by mouse, finger or keys, then searched for.

import { byId, el } from "./dom.js";

const STEP = 0.02;
const LEAST = 0.03;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

let box = null;
let region = null;
let host = null;
let finish = () => {};

export const isOn = () => box !== null;

export function open(pane, initial, onSearch, onClose) {
  close();
  region = initial ?? { left: 0.35, top: 0.35, width: 0.3, height: 0.3 };
  const done = (action) => { const chosen = region; close(); action(chosen); };
  finish = () => done(onClose);
  box = el("div", { class: "box drawing", tabindex: "0", role: "application", "aria-label": "Region of interest. Arrows move it, Shift and arrows change its size, Enter searches, Escape leaves.", onkeydown: (event) => {
    const [x, y] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key] ?? [0, 0];
    if (event.key === "Enter") done(onSearch);
    else if (event.key === "Escape") finish();
    else if (!x && !y) return;
    else if (event.shiftKey) region = { ...region, width: clamp(region.width + x, LEAST, 1 - region.left), height: clamp(region.height + y, LEAST, 1 - region.top) };
    else region = { ...region, left: clamp(region.left + x, 0, 1 - region.width), top: clamp(region.top + y, 0, 1 - region.height) };
    event.preventDefault();
    event.stopPropagation();
    if (box) place();
  } });
  host = pane.picture;
  host.append(box);
  choosing(true);
  byId("region-words").replaceChildren("Draw a box on the image. By keys: arrows move, Shift + arrows resize. ",
    el("button", { type: "button", class: "button primary", onclick: () => done(onSearch) }, "Search this region"),
    el("button", { type: "button", class: "button", onclick: () => finish() }, "Cancel"));
  host.addEventListener("pointerdown", down);
  place();
  box.focus({ preventScroll: true });
}

export function close() {
  box?.remove();
  box = null;
  host?.removeEventListener("pointerdown", down);
  choosing(false);
  byId("region-words")?.replaceChildren();
}

function choosing(on) {
  byId("stage").classList.toggle("choosing", on);
  byId("draw-region")?.setAttribute("aria-pressed", String(on));
}

function place() {
  for (const [name, value] of Object.entries(region)) box.style.setProperty(name, `${value * 100}%`);
}

function down(event) {
  if (event.button !== 0) return;
  event.preventDefault();
  const area = host.getBoundingClientRect();
  const share = (moved) => [clamp((moved.clientX - area.left) / area.width, 0, 1), clamp((moved.clientY - area.top) / area.height, 0, 1)];
  const [x0, y0] = share(event);
  const move = (moved) => {
    if (!box) return;
    const [x, y] = share(moved);
    const width = Math.max(LEAST, Math.abs(x - x0));
    const height = Math.max(LEAST, Math.abs(y - y0));
    region = { left: clamp(Math.min(x, x0), 0, 1 - width), top: clamp(Math.min(y, y0), 0, 1 - height), width, height };
    place();
  };
  const up = () => {
    host.removeEventListener("pointermove", move);
    box?.focus({ preventScroll: true });
  };
  host.setPointerCapture(event.pointerId);
  host.addEventListener("pointermove", move);
  host.addEventListener("pointerup", up, { once: true });
  host.addEventListener("pointercancel", up, { once: true });
}
