// Rows of events come in on top. Without this script the page shows the same rows when it is loaded again.
"use strict";

const table = document.getElementById("events");
const rows = table.tBodies[0];
const state = document.getElementById("live-state");
const pause = document.getElementById("pause");
const most = Number(table.dataset.most);
const MOST_SEEN = 1000;
const seen = new Set([...rows.rows].map((row) => row.dataset.key).concat(table.dataset.shown.split(" ")));
let waiting = [];
let isPaused = false;

function show(html) {
  const holder = document.createElement("template");
  // The service writes each text so that it stays text, and the page's rules let no script in it run.
  holder.innerHTML = html;
  const row = holder.content.querySelector("tr");
  if (row === null || seen.has(row.dataset.key)) return;
  seen.add(row.dataset.key);
  if (seen.size > MOST_SEEN) seen.delete(seen.values().next().value);
  const before = rows.querySelector(`[data-alike="${CSS.escape(row.dataset.alike)}"]`);
  if (before !== null) {
    row.querySelector(".count").textContent = Number(before.querySelector(".count").textContent) + 1;
    row.querySelector(".repeats").hidden = false;
    before.remove();
  }
  row.classList.add("new");
  rows.prepend(row);
  while (rows.rows.length > most) rows.lastElementChild.remove();
  document.getElementById("no-events").hidden = true;
}

function tell(text, how) {
  state.textContent = text;
  state.dataset.state = how;
}

function tellPaused() {
  const more = waiting.length === most ? `${most} or more` : String(waiting.length);
  tell(`paused, ${more} waiting`, "off");
}

pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.textContent = isPaused ? "Go on" : "Pause";
  if (isPaused) {
    tellPaused();
    return;
  }
  waiting.forEach(show);
  waiting = [];
  tell("live", "on");
});

const source = new EventSource(table.dataset.stream);
source.addEventListener("open", () => { if (!isPaused) tell("live", "on"); });
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) tell("ended: sign in again, or load the page again", "off");
  else tell("connection lost, trying again", "off");
});
source.addEventListener("entry", (event) => {
  if (!isPaused) {
    show(event.data);
    return;
  }
  waiting.push(event.data);
  if (waiting.length > most) waiting.shift();
  tellPaused();
});
window.addEventListener("pagehide", () => source.close());
document.getElementById("live").hidden = false;
