// Newly received and judged studies, as the service tells of them.

import * as api from "./api.js";
import { byId, shortUid } from "./dom.js";
import { byAttention, kindOf } from "./verdict.js";

const GATHER_MS = 400;
let wait = null;
let heard = [];

export async function start(onStudies) {
  if (!await api.offers("/v1/events")) return;
  const source = new EventSource("/v1/events");
  source.addEventListener("study", (event) => {
    heard.push(JSON.parse(event.data));
    wait ??= setTimeout(() => {
      const studies = heard;
      heard = [];
      wait = null;
      onStudies(studies);
      byId("live").textContent = words(studies);
    }, GATHER_MS);
  });
}

function words(studies) {
  if (studies.length > 1) return `${studies.length} studies are new or changed.`;
  const [study] = studies;
  const first = byAttention(study.verdicts)[0];
  const said = first ? `${kindOf(first.decision).words}${first.label ? `, ${first.label}` : ""}` : "received, waits for its prediction";
  return `Study ${shortUid(study.study_instance_uid)}: ${said}.`;
}
