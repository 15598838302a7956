// The light box: routes (#/study/UID, #/upload), keys, and the drop of a file.

import * as api from "./api.js";
import { byId, el, plural, shortUid, stateBox } from "./dom.js";
import * as list from "./list.js";
import * as panel from "./panel.js";
import * as viewer from "./viewer.js";

const NEIGHBOURS = 12;
const UID = /^#\/study\/([0-9]+(?:\.[0-9]+)*)$/;

let tasks = [];
let asking = new AbortController();
let shownUid = null;

function title(text, subtitle = "") {
  byId("title").textContent = text;
  byId("subtitle").replaceChildren(subtitle);
  document.title = text === "Light box" ? "Similis light box" : `${text} · Similis light box`;
}

function fresh() {
  asking.abort();
  asking = new AbortController();
  return asking.signal;
}

function home() {
  const signal = fresh();
  shownUid = null;
  document.body.dataset.view = "list";
  list.choose(null);
  title("Light box");
  panel.clear();
  viewer.clear(stateBox("welcome", "Choose a study", "Or drop a DICOM, PNG or JPEG file anywhere to find similar cases. ↑ and ↓ walk through the list."));
  // The list says so if the service cannot be reached.
  api.info().then((info) => { if (!signal.aborted) panel.showAbout(info); }, () => {});
}

async function openStudy(uid) {
  const signal = fresh();
  shownUid = uid;
  if (document.body.dataset.view === "list") scrollTo(0, 0);
  document.body.dataset.view = "study";
  list.choose(uid);
  title("Loading…");
  viewer.clear(stateBox("loading", "Loading the study", ""));
  panel.loading();
  try {
    if (!tasks.length) tasks = (await api.info()).tasks;
    const study = await api.study(uid, signal);
    if (signal.aborted) return;
    const name = [study.modalities.join("/"), study.body_parts.join("/")].filter(Boolean).join(" ") || "Study";
    title(`${name} ${shortUid(uid)}`, el("span", { title: uid }, [
      study.study_date, study.sexes.join("/"), study.age_bands.join("/"), plural(study.series_count, "series"),
      plural(study.frame_count, "frame"),
    ].filter(Boolean).join(" · ")));
    viewer.showStudy(study);
    panel.showDiagnoses(study, tasks);
    const own = study.diagnoses.length === 1 ? study.diagnoses[0].label : null;
    await findNeighbours({ study_instance_uid: uid, limit: NEIGHBOURS }, own, signal);
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    const again = el("button", { class: "button", type: "button", onclick: () => openStudy(uid) }, "Try again");
    title(problem.kind === "unknown-study" ? "Unknown study" : problem.title);
    panel.clear();
    viewer.clear(stateBox("error", problem.title, problem.message, problem.status === 404 ? null : again));
  }
}

async function findNeighbours(request, own, signal) {
  panel.searching();
  try {
    const found = await api.search(request, signal);
    if (!signal.aborted) panel.showNeighbours(found, own);
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    panel.showSearchProblem(problem, () => findNeighbours(request, own, signal));
  }
}

async function openFile(file) {
  if (!file) return;
  const signal = fresh();
  shownUid = null;
  history.replaceState(null, "", "#/upload");
  document.body.dataset.view = "study";
  list.choose(null);
  title("Uploaded file");
  viewer.clear(stateBox("loading", "Reading the file", "It is decoded and compared with every indexed frame."));
  panel.clear();
  panel.searching();
  try {
    const found = await api.searchByFile(file, NEIGHBOURS, signal);
    if (signal.aborted) return;
    title("Uploaded file", found.query.frames_used > 1 ? `mean of ${found.query.frames_used} frames; the middle one is shown` : "one frame");
    viewer.showPicture(found.query.preview, "Uploaded image");
    panel.showUpload();
    panel.showNeighbours(found, null);
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    panel.clear();
    const another = el("button", { class: "button primary", type: "button", onclick: () => byId("upload").click() }, "Choose another file");
    viewer.clear(stateBox("error", problem.title, problem.message, another));
  }
}

function route() {
  const found = UID.exec(location.hash);
  if (found) {
    if (found[1] !== shownUid) openStudy(found[1]);
  } else if (location.hash !== "#/upload" && location.hash !== "#main") home();
}

function toStudy(uid) {
  if (uid) location.hash = `#/study/${uid}`;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const field = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape") {
    if (field) field.blur();
    else location.hash = "#/";
    return;
  }
  // A slider keeps its own arrows; a text field keeps everything.
  if (field && (field.type !== "range" || event.key.startsWith("Arrow"))) return;
  const actions = {
    ArrowDown: () => toStudy(list.beside(1)),
    ArrowUp: () => toStudy(list.beside(-1)),
    ArrowRight: () => viewer.step(1),
    ArrowLeft: () => viewer.step(-1),
    "m": viewer.toggleMap,
    "[": () => viewer.strengthen(-0.1),
    "]": () => viewer.strengthen(0.1),
    "e": viewer.nextEvidence,
    "u": () => byId("upload").click(),
    "/": () => byId("query").focus(),
    "?": () => byId("help").showModal(),
  };
  const neighbour = /^[1-9]$/.test(event.key) && document.querySelector(`[data-rank="${event.key}"]`);
  const action = neighbour ? () => neighbour.click() : actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function acceptDrops() {
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

byId("upload").addEventListener("change", (event) => {
  openFile(event.target.files[0]);
  event.target.value = "";
});
byId("help-button").addEventListener("click", () => byId("help").showModal());
addEventListener("hashchange", route);
addEventListener("keydown", onKey);
acceptDrops();
viewer.start();
list.start();
route();
