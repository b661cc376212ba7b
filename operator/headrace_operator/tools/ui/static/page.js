// Which view the address names, and what is new: told by server-sent events, fetched, shown.

import { momentAt } from "./charts.js";
import { h, show } from "./dom.js";
import * as views from "./views.js";

const PATIENCE = 30_000; // ms for one answer
const place = (id) => document.getElementById(id);
const state = { page: null, received: 0, seconds: 900, cursor: null, words: "", lost: false };

const route = () => {
  const [namespace, name] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  return namespace && name ? { namespace, name } : null;
};

const decode = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address typed by hand
  }
};

const source = () => {
  const at = route();
  return at ? `/api/deployments/${encodeURIComponent(at.namespace)}/${encodeURIComponent(at.name)}` : "/api/overview";
};

// One at a time, and once more for all that came meanwhile: where answers take longer than a look, each of them is shown.
let isAsking = false;
let isAskedAgain = false;
const fetchPage = async () => {
  isAskedAgain = isAsking;
  if (isAsking) return;
  isAsking = true;
  try {
    await fetchOnce();
  } finally {
    isAsking = false;
  }
  if (isAskedAgain) fetchPage();
};

const fetchOnce = async () => {
  const url = source();
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    const page = await answer.json();
    if (url !== source()) return; // another address is asked next
    Object.assign(state, { page, received: Date.now() / 1000, lost: false });
  } catch {
    state.lost = true; // said in the header; the stream tries again by itself
  }
  draw();
};

// The server's clock: ages are right also where the browser runs on another machine.
const now = () => state.page.at + (state.lost ? 0 : Date.now() / 1000 - state.received);

const draw = () => {
  const { page } = state;
  show(place("live"), live());
  if (!page) return;
  show(place("scope"), page.namespace ? `namespace ${page.namespace}` : "all namespaces", h("small", {}, page.server));
  show(place("alert"), views.problem(page, now()), page.notes.map((note) => h("p", { class: "note" }, note)));
  const at = route();
  place("filter").hidden = Boolean(at) || !page.deployments?.length;
  document.title = at ? `${at.name} · Headrace` : "Headrace";
  if (!at) {
    if (page.deployments) show(place("view"), page.number ? views.overview(page, state.words, now()) : h("p", { class: "quiet" }, "Looking …"));
  } else if (page.deployment) {
    if (page.deployment.name === at.name) show(place("view"), views.detail(page, state.seconds, state.cursor, now()));
  } else if (page.number && !page.problem) show(place("view"), views.missing(at.namespace, at.name));
};

const live = () => {
  if (state.lost) return h("span", { class: "lost" }, "headrace ui does not answer. Does it still run?");
  if (!state.page) return "Connecting …";
  if (state.page.problem) return h("span", { class: "lost" }, "The cluster cannot be seen");
  return h("span", { class: "lives" }, "Live");
};

const listen = () => {
  const stream = new EventSource("/api/looks");
  stream.onmessage = fetchPage;
  stream.onerror = () => {
    state.lost = true;
    draw();
  };
};

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#/") || !location.hash) {
    scrollTo(0, 0);
    place("main").focus({ preventScroll: true });
    fetchPage();
  }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-seconds]");
  if (!button) return;
  state.seconds = Number(button.dataset.seconds);
  draw();
});
document.addEventListener("pointermove", (event) => {
  const picture = event.target.closest?.("svg.chart");
  const before = state.cursor;
  state.cursor = picture ? momentAt(picture, event, now(), state.seconds) : null;
  if (before !== state.cursor) draw();
});
place("words").addEventListener("input", (event) => {
  state.words = event.target.value.trim();
  draw();
});
place("filter").addEventListener("submit", (event) => event.preventDefault());
// Ages grow by the second; a long table is drawn anew at each look only.
setInterval(() => (state.page?.deployments?.length > 30 && !state.lost ? null : draw()), 1000);
fetchPage();
listen();
