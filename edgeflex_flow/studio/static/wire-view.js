// What flows on a wire: a plot and a table of its newest rows, or its newest messages.

import uPlot from "./uPlot.esm.js";
import { clock, exact, flags, h, moment, number, percent, put, rate } from "./words.js";

const ROWS_SHOWN = 30;
const MESSAGES_SHOWN = 30;
const POINTS = 3000;
const LINES = 12;
const STEP_BACK_S = 2;
const COLOURS = [["#0b5cad", "#7bbcf7"], ["#b45309", "#fbbf24"], ["#0f766e", "#2dd4bf"], ["#9333ea", "#d8b4fe"], ["#be123c", "#fda4af"],
  ["#4d7c0f", "#bef264"], ["#475569", "#cbd5e1"], ["#c2410c", "#fdba74"], ["#0369a1", "#7dd3fc"], ["#a21caf", "#f0abfc"],
  ["#15803d", "#86efac"], ["#713f12", "#fde68a"]];
// Room of a time under the plot, and what is between two of them.
const TICK_SPACE = 100;
// So many digits of seconds tell two ticks apart.
const digitsOf = (step_s) => (step_s >= 1 ? 0 : Math.min(Math.ceil(-Math.log10(step_s)), 3));
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];

const isDark = () => getComputedStyle(document.documentElement).getPropertyValue("color-scheme").trim() === "dark" ||
  (document.documentElement.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);

export class WireView {
  constructor(panel, wire, gives) {
    this.wire = wire;
    this.points = new Map();
    this.rows = [];
    this.messages = [];
    this.leftOut = 0;
    this.isPaused = false;
    this.now = h("p", { class: "sub" });
    this.choice = h("select", { id: "column", onchange: () => this.draw(true) });
    this.plotBox = h("div", { class: "plot", role: "img", "aria-label": "Values of the chosen column over time, by device; the table below holds the newest" });
    this.table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Newest rows" });
    this.list = h("div", {});
    this.note = h("p", { class: "small" }, "Waiting for what flows …");
    this.plotPart = h("div", { hidden: true }, h("div", { class: "field" }, h("label", { for: "column" }, "Column"), this.choice), this.plotBox,
      h("h3", {}, "Newest rows"), this.table);
    const pause = h("button", { type: "button", class: "little", onclick: () => {
      this.isPaused = !this.isPaused;
      pause.textContent = this.isPaused ? "Go on" : "Pause";
      if (!this.isPaused) this.show(true);
    } }, "Pause");
    panel.replaceChildren(
      h("div", { class: "card-head" }, h("h2", {}, wire.source, " → ", wire.reader), wire.port ? h("code", {}, wire.port) : null, pause,
        h("button", { type: "button", class: "little close", "aria-label": "Close" }, "✕")),
      h("div", { class: "inner" },
        h("p", { class: "small" }, gives.join("; ")), this.now, this.note, this.plotPart, this.list));
    this.onTheme = () => this.draw(true);
    window.addEventListener("themechange", this.onTheme);
    this.resize = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.resize.observe(this.plotBox);
  }

  close() {
    window.removeEventListener("themechange", this.onTheme);
    this.resize.disconnect();
    this.plot?.destroy();
  }

  size() {
    return { width: Math.max(this.plotBox.clientWidth, 200), height: 220 };
  }

  update(flow) {
    const now = flow.wires[this.wire.id];
    const flagged = Object.entries(flow.nodes[this.wire.source]?.quality ?? {}).map(([flag, share]) => `${flag.replace("_", " ")} ${percent(share)}`);
    put(this.now, [now ? rate(now.messages_s, now.rows_s) : "", now ? `${number(now.messages)} messages in all` : "",
      flagged.length ? `◇ ${flagged.join(", ")}` : ""].filter(Boolean).join(", "));
  }

  add(seen) {
    for (const batch of seen) {
      this.leftOut += batch.left_out;
      if (batch.type === "rows") this.addRows(batch);
      else this.messages.push(...batch.messages);
    }
    this.rows = this.rows.slice(-ROWS_SHOWN);
    this.messages = this.messages.slice(-MESSAGES_SHOWN);
    if (seen.length && !this.isPaused) this.show();
  }

  addRows(batch) {
    const names = Object.keys(batch.columns);
    const known = new Set([...this.choice.options].map((option) => option.value));
    for (const name of names) if (!known.has(name)) this.choice.append(h("option", { value: name }, name));
    batch.time_s.forEach((time, at) => {
      const values = Object.fromEntries(names.map((name) => [name, batch.columns[name][at]]));
      const row = { time, device: batch.device[at], quality: batch.quality[at], values };
      this.rows.push(row);
      if (!this.points.has(row.device) && this.points.size < LINES) this.points.set(row.device, []);
      const points = this.points.get(row.device);
      if (!points) return; // only so many are drawn
      if (points.length && points.at(-1).time > time + STEP_BACK_S) points.length = 0; // the device's clock was set back
      if (!points.length || points.at(-1).time < time) points.push(row);
      if (points.length > POINTS) points.splice(0, points.length - POINTS);
    });
  }

  show() {
    const left = this.leftOut ? `${number(this.leftOut)} more rows or messages flowed than are shown here.` : "";
    put(this.note, left);
    if (this.rows.length) {
      this.plotPart.hidden = false;
      this.draw();
      this.showRows();
    }
    if (this.messages.length)
      this.list.replaceChildren(h("h3", {}, "Newest messages"), ...this.messages.toReversed().map((message) => {
        const { type, ...more } = message;
        const time = message.time_ns ?? message.onset_time_ns ?? message.created_ns;
        return h("details", { class: "message" }, h("summary", {}, time ? moment(time / 1e6, 3) : "", " ", h("code", {}, type), " ", more.device ?? more.id ?? ""),
          h("pre", {}, JSON.stringify(more, null, 1)));
      }));
  }

  showRows() {
    const names = [...this.choice.options].map((option) => option.value);
    const head = h("tr", {}, ...["Time", "Device", "Quality", ...names].map((name) => h("th", { scope: "col" }, name)));
    const body = this.rows.toReversed().map((row) => h("tr", {},
      h("td", {}, moment(row.time * 1000, 3)), h("td", {}, row.device),
      h("td", { class: row.quality ? "flagged" : "" }, row.quality ? `◇ ${flags(row.quality)}` : "good"),
      ...names.map((name) => h("td", { class: "number" }, exact(row.values[name])))));
    this.table.replaceChildren(h("table", { class: "tight rows" }, h("thead", {}, head), h("tbody", {}, ...body)));
  }

  draw(anew = false) {
    if (!this.rows.length) return;
    const column = this.choice.value;
    const devices = [...this.points.keys()];
    const times = [...new Set(devices.flatMap((device) => this.points.get(device).map((row) => row.time)))].sort((a, b) => a - b).slice(-POINTS);
    const place = new Map(times.map((time, at) => [time, at]));
    const data = [times, ...devices.map((device) => {
      const values = new Array(times.length).fill(undefined);
      for (const row of this.points.get(device)) if (place.has(row.time)) values[place.get(row.time)] = row.values[column];
      return values;
    })];
    const key = `${column}|${devices.join("|")}`;
    if (!anew && this.plot && this.key === key) {
      this.plot.setData(data);
      return;
    }
    this.key = key;
    this.plot?.destroy();
    const dark = isDark() ? 1 : 0;
    const style = getComputedStyle(document.body);
    const axis = { stroke: dark ? "#a7b5c3" : "#4f5d6b", grid: { stroke: dark ? "#2c3a48" : "#d3dbe3", width: 1 }, ticks: { show: false }, font: `12px ${style.fontFamily}` };
    this.plot = new uPlot({
      ...this.size(),
      legend: { live: true },
      cursor: { drag: { x: true, y: false } },
      scales: { x: { time: true } },
      tzDate: (time) => uPlot.tzDate(new Date(time * 1e3), "Etc/UTC"),
      axes: [{ ...axis, space: TICK_SPACE, values: (_, ticks, __, ___, step_s) => ticks.map((tick) => clock(tick * 1000, digitsOf(step_s))) }, { ...axis, size: 70, values: (_, ticks) => ticks.map(exact) }],
      series: [{ label: "time", value: (_, time) => (time == null ? "–" : clock(time * 1000, 3)) },
        ...devices.map((device, at) => ({ label: device, stroke: COLOURS[at % COLOURS.length][dark], width: 1.5, spanGaps: true, dash: DASHES[Math.floor(at / 3) % DASHES.length], points: { show: false }, value: (_, value) => exact(value) }))],
    }, data, this.plotBox);
  }
}
