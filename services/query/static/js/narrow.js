// Filters for similar cases: chosen with counts, kept in the address, and told apart when nothing is left.

import * as api from "./api.js";
import { el, plural, stateBox } from "./dom.js";
import * as state from "./state.js";

const TITLES = {
  task: "Task", label: "Label", modality: "Modality", body_part: "Body part", sex: "Sex", age_band: "Age",
  study_date_from: "Study date from", study_date_to: "Study date until",
};
let open = false;

const without = (only, field) => Object.fromEntries(Object.entries(only).filter(([name]) => name !== field));
const wordsOf = (field, only) => `${TITLES[field]}: ${[only[field]].flat().join(" or ")}`;
const choose = (only) => state.go({ only, with: null });

function toggle(only, field, value) {
  const values = only[field] ?? [];
  const next = values.includes(value) ? values.filter((one) => one !== value) : [...values, value];
  choose(next.length ? { ...only, [field]: next } : without(only, field));
}

const clearAll = (key) => el("button", { type: "button", class: "button small", "data-key": key, onclick: () => choose({}) }, "Clear all filters");

const takeOut = (only, field, key) => el("button", {
  type: "button", class: "facet", "aria-pressed": "true", "data-key": key, "aria-label": `Take out ${wordsOf(field, only)}`, onclick: () => choose(without(only, field)),
}, wordsOf(field, only), el("span", { "aria-hidden": "true" }, "✕"));

// `focused`: the key of the control that had the focus and is built anew.
export function panel(only, focused) {
  const chosen = Object.keys(only);
  const inside = el("div", { class: "narrow-fields" }, el("p", { class: "dim" }, "Counting…"));
  const box = el("details", { class: "more-filters narrow", id: "narrow", open, ontoggle: () => { open = box.open; if (open) fill(inside, only, focused); } },
    el("summary", { "data-key": "narrow" }, chosen.length ? `Filters (${chosen.length})` : "Filters"), inside);
  return el("div", {}, box,
    chosen.length ? el("div", { class: "chosen", role: "group", "aria-label": "Filters in use" }, chosen.map((field) => takeOut(only, field, `out:${field}`)), clearAll("clear-filters")) : null);
}

export function openPanel() {
  const box = document.getElementById("narrow");
  if (!box) return;
  box.open = true;
  box.querySelector("summary").focus();
}

async function fill(host, only, focused) {
  let counted = {};
  let trouble = null;
  try {
    counted = await api.counts(only);
  } catch (problem) {
    trouble = el("p", { class: "dim" }, `Counts cannot be told just now: ${problem.title}.`);
  }
  const groups = state.VALUE_FILTERS.map((field) => group(field, counted[field] ?? [], only)).filter(Boolean);
  host.replaceChildren(...(trouble ? [trouble] : [el("p", { class: "dim" }, "Counts: studies here with each value, under the other filters.")]), ...groups, dates(only));
  if (focused && document.activeElement === document.body) host.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function group(field, values, only) {
  const chosen = only[field] ?? [];
  const gone = chosen.filter((value) => !values.some((found) => found.value === value)).map((value) => ({ value, studies: 0 }));
  const all = api.inOrder(field, [...values, ...gone]).filter(({ value }) => field !== "task" || value !== "none");
  if (!all.length || (field === "task" && all.length < 2 && !chosen.length)) return null;
  return row(TITLES[field], all.map(({ value, studies }) => el("button", {
    type: "button", class: "facet", "data-key": `only:${field}:${value}`, "aria-pressed": String(chosen.includes(value)),
    "aria-label": `${value}, ${plural(studies, "study")}`, onclick: () => toggle(only, field, value),
  }, value, el("span", {}, studies))));
}

const row = (title, ...controls) => el("div", { class: "narrow-row", role: "group", "aria-label": title }, el("span", { "aria-hidden": "true" }, title), el("div", {}, ...controls));

function dates(only) {
  const pick = (field, words) => {
    const node = el("input", { type: "date", id: `only-${field}`, "data-key": `only:${field}`, value: only[field], min: "1900-01-01", max: "2999-12-31", onchange: () => {
      if (node.validity.valid) choose(node.value ? { ...only, [field]: node.value } : without(only, field));
    } });
    return el("label", {}, words, node);
  };
  return row("Study date", pick("study_date_from", "from"), pick("study_date_to", "until"));
}

// Why nothing is left: each filter is taken out alone, and what then lets cases through is named.
export async function emptied(request, only, signal) {
  const fields = Object.keys(only);
  const box = (text, ...actions) => stateBox("empty", "No similar case passes the filters", text, el("div", { class: "actions wrap" }, actions.length ? actions : clearAll("clear-empty")));
  const outs = (names) => names.map((field) => takeOut(only, field, `empty:${field}`));
  if (request === null) return box("Take one out, or all:", ...outs(fields));
  const searches = fields.map((field) => ({ ...request, limit: 1, filters: without(only, field) }));
  const { answers } = await api.searchAll(searches, signal);
  const guilty = fields.filter((_, at) => answers[at].answer?.results.length);
  if (!guilty.length) return box(fields.length > 1 ? "No single filter does it: cases come back only when several are taken out." : "Nothing is found without it either: no other case is indexed that could be compared.");
  if (guilty.length === 1) return box(`“${wordsOf(guilty[0], only)}” leaves none over. Without it there are similar cases:`, ...outs(guilty));
  return box("Several filters together leave none over. Cases come back without any one of these:", ...outs(guilty));
}
