// Where the page is, as its address says it: everything that can be shown has a link.
//
//   #/                                       the list
//   #/study/UID?frame=SOP/1&space=&level=&by=SOP/1&region=l,t,w,h&with=STUDY/SOP/1&sex=F&study_date_from=…
//   #/upload?with=…                          the uploaded file; it lives in this page only
//   #/validation/TASK
//
// `by` is the frame that is searched with, alone or by the region on it; without it the whole study is.

const PLACES = /^#\/(?:(study)\/([0-9]+(?:\.[0-9]+)*)|(upload)|(validation)(?:\/([a-z0-9-]+))?)?(?:\?(.*))?$/;
const KNOWN = ["frame", "space", "level", "by", "region", "with"];
export const VALUE_FILTERS = ["task", "label", "modality", "body_part", "sex", "age_band"];
export const DATE_FILTERS = ["study_date_from", "study_date_to"];
const VALUES_MAX = 8;

export function read(hash = location.hash) {
  const found = PLACES.exec(hash || "#/");
  if (!found) return null;
  const [, study, uid, upload, validation, task, query] = found;
  const given = new URLSearchParams(query ?? "");
  const options = Object.fromEntries(KNOWN.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  return { view: study ?? upload ?? validation ?? "list", uid: uid ?? null, taskName: task ?? null, ...options, only: filtersOf(given) };
}

// What similar cases are asked for: {sex: ["F"], study_date_from: "2024-01-31"}; a value that cannot be is left out.
function filtersOf(given) {
  const only = {};
  for (const field of VALUE_FILTERS) {
    const values = [...new Set(given.getAll(field).filter((value) => value && value.length <= 64))].slice(0, VALUES_MAX);
    if (values.length) only[field] = values;
  }
  for (const field of DATE_FILTERS) {
    const day = given.get(field);
    if (/^[1-9]\d{3}-\d\d-\d\d$/.test(day) && new Date(day).toJSON()?.startsWith(day)) only[field] = day;
  }
  return only;
}

export function link(state) {
  const path = { study: `study/${state.uid}`, upload: "upload", validation: `validation${state.taskName ? `/${state.taskName}` : ""}`, list: "" }[state.view];
  const given = KNOWN.filter((name) => state[name]).map((name) => [name, state[name]]);
  for (const [field, values] of Object.entries(state.only ?? {})) for (const value of [values].flat()) given.push([field, value]);
  const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("%2C", ",")}`).join("&");
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

// SOP Instance UID and frame number, as a search takes them.
export function parseFrame(text) {
  const [sop, number, ...more] = (text ?? "").split("/");
  return sop && Number.isInteger(Number(number)) && Number(number) >= 1 && !more.length ? { sop_instance_uid: sop, frame_number: Number(number) } : null;
}
