// Building elements: text is always text, so nothing that a server says can become markup.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "vars") for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

export function stateBox(kind, title, text, action) {
  return el("div", { class: `state ${kind}`, role: kind === "error" ? "alert" : null },
    el("strong", {}, title), text ? el("p", {}, text) : null, action ?? null);
}

export function skeleton(count, kind) {
  return Array.from({ length: count }, () => el("div", { class: `skeleton ${kind}`, "aria-hidden": "true" }));
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);
const MANY = { study: "studies", series: "series" };
export const plural = (count, word) => `${count.toLocaleString("en")} ${count === 1 ? word : (MANY[word] ?? `${word}s`)}`;

// A UID is too long to read and its start says little: the end tells studies apart.
export const shortUid = (uid) => (uid.length > 14 ? `…${uid.slice(-10)}` : uid);
