// The light box: what the address says is what is shown.

import * as api from "./api.js";
import { byId, el, plural, shortUid, stateBox } from "./dom.js";
import * as keys from "./keys.js";
import * as labelling from "./labelling.js";
import * as list from "./list.js";
import * as live from "./live.js";
import * as mapask from "./mapask.js";
import * as panel from "./panel.js";
import { framesOf } from "./pane.js";
import * as region from "./region.js";
import * as searchwith from "./searchwith.js";
import * as session from "./session.js";
import * as similar from "./similar.js";
import * as state from "./state.js";
import * as validation from "./validation.js";
import * as viewer from "./viewer.js";
import * as why from "./why.js";
import * as windowing from "./windowing.js";

let about = null;
let asking = new AbortController();
let searching = new AbortController();
let comparing = new AbortController();
let started = null; // who signed in is known, or nobody needs to
let shown = null; // the study, or the file, that stands in the viewer
let searched = "";
let compared = null;

function title(text, subtitle = "") {
  byId("title").textContent = text;
  byId("subtitle").replaceChildren(subtitle);
  document.title = text === "Light box" ? "Similis light box" : `${text} · Similis light box`;
}

function fresh() {
  asking.abort();
  comparing.abort();
  asking = new AbortController();
  shown = null;
  searched = "";
  compared = null;
  why.clear();
  mapask.detach();
  return asking.signal;
}

const facts = async () => {
  await started;
  about ??= await api.info();
  viewer.allowRegions(Boolean(about.region_search));
  return about;
};

function home() {
  const signal = fresh();
  document.body.dataset.view = "list";
  list.choose(null);
  title("Light box");
  panel.clear();
  viewer.clear(stateBox("welcome", "Choose a study", "Or drop a DICOM, PNG or JPEG file anywhere to find similar cases. ↑ and ↓ walk through the list, ? opens the help."));
  // The list says so if the service cannot be reached.
  api.info().then((info) => { about = info; if (!signal.aborted) panel.showAbout(info); }, () => {});
}

async function openStudy(uid) {
  const signal = fresh();
  shown = { uid };
  scrollTo(0, 0);
  document.querySelector(".findings").scrollTop = 0;
  document.body.dataset.view = "study";
  list.choose(uid);
  title("Loading…");
  viewer.clear(stateBox("loading", "Loading the study", ""));
  panel.loading();
  try {
    const { tasks } = await facts();
    const study = await api.study(uid, signal);
    if (signal.aborted) return;
    const name = [study.modalities.join("/"), study.body_parts.join("/")].filter(Boolean).join(" ") || "Study";
    title(`${name} ${shortUid(uid)}`, el("span", { title: uid }, [
      study.study_date, study.sexes.join("/"), study.age_bands.join("/"), plural(study.series_count, "series"),
      plural(study.frame_count, "frame"),
    ].filter(Boolean).join(" · ")));
    shown = { uid, own: study.diagnoses.length === 1 ? study.diagnoses[0].label : null, known: judged(study), task: study.diagnoses[0]?.task };
    viewer.showStudy(study, framesOf(study), state.read()?.frame ?? state.read()?.by);
    panel.showDiagnoses(study, tasks);
    mapask.attach(study, tasks, Boolean(about.takes_map_requests) && session.mayWrite(), (map) => newMaps(uid, map));
    labelling.show(study, tasks, Boolean(about.takes_labels) && session.mayWrite(), signal);
    await follow();
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    const again = el("button", { class: "button", type: "button", onclick: () => openStudy(uid) }, "Try again");
    title(problem.kind === "unknown-study" ? "Unknown study" : problem.title);
    panel.clear();
    viewer.clear(stateBox("error", problem.title, problem.message, problem.status === 404 ? null : again));
  }
}

// What a reader must be told of if it changes; maps are only added.
const judged = (study) => JSON.stringify([study.revision, study.frame_count, study.diagnoses]);

// News of the study that is shown: maps are laid on, anything else is offered.
async function newMaps(uid, map) {
  try {
    const study = await api.study(uid, asking.signal, { quiet: true });
    if (shown?.uid !== uid) return;
    viewer.setMaps(study, map);
    if (judged(study) === shown.known || byId("changed")) return;
    byId("diagnosis").prepend(el("p", { class: "caution", id: "changed" }, "There is news of this study. ", el("button", { type: "button", class: "button small", onclick: () => openStudy(uid) }, "Show it")));
  } catch (problem) {
    if (problem.name !== "AbortError") byId("live").textContent = `News of this study cannot be read just now. ${problem.title}.`;
  }
}

// What the address says beyond the study: how to search, the frame, the case beside it.
async function follow() {
  const place = state.read();
  if (!shown || !place) return;
  const box = state.parseRegion(place.region);
  const by = place.by ?? (box ? place.frame : null);
  const how = JSON.stringify([place.space, place.level, place.region, by, place.only]);
  if (place.frame && viewer.queryPane()?.frame?.key !== place.frame) viewer.goTo(place.frame);
  if (place.with !== compared) compare(place, asking.signal);
  if (how === searched) return;
  searched = how;
  searching.abort();
  searching = new AbortController();
  const signal = AbortSignal.any([asking.signal, searching.signal]);
  const spaces = Array.isArray(about?.spaces) ? about.spaces : null;
  const query = shown.file ? { file: shown.file } : state.parseFrame(by) ?? { study_instance_uid: shown.uid };
  markRegion();
  const found = await similar.find({ query, place: { ...place, by }, spaces, own: shown.own, signal });
  if (signal.aborted || !found) return;
  if (shown.file && !viewer.queryPane()) showUploaded(found);
  byId("live").textContent = `${plural(found.results.length, "similar case")}.`;
  if (state.read()?.with) compare(state.read(), asking.signal);
}

// The searched box lies on its own frame only.
function markRegion() {
  const place = state.read();
  const box = state.parseRegion(place?.region);
  const pane = viewer.queryPane();
  if (pane && !place?.with) pane.mark(box && (shown?.file || !place.by || place.by === pane.frame?.key) ? [{ region: box, text: "Region" }] : []);
}

async function compare(place, outer) {
  comparing.abort();
  comparing = new AbortController();
  compared = place.with;
  const { signal } = comparing;
  const to = state.parsePlace(place.with);
  similar.mark(place.with);
  if (!to) {
    viewer.endCompare();
    why.clear();
    markRegion();
    return;
  }
  if (!viewer.queryPane()) return;
  const hit = similar.hit(place.with);
  try {
    const study = await api.study(to.study, signal);
    if (signal.aborted || outer.aborted) return;
    const frames = framesOf(study);
    const at = frames.findIndex((frame) => frame.key === `${to.sop}/${to.frame}`);
    if (at < 0) throw new api.Problem(404, "unknown-frame", "No such frame", "The link names a frame that this study does not have.");
    viewer.compare(frames, at, hit ? `Similar case ${hit.rank} · ${hit.score.toFixed(3)}` : `Study ${shortUid(to.study)}`);
    // On a narrow page the cards stand below the images.
    if (matchMedia("(max-width: 820px)").matches) byId("stage").scrollIntoView({ block: "start" });
    byId("live").textContent = hit ? `Similar case ${hit.rank} is beside the query.` : "The case is beside the query.";
    await why.show(to, hit, shown.own, shown.file, signal);
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    byId("why").replaceChildren(stateBox("error", problem.title, problem.message, el("button", { class: "button", type: "button", onclick: () => compare(place, outer) }, "Try again")));
  }
}

async function openFile(file) {
  if (!file) return;
  const signal = fresh();
  history.replaceState(null, "", "#/upload");
  shown = { file, own: null };
  document.body.dataset.view = "study";
  list.choose(null);
  title("Uploaded file");
  viewer.clear(stateBox("loading", "Reading the file", "It is decoded and compared with every indexed frame."));
  panel.clear();
  try {
    await facts();
    await follow();
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    panel.clear();
    const another = el("button", { class: "button primary", type: "button", onclick: () => byId("upload").click() }, "Choose another file");
    viewer.clear(stateBox("error", problem.title, problem.message, another));
  }
}

function showUploaded(found) {
  title("Uploaded file", found.query.frames_used > 1 ? `mean of ${found.query.frames_used} frames; the middle one is shown` : "one frame");
  viewer.showPicture(found.query.preview, "Uploaded image");
  panel.showUpload();
}

function route(moved) {
  const place = state.read();
  if (!place || location.hash === "#main") return;
  region.close();
  if (place.view === "validation") {
    const left = moved ? new URL(moved.oldURL).hash : "";
    const from = shown?.uid && left.startsWith("#/study/") ? { hash: left, task: shown.task } : document.body.dataset.view === "validation" ? undefined : null;
    fresh();
    document.body.dataset.view = "validation";
    validation.open(place.taskName, asking.signal, from);
    title("Validation");
  } else if (place.view === "study") {
    if (place.uid === shown?.uid && document.body.dataset.view === "study") follow();
    else openStudy(place.uid);
  } else if (place.view === "upload" && shown?.file) follow();
  else if (place.view === "upload") {
    home();
    document.body.dataset.view = "study";
    viewer.clear(stateBox("empty", "The file is gone", "An upload lives only until the page is left. Choose it again.", el("button", { class: "button primary", type: "button", onclick: () => byId("upload").click() }, "Choose a file")));
  } else home();
}

viewer.listen({
  onFrame: (frame) => {
    if (!shown?.uid) return;
    state.note({ frame: frame.key });
    searchwith.frameShown();
    if (state.read().region) markRegion();
  },
  onClose: () => state.go({ with: null }),
  region: () => state.parseRegion(state.read()?.region),
  onRegion: (chosen, left) => {
    if (left) { compared = null; follow(); return; }
    const frame = viewer.queryPane().frame;
    if (shown?.uid) state.go({ region: state.regionText(chosen), frame: frame.key, by: frame.key, with: null });
    else state.go({ region: state.regionText(chosen), with: null });
  },
});

byId("upload").addEventListener("change", (event) => {
  openFile(event.target.files[0]);
  event.target.value = "";
});
byId("help-button").addEventListener("click", () => byId("help").showModal());
addEventListener("hashchange", route);
started = session.start();
keys.start({ openFile });
windowing.start();
list.start();
const listening = live.start((studies) => {
  list.hear(studies);
  const uids = studies.map((study) => study.study_instance_uid);
  mapask.hear(uids);
  if (shown?.known && uids.includes(shown.uid)) newMaps(shown.uid, null);
}, list.refresh);
session.whenSignedIn(async () => {
  list.refresh();
  viewer.drawAgain();
  (await listening)?.();
});
route();
