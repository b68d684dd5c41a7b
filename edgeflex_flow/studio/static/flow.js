// One flow: its picture, and a panel for the node or the wire that is chosen.

import { act, confirmed } from "./act.js";
import { NodePanel } from "./flow-panel.js";
import { Picture } from "./flow-picture.js";
import { stream } from "./live.js";
import { BASE, budgetOf, bytes, duration, figure, figures, moveOf, number, put, rate, waits, whyOf } from "./words.js";
import { WireView } from "./wire-view.js";

const name = document.getElementById("flow").dataset.name;
const panel = document.getElementById("panel");
const bench = document.getElementById("bench");
const operate = document.getElementById("operate");
let drawn = null;
let asked = null;
let chosen = null;
let letters = [];
let end = null;
let last = null;
let wished = null;

const picture = new Picture(document.getElementById("picture"), choose);

function listen() {
  end?.();
  const query = { flow: name, what: "letters" };
  if (chosen?.wire) query.node = chosen.wire.source;
  end = stream(query, update);
}

async function draw(digest) {
  if (asked === digest) return;
  asked = digest;
  try {
    const answer = await fetch(`${BASE}/api/flows/${encodeURIComponent(name)}/picture`);
    if (!answer.ok) throw new Error(answer.statusText);
    drawn = await answer.json();
  } catch {
    asked = null; // with the next update once more
    return;
  }
  put(document.getElementById("about"), drawn.about);
  picture.draw(drawn);
  followHash();
  if (last) update(last);
}

/** What the address names is what is chosen. */
function followHash() {
  const id = decodeURIComponent(location.hash.slice(1));
  const node = drawn?.nodes.find((each) => each.id === id);
  const wire = drawn?.wires.find((each) => each.id === id);
  if (node || wire) choose(node ? { node } : { wire }, false);
  else close();
}

window.addEventListener("hashchange", followHash);

function choose(what, moves = true) {
  chosen?.view.close?.();
  const id = what.node?.id ?? what.wire.id;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  panel.hidden = false;
  bench.classList.add("open");
  const source = what.wire && drawn.nodes.find((each) => each.id === what.wire.source);
  const view = what.node ? new NodePanel(panel, name, what.node, drawn.file.split("/").at(-1)) : new WireView(panel, what.wire, source.gives);
  const watched = chosen?.wire?.source;
  chosen = { ...what, view };
  panel.setAttribute("aria-label", what.node ? `Node ${id}` : `Wire ${id}`);
  panel.querySelector(".close").addEventListener("click", () => {
    close();
    document.querySelector(`[data-node="${CSS.escape(id)}"], [data-wire="${CSS.escape(id)}"]`)?.focus();
  });
  picture.choose(id);
  view.follow?.(last?.site.flows.find((each) => each.name === name));
  view.addLetters?.(letters);
  if (last) view.update(last.flow);
  if (watched !== what.wire?.source) listen();
  if (moves) {
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  }
}

function close() {
  if (!chosen) return;
  chosen.view.close?.();
  const watched = chosen.wire;
  chosen = null;
  panel.hidden = true;
  bench.classList.remove("open");
  picture.choose(null);
  history.replaceState(null, "", location.pathname);
  if (watched) listen();
}

function update(told) {
  last = { ...told, seen: [], letters: [] };
  const { site } = told;
  const row = site.flows.find((each) => each.name === name);
  const isRunning = row?.word === "running" || row?.word === "moving";
  const flow = isRunning ? told.flow : halted(told.flow);
  if (flow.digest) draw(flow.digest);
  const known = new Set(letters.map((letter) => letter.id));
  const fresh = (told.letters ?? []).filter((letter) => !known.has(letter.id));
  letters = [...letters, ...fresh].slice(-500);
  if (drawn) picture.update(flow, isRunning);
  if (chosen) {
    chosen.view.update(flow);
    chosen.view.add?.(told.seen ?? []);
    chosen.view.follow?.(row);
    chosen.view.addLetters?.(fresh);
  }
  if (row) tell(row, site, flow);
}

/** What a flow that does not run told last, without its rates. */
function halted(flow) {
  const still = (parts) => Object.fromEntries(Object.entries(parts ?? {}).map(([id, each]) => [id, { ...each, messages_s: 0, rows_s: 0 }]));
  return { ...flow, wires: still(flow.wires), nodes: still(flow.nodes) };
}

function tell(row, site, flow) {
  const trouble = document.getElementById("trouble");
  const refused = document.getElementById("refused");
  const reason = whyOf(row);
  const told = reason === row.why ? `${row.word}: ${reason}` : row.why;
  const why = reason && row.word !== "running" ? told : "";
  trouble.hidden = !why;
  put(trouble, why);
  refused.hidden = !row.refused;
  put(refused, row.refused ? waits(row) : "");
  const letterCount = Object.values(flow.nodes).reduce((sum, node) => sum + (node.letters_minute ?? 0), 0);
  const looks = { running: "good", waiting: "bad", stopped: "warn" };
  figures(document.getElementById("figures"), [
    figure("State", row.word, looks[row.word], `for ${duration((site.time_ms - row.since_ms) / 1000)}`),
    figure("Rate", row.rows_s === undefined ? "–" : rate(row.messages_s, row.rows_s)),
    figure("Latency", duration(row.p50_s), "", row.p99_s == null ? "" : `99 %: ${duration(row.p99_s)}`),
    figure("Dropped", row.drops === undefined ? "–" : number(row.drops), row.drops_minute > 0 ? "bad" : "", row.drops_minute > 0 ? `▲ ${number(row.drops_minute)} within a minute` : ""),
    figure("Dead letters", row.dead_letters === undefined ? "–" : number(row.dead_letters), letterCount > 0 ? "bad" : ""),
    figure("Memory", bytes(row.memory_bytes)),
    figure("Version", row.digest.slice(0, 8), row.refused ? "warn" : "", moveOf(row)),
    ...row.budgets.map((budget) => figure("Budget", budget.is_broken ? "▲ broken" : "● kept", budget.is_broken ? "bad" : "good",
      `${budgetOf(budget)}: ${number(budget.late)} of ${number(budget.messages)} late`)),
  ]);
  if (operate) {
    if (wished?.isThere(row)) {
      put(document.getElementById("done"), "");
      wished = null;
    }
    operate.querySelector("[data-do=start]").hidden = row.word !== "stopped";
    operate.querySelector("[data-do=stop]").hidden = row.word === "stopped";
    operate.querySelector("[data-do=restart]").hidden = row.word === "stopped";
  }
}

const TEXTS = {
  restart: ["Restart this flow?", "It drains, and is started anew. What comes meanwhile to a source that cannot repeat is lost.", "Restart"],
  stop: ["Stop this flow?", "It drains, and stays stopped until somebody starts it, also when this computer was off. Controllers go to their safe state.", "Stop"],
  start: ["Start this flow?", "It is started with its files as they are now.", "Start"],
};

for (const button of operate?.querySelectorAll("button") ?? [])
  button.addEventListener("click", async () => {
    if (!(await confirmed(...TEXTS[button.dataset.do]))) return;
    const done = document.getElementById("done");
    done.textContent = "…";
    const since_ms = last?.site.flows.find((each) => each.name === name)?.since_ms;
    wished = null;
    const outcome = await act(`/api/flows/${encodeURIComponent(name)}/${button.dataset.do}`);
    done.textContent = outcome.text;
    done.className = outcome.done ? "small" : "error";
    const word = button.dataset.do === "stop" ? "stopped" : "running";
    // What is to come has come: nobody is told any more that it will.
    if (outcome.done) wished = { isThere: (row) => row.word === word && row.since_ms !== since_ms };
  });

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen && !document.querySelector("dialog[open]")) panel.querySelector(".close").click();
});

listen();
