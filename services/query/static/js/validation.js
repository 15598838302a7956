// For researchers: how good a task's predictions and searches are, as its reports measured it.

import * as api from "./api.js";
import { square } from "./charts.js";
import { byId, el, percent, skeleton, stateBox } from "./dom.js";
import * as read from "./reports.js";

let back = null; // the study that a reader came from

// `from`: its address, and the task that judged it.
export async function open(wanted, signal, from) {
  if (from !== undefined) back = from;
  const host = byId("validation");
  host.replaceChildren(head([], null), ...skeleton(2, "panel"));
  try {
    if (!await api.offers("/v1/validation")) {
      host.replaceChildren(head([], null), stateBox("empty", "Not offered here", "This service does not serve validation reports. The model card of each task holds them."));
      return;
    }
    const { tasks } = await api.validations(signal);
    const task = [wanted, back?.task].map((name) => tasks.find((one) => one.name === name)).find(Boolean) ?? tasks[0];
    if (!task) {
      host.replaceChildren(head([], null), stateBox("empty", "No task is installed", "Studies are searchable, not judged: there is nothing to validate."));
      return;
    }
    const report = await api.validation(task.name, signal);
    if (signal.aborted) return;
    host.replaceChildren(head(tasks, task), ...body(report));
  } catch (problem) {
    if (problem.name === "AbortError" || signal.aborted) return;
    host.replaceChildren(head([], null), stateBox("error", problem.title, problem.message, el("button", { class: "button", type: "button", onclick: () => open(wanted, signal) }, "Try again")));
  }
}

function head(tasks, task) {
  return el("header", { class: "validation-head" },
    el("a", { class: "button", id: "validation-back", href: back?.hash ?? "#/" }, back ? "← The study" : "← Studies"),
    el("h1", {}, "Validation", task ? el("small", {}, ` ${task.title}`) : null),
    el("nav", { "aria-label": "Tasks" }, tasks.map((one) => el("a", { class: "button", href: `#/validation/${one.name}`, "aria-current": one === task ? "page" : null }, one.name))));
}

function body(report) {
  const parts = [confusion(report), roc(report), calibration(report), retrieval(report)].filter(Boolean);
  return [
    el("p", { class: "caution" }, report.phantom || read.isPhantom(report) ? "Phantom results: measured on drawn lesions, never on a real patient. " : "", "Research use only. ", read.words(report)),
    el("div", { class: "reports" }, parts),
  ];
}

const card = (title, explained, ...children) => el("article", { class: "report" }, el("h2", {}, title), el("p", { class: "dim" }, explained), ...children);

const missing = (title, command) => card(title, "Not measured yet.", command ? el("p", {}, "Made by: ", el("code", {}, command)) : null);

function table(caption, heads, rows) {
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": caption }, el("table", {}, el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), rest.map((cell) => (cell instanceof Node ? cell : el("td", {}, cell))))))));
}

const both = (chart, numbers) => el("div", { class: "beside" }, chart, numbers);
const legend = (names) => (names.length > 1 ? el("ul", { class: "legend" }, names.map((name, at) => el("li", {}, el("i", { class: `s${at}` }), name))) : null);
// The table needs no more of a curve than a reader takes in.
const ALARMS = [0.05, 0.1, 0.2];

function confusion(report) {
  const found = read.confusion(report);
  if (!found) return missing("Confusion matrix", read.command(report, "confusion"));
  const rows = found.counts.map((row, at) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return [found.labels[at], ...row.map((count, column) => el("td", { class: at === column ? "right" : "wrong", vars: { "--share": total ? count / total : 0 } }, `${count}`))];
  });
  return card("Confusion matrix", "Rows: what it is. Columns: what was predicted. The diagonal is right.", table("Confusion matrix", ["is ↓ predicted →", ...found.labels], rows));
}

function roc(report) {
  const curves = read.roc(report);
  if (!curves.length) return missing("ROC", read.command(report, "roc"));
  const at = (curve, most) => Math.max(0, ...curve.points.filter(([wrong]) => wrong <= most).map(([, found]) => found));
  const rows = curves.map((curve) => [curve.name, curve.auroc === null ? "–" : curve.auroc.toFixed(3), ...ALARMS.map((most) => percent(at(curve, most)))]);
  return card("ROC", "Each class against all others: how many are found for how many false alarms. The dashed line is chance. The table: the area under the curve, and the share found at 5, 10 and 20 % false alarms." + measuredOn(report),
    both(square("ROC", "false alarms (share)", "found (share)", curves.map((curve) => ({ points: curve.points }))),
      table("ROC", ["class", "area", ...ALARMS.map((most) => `at ${percent(most)}`)], rows)),
    legend(curves.map((curve) => curve.name)));
}

function calibration(report) {
  const bins = read.calibration(report);
  if (!bins.length) return missing("Calibration", read.command(report, "calibration"));
  return card("Calibration", "When it says 80 %, is it right in 80 of 100? On the dashed line it is." + measuredOn(report),
    both(square("Calibration", "stated confidence", "share that was right", [{ points: bins.map((bin) => [bin.said, bin.right]), bars: bins.filter((bin) => bin.low !== null).map((bin) => [bin.said, bin.low, bin.high]) }], { dots: true }),
      table("Calibration", ["stated", "right", "cases"], bins.map((bin) => [percent(bin.said), bin.low === null ? percent(bin.right) : `${percent(bin.right)} (${percent(bin.low)} to ${percent(bin.high)})`, bin.count ?? ""]))));
}

function measuredOn(report) {
  return report.curves_source ? ` Measured on: ${report.curves_source}.` : "";
}

function retrieval(report) {
  const rows = read.retrieval(report);
  if (!rows.length) return missing("Similar cases: P@k", read.command(report, "retrieval") ?? "similis evaluate retrieval");
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.measures)))];
  const cell = (one) => (one ? `${one.value.toFixed(2)}${one.low === null ? "" : ` (${one.low.toFixed(2)} to ${one.high.toFixed(2)})`}` : "–");
  return card("Similar cases: P@k", "P@k: share of the first k similar cases with the query's own label; mAP@k also counts how early they come; MMV@k: how often their majority has it. Micro: every query counts alike, macro: every class does. By space, with 95 % intervals.",
    table("Retrieval by space", ["measure", ...rows.map((row) => row.space)], names.map((name) => [name, ...rows.map((row) => cell(row.measures[name]))])));
}
