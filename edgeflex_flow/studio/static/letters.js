// Dead letters of all flows.

import { LetterButtons } from "./flow-panel.js";
import { stream } from "./live.js";
import { BASE, bytes, h, moment, number, options } from "./words.js";

const MOST_KEPT = 500;
const get = (id) => document.getElementById(id);
const key = (letter) => `${letter.flow}/${letter.id}`;
let letters = [];
const rows = new Map();

function row(letter) {
  if (!rows.has(key(letter))) {
    const buttons = new LetterButtons(letter);
    const made = h("tr", {},
      h("td", { "data-label": "Time" }, moment(letter.time_ns / 1e6, 3)),
      h("td", { "data-label": "Node" }, h("div", {}, h("a", { href: `${BASE}/flows/${encodeURIComponent(letter.flow)}#${encodeURIComponent(letter.node)}` }, letter.node), h("div", { class: "small" }, letter.flow))),
      h("td", { "data-label": "Reason" }, h("div", {}, h("code", { class: "reason" }, letter.reason), letter.count > 1 ? h("div", { class: "small" }, `stands for ${number(letter.count)}`) : "")),
      h("td", { "data-label": "What is wrong" }, letter.text),
      h("td", { "data-label": "Payload" }, h("div", {}, h("div", { class: "small" }, letter.payload_bytes ? bytes(letter.payload_bytes) : letter.can_replay ? "messages" : "none"), buttons.element)));
    rows.set(key(letter), { made, buttons });
  }
  return rows.get(key(letter)).made;
}

function show() {
  const flow = get("in-flow").value;
  const node = get("node").value;
  const reason = get("reason").value;
  const found = letters.filter((letter) => (!flow || letter.flow === flow) && (!node || letter.node === node) &&
    (!reason || letter.reason === reason)).toReversed();
  const body = get("letters");
  const wanted = found.map(row);
  // Rows that stay keep the focus that somebody has on them.
  for (const each of [...body.children]) if (!wanted.includes(each)) each.remove();
  wanted.forEach((each, at) => {
    if (body.children[at] !== each) body.insertBefore(each, body.children[at] ?? null);
  });
  get("no-letters").hidden = found.length > 0;
}

// What the address asks for is chosen, be there such letters or not.
for (const [name, value] of new URLSearchParams(location.search)) {
  const select = get({ flow: "in-flow", node: "node", reason: "reason" }[name]);
  if (!select || !value) continue;
  options(select, [value]);
  select.value = value;
}

stream({ what: "letters" }, (told) => {
  const known = new Set(letters.map(key));
  const fresh = told.letters.filter((letter) => !known.has(key(letter)));
  options(get("in-flow"), new Set(told.site.flows.map((flow) => flow.name)));
  if (fresh.length) add(fresh);
  for (const letter of letters) rows.get(key(letter))?.buttons.follow(told.site.flows.find((flow) => flow.name === letter.flow));
});

function add(fresh) {
  letters = [...letters, ...fresh];
  for (const gone of letters.splice(0, Math.max(letters.length - MOST_KEPT, 0))) rows.delete(key(gone));
  options(get("node"), new Set(letters.map((letter) => letter.node)));
  options(get("reason"), new Set(letters.map((letter) => letter.reason)));
  show();
}

get("filters").addEventListener("input", show);
get("filters").addEventListener("submit", (event) => event.preventDefault());
