// How things are told, and how elements are made: texts stay texts.

export const BASE = document.documentElement.dataset.base;
export const MAY_OPERATE = document.documentElement.dataset.operate === "yes";
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 100 || value === 0) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });
}

/** In few characters, for wires. */
export function compact(value) {
  // Each begins where three digits of the one before would round up to it.
  for (const [least, size, unit] of [[999_500, 1e6, "M"], [9_995, 1e3, "k"]])
    if (value >= least) return `${(value / size).toPrecision(3)}${unit}`;
  return number(value);
}

export function exact(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(9)));
}

export function rate(messages, rows) {
  return rows > 0 ? `${compact(rows)} rows/s` : `${compact(messages)} msg/s`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (value >= size) return `${number(value / size)} ${unit}`;
  return `${value} B`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0) return `−${duration(-seconds)}`;
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"]])
    if (seconds >= size) return `${number(seconds / size, 2)} ${unit}`;
  return `${number(seconds * 1e6, 2)} µs`;
}

export function percent(share) {
  return share < 0.001 ? "< 0.1 %" : `${number(100 * share, 2)} %`;
}

const two = (value) => String(value).padStart(2, "0");

export function clock(ms, digits = 0) {
  const time = new Date(ms);
  // A number of this size knows microseconds, and no more: what it lacks must not make 0.123 of 0.124.
  const micros = Math.round((((ms % 1000) + 1000) % 1000) * 1000);
  const part = digits ? `.${String(Math.floor(micros / 10 ** (6 - digits))).padStart(digits, "0")}` : "";
  return `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())}${part}`;
}

export function day(ms) {
  const time = new Date(ms);
  return `${time.getUTCFullYear()}-${two(time.getUTCMonth() + 1)}-${two(time.getUTCDate())}`;
}

export function moment(ms, digits = 0) {
  return h("time", { datetime: new Date(ms).toISOString(), title: `${day(ms)} ${clock(ms, 6)}` }, clock(ms, digits));
}

const QUEUES = {
  queue_messages: ["message", "in memory"],
  queue_rows: ["row", "in memory"],
  outbox_messages: ["message", "in the outbox"],
};

/** What waits, of a gauge; empty where it tells of nothing that waits. */
export function waiting(name, value) {
  if (!(value > 0)) return "";
  if (name === "queue_bytes") return `${bytes(value)} in memory`;
  if (name === "outbox_disk_bytes") return `${bytes(value)} of the outbox on disk`;
  const [thing, where] = QUEUES[name] ?? [];
  return thing ? `${number(value)} ${thing}${value === 1 ? "" : "s"} ${where}` : "";
}

export const WORDS = {
  running: ["●", "good"],
  starting: ["◐", "info"],
  moving: ["◐", "info"],
  waiting: ["▲", "bad"],
  stopped: ["■", "warn"],
};

export function tag(word) {
  const [sign, look] = WORDS[word] ?? ["○", ""];
  return h("span", { class: `tag ${look}` }, h("span", { "aria-hidden": "true" }, `${sign} `), word);
}

const FLAGS = ["bad data", "sync lost", "time uncertain", "stale", "estimated", "test", "replayed", "clipped", "late"];

export function flags(quality) {
  return quality === 0 ? "good" : FLAGS.filter((_, bit) => quality & (1 << bit)).join(", ");
}

/** Why a flow is as its word tells, without that word. */
export const whyOf = (flow) => flow.why.startsWith(`${flow.word} `) ? flow.why.slice(flow.word.length + 1) : flow.why;

/** What is known of the last move to another version: where one is refused now, that is told elsewhere. */
export function moveOf(flow) {
  const { move, refused } = flow;
  if (!move || (!move.worked && refused)) return "";
  return [move.worked ? "moved over at " : "a move failed at ", moment(move.time_ms), move.why ? `: ${move.why}` : ""];
}

/** That the version which the files want does not run, and why. */
export const waits = (flow) => `▲ a new version waits: ${flow.refused}; the one before runs on`;

/** What a budget is about. */
export const budgetOf = (budget) =>
  `${budget.source} → ${budget.sink}, ${budget.of === "age" ? "since it was measured" : "from source to sink"} within ${duration(budget.within_s)}`;

/** Options of a list to choose from, the chosen one kept. */
export function options(select, values) {
  const known = new Set([...select.options].map((option) => option.value));
  for (const value of [...values].sort())
    if (!known.has(value)) select.append(h("option", { value }, value));
}

export function figure(name, value, look, more) {
  return h("li", { class: look ? `figure ${look}` : "figure" }, h("span", { class: "figure-name" }, name),
    h("span", { class: "figure-value" }, value), more ? h("span", { class: "small" }, more) : null);
}

/** Put figures in place of those of before, where something changed. */
export function figures(list, made) {
  const told = made.map((each) => each.textContent + each.className).join("|");
  if (list.dataset.told === told) return;
  list.dataset.told = told;
  list.replaceChildren(...made);
}
