// From the JSON of /api to elements.

import { chart, spark } from "./charts.js";
import { h } from "./dom.js";
import { UNKNOWN, clock, count, moment, span, wait } from "./format.js";

const LEVELS = { trouble: "Trouble", attention: "Attention", unknown: "Unknown", starting: "Starting", good: "Good" };
const SIGNS = { trouble: "✕", attention: "!", unknown: "?", starting: "◔", good: "✓" };
const GROUPS = {
  ready: ["Ready"],
  starting: ["WarmingUp", "Loading", "Pulling", "Starting"],
  waiting: ["WaitingForGPU"],
  leaving: ["Draining", "Terminating"],
};
const MOST_PIPS = 32;
const MOST_ROWS = 100; // more take a browser too long to draw every second
const SPARK = 600; // seconds

export const address = (row) => `#/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.name)}`;
const group = (phase) => Object.keys(GROUPS).find((name) => GROUPS[name].includes(phase)) ?? "trouble";
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const time = (epoch, now) => h("time", { datetime: moment(epoch), title: moment(epoch) }, `${span(now - epoch)} ago`);
const pill = (level) => h("span", { class: `pill ${level}` }, h("span", { "aria-hidden": "true" }, SIGNS[level]), LEVELS[level]);
const reason = (word) => (word ? h("span", { class: "reason" }, word) : null);
const isLate = (row) => row.queueWait !== null && row.queueWaitTarget !== null && row.queueWait > row.queueWaitTarget;

const inWords = (phases) => phases.map(({ role, phase, pods }) => `${pods} ${role === "replica" ? "" : `${role} `}${phase}`);

const pips = (phases) => {
  const all = phases.flatMap(({ role, phase, pods }) => Array(pods).fill(`pip ${group(phase)} ${role}`));
  const more = all.length - MOST_PIPS;
  return h("span", { class: "pips", "aria-hidden": "true" },
    all.slice(0, MOST_PIPS).map((name) => h("i", { class: name })), more > 0 ? `+${more}` : null);
};

// ---- all deployments

export const overview = (page, words, now) => {
  const rows = page.deployments.filter((row) => matches(row, words));
  if (!page.deployments.length) return page.problem ? [] : [empty(page)];
  return [
    tiles(page.summary),
    h("section", { "aria-labelledby": "all" },
      h("h1", { id: "all", class: "visually-hidden" }, "InferenceDeployments"),
      rows.length ? table(rows.slice(0, MOST_ROWS), page.gap, now) : h("p", { class: "quiet" }, "Nothing matches the filter."),
      rows.length > MOST_ROWS ? h("p", { class: "quiet" }, `The worst ${MOST_ROWS} of ${rows.length}; the filter finds the others.`) : null),
  ];
};

const matches = (row, words) => {
  const text = [row.name, row.namespace, row.model, row.reason, row.mode, LEVELS[row.level]].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
};

const empty = (page) =>
  h("section", { class: "empty" },
    h("h1", {}, "No InferenceDeployments", page.namespace ? ` in namespace ${page.namespace}` : ""),
    h("p", {}, "Apply one, and it appears here by itself:"),
    h("pre", {}, h("code", {}, "kubectl apply -f examples/scripture.yaml")),
    page.namespace ? h("p", {}, "Or look into all namespaces: ", h("code", {}, "headrace ui --all-namespaces")) : null);

const tiles = (sum) => {
  const bad = ["trouble", "attention", "unknown"].filter((level) => sum.levels[level]);
  return h("dl", { class: "tiles" },
    tile("Deployments", sum.deployments, bad.length ? bad.map((level) => [pill(level), ` ${sum.levels[level]} `]) : "all promises hold"),
    tile("Replicas ready", sum.ready, `of ${sum.desired} desired`),
    tile("Queue wait above target", sum.late, `of ${sum.measured} that measure it`, sum.late ? "late" : ""),
    tile("Throughput", count(sum.tokensPerSecond), "tokens/s"));
};

const tile = (name, value, more, mood = "") =>
  h("div", { class: `tile ${mood}` }, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", {}, more)));

const table = (rows, gap, now) =>
  h("div", { class: "scroll", role: "region", "aria-label": "InferenceDeployments, a wide table", tabindex: "0" },
    h("table", { class: "deployments" },
      h("thead", {}, h("tr", {}, ["Deployment", "Replicas", "Queue wait, p95", "Tokens/s", "What goes on", "Changed"]
        .map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row) => line(row, gap, now)))));

const line = (row, gap, now) =>
  h("tr", { class: row.level },
    h("th", { scope: "row" },
      h("a", { href: address(row) }, row.name), pill(row.level), mode(row),
      h("small", {}, `${row.namespace} · ${row.model ?? ""}`)),
    h("td", {},
      h("span", { class: "figure" }, row.ready ?? UNKNOWN, h("small", {}, ` / ${row.desired ?? UNKNOWN}`)), pips(row.phases),
      h("small", {}, inWords(row.phases).join(" · ") || "no pods", " · ", h("span", { class: "nowrap" }, `bounds ${row.minReplicas}–${row.maxReplicas}`))),
    h("td", { class: isLate(row) ? "late" : null },
      h("div", { class: "beside" }, h("span", { class: "figure" }, wait(row.queueWait)),
        spark(row.history.map((point) => [point[0], point[1]]), { now, seconds: SPARK, gap, target: row.queueWaitTarget, described: "queue wait, the last ten minutes" })),
      h("small", {}, `target ${wait(row.queueWaitTarget)}`)),
    h("td", {},
      h("div", { class: "beside" }, h("span", { class: "figure" }, count(row.tokensPerSecond)),
        spark(row.history.map((point) => [point[0], point[2]]), { now, seconds: SPARK, gap, described: "tokens/s, the last ten minutes" }))),
    h("td", { class: "why" }, row.level === "good" ? null : h("p", {}, row.verdict), reason(row.reason), h("small", {}, row.message)),
    h("td", { class: "when" }, row.change ? [h("span", { class: "figure" }, `${row.change.from} → ${row.change.to}`), h("small", {}, time(row.changedAt, now))] : UNKNOWN));

const mode = (row) => (row.mode === "Auto" ? null : h("span", { class: "pill mode" }, row.mode));

// ---- one deployment

export const detail = (page, seconds, cursor, now) => {
  const found = page.deployment;
  return [
    h("nav", { "aria-label": "Breadcrumb" }, h("a", { href: "#/" }, "← All deployments")),
    h("section", { class: `head ${found.level}` },
      h("h1", {}, h("small", {}, `${found.namespace}/`), found.name, " ", pill(found.level), mode(found)),
      h("p", { class: "verdict" }, found.verdict),
      h("p", { class: "quiet" }, found.model ?? "")),
    kpis(found, now),
    charts(found, page.gap, seconds, cursor, now),
    h("div", { class: "columns" }, history(found, now), why(found, now)),
    pods(found, now),
    conditions(found, now),
  ];
};

export const missing = (namespace, name) =>
  h("section", { class: "empty" },
    h("h1", {}, `No InferenceDeployment ${namespace}/${name}`),
    h("p", {}, "It was deleted, or this page looks at another namespace. ", h("a", { href: "#/" }, "All deployments")));

const kpis = (found, now) => {
  const next = found.decision.next;
  return h("dl", { class: "tiles" },
    tile("Replicas ready", found.ready ?? UNKNOWN, `of ${found.desired ?? UNKNOWN} desired, bounds ${found.minReplicas}–${found.maxReplicas}`),
    tile("Queue wait, p95", wait(found.queueWait), `target ${wait(found.queueWaitTarget)}`, isLate(found) ? "late" : ""),
    tile("Throughput", count(found.tokensPerSecond), "tokens/s"),
    tile("Next change", next && next.at > now ? `${found.decision.to} → ${next.to}` : "none due",
      next && next.at > now ? `in ${span(next.at - now)} at the earliest, ${next.reason}` : "by the passing of time alone"));
};

const charts = (found, gap, seconds, cursor, now) => {
  const of = (index) => found.history.map((point) => [point[0], point[index]]);
  const latest = (index) => found.history.at(-1)?.[index] ?? null;
  const marks = found.timeline.filter((entry) => entry.kind === "scaling").map((entry) =>
    ({ at: entry.at, up: entry.to > entry.from, text: `${clock(entry.at)} ${entry.from} → ${entry.to} ${entry.reason}` }));
  const common = { now, seconds, gap, marks, cursor };
  const since = found.history.length ? clock(found.history[0][0]) : null;
  return h("section", { "aria-labelledby": "charts" },
    h("div", { class: "bar" }, h("h2", { id: "charts" }, "Over time"),
      h("div", { role: "group", "aria-label": "How much time" }, [300, 900, 1800].map((choice) =>
        h("button", { type: "button", "data-seconds": choice, "aria-pressed": String(choice === seconds) }, `${choice / 60} min`)))),
    h("div", { class: "charts" },
      figure("Queue wait, p95", chart({ ...common, id: "wait", title: "Queue wait p95",
        described: `${wait(latest(1))} now, target ${wait(found.queueWaitTarget)}`, lines: [{ points: of(1) }],
        target: found.queueWaitTarget, targetText: `target ${wait(found.queueWaitTarget)}`, format: wait })),
      figure("Tokens/s", chart({ ...common, id: "tokens", title: "Tokens per second", described: `${count(latest(2))} now`,
        lines: [{ points: of(2) }], target: null, format: count })),
      figure(["Replicas: ", h("span", { class: "key ready" }, "ready"), " ", h("span", { class: "key desired" }, "desired")],
        chart({ ...common, id: "replicas", title: "Replicas", described: `${found.ready} ready, ${found.desired} desired`, whole: true,
          lines: [{ points: of(3), step: true }, { points: of(4), step: true, dashed: true }], target: null, format: count }))),
    h("p", { class: "quiet" }, since ? `Remembered since ${since}, for half an hour at most. ` : "",
      "▲ and ▼ mark scalings."));
};

const figure = (caption, picture) => h("figure", {}, h("figcaption", {}, caption), picture);

const history = (found, now) =>
  h("section", { "aria-labelledby": "timeline", class: "card" },
    h("h2", { id: "timeline" }, "What happened"),
    found.timeline.length
      ? h("ol", { class: "timeline" }, found.timeline.map((entry) => happened(entry, now)))
      : h("p", { class: "quiet" }, "Nothing yet."));

const happened = (entry, now) => {
  const up = entry.to > entry.from;
  const kind = entry.kind === "scaling" ? (up ? "up" : "down") : entry.kind;
  const sign = { up: "▲", down: "▼", warning: "!", event: "·" }[kind];
  return h("li", { class: kind },
    h("span", { class: "sign", "aria-hidden": "true" }, sign),
    h("div", {},
      entry.kind === "scaling" ? h("strong", { class: "figure" }, `${entry.from} → ${entry.to}`) : null,
      reason(entry.reason), entry.count > 1 ? h("small", {}, `${entry.count} times, last `) : null,
      h("small", { class: "when" }, `${clock(entry.at)}, `, time(entry.at, now)),
      h("p", {}, entry.message)));
};

const why = (found, now) => {
  const decision = found.decision;
  return h("section", { "aria-labelledby": "why", class: "card" },
    h("h2", { id: "why" }, "Why this number"),
    found.reason ? [
      h("p", {}, reason(found.reason), " ", found.message),
      h("p", { class: "quiet" }, "measured ", time(found.decidedAt, now), "; every step again: ",
        h("code", {}, `headrace explain ${found.name} -n ${found.namespace}`)),
      grid("Proposals, of which the highest counts", ["Signal", "Replicas", "Why"],
        decision.proposals.map((one) => [one.signal, one.replicas, one.why]), "None: the number stays as it is, but for the rules."),
      grid("Rules that changed the number, in order", ["Rule", "Before", "After"],
        decision.clamps.map((one) => [reason(one.reason), one.from, one.to]), "None."),
      h("details", {}, h("summary", {}, "Everything it was decided on"), inputs(decision.inputs)),
    ] : h("p", { class: "quiet" }, "The operator has not decided anything yet."));
};

const inputs = (groups) => Object.entries(groups).map(([name, values]) =>
  grid(name, ["Input", "Value"], Object.entries(values).map(([key, value]) => [key, told(value)]), "None."));

const told = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

const pods = (found, now) =>
  h("section", { "aria-labelledby": "pods", class: "card" },
    h("h2", { id: "pods" }, "Replicas by state ", h("small", {}, inWords(found.phases).join(" · ") || "no pods")),
    pips(found.phases),
    grid("Pods, as Kubernetes tells of them", ["Pod", "State", "Kept as", "Routed", "Age", "Restarts", "Node", "Message"],
      found.pods.map((pod) => [pod.name, h("span", { class: `state ${group(pod.phase)}` }, pod.phase), pod.role,
        pod.routed ? "yes" : "no", pod.createdAt ? span(now - pod.createdAt) : UNKNOWN, pod.restarts, pod.node ?? UNKNOWN, pod.message]), "No pods."));

const conditions = (found, now) =>
  h("section", { "aria-labelledby": "conditions", class: "card" },
    h("h2", { id: "conditions" }, "Conditions"),
    grid("Conditions of the object", ["Condition", "Status", "Reason", "Since", "Message"],
      [...found.conditions].sort((one, other) => other.notable - one.notable).map((one) =>
        [h("span", { class: one.notable ? "notable" : null }, one.type), one.status, reason(one.reason), one.since ? time(one.since, now) : UNKNOWN, one.message]), "None yet."));

const grid = (caption, names, rows, none) => {
  if (!rows.length) return h("div", { class: "grid-none" }, h("h3", {}, caption), h("p", { class: "quiet" }, none));
  const kind = (index) => (typeof rows[0][index] === "number" ? "number" : null);
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", { class: "grid" }, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { scope: "col", class: kind(index) }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, index) =>
        h(index ? "td" : "th", { scope: index ? null : "row", class: kind(index) }, cell)))))));
};

export const problem = (page, now) =>
  page.problem && h("div", { class: "problem" },
    h("h2", {}, "The cluster cannot be seen"),
    h("p", {}, page.problem.what),
    page.problem.remedy ? h("p", {}, h("strong", {}, "What to do: "), page.problem.remedy) : null,
    h("p", { class: "quiet" }, `For ${span(now - page.problem.since)}; it is tried again all the time.`,
      page.deployments?.length || page.deployment ? " Below is what was seen before." : ""));
