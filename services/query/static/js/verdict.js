// How a prediction is worded and marked: the same everywhere, and never by colour alone.

import { el, percent } from "./dom.js";

const KINDS = {
  "finding": { mark: "◆", words: "Finding predicted" },
  "no-finding": { mark: "○", words: "No finding predicted" },
  "abstained": { mark: "?", words: "Abstained" },
  "out-of-distribution": { mark: "≠", words: "Unlike the training data" },
  "no-task": { mark: "–", words: "No task" },
  "waiting": { mark: "…", words: "Waiting" },
};

export const kindOf = (decision) => KINDS[decision] ?? { mark: "?", words: decision };

export function chip(decision, label) {
  const kind = kindOf(decision);
  const text = label && (decision === "finding" || decision === "no-finding") ? label : kind.words;
  return el("span", { class: `chip ${decision}`, title: kind.words },
    el("span", { class: "mark", "aria-hidden": "true" }, kind.mark),
    el("span", { class: "hidden" }, `${kind.words}: `), text);
}

// A study has one verdict a task; the one that asks for attention is shown first.
const ATTENTION = ["finding", "abstained", "out-of-distribution", "no-finding", "no-task"];
export const byAttention = (verdicts) =>
  [...verdicts].sort((a, b) => ATTENTION.indexOf(a.decision) - ATTENTION.indexOf(b.decision));

export function headline(verdict) {
  const said = verdict.decision === "finding" || verdict.decision === "no-finding";
  return el("div", { class: `headline ${verdict.decision}` },
    el("p", { class: "kind" }, el("span", { class: "mark", "aria-hidden": "true" }, kindOf(verdict.decision).mark), kindOf(verdict.decision).words),
    said && verdict.label
      ? el("p", { class: "label" }, verdict.label, el("span", { class: "confidence" }, percent(verdict.confidence), el("small", {}, "confidence")))
      : null,
    el("p", { class: "reason" }, verdict.reason));
}
