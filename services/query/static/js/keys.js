// Keys for everything, and files that are dropped anywhere.

import { byId } from "./dom.js";
import * as list from "./list.js";
import * as mapask from "./mapask.js";
import * as narrow from "./narrow.js";
import * as searchwith from "./searchwith.js";
import * as state from "./state.js";
import * as viewer from "./viewer.js";
import * as windowing from "./windowing.js";

function toStudy(uid) {
  if (uid) location.hash = `#/study/${uid}`;
}

// One step out: the comparison, the region, the study.
function leave() {
  const place = state.read();
  if (place?.with) state.go({ with: null });
  else if (place?.region) state.go({ region: null });
  else location.hash = byId("validation-back")?.checkVisibility() ? byId("validation-back").hash : "#/";
}

const ACTIONS = {
  ArrowDown: () => toStudy(list.beside(1)),
  ArrowUp: () => toStudy(list.beside(-1)),
  ArrowRight: () => viewer.step(1),
  ArrowLeft: () => viewer.step(-1),
  "m": viewer.toggleMap,
  "[": () => viewer.strengthen(-0.1),
  "]": () => viewer.strengthen(0.1),
  "e": viewer.nextEvidence,
  "w": windowing.toggle,
  "+": () => windowing.adjust(0, -0.1),
  "-": () => windowing.adjust(0, 0.1),
  ".": () => windowing.adjust(-0.04, 0),
  ",": () => windowing.adjust(0.04, 0),
  "0": windowing.reset,
  "s": searchwith.withStudy,
  "f": searchwith.withFrame,
  "r": searchwith.withRegion,
  "n": narrow.openPanel,
  "a": mapask.toggle,
  "l": viewer.toggleLink,
  "v": () => { location.hash = "#/validation"; },
  "u": () => byId("upload").click(),
  "/": () => byId("query").focus(),
  "?": () => byId("help").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const field = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape") {
    if (field) field.blur();
    else leave();
    return;
  }
  // A slider keeps its own arrows; a text field keeps everything.
  if (field && (field.type !== "range" || event.key.startsWith("Arrow"))) return;
  const neighbour = /^[1-9]$/.test(event.key) && document.querySelector(`[data-rank="${event.key}"]`);
  const action = neighbour ? () => neighbour.click() : ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

export function start({ openFile }) {
  addEventListener("keydown", onKey);
  const zone = byId("dropzone");
  let depth = 0;
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (hasFile(event)) { depth += 1; zone.hidden = false; } });
  addEventListener("dragleave", (event) => { if (hasFile(event) && (depth -= 1) <= 0) { depth = 0; zone.hidden = true; } });
  addEventListener("dragover", (event) => { if (hasFile(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    zone.hidden = true;
    openFile(event.dataTransfer.files[0]);
  });
}
