// Signing in where the service asks for it.

import * as api from "./api.js";
import { byId, el } from "./dom.js";

export function ask() {
  if (!byId("sign-in").open) byId("sign-in").showModal();
}

export async function start() {
  byId("sign-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = byId("credential");
    byId("sign-in-said").textContent = "Signing in…";
    try {
      await api.signIn(field.value.trim());
      field.value = "";
      location.reload();
    } catch (problem) {
      byId("sign-in-said").textContent = problem.status === 401 ? "The service does not know this key or token, or it has expired." : `${problem.title}. ${problem.message}`;
      field.focus();
    }
  });
  api.whenSignInIsAsked(ask);
  if (!await api.offers("/v1/session")) return;
  try {
    const session = await api.session();
    if (!session.required) return;
    if (!session.principal) { ask(); return; }
    byId("who").replaceChildren(el("span", { class: "wide dim" }, session.principal), el("button", { type: "button", class: "button", onclick: leave }, "Sign out"));
  } catch (problem) {
    if (problem.status === 401) ask();
  }
}

async function leave() {
  await api.signOut().catch(() => {});
  location.hash = "#/";
  location.reload();
}
