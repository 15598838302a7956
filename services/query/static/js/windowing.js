// Window and level on the 8-bit picture that is shown: linked over both images by one filter.

import { byId, el } from "./dom.js";

const NEUTRAL = { center: 0.5, width: 1 };
let now = { ...NEUTRAL };
let dragging = false;
let button = null;
let said = null;

function draw() {
  const slope = 1 / now.width;
  for (const part of byId("window").querySelectorAll("feFuncR, feFuncG, feFuncB")) {
    part.setAttribute("slope", slope);
    part.setAttribute("intercept", 0.5 - now.center * slope);
  }
  const changed = now.center !== NEUTRAL.center || now.width !== NEUTRAL.width;
  byId("stage").classList.toggle("windowed", changed);
  byId("stage").classList.toggle("windowing", dragging);
  if (!said) return;
  said.hidden = !changed && !dragging;
  said.textContent = `level ${Math.round(now.center * 255)}, width ${Math.round(now.width * 255)} of the 8-bit picture`;
  button.setAttribute("aria-pressed", String(dragging));
  said.nextElementSibling.hidden = !changed;
}

export function adjust(center, width) {
  now = { center: Math.min(1.5, Math.max(-0.5, now.center + center)), width: Math.min(4, Math.max(0.02, now.width * Math.exp(width))) };
  draw();
}

export function reset() {
  now = { ...NEUTRAL };
  draw();
}

export function toggle() {
  setDragging(!dragging);
}

export function setDragging(on) {
  dragging = on;
  draw();
}

export function controls() {
  said = el("output", { class: "level" });
  button = el("button", { type: "button", class: "button", "aria-pressed": "false", onclick: toggle, title: "Drag on the image: up and down for level, left and right for width (w). The right mouse button always does. Works on the 8-bit picture shown, not on the stored values." }, "Window");
  const values = el("span", { class: "level-box" }, said, el("button", { type: "button", class: "button", hidden: true, onclick: reset, title: "Window as stored (0)" }, "Reset window"));
  queueMicrotask(draw);
  return el("span", { class: "tool" }, button, values);
}

export function start() {
  const stage = byId("stage");
  let from = null;
  stage.addEventListener("contextmenu", (event) => { if (event.target.closest(".picture")) event.preventDefault(); });
  stage.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".pane") || event.target.closest("button") || !(event.button === 2 || (event.button === 0 && dragging))) return;
    from = { x: event.clientX, y: event.clientY, id: event.pointerId };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (from?.id !== event.pointerId) return;
    adjust((event.clientY - from.y) / 400, (event.clientX - from.x) / 250);
    from = { ...from, x: event.clientX, y: event.clientY };
  });
  const end = () => { from = null; };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
}
