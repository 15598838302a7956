// What is searched with: the whole study, one whole frame, or a region of one.

import { byId, el } from "./dom.js";
import * as state from "./state.js";
import * as viewer from "./viewer.js";

const numbered = (key) => `frame ${viewer.numberOf(key) ?? "?"}`;

export function withStudy() {
  state.go({ by: null, region: null, with: null });
}

// The frame that is shown.
export function withFrame() {
  const key = viewer.queryPane()?.frame?.key;
  if (key && state.read()?.view === "study") state.go({ by: key, frame: key, region: null, with: null });
}

export function withRegion() {
  if (matchMedia("(max-width: 820px)").matches) byId("stage").scrollIntoView({ block: "start" });
  viewer.toggleRegion();
}

export function searchWith(place, isFile) {
  const choices = [[isFile ? "Whole file" : "Whole study", !place.by && !place.region, withStudy, "s"]];
  if (!isFile) choices.push(["This frame", Boolean(place.by && !place.region), withFrame, "f"]);
  if (viewer.canSearchRegions()) choices.push(["A region", Boolean(place.region), withRegion, "r"]);
  if (choices.length < 2) return null;
  const note = el("p", { class: "region-note", id: "with-note" }, words(place, isFile));
  return el("div", { class: "with" },
    el("span", { class: "dim", id: "with-label" }, "Search with"),
    el("div", { class: "segments", role: "group", "aria-labelledby": "with-label" }, choices.map(([text, on, action, key]) => el("button", {
      type: "button", class: "button small", "aria-pressed": String(on), "data-key": `with:${key}`, title: `${text} (${key})`, onclick: action,
    }, text))),
    note);
}

// After a move to another frame: which one was searched with, and the way to search with this one.
export function frameShown() {
  const place = state.read();
  if (byId("with-note") && place) byId("with-note").replaceChildren(...words(place, place.view === "upload"));
}

function words(place, isFile) {
  if (place.region) return [`By the box on ${isFile ? "the frame" : numbered(place.by)}.`];
  if (!place.by) return [];
  const key = viewer.queryPane()?.frame?.key;
  return [`By ${numbered(place.by)} alone.`, ...(key && key !== place.by
    ? [el("button", { type: "button", class: "button small", "data-key": "with:shown", onclick: withFrame }, `Search with ${numbered(key)}`)] : [])];
}
