// The API. Every failure becomes a `Problem` with words for a person.

export class Problem extends Error {
  constructor(status, kind, title, detail) {
    super(detail);
    this.status = status;
    this.kind = kind;
    this.title = title;
  }
}

const WORDS = {
  401: ["Sign in first", "This service asks who is looking."],
  403: ["Not allowed", "Your role does not cover this. Ask whoever runs the service."],
  429: ["Too many requests", "The service limits how often it can be asked. Wait a moment, then try again."],
};

let onSignIn = () => {};
export const whenSignInIsAsked = (action) => { onSignIn = action; };

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The service cannot be reached", "It may be restarting, or the connection is lost.");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const type = response.headers.get("content-type") ?? "";
  const said = type.includes("json") ? await response.json() : {};
  const kind = String(said.type ?? "").split(":").pop() || "unknown";
  const [title, detail] = WORDS[response.status] ?? [said.title ?? `Error ${response.status}`, said.detail ?? ""];
  if (response.status === 401 && !path.startsWith("/v1/session")) onSignIn();
  throw new Problem(response.status, kind, title, detail);
}

const post = (path, body, signal) => call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

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

export const info = () => call("/v1/info");
export const facets = () => call("/v1/facets");
export const study = (uid, signal) => call(`/v1/studies/${encodeURIComponent(uid)}`, { signal });
export const session = () => call("/v1/session");
export const signIn = (credential) => post("/v1/session", { credential });
export const signOut = () => call("/v1/session", { method: "DELETE" });
export const validations = (signal) => call("/v1/validation", { signal });
export const validation = (task, signal) => call(`/v1/validation/${encodeURIComponent(task)}`, { signal });

export const FILTERS = ["label", "decision", "modality", "body_part", "sex", "age_band"];

export function studies(filters, cursor, signal) {
  const query = new URLSearchParams({ limit: "60", facets: "true" });
  if (filters.q) query.set("q", filters.q);
  for (const field of FILTERS) for (const value of filters[field]) query.append(field, value);
  if (cursor) query.set("cursor", cursor);
  return call(`/v1/studies?${query}`, { signal });
}

export const search = (request, signal) => post("/v1/search", request, signal);

export function searchByFile(file, options, signal) {
  const query = new URLSearchParams(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
  return call(`/v1/search/upload?${query}`, { method: "POST", body: form(file), signal });
}

export const matches = (query, neighbour, signal) => post("/v1/matches", { query, neighbour }, signal);

export function matchesOfFile(file, neighbour, signal) {
  const query = new URLSearchParams(neighbour);
  return call(`/v1/matches/upload?${query}`, { method: "POST", body: form(file), signal });
}
