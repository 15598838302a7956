// Beside the image: what was predicted, and the similar cases with their vote.

import { byId, el, percent, plural, shortUid, skeleton, stateBox } from "./dom.js";
import { byAttention, chip, headline } from "./verdict.js";

export function clear() {
  byId("diagnosis").replaceChildren();
  byId("neighbours").replaceChildren();
}

// What stands here while no study is chosen.
export function showAbout(info) {
  const facts = [
    ["Studies", info.studies.toLocaleString("en")],
    ["Frames indexed", info.frames_indexed === null ? "the index does not answer" : info.frames_indexed.toLocaleString("en")],
    ["Backbone", info.backbone_id],
    ...info.tasks.map((task) => [`Task ${task.name}`, `${task.title}: ${task.labels.join(", ")}. Abstains below ${percent(task.abstain_below)}.`]),
    ...(info.tasks.length ? [] : [["Tasks", "none installed: studies are searchable, not judged"]]),
    ["Version", info.version],
  ];
  byId("diagnosis").replaceChildren(el("div", { class: "about" }, el("h2", {}, "What is here"),
    el("dl", {}, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))))));
}

export function loading() {
  byId("diagnosis").replaceChildren(el("h2", {}, "Prediction"), ...skeleton(1, "panel"));
  searching();
}

export function searching() {
  byId("neighbours").replaceChildren(el("h2", {}, "Similar cases"), el("div", { class: "grid" }, skeleton(6, "card")));
}

export function showDiagnoses(study, tasks) {
  const blocks = byAttention(study.diagnoses).map((diagnosis) => one(diagnosis, tasks.find((task) => task.name === diagnosis.task)));
  const waiting = stateBox("empty", "Not judged yet", "The study is received and waits for its prediction.");
  byId("diagnosis").replaceChildren(
    el("h2", {}, "Prediction", el("small", {}, "by a model, research use only")),
    ...(blocks.length ? blocks : [waiting]),
    ...(study.mixed_patients ? [el("p", { class: "caution" }, "Objects of this study name different patients.")] : []),
    ...(study.diagnoses.some((found) => found.partial) ? [el("p", { class: "caution" }, "Some images could not be decoded and were left out.")] : []));
}

export function showUpload() {
  byId("diagnosis").replaceChildren(el("h2", {}, "Uploaded file"),
    el("div", { class: "headline no-task" },
      el("p", { class: "kind" }, el("span", { class: "mark", "aria-hidden": "true" }, "–"), "No prediction"),
      el("p", { class: "reason" }, "An upload is only compared with what is indexed. It was decoded in memory and is not kept.")));
}

let allClasses = false; // as the reader left it

function one(diagnosis, task) {
  const limit = task?.abstain_below;
  const facts = [
    task ? task.title : diagnosis.task === "none" ? null : diagnosis.task,
    plural(diagnosis.frames_embedded, "frame") + " looked at",
    diagnosis.skipped_count ? `${diagnosis.skipped_count} left out` : null,
    diagnosis.revision > 1 ? `revision ${diagnosis.revision}` : null,
  ].filter(Boolean).join(" · ");
  if (!diagnosis.classes.length) return el("article", { class: "diagnosis" }, headline(diagnosis), el("p", { class: "dim" }, facts));
  // Where the model does not decide, the reader needs to see between what.
  const unsure = !["finding", "no-finding"].includes(diagnosis.decision);
  const box = el("details", { class: "more-filters", open: unsure || allClasses, ontoggle: () => { if (!unsure) allClasses = box.open; } },
    el("summary", {}, "All classes"),
    el("ul", { class: "bars", "aria-label": "Class probabilities" }, [...diagnosis.classes].sort((a, b) => b.probability - a.probability).map((entry) => el("li", {
      class: `${entry.is_finding ? "finding" : ""} ${entry.label === diagnosis.label ? "top" : ""}`,
    },
      el("span", { class: "bar-label" }, entry.label),
      el("span", { class: "bar", vars: { "--value": entry.probability } }, limit ? el("i", { class: "limit", vars: { "--at": limit } }) : null),
      el("span", { class: "bar-value" }, percent(entry.probability))))),
    el("p", { class: "dim" }, limit ? `It abstains below the dotted line, ${percent(limit)}. ` : "", facts));
  return el("article", { class: "diagnosis" }, headline(diagnosis), box);
}

export function voteBox(found, own, filtered) {
  const { vote } = found;
  if (!vote.voters) return el("div", { class: "vote none" }, el("p", {}, "None of the similar cases has a predicted label."), el("p", { id: "vote-note", hidden: true }, `This is said of the first ${found.results.length} cases.`));
  const words = vote.tie ? "The similar cases are tied." : [
    el("strong", {}, vote.label), ` in ${vote.votes} of ${vote.voters} similar studies`,
  ];
  const agreement = vote.tie || !own ? null : own === vote.label
    ? el("span", { class: "agree" }, "= same as the prediction") : el("span", { class: "differ" }, "≠ not the prediction");
  return el("div", { class: vote.tie ? "vote tie" : "vote" },
    el("p", {}, words, agreement),
    el("div", { class: "stack", role: "img", "aria-label": vote.counts.map((count) => `${count.label}: ${count.studies}`).join(", ") },
      vote.counts.map((count, place) => el("span", { title: `${count.label}: ${count.studies}`, class: `part p${Math.min(place, 4)}`, vars: { "--n": count.studies } }, el("b", {}, count.studies)))),
    el("p", { class: "counts", "aria-hidden": "true" }, vote.counts.map((count) => el("span", {}, el("b", {}, count.studies), ` ${count.label}`))),
    el("p", { class: "dim" }, `One vote a study, its own predicted label.${vote.without_label ? ` ${plural(vote.without_label, "case")} without one.` : ""}${found.query.decision === "no-task" ? " No task takes the query itself, so this is a count, not a prediction." : ""}`,
      filtered ? " How often such a vote is right was measured without filters, so it is not told." : ""),
    filtered ? null : calibrationWords(vote.calibration),
    el("p", { class: "dim", id: "vote-note", hidden: true }, `Counted are the first ${found.results.length} cases, however many are shown.`));
}

// What the vote is worth, in plain words.
function calibrationWords(calibration) {
  if (!calibration) return null;
  const many = (share) => `${Math.round(share * 100)} of 100`;
  return el("details", { class: "calibration" },
    el("summary", {}, `Such a vote was right in about ${many(calibration.probability)}.`),
    el("p", { class: "dim" }, `95 % interval: ${Math.round(calibration.low * 100)} to ${Math.round(calibration.high * 100)} of 100. Measured where as many similar cases agreed, on ${calibration.source}.`));
}

export const cards = (found, link) => found.results.map((hit) => card(hit, link));

function card(hit, link) {
  const agreement = hit.agrees === null ? null : hit.agrees
    ? el("span", { class: "agree" }, "= same label") : el("span", { class: "differ" }, "≠ other label");
  const facts = [hit.modality, hit.body_part, hit.sex, hit.age_band, hit.study_date].filter(Boolean).join(" · ");
  const box = hit.region ? el("span", { class: "box", vars: { left: `${hit.region.left * 100}%`, top: `${hit.region.top * 100}%`, width: `${hit.region.width * 100}%`, height: `${hit.region.height * 100}%` } }) : null;
  const picture = el("img", { src: hit.image_url, alt: `Similar case ${hit.rank}`, loading: "lazy" });
  const frame = el("span", { class: "shot-frame" }, picture, box);
  picture.addEventListener("load", () => frame.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight));
  return el("li", { class: hit.agrees ? "same" : "" }, el("a", {
    href: link(hit), "data-rank": hit.rank, "data-place": `${hit.study_instance_uid}/${hit.sop_instance_uid}/${hit.frame_number}`,
    title: `Compare with study ${hit.study_instance_uid}`,
  },
    el("span", { class: "shot" }, frame,
      el("span", { class: "rank", "aria-hidden": "true" }, hit.rank),
      el("span", { class: "score" }, el("span", { class: "hidden" }, "similarity "), hit.score.toFixed(3))),
    el("span", { class: "card-text" },
      chip(hit.decision, hit.label), agreement,
      hit.label_source === "confirmed" ? el("span", { class: "tag" }, "confirmed") : null,
      el("span", { class: "row-facts" }, facts || shortUid(hit.study_instance_uid)))));
}
