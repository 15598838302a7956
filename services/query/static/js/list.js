// The list of studies with its filters.

import * as api from "./api.js";
import { byId, el, percent, plural, shortUid, skeleton, stateBox } from "./dom.js";
import { byAttention, chip, kindOf } from "./verdict.js";

const REFRESH_MS = 8000;
const FIELDS = api.FILTERS;
const MORE = [["body_part", "Body part"], ["sex", "Sex"], ["age_band", "Age"]];
// A label says "finding" or "no finding" by itself; only the decisions without a label are offered.
const UNLABELLED = ["abstained", "out-of-distribution", "no-task"];

const filters = { q: "", ...Object.fromEntries(FIELDS.map((field) => [field, new Set()])) };
let shown = [];
let total = 0;
let cursor = null;
let chosen = null;
let drawn = "";
let asking = null;
let moreOpen = false;
let placed = false; // the study that a link opened was brought into sight
const fresh = new Set();

export function start() {
  const query = byId("query");
  let pause;
  query.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => { filters.q = query.value.trim(); load(); }, 180);
  });
  load();
  setInterval(() => { if (!document.hidden && !asking && shown.length <= 60) load({ quiet: true }); }, REFRESH_MS);
}

export function choose(uid) {
  chosen = uid;
  mark(uid)?.scrollIntoView({ block: "nearest" });
}

function mark(uid) {
  let current = null;
  for (const link of byId("list").querySelectorAll("a")) {
    if (link.dataset.uid === uid) { link.setAttribute("aria-current", "true"); current = link; } else link.removeAttribute("aria-current");
  }
  return current;
}

// Studies that are new or changed: the list is asked for again, unless somebody reads further down its pages.
export function hear(studies) {
  for (const study of studies) fresh.add(study.study_instance_uid);
  if (shown.length <= 60) load({ quiet: true });
}

// Whatever happened in between.
export const refresh = () => load({ quiet: true });

// What is read stays where it is when rows come in above it.
function firstInSight() {
  const host = byId("list-scroll").scrollHeight > byId("list-scroll").clientHeight ? byId("list-scroll") : document.scrollingElement;
  if (!host.scrollTop) return () => {};
  const edge = Math.max(0, byId("list-scroll").getBoundingClientRect().top);
  const seen = [...byId("list").querySelectorAll("a")].find((link) => link.getBoundingClientRect().bottom > edge);
  if (!seen) return () => {};
  const [uid, top] = [seen.dataset.uid, seen.getBoundingClientRect().top];
  return () => {
    const again = byId("list").querySelector(`[data-uid="${uid}"]`);
    if (again) host.scrollTop += again.getBoundingClientRect().top - top;
  };
}

function moreFilters(facets) {
  const groups = MORE.map(([field, title]) => group(title, facet(field, facets[field] ?? []))).filter(Boolean);
  if (!groups.length) return null;
  const box = el("details", { class: "more-filters", open: moreOpen, ontoggle: () => { moreOpen = box.open; } }, el("summary", { "data-key": "more-filters" }, "More filters"), groups);
  return box;
}

// The study `step` places from the chosen one; the first if none is chosen.
export function beside(step) {
  if (!shown.length) return null;
  const at = shown.findIndex((study) => study.study_instance_uid === chosen);
  const next = at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + step));
  return shown[next].study_instance_uid;
}

async function load({ quiet = false, more = false } = {}) {
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  if (!quiet && !more) byId("list-state").replaceChildren(...(shown.length ? [] : skeleton(6, "row")));
  byId("list").setAttribute("aria-busy", quiet ? "false" : "true");
  try {
    const page = await api.studies(filters, more ? cursor : null, { signal: mine.signal, quiet: quiet && shown.length > 0 });
    const facets = page.facets ?? await api.facets();
    if (mine.signal.aborted) return;
    shown = more ? [...shown, ...page.studies] : page.studies;
    cursor = page.next_cursor;
    total = page.total;
    const state = JSON.stringify([shown, cursor, total, facets, FIELDS.map((field) => [...filters[field]])]);
    if (state !== drawn) draw(facets);
    drawn = state;
  } catch (problem) {
    if (problem.name === "AbortError" || (quiet && shown.length)) return;
    drawn = "";
    shown = [];
    byId("list").replaceChildren();
    byId("count").textContent = "";
    byId("list-state").replaceChildren(problem.kind === "starting"
      ? stateBox("loading", "Starting", "The model is being loaded. This takes a moment.")
      : stateBox("error", problem.title, problem.message, el("button", { class: "button", type: "button", onclick: () => load() }, "Try again")));
    if (problem.kind === "starting") setTimeout(load, 1500);
  } finally {
    if (asking === mine) asking = null;
    byId("list").setAttribute("aria-busy", "false");
  }
}

function draw(facets) {
  const focused = document.activeElement?.closest?.("[data-key]")?.dataset.key;
  const unlabelled = facets.decision.filter((found) => UNLABELLED.includes(found.value));
  byId("facets").replaceChildren(...[
    group("Prediction", [...facet("label", facets.label), ...facet("decision", unlabelled)]),
    group("Modality", facet("modality", facets.modality)),
    moreFilters(facets),
  ].filter(Boolean));
  const keep = firstInSight();
  byId("list").replaceChildren(...shown.map(row));
  const filtered = filters.q || FIELDS.some((field) => filters[field].size);
  byId("count").textContent = total || filtered ? `${plural(total, "study")}${filtered ? (total === 1 ? " matches" : " match") : ""}` : "";
  byId("list-state").replaceChildren(
    ...(shown.length ? [] : [filtered
      ? stateBox("empty", "No study matches", "Nothing received so far meets these filters.", el("button", { class: "button", type: "button", onclick: clear }, "Clear filters"))
      : stateBox("empty", "No studies yet", "Send one to the listener by C-STORE: it appears here once it is complete. Or search by a file.")]),
    ...(cursor ? [el("button", { class: "button more", type: "button", onclick: () => load({ more: true }) }, "Show more")] : []));
  const current = mark(chosen);
  keep();
  if (current && !placed) current.scrollIntoView({ block: "nearest" });
  placed ||= current !== null;
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function clear() {
  filters.q = byId("query").value = "";
  for (const field of FIELDS) filters[field].clear();
  load();
}

function group(title, buttons) {
  return buttons.length ? el("fieldset", {}, el("legend", {}, title), buttons) : null;
}

// A chosen value stays on show when no study has it any more, so that it can be taken back.
function facet(field, values) {
  const gone = [...filters[field]].filter((value) => !values.some((found) => found.value === value));
  return api.inOrder(field, [...values, ...gone.map((value) => ({ value, studies: 0 }))]).map(({ value, studies }) => {
    const words = field === "decision" ? kindOf(value).words : value;
    return el("button", {
      type: "button", class: "facet", "data-key": `${field}:${value}`, "aria-pressed": String(filters[field].has(value)),
      "aria-label": `${words}, ${plural(studies, "study")}`,
      onclick: () => toggle(field, value),
    }, words, el("span", {}, studies));
  });
}

function toggle(field, value) {
  if (!filters[field].delete(value)) {
    // A study without a label has none to match: the two ask for different studies.
    if (field === "label") filters.decision.clear();
    if (field === "decision") filters.label.clear();
    filters[field].add(value);
  }
  load();
}

function row(study) {
  const verdicts = byAttention(study.verdicts);
  const first = verdicts[0];
  const said = first && (first.decision === "finding" || first.decision === "no-finding");
  const facts = [study.modalities.join("/"), study.body_parts.join("/"), study.study_date, plural(study.frame_count, "frame")].filter(Boolean).join(" · ");
  const uid = study.study_instance_uid;
  return el("li", {}, el("a", { href: `#/study/${uid}`, "data-uid": uid, "data-key": `row:${uid}` },
    study.image_url
      ? el("img", { src: study.image_url.replace("size=256", "size=96"), alt: "", loading: "lazy", width: 52, height: 52 })
      : el("span", { class: "noimage", "aria-hidden": "true" }, "∅"),
    el("span", { class: "row-text" },
      el("span", { class: "row-top" }, first ? chip(first.decision, first.label) : chip("waiting"),
        said ? el("span", { class: "confidence" }, percent(first.confidence)) : null),
      el("span", { class: "row-facts" }, facts),
      el("span", { class: "row-uid" }, shortUid(uid),
        fresh.has(uid) ? el("span", { class: "tag new" }, "new") : null,
        study.map_count ? el("span", { class: "tag" }, "map") : null,
        study.mixed_patients ? el("span", { class: "tag warn" }, "mixed patients") : null,
        verdicts.length > 1 ? el("span", { class: "tag" }, `+${verdicts.length - 1} task`) : null))));
}
