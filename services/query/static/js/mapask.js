// Asking for a saliency map of the frame that is shown, and what became of it.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import * as viewer from "./viewer.js";

const PAUSE_MS = { first: 1500, longest: 15000, growth: 1.5 };
const DRAWN = { asking: "…", waiting: "…", explained: "✓", failed: "✕", refused: "✕" };
// Of this page's life, by study, frame, task and class. A repeated request is the same request, so nothing is lost with it.
const requests = new Map();

let study = null;
let classes = []; // [{task, label, text}], the predicted one first
let onArrival = () => {};
let open = false;

// `allowed`: the service takes requests, and so does the role. `arrived` is called with a map that came to be.
export function attach(shown, tasks, allowed, arrived) {
  study = allowed ? shown : null;
  onArrival = arrived;
  const judged = shown.diagnoses.map((diagnosis) => [diagnosis, tasks.find((task) => task.name === diagnosis.task)]).filter(([, task]) => task);
  const all = judged.flatMap(([diagnosis, task]) => task.labels.map((label) => ({ task: task.name, label, predicted: label === diagnosis.label, text: judged.length > 1 ? `${label} · ${task.name}` : label })));
  classes = [...all.filter((one) => one.predicted), ...all.filter((one) => !one.predicted)];
  open = false;
  draw();
  for (const entry of mine()) if (entry.state === "waiting") look(entry);
}

export function detach() {
  study = null;
}

// News of studies: a map may be among them.
export function hear(uids) {
  for (const entry of requests.values()) if (entry.state === "waiting" && uids.includes(entry.uid)) look(entry);
}

export function toggle() {
  if (!study || !classes.length || !byId("map-ask")) return;
  open = !open;
  draw();
  byId(open ? "map-class" : "map-ask-button").focus();
}

const mine = () => [...requests.values()].filter((entry) => entry.uid === study?.study_instance_uid);

export function draw() {
  if (!byId("map-ask")) return;
  if (!study || !classes.length) {
    byId("map-ask").replaceChildren();
    byId("map-asked").replaceChildren();
    return;
  }
  if (!byId("map-ask-button")) byId("map-ask").replaceChildren(el("button", { type: "button", class: "button", id: "map-ask-button", title: "A saliency map of this frame, for a class of your choice (a)", onclick: toggle }, "Ask for a map"));
  byId("map-ask-button").setAttribute("aria-expanded", String(open));
  const chosen = byId("map-class")?.value;
  const form = open ? el("div", { class: "map-form" },
    el("label", { for: "map-class" }, "What in this frame speaks for"),
    el("select", { id: "map-class" }, classes.map((one, at) => el("option", { value: at, selected: String(at) === chosen }, one.predicted ? `${one.text} (predicted)` : one.text))),
    el("button", { type: "button", class: "button primary", id: "map-send", onclick: () => ask(classes[Number(byId("map-class").value)], viewer.queryPane()?.frame) }, "Ask"),
    el("p", { class: "dim" }, "It takes seconds to minutes. You can go on looking meanwhile.")) : "";
  const focused = byId("map-asked").contains(document.activeElement) ? document.activeElement.id : null;
  const said = mine().map(line);
  byId("map-asked").replaceChildren(form, said.length ? el("div", { role: "status" }, el("ul", { class: "asked" }, said)) : "");
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

function line(entry) {
  const what = `map for “${entry.label}” on frame ${viewer.numberOf(entry.frame.key) ?? "?"}`;
  const button = (text, action) => el("button", { type: "button", class: "button small", onclick: action }, text);
  const again = button("Ask again", () => ask(entry, entry.frame));
  const words = {
    asking: () => [`Asking for a ${what}…`],
    waiting: () => [`The ${what} is asked for and waits for its turn.`, entry.slow ? " The service does not answer just now; the request stands." : ""],
    explained: () => [`The ${what} is there. `, button("Show it", () => show(entry))],
    failed: () => [`No ${what} could be made: ${entry.reason}. `, again],
    refused: () => [`The ${what} was not asked for. ${entry.problem.title}: ${entry.problem.message} `, entry.problem.kind === "read-only" || entry.problem.status === 403 ? "" : again],
  }[entry.state]();
  return el("li", { class: entry.state }, el("span", { class: "mark", "aria-hidden": "true" }, DRAWN[entry.state]), el("span", {}, words));
}

function show(entry) {
  viewer.goTo(entry.frame.key);
  onArrival(entry.map);
}

async function ask({ task, label }, frame) {
  if (!frame || !study) return;
  const uid = study.study_instance_uid;
  const key = [uid, frame.key, task, label].join("|");
  const entry = { uid, frame, task, label, state: "asking", pause: PAUSE_MS.first };
  clearTimeout(requests.get(key)?.timer);
  requests.set(key, entry);
  open = false;
  draw();
  byId("map-ask-button")?.focus({ preventScroll: true });
  try {
    take(entry, await api.askForMap({ study_instance_uid: uid, task, label, frames: [{ sop_instance_uid: frame.sop_instance_uid, frame_number: frame.frame_number }] }));
  } catch (problem) {
    Object.assign(entry, { state: "refused", problem });
    draw();
  }
}

function take(entry, said) {
  Object.assign(entry, { state: said.state, url: said.url, slow: false, reason: (said.reason ?? "").replace(/\.$/, "") });
  if (said.state === "explained") {
    entry.map = said.maps[0];
    if (study?.study_instance_uid === entry.uid) onArrival(viewer.queryPane()?.frame?.key === entry.frame.key ? entry.map : null);
  } else if (said.state === "waiting") later(entry);
  draw();
}

function later(entry) {
  clearTimeout(entry.timer);
  entry.timer = setTimeout(() => look(entry), entry.pause);
  entry.pause = Math.min(PAUSE_MS.longest, entry.pause * PAUSE_MS.growth);
}

async function look(entry) {
  clearTimeout(entry.timer);
  // Of a study that is left, news or coming back tells.
  if (study?.study_instance_uid !== entry.uid) return;
  try {
    take(entry, await api.mapRequest(entry.url));
  } catch (problem) {
    if (problem.status === 404) Object.assign(entry, { state: "failed", reason: "the study was judged anew since" });
    else { entry.slow = true; later(entry); }
    draw();
  }
}
