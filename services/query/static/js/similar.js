// The similar cases: asked for, chosen by space and level, continued page by page.

import * as api from "./api.js";
import { byId, el, skeleton, stateBox } from "./dom.js";
import { cards, voteBox } from "./panel.js";
import * as state from "./state.js";

const PAGE = 10; // What a vote is worth was measured on ten neighbours.
const LEVELS = [["frame", "Single frames"], ["series", "Whole series"], ["study", "Whole studies"]];
const RAW = { name: "visual", title: "Looks alike", description: "Compares the whole look of an image; the same anatomy often counts more than the same lesion." };
let shown = new Map();

export const hit = (place) => shown.get(place);
export const placeOf = (found) => `${found.study_instance_uid}/${found.sop_instance_uid}/${found.frame_number}`;

// `query`: the start of a search request, or {file}. Resolves once the first page stands.
export async function find(query, place, spaces, own, signal) {
  const host = byId("neighbours");
  const again = () => find(query, place, spaces, own, signal);
  const options = { limit: PAGE };
  const region = state.parseRegion(place.region);
  if (spaces) {
    if (place.space && !region) options.space = place.space;
    if (place.level && !region) options.level = place.level;
  }
  const fetchPage = (cursor) => {
    const wish = cursor ? { ...options, cursor } : options;
    return query.file ? api.searchByFile(query.file, { ...wish, region: region && state.regionText(region) }, signal) : api.search({ ...query, ...wish, ...(region ? { region } : {}) }, signal);
  };
  shown = new Map();
  host.setAttribute("aria-busy", "true");
  host.replaceChildren(heading(), chooser(spaces, place, region, Boolean(query.file)), el("div", { class: "grid" }, skeleton(4, "card")));
  try {
    const found = await fetchPage(null);
    if (signal.aborted) return null;
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
      more.firstElementChild.disabled = true;
      try {
        const page = await fetchPage(cursor);
        if (signal.aborted) return;
        add(page);
        grid.children[last]?.querySelector("a")?.focus({ preventScroll: true });
      } catch (problem) {
        if (problem.name !== "AbortError") more.replaceChildren(stateBox("error", problem.title, problem.message, retry(() => next(cursor))));
      }
    };
    const nothing = region ? "No region of another patient is indexed that could be compared." : "Nothing else is indexed yet, or only studies of the same patient.";
    host.replaceChildren(heading(found), chooser(spaces, place, region, Boolean(query.file)), ...(found.results.length ? [voteBox(found, own), grid, more] : [stateBox("empty", "No similar case", nothing)]));
    add(found);
    return found;
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return null;
    if (query.file) throw problem;
    host.replaceChildren(heading(), chooser(spaces, place, region, Boolean(query.file)), trouble(problem, again));
    return null;
  } finally {
    host.setAttribute("aria-busy", "false");
  }
}

const retry = (action) => el("button", { class: "button", type: "button", onclick: action }, "Try again");

function trouble(problem, again) {
  if (problem.kind === "not-indexed") return stateBox("empty", "Not searchable", "No frame of this study is indexed: it holds no image, or is not judged yet.");
  if (problem.kind === "no-such-space") return stateBox("empty", "Not in this space", "Nothing is indexed in this space yet: its task has judged no study.", el("button", { class: "button", type: "button", onclick: () => state.go({ space: null }) }, "Search by look"));
  return stateBox("error", problem.title, problem.message, retry(again));
}

export function mark(place) {
  for (const link of byId("neighbours").querySelectorAll("[data-place]")) {
    if (link.dataset.place === place) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function heading(found) {
  return el("h2", {}, "Similar cases", el("small", {}, found?.query.own_patient_excluded ? "own patient left out" : ""));
}

function chooser(spaces, place, region, isFile) {
  if (region) {
    return el("div", { class: "chooser" }, el("p", { class: "region-note" }, "Searching by the box on the frame. ",
      el("a", { href: state.changed({ region: null, with: null }), class: "button small" }, isFile ? "Search by the whole file" : "Search by the whole study")));
  }
  if (!spaces) return el("div", {});
  const all = spaces.length ? spaces : [RAW];
  const space = all.find((one) => one.name === (place.space ?? "visual")) ?? all[0];
  const pick = (name, label, choices, value) => {
    const node = el("select", { id: `pick-${name}`, onchange: () => state.go({ [name]: node.value === choices[0][0] ? null : node.value, with: null }) },
      choices.map(([key, words]) => el("option", { value: key, selected: key === value }, words)));
    return el("div", {}, el("label", { for: node.id }, label), node);
  };
  return el("div", { class: "chooser" },
    el("div", { class: "choices" },
      pick("space", "Similar by", all.map((one) => [one.name, one.title]), space.name),
      pick("level", "Compare", LEVELS, place.level ?? "frame")),
    el("p", { class: "dim" }, space.description));
}
