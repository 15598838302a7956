// The API. Every failure becomes a `Problem` with words for a person.

export class Problem extends Error {
  constructor(status, kind, title, detail) {
    super(detail);
    this.status = status;
    this.kind = kind;
    this.title = title;
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The service cannot be reached", "It may be restarting, or the connection is lost.");
  }
  if (response.ok) return response.json();
  const type = response.headers.get("content-type") ?? "";
  const said = type.includes("json") ? await response.json() : {};
  const kind = String(said.type ?? "").split(":").pop() || "unknown";
  throw new Problem(response.status, kind, said.title ?? `Error ${response.status}`, said.detail ?? "");
}

export const info = () => call("/v1/info");
export const facets = () => call("/v1/facets");
export const study = (uid, signal) => call(`/v1/studies/${encodeURIComponent(uid)}`, { signal });

export function studies(filters, cursor, signal) {
  const query = new URLSearchParams({ limit: "60" });
  if (filters.q) query.set("q", filters.q);
  for (const field of ["label", "decision", "modality"]) for (const value of filters[field]) query.append(field, value);
  if (cursor) query.set("cursor", cursor);
  return call(`/v1/studies?${query}`, { signal });
}

export function search(request, signal) {
  const body = JSON.stringify(request);
  return call("/v1/search", { method: "POST", headers: { "content-type": "application/json" }, body, signal });
}

export function searchByFile(file, limit, signal) {
  const form = new FormData();
  // The name of a file may hold a patient's name: it stays here.
  form.append("file", file, "upload");
  return call(`/v1/search/upload?limit=${limit}`, { method: "POST", body: form, signal });
}
