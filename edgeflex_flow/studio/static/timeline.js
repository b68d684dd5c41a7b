// Events, alarms, estimates and set-points of all flows over time.

import { stream } from "./live.js";
import { BASE, clock, h, moment, options, s } from "./words.js";

const MOST_KEPT = 2000;
const MOST_SHOWN = 150;
const SIGNS = { info: "●", warning: "◆", critical: "▲" };
const LEVELS = Object.keys(SIGNS);
const get = (id) => document.getElementById(id);
let entries = [];
let seen = 0;
let now = Date.now();
let isPaused = false;
let shownKey = "";

const words = (kind) => kind.replaceAll("_", " ");

function wanted() {
  const kind = get("kind").value;
  const flow = get("in-flow").value;
  const device = get("device").value;
  const span = Number(get("span").value) * 1000;
  return entries.filter((entry) => (!kind || entry.kind === kind) && (!flow || entry.flow === flow) && (!device || entry.device === device) &&
    (!span || entry.time_ms >= now - span));
}

function showRows(found) {
  const key = `${found.length}|${found.at(-1)?.number}|${found[0]?.number}`;
  if (key === shownKey) return;
  shownKey = key;
  get("no-entries").hidden = found.length > 0;
  get("no-entries").textContent = entries.length ? "None of what is kept is of this kind." : "Nothing has happened yet.";
  get("entries").replaceChildren(...found.slice(-MOST_SHOWN).toReversed().map((entry) => h("tr", { id: `entry-${entry.number}`, tabindex: "-1" },
    h("td", { "data-label": "Time" }, moment(entry.time_ms, 3)),
    h("td", { "data-label": "Kind" }, h("span", { class: `tag ${{ warning: "warn", critical: "bad" }[entry.level] ?? ""}` }, `${SIGNS[entry.level] ?? "●"} ${words(entry.kind)}`)),
    h("td", { "data-label": "Device" }, entry.device || "–"),
    h("td", { "data-label": "What" }, h("details", { class: "message" }, h("summary", {}, entry.text || words(entry.kind)), h("pre", {}, JSON.stringify(entry.message, null, 1)))),
    h("td", { "data-label": "Flow" }, h("div", {}, h("a", { href: `${BASE}/flows/${encodeURIComponent(entry.flow)}#${encodeURIComponent(entry.node)}` }, entry.flow),
      h("div", { class: "small" }, entry.node))))));
}

const LANE = 30;
const LEFT = 8;

function showLine(found) {
  const svg = get("line");
  const width = svg.clientWidth || 600;
  const kinds = [...new Set(found.map((entry) => entry.kind))].sort();
  const span = Number(get("span").value) * 1000;
  // A clock that is ahead must not push all else off the picture: its marks stand at the right edge.
  const end = now;
  const begin = span ? end - span : Math.min(end - 60_000, ...found.map((entry) => entry.time_ms));
  const room = width - 2 * LEFT;
  const x = (time) => LEFT + (room * (Math.min(time, end) - begin)) / (end - begin);
  const height = 30 + LANE * Math.max(kinds.length, 1);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  const ticks = Math.max(Math.floor(width / 140), 2);
  const marks = [];
  for (let at = 0; at <= ticks; at += 1) {
    const time = begin + ((end - begin) * at) / ticks;
    marks.push(s("line", { class: "tick", x1: x(time), x2: x(time), y1: 4, y2: height - 20 }),
      s("text", { class: "tick-text", x: x(time), y: height - 6, "text-anchor": at === 0 ? "start" : at === ticks ? "end" : "middle" }, clock(time)));
  }
  kinds.forEach((kind, lane) => {
    const y = 22 + LANE * lane;
    marks.push(s("line", { class: "lane", x1: LEFT, x2: width - LEFT, y1: y, y2: y }), s("text", { class: "lane-text", x: LEFT, y: y - 7 }, words(kind)));
    // What is worse stands on top.
    const shown = found.filter((each) => each.kind === kind).slice(-400);
    for (const entry of shown.toSorted((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level)))
      marks.push(s("text", { class: `mark ${entry.level}`, x: x(entry.time_ms), y: y + 5, "text-anchor": "middle", onclick: () => {
        const row = get(`entry-${entry.number}`);
        row?.scrollIntoView({ block: "center" });
        row?.focus();
      } }, s("title", {}, `${clock(entry.time_ms, 3)} ${entry.device} ${entry.text}`), SIGNS[entry.level] ?? "●"));
  });
  svg.replaceChildren(...marks);
}

function show() {
  const found = wanted();
  showRows(found);
  showLine(found);
}

function update(told) {
  now = told.site.time_ms ?? now;
  // After a break all that is kept comes again; a studio that was started anew counts from the beginning.
  const fresh = told.entries.filter((entry) => entry.number > seen);
  if (told.entries.length && told.entries.at(-1).number < seen) {
    entries = told.entries;
    seen = entries.at(-1).number;
  } else if (fresh.length) {
    entries = [...entries, ...fresh].slice(-MOST_KEPT);
    seen = fresh.at(-1).number;
  }
  options(get("kind"), new Set(entries.map((entry) => entry.kind)));
  options(get("in-flow"), new Set([...told.site.flows.map((flow) => flow.name)]));
  options(get("device"), new Set(entries.map((entry) => entry.device).filter(Boolean)));
  if (!isPaused) show();
}

get("filters").addEventListener("input", () => {
  shownKey = "";
  show();
});
get("filters").addEventListener("submit", (event) => event.preventDefault());
get("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  get("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) show();
});
stream({ what: "entries" }, update);
