// Newly received and judged studies, as the service tells of them.

import * as api from "./api.js";
import { byId, shortUid } from "./dom.js";
import { byAttention, kindOf } from "./verdict.js";

const GATHER_MS = 400;
const AGAIN_MS = 8000;
let source = null;
let again = null;
let wait = null;
let heard = [];

// `onReset`: what happened in between is not known.
export async function start(onStudies, onReset) {
  if (!await api.offers("/v1/events")) return null;
  const open = () => {
    clearTimeout(again);
    source?.close();
    source = new EventSource("/v1/events");
    source.addEventListener("study", (event) => {
      heard.push(JSON.parse(event.data));
      wait ??= setTimeout(tell, GATHER_MS);
    });
    source.addEventListener("reset", onReset);
    // A browser comes back by itself after a lost connection, but not after a refusal such as 401 or 503.
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) again = setTimeout(open, AGAIN_MS); });
  };
  const tell = () => {
    const studies = heard;
    heard = [];
    wait = null;
    onStudies(studies);
    byId("live").textContent = words(studies);
  };
  open();
  return open;
}

function words(studies) {
  const many = new Set(studies.map((study) => study.study_instance_uid)).size;
  if (many > 1) return `${many} studies are new or changed.`;
  const study = studies.at(-1);
  const first = byAttention(study.verdicts)[0];
  const said = first ? `${kindOf(first.decision).words}${first.label ? `, ${first.label}` : ""}` : "received, waits for its prediction";
  return `Study ${shortUid(study.study_instance_uid)}: ${said}.`;
}
