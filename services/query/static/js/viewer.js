// The query image with its map, and a similar case beside it.

import { byId, el, stateBox } from "./dom.js";
import { mapWords } from "./maps.js";
import { Pane } from "./pane.js";
import * as region from "./region.js";
import * as windowing from "./windowing.js";

let query = null;
let other = null;
let anchors = [0, 0];
let linked = true;
let maps = [];
let target = null;
let evidence = [];
let mapOn = true;
let opacity = 0.6;
let parts = null;
let asked = { onFrame: () => {}, onRegion: () => {}, onClose: () => {} };

let canRegion = false; // only where regions are indexed
export const canSearchRegions = () => canRegion;
export const allowRegions = (yes) => { canRegion = yes; };
export const listen = (actions) => { asked = actions; };
export const queryPane = () => query;
export const otherPane = () => other;

const keyed = (items) => items.map((item) => ({ ...item, key: `${item.sop_instance_uid}/${item.frame_number}` }));

// The place of a frame of the query, from 1; null if it has none of this key.
export const numberOf = (key) => (query?.frames.findIndex((frame) => frame.key === key) ?? -1) + 1 || null;

export function clear(box) {
  region.close();
  query = null;
  other = null;
  parts = null;
  byId("stage").classList.remove("comparing");
  byId("stage").replaceChildren(box ?? "");
  byId("controls").replaceChildren();
}

// One picture without frames: an upload.
export function showPicture(url, name) {
  show([{ image_url: url, key: "upload" }], [], [], name, null);
}

export function showStudy(study, frames, wanted) {
  if (!frames.length) {
    clear(stateBox("empty", "No image", "This study holds no image that could be shown."));
    return;
  }
  show(frames, keyed(study.maps), keyed(study.diagnoses.flatMap((diagnosis) => diagnosis.evidence)), "Query study", wanted);
}

function show(frames, withMaps, ofEvidence, name, wanted) {
  clear();
  maps = inOrder(withMaps);
  target = null;
  const known = new Set(frames.map((frame) => frame.key));
  evidence = [...new Set(ofEvidence.map((item) => item.key))].filter((key) => known.has(key));
  const first = [wanted, maps.find((map) => !map.requested)?.key, evidence[0]].find((key) => known.has(key));
  query = new Pane(name, { onMove: moved });
  parts = controls(frames);
  byId("stage").replaceChildren(query.root);
  query.show(frames, first === undefined ? Math.floor((frames.length - 1) / 2) : frames.findIndex((frame) => frame.key === first));
  draw();
}

// What the model decided comes first; what somebody asked for is shown where there is nothing else.
const inOrder = (unsorted) => [...unsorted].sort((a, b) => Number(a.requested) - Number(b.requested));

// Maps that came to be since; `wanted` (a map) is shown where its frame is.
export function setMaps(study, wanted) {
  if (!query || !parts) return;
  maps = inOrder(keyed(study.maps));
  if (wanted) { target = nameOf(wanted); mapOn = true; }
  parts.ticks.replaceChildren(...tickMarks(query.frames));
  draw();
}

// A similar case beside the query; both scroll together, from end to end through the matched pair.
export function compare(frames, at, caption) {
  region.close();
  query.caption.textContent = "Query";
  other = new Pane("Similar case", { onMove: () => follow(other, query) });
  other.caption.append(el("span", {}, caption), el("button", { type: "button", class: "button small", onclick: asked.onClose, "aria-label": "Close the comparison" }, "Close ✕"));
  byId("stage").replaceChildren(query.root, other.root);
  byId("stage").classList.add("comparing");
  anchors = [query.at, at];
  other.show(frames, at);
  roomAnew();
}

export function endCompare() {
  if (!other) return;
  other = null;
  query.caption.textContent = "";
  query.mark([]);
  byId("stage").replaceChildren(query.root);
  byId("stage").classList.remove("comparing");
  roomAnew();
}

function moved() {
  if (other) follow(query, other);
  draw();
  asked.onFrame(query.frame);
}

function follow(leader, follower) {
  if (linked && other) {
    const [from, to] = leader === query ? anchors : [anchors[1], anchors[0]];
    const [last, end] = [leader.frames.length - 1, follower.frames.length - 1];
    const before = from ? to / from : 0;
    const after = last - from ? (end - to) / (last - from) : 0;
    follower.go(Math.round(leader.at <= from ? leader.at * before : to + (leader.at - from) * after), { quiet: true });
  }
  draw();
  asked.onPair?.();
}

function controls(frames) {
  const slider = el("input", { type: "range", min: 1, max: frames.length, step: 1, "aria-label": "Frame", oninput: () => go(Number(slider.value) - 1) });
  const place = el("output", { class: "place" });
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" }, tickMarks(frames));
  const mapButton = el("button", { type: "button", class: "button", "aria-pressed": "true", onclick: toggleMap, title: "Show or hide the map (m)" }, "Map");
  const strength = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity, "aria-label": "Map opacity", title: "How strongly the map shows ([ and ])", oninput: () => { opacity = Number(strength.value); draw(); } });
  const choice = el("select", { "aria-label": "Which map", onchange: () => { target = choice.value; draw(); } });
  const next = el("button", { type: "button", class: "button", onclick: nextEvidence, title: "Frames that weighed most for the prediction (e)" }, "Evidence");
  const said = el("p", { class: "map-words" });
  const drawRegion = el("button", { type: "button", class: "button", id: "draw-region", "aria-pressed": "false", hidden: !canRegion, onclick: toggleRegion, title: "Search by a part of this frame (r)" }, "Region");
  const link = el("button", { type: "button", class: "button", "aria-pressed": "true", hidden: true, onclick: toggleLink, title: "Scroll both together (l)" }, "Linked");
  const rows = [];
  if (frames.length > 1) rows.push(el("div", { class: "scrub" }, el("div", { class: "track" }, slider, ticks), place));
  rows.push(el("div", { class: "map-row" }, windowing.controls(), drawRegion, link,
    mapButton, choice, strength, evidence.length ? next : null));
  rows.push(el("p", { class: "region-words", id: "region-words" }), el("div", { class: "said-row" }, said, el("span", { id: "map-ask" })), el("div", { id: "map-asked" }));
  byId("controls").replaceChildren(...rows);
  return { slider, place, ticks, mapButton, strength, said, next, choice, link };
}

// Where the evidence lies along the slider; a frame with a map has another sign.
const tickMarks = (frames) => [...new Set([...evidence, ...maps.map((map) => map.key)])].map((key) => el("span", {
  class: maps.some((map) => map.key === key) ? "tick map" : "tick",
  vars: { "--at": frames.length > 1 ? frames.findIndex((frame) => frame.key === key) / (frames.length - 1) : 0.5 },
}));

// A map is named by whose it is and which class it is for: several may lie on one frame.
const nameOf = (map) => `${map.target_label} · ${map.task}${map.requested ? " · on request" : ""}`;

function draw() {
  if (!parts || !query?.frame) return;
  const { slider, place, mapButton, strength, said, next, choice, link } = parts;
  const { frame, frames, at, layer } = query;
  slider.value = at + 1;
  slider.setAttribute("aria-valuetext", `frame ${at + 1} of ${frames.length}`);
  const series = [frame.series, other ? `beside ${other.at + 1} / ${other.frames.length}` : null].filter(Boolean).join(" · ");
  place.replaceChildren(`${at + 1} / ${frames.length}`, series ? el("span", {}, series) : "");
  const here = maps.filter((item) => item.key === frame.key);
  const map = here.find((item) => nameOf(item) === target) ?? here[0];
  choice.hidden = here.length < 2;
  choice.replaceChildren(...here.map((item) => el("option", { value: nameOf(item), selected: item === map }, nameOf(item))));
  layer.hidden = !(map && mapOn);
  if (map) {
    if (layer.getAttribute("src") !== map.layer_url) layer.src = map.layer_url;
    layer.alt = `Saliency map for ${map.target_label}`;
    layer.style.setProperty("opacity", map.reliability === "not-reliable" ? opacity / 2 : opacity);
  }
  strength.value = opacity;
  mapButton.setAttribute("aria-pressed", String(mapOn));
  for (const node of [mapButton, strength]) node.hidden = !maps.length;
  said.hidden = !maps.length && !evidence.length;
  link.hidden = !other;
  link.setAttribute("aria-pressed", String(linked));
  const isEvidence = evidence.indexOf(frame.key);
  next.textContent = isEvidence >= 0 ? `Evidence ${isEvidence + 1} of ${evidence.length}` : "Go to evidence";
  const [warning, words, checked] = map ? mapWords(map) : ["", maps.length ? "No map for this frame." : "No map for this study."];
  said.replaceChildren(...(warning ? [el("strong", {}, warning), " "] : []), words, checked ? el("span", { class: "checked" }, ` ${checked}`) : "");
  keepRoom(said.parentElement);
}

// The words of one frame are longer than those of the next: their row only grows, so that the picture keeps its size.
function keepRoom(row) {
  const { height } = row.getBoundingClientRect();
  if (height) row.style.minHeight = `${height}px`;
}

function roomAnew() {
  parts?.said.parentElement.style.removeProperty("min-height");
  draw();
}

addEventListener("resize", roomAnew);

// Pictures that could not be read are asked for again.
export const drawAgain = () => { for (const pane of [query, other]) pane?.again(); };

export const go = (to) => query?.go(to);
export const step = (by) => query?.go(query.at + by);

export function goTo(key) {
  const at = query?.frames.findIndex((frame) => frame.key === key) ?? -1;
  if (at >= 0) query.go(at);
}

export function toggleMap() { mapOn = !mapOn; draw(); }

export function toggleLink() {
  linked = !linked;
  if (linked && other) anchors = [query.at, other.at];
  draw();
}

export function toggleRegion() {
  if (!query || !canRegion) return;
  windowing.setDragging(false);
  if (region.isOn()) { region.close(); asked.onRegion(null, true); } else {
    query.mark([]);
    region.open(query, asked.region?.() ?? null, (chosen) => asked.onRegion(chosen), () => asked.onRegion(null, true));
  }
}

export function strengthen(by) {
  opacity = Math.min(1, Math.max(0, Math.round((opacity + by) * 20) / 20));
  draw();
}

export function nextEvidence() {
  if (!evidence.length || !query) return;
  const now = evidence.indexOf(query.frame.key);
  goTo(evidence[(now + 1) % evidence.length]);
}
