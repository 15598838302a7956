// The API. Every failure becomes a `Problem` with words for a person.

export class Problem extends Error {
  constructor(status, kind, title, detail) {
    super(detail);
    this.status = status;
    this.kind = kind;
    this.title = title;
  }
}

const OF_STATUS = {
  401: ["Sign in first", "This service asks who is looking."],
  403: ["Not allowed", "Your role does not cover this. Ask whoever runs the service."],
  429: ["Too many requests", "The service limits how often it can be asked. Wait a moment, then try again."],
};
const OF_KIND = {
  "archive-unavailable": ["The archive is away", "Images and results cannot be read just now."],
  "broker-unavailable": ["The explainer cannot be asked", "It does not answer just now. Try again in a while."],
  "busy": ["The service is busy", "Too many requests are being worked on. Try again in a moment."],
  "index-unavailable": ["The search is away", "The store of known cases does not answer just now. Images can still be looked at."],
  "read-only": ["Read-only", "This service is set up to take neither labels nor requests for maps."],
  "timeout": ["The search took too long", "It was given up. Try again in a moment."],
};

let signIn = async () => false;
// `action` resolves to true once somebody signed in.
export const whenSignInIsAsked = (action) => { signIn = action; };

// `quiet`: asked in the background, so nobody is asked to sign in for it.
async function call(path, { quiet = false, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The service cannot be reached", "It may be restarting, or the connection is lost.");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  if (response.status === 401 && !quiet && !path.startsWith("/v1/session") && await signIn()) {
    options.signal?.throwIfAborted();
    return call(path, options);
  }
  const type = response.headers.get("content-type") ?? "";
  const said = type.includes("json") ? await response.json() : {};
  const kind = String(said.type ?? "").split(":").pop() || "unknown";
  const [title, detail] = OF_KIND[kind] ?? OF_STATUS[response.status] ?? [said.title ?? `Error ${response.status}`, said.detail ?? ""];
  throw new Problem(response.status, kind, title, detail);
}

const send = (method, path, body, signal) => call(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
const post = (path, body, signal) => send("POST", path, body, signal);

// Parameters of an address: a list is repeated, what is not set is left out.
function parameters(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) for (const one of [value].flat()) if (one !== undefined && one !== null) query.append(name, one);
  return query;
}

function form(file) {
  const data = new FormData();
  // The name of a file may hold a patient's name: it stays here.
  data.append("file", file, "upload");
  return data;
}

// What this service offers, from its own description; an older one offers less.
let described = null;
export async function offers(path) {
  described ??= call("/openapi.json").then((said) => new Set(Object.keys(said.paths ?? {})), () => null);
  const paths = await described;
  return paths === null || paths.has(path);
}

const ofStudy = (uid) => `/v1/studies/${encodeURIComponent(uid)}`;

export const info = () => call("/v1/info");
export const facets = () => call("/v1/facets");
export const study = (uid, signal, { quiet = false } = {}) => call(ofStudy(uid), { signal, quiet });
export const session = () => call("/v1/session");
export const openSession = (credential) => post("/v1/session", { credential });
export const closeSession = () => call("/v1/session", { method: "DELETE" });
export const validations = (signal) => call("/v1/validation", { signal });
export const validation = (task, signal) => call(`/v1/validation/${encodeURIComponent(task)}`, { signal });

export const FILTERS = ["label", "decision", "modality", "body_part", "sex", "age_band"];

export function studies(filters, cursor, { signal, quiet = false } = {}) {
  const query = new URLSearchParams({ limit: "60", facets: "true" });
  if (filters.q) query.set("q", filters.q);
  for (const field of FILTERS) for (const value of filters[field]) query.append(field, value);
  if (cursor) query.set("cursor", cursor);
  return call(`/v1/studies?${query}`, { signal, quiet });
}

// How many studies have each value, each under all the other filters.
export const counts = async (only, signal) => (await call(`/v1/studies?${parameters({ limit: 1, facets: true, ...only })}`, { signal })).facets;

export const search = (request, signal) => post("/v1/search", request, signal);
export const searchAll = (searches, signal) => post("/v1/search/batch", { searches }, signal);

export const searchByFile = (file, options, signal) => call(`/v1/search/upload?${parameters(options)}`, { method: "POST", body: form(file), signal });

export const matches = (query, neighbour, signal) => post("/v1/matches", { query, neighbour }, signal);

export const matchesOfFile = (file, neighbour, signal) => call(`/v1/matches/upload?${parameters(neighbour)}`, { method: "POST", body: form(file), signal });

export const askForMap = (request) => post("/v1/explanations", request);
// `url` as the answer to `askForMap` gave it.
export const mapRequest = (url) => call(url, { quiet: true });

export const labels = (uid, signal) => call(`${ofStudy(uid)}/labels`, { signal });
export const giveLabel = (uid, task, label) => send("PUT", `${ofStudy(uid)}/labels/${encodeURIComponent(task)}`, { label });
export const withdrawLabel = (uid, task) => call(`${ofStudy(uid)}/labels/${encodeURIComponent(task)}`, { method: "DELETE" });

// Values come by how often they are met; ages are looked for by age.
export const inOrder = (field, found) => (field === "age_band" ? [...found].sort((a, b) => Number.parseInt(a.value, 10) - Number.parseInt(b.value, 10)) : found);
