// The query image: frames by wheel, keys and slider; the saliency map over it.

import { byId, el, stateBox } from "./dom.js";

let frames = [];
let at = 0;
let maps = [];
let evidence = [];
let mapOn = true;
let opacity = 0.6;
let wheel = 0;
let parts = null;

export function clear(box) {
  frames = [];
  parts = null;
  byId("stage").replaceChildren(box ?? "");
  byId("controls").replaceChildren();
}

// One picture without frames: an upload.
export function showPicture(url, name) {
  clear();
  show([{ image_url: url, key: "upload" }], [], [], name);
}

export function showStudy(study) {
  const places = study.series.flatMap((series) => series.frames.map((frame) => ({
    image_url: `${frame.image_url}?size=1024`,
    key: `${frame.sop_instance_uid}/${frame.frame_number}`,
    series: `${series.modality}${study.series.length > 1 ? ` series ${study.series.indexOf(series) + 1} of ${study.series.length}` : ""}`,
  })));
  if (!places.length) {
    clear(stateBox("empty", "No image", "This study holds no image that could be shown."));
    return;
  }
  const keyed = (items) => items.map((item) => ({ ...item, key: `${item.sop_instance_uid}/${item.frame_number}` }));
  show(places, keyed(study.maps), keyed(study.diagnoses.flatMap((diagnosis) => diagnosis.evidence)), "Query study");
}

function show(places, withMaps, ofEvidence, name) {
  frames = places;
  // What the model decided comes first; what somebody asked for is shown where there is nothing else.
  maps = [...withMaps].sort((a, b) => Number(a.requested) - Number(b.requested));
  const known = new Set(places.map((frame) => frame.key));
  evidence = [...new Set(ofEvidence.map((item) => item.key))].filter((key) => known.has(key));
  const first = maps.find((map) => !map.requested)?.key ?? evidence[0];
  at = Math.max(0, first === undefined ? Math.floor((places.length - 1) / 2) : places.findIndex((frame) => frame.key === first));
  const image = el("img", { class: "frame", alt: `${name}, frame`, draggable: "false" });
  const layer = el("img", { class: "layer", alt: "", hidden: true, draggable: "false" });
  const picture = el("div", { class: "picture" }, image, layer);
  const trouble = el("div", { class: "trouble" });
  image.addEventListener("load", () => {
    picture.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    picture.classList.remove("loading");
    trouble.replaceChildren();
  });
  image.addEventListener("error", () => {
    picture.classList.remove("loading");
    trouble.replaceChildren(stateBox("error", "This frame cannot be shown", "Its pixels could not be decoded, or the archive is away."));
  });
  byId("stage").replaceChildren(el("div", { class: "fit" }, picture), trouble);
  parts = { image, layer, picture, trouble, name, ...controls() };
  draw();
}

function controls() {
  const slider = el("input", { type: "range", min: 1, max: frames.length, step: 1, "aria-label": "Frame", oninput: () => go(Number(slider.value) - 1) });
  const place = el("output", { class: "place" });
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" }, evidence.map((key) => el("span", {
    class: maps.some((map) => map.key === key) ? "tick map" : "tick",
    vars: { "--at": frames.length > 1 ? frames.findIndex((frame) => frame.key === key) / (frames.length - 1) : 0.5 },
  })));
  const mapButton = el("button", { type: "button", class: "button", "aria-pressed": "true", onclick: toggleMap }, "Map");
  const strength = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity, "aria-label": "Map opacity", oninput: () => { opacity = Number(strength.value); draw(); } });
  const next = el("button", { type: "button", class: "button", onclick: nextEvidence }, "Evidence");
  const said = el("p", { class: "map-words" });
  const rows = [];
  if (frames.length > 1) rows.push(el("div", { class: "scrub" }, el("div", { class: "track" }, slider, ticks), place));
  if (maps.length || evidence.length) {
    rows.push(el("div", { class: "map-row" }, maps.length ? [mapButton, strength] : null, evidence.length ? next : null, said));
  }
  byId("controls").replaceChildren(...rows);
  return { slider, place, mapButton, strength, said, next };
}

function draw() {
  if (!parts) return;
  const frame = frames[at];
  const { image, layer, picture, slider, place, mapButton, strength, said, next, name } = parts;
  if (image.getAttribute("src") !== frame.image_url) {
    picture.classList.add("loading");
    image.src = frame.image_url;
  }
  image.alt = `${name}, frame ${at + 1} of ${frames.length}`;
  slider.value = at + 1;
  slider.setAttribute("aria-valuetext", `frame ${at + 1} of ${frames.length}`);
  const isEvidence = evidence.indexOf(frame.key);
  place.replaceChildren(`${at + 1} / ${frames.length}`, frame.series ? el("span", {}, frame.series) : "");
  const map = maps.find((item) => item.key === frame.key);
  layer.hidden = !(map && mapOn);
  if (map) {
    if (layer.getAttribute("src") !== map.layer_url) layer.src = map.layer_url;
    layer.alt = `Saliency map for ${map.target_label}`;
    layer.style.setProperty("opacity", opacity);
  }
  strength.value = opacity;
  mapButton.setAttribute("aria-pressed", String(mapOn));
  next.textContent = isEvidence >= 0 ? `Evidence ${isEvidence + 1} of ${evidence.length}` : "Go to evidence";
  said.classList.toggle("flagged", map !== undefined && (map.requested || map.reliability === "not-reliable"));
  said.textContent = map
    ? mapWords(map)
    : maps.length ? "No map for this frame." : "No map for this study.";
  for (const near of [at + 1, at - 1]) if (frames[near]) new Image().src = frames[near].image_url;
}

export function go(to) {
  if (!frames.length) return;
  at = Math.min(frames.length - 1, Math.max(0, to));
  draw();
}

export const step = (by) => go(at + by);

function mapWords(map) {
  const words = [];
  if (map.reliability === "not-reliable") words.push(`NOT RELIABLE, drawn pale: ${map.reliability_reason}.`);
  if (map.requested) words.push("ON REQUEST, not the model's decision.");
  words.push(`${map.method} for “${map.target_label}”: ${map.method === "rollout" ? "the brighter, the more attention went there, whatever the class" : "the brighter, the more its probability rests on this place"}. It shows what moved the model, not where disease is.`);
  const f = map.faithfulness;
  if (f) {
    words.push(`Insertion ${f.insertion_auc.toFixed(2)} (random ${f.random_insertion_auc.toFixed(2)}, more is better), deletion ${f.deletion_auc.toFixed(2)} (random ${f.random_deletion_auc.toFixed(2)}, less is better).`);
  }
  if (map.reliability === "unknown") words.push("Not compared with random weights.");
  return words.join(" ");
}

export function toggleMap() {
  mapOn = !mapOn;
  draw();
}

export function strengthen(by) {
  opacity = Math.min(1, Math.max(0, Math.round((opacity + by) * 20) / 20));
  draw();
}

export function nextEvidence() {
  if (!evidence.length) return;
  const now = evidence.indexOf(frames[at].key);
  go(frames.findIndex((frame) => frame.key === evidence[(now + 1) % evidence.length]));
}

export function start() {
  byId("stage").addEventListener("wheel", (event) => {
    if (frames.length < 2 || event.ctrlKey) return;
    event.preventDefault();
    wheel += event.deltaY;
    // A notch of a wheel is near 100 px; a touchpad sends many small ones.
    if (Math.abs(wheel) < 40) return;
    step(Math.sign(wheel));
    wheel = 0;
  }, { passive: false });
}
