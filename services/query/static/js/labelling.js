// What a person says that a study shows, beside what was predicted: kept for training, it changes no prediction.

import * as api from "./api.js";
import { byId, el, plural } from "./dom.js";
import { chip } from "./verdict.js";

let open = false; // as the reader left it

// Of each task that judged the study. `allowed`: the service takes labels, and so does the role.
export async function show(study, tasks, allowed, signal) {
  const uid = study.study_instance_uid;
  const judged = study.diagnoses.map((diagnosis) => ({ diagnosis, task: tasks.find((task) => task.name === diagnosis.task) })).filter(({ task }) => task);
  if (!judged.length) return;
  const host = el("section", { class: "labels", id: "labels", "aria-label": "Label by a person" });
  byId("diagnosis").append(host);
  try {
    const { labels } = await api.labels(uid, signal);
    if (signal.aborted) return;
    const blocks = judged.map(({ diagnosis, task }) => block({ uid, diagnosis, task, allowed, of: judged.length > 1 ? ` (${task.name})` : "" }, labels.filter((one) => one.task === task.name))).filter(Boolean);
    host.replaceChildren(...blocks);
  } catch (problem) {
    if (problem.name !== "AbortError" && !signal.aborted) host.replaceChildren(el("p", { class: "dim" }, `Labels cannot be shown: ${problem.title}.`));
  }
}

function block(about, labels) {
  const standing = labels.find((one) => !one.series_instance_uid && !one.sop_instance_uid) ?? null;
  const narrower = labels.length - (standing ? 1 : 0);
  if (!about.allowed && !labels.length) return null;
  const host = el("div", { class: "label-block" });
  const said = el("summary", {});
  draw(host, { ...about, said, narrower }, standing, "");
  return el("details", { class: "more-filters", ontoggle: (event) => { open = event.target.open; }, open }, said, host);
}

function draw(host, about, standing, done) {
  const { uid, diagnosis, task, narrower, allowed, of } = about;
  const given = standing?.label ?? null;
  const act = async (action, words) => {
    for (const node of host.querySelectorAll("button, select")) node.disabled = true;
    try {
      const record = await action();
      draw(host, about, record, words);
    } catch (problem) {
      draw(host, about, standing, `Not saved. ${problem.title}: ${problem.message}`);
    }
    (host.querySelector("[data-key]") ?? host).focus?.({ preventScroll: true });
  };
  const give = (label) => act(() => api.giveLabel(uid, task.name, label), "Saved.");
  const choice = el("select", { "data-key": `label:${task.name}`, "aria-label": `Another label, ${task.title}`, onchange: () => { other.disabled = !choice.value; } },
    el("option", { value: "" }, given ? "change to…" : "choose a label…"), task.labels.filter((label) => label !== given).map((label) => el("option", { value: label }, label)));
  const other = el("button", { type: "button", class: "button", disabled: true, onclick: () => give(choice.value) }, "Save");
  const confirms = diagnosis.label && diagnosis.label !== given;
  about.said.replaceChildren(...(given
    ? [`Label by a person${of}: `, chip(task.findings.includes(given) ? "finding" : "no-finding", given)]
    : [`No label by a person yet${of}`, allowed ? ": confirm or correct" : ""]));
  host.replaceChildren(
    el("p", { class: "dim" }, given ? `Given by ${standing.recorded_by ?? "somebody (this service asks nobody who they are)"}, ${standing.recorded_at.slice(0, 10)}.` : "",
      " It is kept for training and changes no prediction; it is not a diagnosis."),
    narrower ? el("p", { class: "dim" }, `Also ${plural(narrower, "label")} of single series, objects or frames.`) : "",
    allowed ? el("div", { class: "actions wrap" },
      confirms ? el("button", { type: "button", class: "button", onclick: () => give(diagnosis.label) }, `Confirm ${diagnosis.label}`) : null,
      choice, other,
      given ? el("button", { type: "button", class: "button", onclick: () => act(() => api.withdrawLabel(uid, task.name), "Withdrawn.") }, "Withdraw") : null) : "",
    el("p", { class: "dim", role: "status" }, done));
}
