// Where the page is, as its address says it: everything that can be shown has a link.
//
//   #/                                       the list
//   #/study/UID?frame=SOP/1&space=&level=&region=l,t,w,h&with=STUDY/SOP/1
//   #/upload?with=…                          the uploaded file; it lives in this page only
//   #/validation/TASK

const PLACES = /^#\/(?:(study)\/([0-9]+(?:\.[0-9]+)*)|(upload)|(validation)(?:\/([a-z0-9-]+))?)?(?:\?(.*))?$/;
const KNOWN = ["frame", "space", "level", "region", "with"];

export function read(hash = location.hash) {
  const found = PLACES.exec(hash || "#/");
  if (!found) return null;
  const [, study, uid, upload, validation, task, query] = found;
  const given = new URLSearchParams(query ?? "");
  const options = Object.fromEntries(KNOWN.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  return { view: study ?? upload ?? validation ?? "list", uid: uid ?? null, task: task ?? null, ...options };
}

export function link(state) {
  const path = { study: `study/${state.uid}`, upload: "upload", validation: `validation${state.task ? `/${state.task}` : ""}`, list: "" }[state.view];
  const query = KNOWN.filter((name) => state[name]).map((name) => `${name}=${encodeURIComponent(state[name]).replaceAll("%2F", "/").replaceAll("%2C", ",")}`).join("&");
  return `#/${path}${query ? `?${query}` : ""}`;
}

// The same place with something changed; null takes it away.
export const changed = (change) => link({ ...(read() ?? { view: "list" }), ...change });

// A step that "back" undoes.
export const go = (change) => { location.hash = changed(change); };

// A small move, as from frame to frame: the address follows, the history does not grow.
export const note = (change) => history.replaceState(null, "", changed(change));

export function parseRegion(text) {
  const numbers = (text ?? "").split(",").map(Number);
  if (numbers.length !== 4 || numbers.some((value) => !Number.isFinite(value))) return null;
  const [left, top, width, height] = numbers;
  if (left < 0 || top < 0 || width <= 0 || height <= 0 || left + width > 1.001 || top + height > 1.001) return null;
  return { left, top, width, height };
}

export const regionText = (region) => [region.left, region.top, region.width, region.height].map((value) => value.toFixed(3)).join(",");

export function parsePlace(text) {
  const parts = (text ?? "").split("/");
  return parts.length === 3 && Number(parts[2]) >= 1 ? { study: parts[0], sop: parts[1], frame: Number(parts[2]) } : null;
}
