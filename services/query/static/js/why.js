// Why a case is similar: labels, matched regions on both images, in words.

import * as api from "./api.js";
import { byId, el, plural, shortUid } from "./dom.js";
import * as state from "./state.js";
import { chip } from "./verdict.js";
import * as viewer from "./viewer.js";

export function clear() {
  byId("why").replaceChildren();
}

export async function show(place, hit, own, file, signal) {
  const host = byId("why");
  const matched = el("p", { class: "dim", role: "status" }, "Looking for regions that match…");
  host.replaceChildren(
    el("h2", {}, "Why this case", el("a", { class: "button small", href: `#/study/${place.study}` }, "Open this study")),
    el("div", { class: "why" },
      hit ? el("p", {}, `Rank ${hit.rank}, similarity ${hit.score.toFixed(3)} of at most 1. `, labelWords(hit, own)) : el("p", {}, `Study ${shortUid(place.study)}, opened by its link.`),
      hit ? el("p", {}, chip(hit.decision, hit.label), hit.label_source === "confirmed" ? el("span", { class: "tag" }, "confirmed by a person") : null) : null,
      matched));
  const beside = `${place.sop}/${place.frame}`;
  const there = ` on frame ${viewer.otherPane()?.frames.findIndex((frame) => frame.key === beside) + 1} of the case`;
  const { region: wanted, by } = state.read() ?? {};
  const region = state.parseRegion(wanted);
  if (region && hit?.region) {
    viewer.queryPane()?.mark([{ region, text: "1" }], by);
    viewer.otherPane()?.mark([{ region: hit.region, text: "1" }], beside);
    matched.textContent = `Box 1: your region${by ? ` on frame ${viewer.numberOf(by)}` : ""}, and the place${there} that is most like it.`;
    return;
  }
  const neighbour = { sop_instance_uid: place.sop, frame_number: place.frame };
  try {
    const path = file ? "/v1/matches/upload" : "/v1/matches";
    if (!await api.offers(path)) { matched.textContent = "This service does not tell which regions matched."; return; }
    const frame = viewer.queryPane()?.frame;
    if (!frame || signal.aborted) return;
    const found = file ? await api.matchesOfFile(file, neighbour, signal)
      : await api.matches({ sop_instance_uid: frame.sop_instance_uid, frame_number: frame.frame_number }, neighbour, signal);
    if (signal.aborted || !viewer.otherPane()) return;
    const pairs = found.matches.slice(0, 6);
    viewer.queryPane().mark(pairs.map((pair, at) => ({ region: pair.query, text: at + 1 })), frame.key);
    viewer.otherPane().mark(pairs.map((pair, at) => ({ region: pair.neighbour, text: at + 1 })), beside);
    matched.replaceChildren(pairs.length
      ? `${plural(pairs.length, "matched region")}, numbered on frame ${viewer.numberOf(frame.key)} of the query and${there}: each is the other's most similar place. ${pairs.map((pair, at) => `${at + 1}: ${pair.score.toFixed(2)}`).join(", ")}.`
      : "No region of one frame is clearly matched in the other.");
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    matched.replaceChildren(`Matched regions cannot be shown: ${problem.title}. `, el("button", { type: "button", class: "button small", onclick: () => show(place, hit, own, file, signal) }, "Try again"));
  }
}

function labelWords(hit, own) {
  if (!own) return "The query itself has no predicted label, so agreement cannot be told.";
  if (!hit.label) return "It has no predicted label, so agreement cannot be told.";
  return hit.agrees ? `Both are predicted “${hit.label}”.` : `It is predicted “${hit.label}”, the query “${own}”: similar is not the same.`;
}
