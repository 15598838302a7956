// Signing in where the service asks for it, and what the role that signed in may do.

import * as api from "./api.js";
import { byId, el } from "./dom.js";

const MAY_WRITE = ["operator", "admin"];
let known = null; // {required, principal, roles}
let asking = null;
let signedIn = false;
const heard = [];

// Whether controls that change something are offered. The service decides; this only spares a refusal.
export const mayWrite = () => !known?.required || (known.roles ?? []).some((role) => MAY_WRITE.includes(role));

// Called after each sign-in.
export const whenSignedIn = (action) => { heard.push(action); };

// Resolves to true once somebody signed in, to false if the dialog is closed without.
function ask() {
  asking ??= new Promise((resolve) => {
    signedIn = false;
    byId("sign-in-said").textContent = "";
    byId("sign-in").addEventListener("close", () => { asking = null; resolve(signedIn); }, { once: true });
    byId("sign-in").showModal();
  });
  return asking;
}

async function enter(event) {
  event.preventDefault();
  const field = byId("credential");
  byId("sign-in-said").textContent = "Signing in…";
  try {
    await api.openSession(field.value.trim());
    field.value = "";
    signedIn = true;
    await look();
    byId("sign-in").close();
    for (const action of heard) action();
  } catch (problem) {
    byId("sign-in-said").textContent = problem.status === 401 ? "The service does not know this key or token, or it has expired." : `${problem.title}. ${problem.message}`;
    field.focus();
  }
}

async function look() {
  known = await api.session();
  byId("who").replaceChildren();
  if (!known.required || !known.principal) return;
  byId("who").append(
    el("span", { class: "who" }, known.principal, el("small", {}, known.roles?.at(-1) ?? "no role here")),
    el("button", { type: "button", class: "button", onclick: leave }, "Sign out"));
}

export async function start() {
  byId("sign-in-form").addEventListener("submit", enter);
  byId("sign-in-later").addEventListener("click", () => byId("sign-in").close());
  api.whenSignInIsAsked(ask);
  if (!await api.offers("/v1/session")) return;
  try {
    await look();
    if (known.required && !known.principal) ask();
  } catch (problem) {
    if (problem.status === 401) ask();
  }
}

async function leave() {
  await api.closeSession().catch(() => {});
  location.hash = "#/";
  location.reload();
}
