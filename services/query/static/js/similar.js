// The similar cases: asked for, chosen and narrowed, continued page by page.

import * as api from "./api.js";
import { byId, el, skeleton, stateBox } from "./dom.js";
import * as narrow from "./narrow.js";
import { cards, voteBox } from "./panel.js";
import { searchWith } from "./searchwith.js";
import * as state from "./state.js";

const PAGE = 10; // What a vote is worth was measured on ten neighbours.
const LEVELS = [["frame", "Single frames"], ["series", "Whole series"], ["study", "Whole studies"]];
const RAW = { name: "visual", title: "Looks alike", description: "Compares the whole look of an image; the same anatomy often counts more than the same lesion." };
let shown = new Map();

export const hit = (place) => shown.get(place);
export const placeOf = (found) => `${found.study_instance_uid}/${found.sop_instance_uid}/${found.frame_number}`;

// `query`: the start of a search request, or {file}. `own`: the query's predicted label. Resolves once the first page stands.
export async function find({ query, place, spaces, own, signal }) {
  const host = byId("neighbours");
  const region = state.parseRegion(place.region);
  const isFile = Boolean(query.file);
  const filtered = Object.keys(place.only).length > 0;
  const options = { limit: PAGE };
  if (spaces && !region) Object.assign(options, { space: place.space, level: place.level });
  const request = { ...query, ...options, filters: place.only, ...(region ? { region } : {}) };
  const fetchPage = (cursor) => (isFile
    ? api.searchByFile(query.file, { ...options, ...place.only, cursor, region: region ? state.regionText(region) : null }, signal)
    : api.search(cursor ? { ...request, cursor } : request, signal));
  const again = el("button", { class: "button", type: "button", onclick: () => find({ query, place, spaces, own, signal }) }, "Try again");
  const focused = document.activeElement?.closest?.("#neighbours [data-key]")?.dataset.key;
  const leftOut = el("small", {});
  const results = el("div", {}, el("div", { class: "grid" }, skeleton(4, "card")));
  shown = new Map();
  host.setAttribute("aria-busy", "true");
  host.replaceChildren(el("h2", {}, "Similar cases", leftOut),
    el("div", { class: "chooser" }, searchWith(place, isFile), spaces && !region ? chooser(spaces, place) : null, narrow.panel(place.only, focused)), results);
  if (focused) host.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  try {
    const found = await fetchPage(null);
    if (signal.aborted) return null;
    leftOut.textContent = found.query.own_patient_excluded ? "own patient left out" : "";
    if (found.results.length) results.replaceChildren(voteBox(found, own, filtered), ...pages(found, fetchPage, signal));
    else if (filtered) results.replaceChildren(await narrow.emptied(isFile ? null : request, place.only, signal));
    else results.replaceChildren(stateBox("empty", "No similar case", region ? "No region of another patient is indexed that could be compared." : "Nothing else is indexed yet, or only studies of the same patient."));
    return found;
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return null;
    if (isFile && !filtered) throw problem;
    results.replaceChildren(trouble(problem, again, Boolean(query.sop_instance_uid)));
    return null;
  } finally {
    if (!signal.aborted) host.setAttribute("aria-busy", "false");
  }
}

// The cases, with a button for the next page while there is one. The vote stays that of the first page.
function pages(first, fetchPage, signal) {
  const grid = el("ol", { class: "grid", "aria-label": "Similar cases, most similar first" });
  const more = el("div", {});
  const add = (page) => {
    for (const one of page.results) shown.set(placeOf(one), one);
    grid.append(...cards(page, (one) => state.changed({ with: placeOf(one) })));
    more.replaceChildren(page.next_cursor ? el("button", { type: "button", class: "button more", onclick: () => next(page.next_cursor) }, "More similar cases") : "");
    mark(state.read()?.with);
  };
  const next = async (cursor) => {
    const last = grid.children.length;
    more.replaceChildren(el("button", { type: "button", class: "button more", disabled: true }, "Searching…"));
    try {
      const page = await fetchPage(cursor);
      if (signal.aborted) return;
      byId("vote-note").hidden = false;
      add(page);
      grid.children[last]?.querySelector("a")?.focus({ preventScroll: true });
    } catch (problem) {
      if (problem.name === "AbortError" || signal.aborted) return;
      more.replaceChildren(stateBox("error", problem.title, problem.message, el("button", { class: "button", type: "button", onclick: () => next(cursor) }, "Try again")));
    }
  };
  add(first);
  return [grid, more];
}

function trouble(problem, again, byFrame) {
  if (problem.kind === "not-indexed" && byFrame) {
    return stateBox("empty", "This frame is not searchable", "Not every frame of a study is indexed. Choose another one, or search with the whole study.",
      el("button", { class: "button", type: "button", onclick: () => state.go({ by: null, region: null, with: null }) }, "Search with the whole study"));
  }
  if (problem.kind === "not-indexed") return stateBox("empty", "Not searchable", "No frame of this study is indexed: it holds no image, or is not judged yet.");
  if (problem.kind === "no-such-space") return stateBox("empty", "Not in this space", "Nothing is indexed in this space yet: its task has judged no study.", el("button", { class: "button", type: "button", onclick: () => state.go({ space: null }) }, "Search by look"));
  return stateBox("error", problem.title, problem.message, again);
}

export function mark(place) {
  for (const link of byId("neighbours").querySelectorAll("[data-place]")) {
    if (link.dataset.place === place) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function chooser(spaces, place) {
  const all = spaces.length ? spaces : [RAW];
  const space = all.find((one) => one.name === (place.space ?? "visual")) ?? all[0];
  const pick = (name, label, choices, value) => {
    const node = el("select", { id: `pick-${name}`, "data-key": `pick-${name}`, onchange: () => state.go({ [name]: node.value === choices[0][0] ? null : node.value, with: null }) },
      choices.map(([key, words]) => el("option", { value: key, selected: key === value }, words.replace(" (research use only)", ""))));
    return el("div", {}, el("label", { for: node.id }, label), node);
  };
  return [
    el("div", { class: "choices" },
      pick("space", "Similar by", all.map((one) => [one.name, one.title]), space.name),
      pick("level", "Compare", LEVELS, place.level ?? "frame")),
    el("p", { class: "dim" }, space.name === "visual" ? "" : `${space.title}. `, space.description)];
}
