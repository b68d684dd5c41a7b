// The site at a glance.

import { stream } from "./live.js";
import { BASE, budgetOf, bytes, duration, figure, figures, h, moveOf, number, put, rate, tag, waiting, waits, whyOf } from "./words.js";

const rows = new Map();
const body = document.getElementById("flows");

function row(name) {
  if (!rows.has(name)) {
    const cells = ["State", "Rate", "Latency", "Dropped", "Memory", "Restarts", "Version"].map((label, at) =>
      h("td", { "data-label": label, class: at > 0 && at < 6 ? "number" : null }));
    const about = h("span", { class: "small about" });
    const first = h("th", { scope: "row", "data-label": "Flow", class: "name" }, h("div", {},
      h("a", { href: `${BASE}/flows/${encodeURIComponent(name)}` }, name), about));
    const made = h("tr", { "data-flow": name }, first, ...cells);
    rows.set(name, { made, cells, about, told: [] });
    body.append(made);
  }
  return rows.get(name);
}

function set(known, at, key, make) {
  if (known.told[at] === key) return;
  known.told[at] = key;
  known.cells[at].replaceChildren(...make());
}

const small = (...parts) => h("div", { class: "small" }, ...parts);

const brokenOf = (flow) => flow.budgets.filter((budget) => budget.is_broken);

function showFlow(flow, now) {
  const known = row(flow.name);
  put(known.about, flow.about);
  const age = duration(Math.max((now - flow.since_ms) / 1000, 0));
  set(known, 0, [flow.word, flow.why, age].join(), () => [h("div", {}, tag(flow.word), small(`for ${age}`), flow.why ? small(whyOf(flow)) : "")]);
  set(known, 1, [flow.messages_s, flow.rows_s].join(), () => [flow.rows_s === undefined ? "–" : rate(flow.messages_s, flow.rows_s)]);
  const broken = brokenOf(flow);
  set(known, 2, [flow.p50_s, flow.p99_s, ...broken.map(budgetOf)].join(), () => [h("div", {},
    duration(flow.p50_s), flow.p99_s == null ? "" : small(`99 %: ${duration(flow.p99_s)}`),
    ...broken.map((budget) => h("div", {}, h("span", { class: "tag bad wraps" }, `▲ budget broken: ${budgetOf(budget)}`))))]);
  set(known, 3, [flow.drops, flow.drops_minute].join(), () => flow.drops === undefined ? ["–"] : [h("div", {},
    flow.drops_minute > 0 ? h("span", { class: "tag bad" }, `▲ ${number(flow.drops_minute)}/min`) : number(flow.drops),
    flow.drops_minute > 0 ? small(`${number(flow.drops)} in all`) : "")]);
  set(known, 4, bytes(flow.memory_bytes), () => [h("div", {}, bytes(flow.memory_bytes), flow.cpu == null ? "" : small(`CPU ${number(100 * flow.cpu, 2)} %`))]);
  set(known, 5, String(flow.restarts), () => [flow.restarts > 0 ? h("span", { class: "tag warn" }, String(flow.restarts)) : "0"]);
  set(known, 6, [flow.digest, flow.move?.time_ms, flow.refused].join(), () => [h("div", {}, h("code", {}, flow.digest.slice(0, 8)),
    flow.refused ? h("div", {}, h("span", { class: "tag warn wraps" }, waits(flow))) : null, small(moveOf(flow)))]);
}

const certificate = (left) => left > 0 ? `ends in ${duration(left)}` : h("span", { class: "tag bad" }, `▲ ended ${duration(-left)} ago`);

function showConnections(site) {
  const told = [];
  for (const flow of site.flows)
    for (const [node, gauges] of Object.entries(flow.connections ?? {}))
      if ("connected" in gauges || "opened" in gauges) told.push([flow.name, node, gauges, flow.uses[node] ?? []]);
  document.getElementById("connections-card").hidden = told.length === 0;
  const key = JSON.stringify(told);
  const table = document.getElementById("connections");
  if (table.dataset.told === key) return;
  table.dataset.told = key;
  table.replaceChildren(...told.map(([flow, node, gauges, uses]) => {
    const there = (gauges.connected ?? gauges.opened) > 0;
    const queues = Object.entries(gauges).map(([name, value]) => waiting(name, value)).filter(Boolean);
    const ends = gauges.certificate_until_s;
    return h("tr", {},
      h("th", { scope: "row", "data-label": "Node" }, h("div", {}, node, ...uses.map((text) => small(text)))),
      h("td", { "data-label": "Flow" }, h("a", { href: `${BASE}/flows/${encodeURIComponent(flow)}` }, flow)),
      h("td", { "data-label": "State" }, h("span", { class: `tag ${there ? "good" : "bad"}` }, there ? "● connected" : "▲ away")),
      h("td", { "data-label": "Waiting" }, queues.join(", ") || "nothing"),
      h("td", { "data-label": "Certificate" }, ends ? certificate(ends - site.time_ms / 1000) : "–"));
  }));
}

function show({ site }) {
  const flows = site.flows;
  document.getElementById("no-flows").hidden = flows.length > 0;
  document.getElementById("problem").hidden = !site.problem;
  put(document.getElementById("problem-text"), site.problem ?? "");
  put(document.getElementById("since"), site.file ? `${site.file.split("/").slice(-2).join("/")}, running for ${duration((site.time_ms - site.started_ms) / 1000)}` : "");
  for (const flow of flows) showFlow(flow, site.time_ms);
  for (const [name, { made }] of rows)
    if (!flows.some((flow) => flow.name === name)) {
      made.remove();
      rows.delete(name);
    }
  // As the site lists them, also those that came again.
  flows.forEach((flow, at) => {
    const { made } = rows.get(flow.name);
    if (body.children[at] !== made) body.insertBefore(made, body.children[at] ?? null);
  });
  const sum = (key) => flows.reduce((total, flow) => total + (flow[key] ?? 0), 0);
  const running = flows.filter((flow) => flow.word === "running").length;
  const refused = flows.filter((flow) => flow.refused).length;
  const late = flows.reduce((total, flow) => total + brokenOf(flow).length, 0);
  const slowest = Math.max(...flows.map((flow) => flow.p99_s ?? 0), 0);
  figures(document.getElementById("figures"), [
    figure("Flows running", `${running} of ${flows.length}`, running < flows.length ? "warn" : "good"),
    refused ? figure("New versions that wait", `▲ ${refused}`, "warn") : null,
    late ? figure("Budgets broken", `▲ ${late}`, "bad") : null,
    figure("Rows", `${number(sum("rows_s"))}/s`),
    figure("Dropped within a minute", number(sum("drops_minute")), sum("drops_minute") > 0 ? "bad" : ""),
    figure("Slowest flow, 99 %", slowest ? duration(slowest) : "–"),
  ].filter(Boolean));
  showConnections(site);
}

stream({}, show);
