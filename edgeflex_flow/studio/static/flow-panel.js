// What is known of a node: its manual page, settings, policies, counters and dead letters.

import { confirmed, act, showPayload } from "./act.js";
import { BASE, MAY_OPERATE, exact, h, moment, number, percent, put, rate } from "./words.js";

const LETTERS_SHOWN = 5;

/** Words of a text, those in backticks as code. */
function words(text) {
  return text.split(/`+/).map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

/** A manual page: paragraphs, titled parts that are indented, and examples. */
function manual(text) {
  const made = [];
  let paragraph = [];
  const flush = () => {
    if (!paragraph.length) return;
    const isExample = paragraph[0].trimStart().startsWith(">>>");
    made.push(isExample ? h("pre", {}, paragraph.join("\n")) : h("p", {}, ...words(paragraph.map((line) => line.trim()).join(" "))));
    paragraph = [];
  };
  for (const line of text.split("\n")) {
    const title = /^([A-Z][A-Za-z ]*):\s*(.*)$/.exec(line);
    if (title && title[1].length < 20) {
      flush();
      made.push(h("h4", {}, title[1]));
      if (title[2]) paragraph.push(title[2]);
    } else if (!line.trim()) flush();
    else paragraph.push(line);
  }
  flush();
  return made;
}

function part(title, open, ...content) {
  return h("details", { class: "part", open }, h("summary", {}, h("h3", {}, title)), ...content);
}

const table = (label, heads, rows) => h("table", { class: "stack tight", "aria-label": label },
  h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
  h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell, at) =>
    h(at ? "td" : "th", { "data-label": heads[at], scope: at ? null : "row" }, ...[cell].flat()))))));

export class NodePanel {
  constructor(panel, flow, node, file) {
    this.flow = flow;
    this.node = node;
    this.letters = [];
    this.letterCount = 0;
    this.now = h("p", { class: "sub" });
    this.policies = h("div", {});
    this.counters = h("div", {});
    this.letterList = h("div", {});
    const bound = node.settings.filter((setting) => setting.policy);
    panel.replaceChildren(
      h("div", { class: "card-head" },
        h("h2", {}, node.id), h("span", { class: `tag role ${node.role}` }, node.role === "letters" ? "wire of the flow" : node.role),
        h("button", { type: "button", class: "little close", "aria-label": "Close" }, "✕")),
      h("div", { class: "inner" },
        h("p", {}, node.kind ? h("code", {}, node.kind) : "", node.line ? h("span", { class: "small place" }, ` ${file}:${node.line}`) : ""),
        this.now,
        bound.length ? part("Policies", true, this.policies) : null,
        part("Dead letters", true, this.letterList),
        part("Counters", true, this.counters),
        node.settings.length ? part("Settings", false, table("Settings", ["Setting", "Value", "What it is"], node.settings.map((setting) => [
          h("code", {}, setting.name),
          [h("code", { class: setting.is_default ? "" : "given" }, setting.value),
            node.connections[setting.name] ? h("div", { class: "small" }, node.connections[setting.name]) : "",
            setting.policy ? h("div", { class: "small" }, "§ ", setting.policy) : "",
            setting.is_default ? h("div", { class: "small" }, "default") : ""],
          words(setting.about)]))) : null,
        node.gives.length ? part("What it gives", false, h("ul", {}, ...node.gives.map((text) => h("li", {}, text)))) : null,
        part("Manual page", false, h("div", { class: "manual" }, ...manual(node.manual)))));
    this.told = {};
    this.showLetters();
  }

  update(flow) {
    const now = flow.nodes[this.node.id];
    const flagged = Object.entries(now?.quality ?? {}).map(([flag, share]) => `${flag.replace("_", " ")} ${percent(share)}`);
    this.put("now", this.now, [now?.messages_s, now?.rows_s, flagged], () => [
      now && (now.counters.messages_out ?? 0) > 0 ? `gives ${rate(now.messages_s, now.rows_s)}` : "",
      flagged.length ? ` ◇ ${flagged.join(", ")}` : ""]);
    const counts = Object.entries(now?.counters ?? {}).sort();
    const gauges = Object.entries(now?.gauges ?? {}).sort();
    this.put("counters", this.counters, [counts, gauges], () => counts.length + gauges.length
      ? [table("Counters", ["Counter", "Count"], [...counts.map(([name, count]) => [h("code", {}, name), count.toLocaleString("en")]),
        ...gauges.map(([name, value]) => [h("code", {}, name), exact(value)])])]
      : [h("p", { class: "small" }, "It has counted nothing yet.")]);
    const bound = flow.bound.filter((each) => each.node === this.node.id);
    this.put("bound", this.policies, bound, () => [table("Policies", ["Setting", "In force", "Policy", "Limits"], bound.map((each) => [
      h("code", {}, each.setting),
      [h("strong", {}, each.value), h("div", { class: "small" }, each.version === "default" ? "the flow file's own" : `version ${each.version}`),
        each.refused ? h("div", { class: "tag bad wraps" }, `▲ refused ${each.refused}`) : ""],
      h("code", {}, `${each.policy}.${each.field}`),
      [each.limits, h("div", { class: "small" }, `default ${each.default}`)]]))]);
  }

  put(name, element, key, make) {
    const told = JSON.stringify(key);
    if (this.told[name] === told) return;
    this.told[name] = told;
    element.replaceChildren(...make());
  }

  /** How the flow is now, as the site tells. */
  follow(row) {
    this.row = row;
    for (const { buttons } of this.letters) buttons.follow(row);
  }

  addLetters(letters) {
    const own = letters.filter((letter) => letter.flow === this.flow && letter.node === this.node.id);
    if (!own.length) return;
    this.letterCount += own.length;
    const made = own.map((letter) => ({ letter, buttons: new LetterButtons(letter) }));
    this.letters = [...this.letters, ...made].slice(-LETTERS_SHOWN);
    this.follow(this.row);
    this.showLetters();
  }

  showLetters() {
    if (!this.letters.length) {
      this.letterList.replaceChildren(h("p", { class: "small" }, "There are none."));
      return;
    }
    const all = `${BASE}/letters?${new URLSearchParams({ flow: this.flow, node: this.node.id })}`;
    this.letterList.replaceChildren(
      h("ul", { class: "letters" }, ...this.letters.toReversed().map(({ letter, buttons }) => letterItem(letter, buttons))),
      h("p", { class: "small" }, this.letterCount > LETTERS_SHOWN ? `The newest ${LETTERS_SHOWN} of ${number(this.letterCount)}. ` : "",
        h("a", { href: all }, "All dead letters of this node")));
  }
}

function letterItem(letter, buttons) {
  return h("li", {}, h("div", {}, moment(letter.time_ns / 1e6), " ", h("code", { class: "reason" }, letter.reason), letter.count > 1 ? ` × ${number(letter.count)}` : ""),
    h("div", { class: "small" }, letter.text), buttons.element);
}

/** Show and replay of a dead letter. Numbers of letters begin where the run began that keeps them. */
export class LetterButtons {
  constructor(letter) {
    this.letter = letter;
    this.told = h("span", { class: "small", role: "status" });
    this.why = h("span", { class: "small" }, letter.can_replay ? "" : `cannot be replayed: ${letter.why_not}`);
    this.show = h("button", { type: "button", class: "little", "aria-label": `Show ${letter.reason} of ${letter.node}`, onclick: () => showPayload(letter.flow, letter) }, "Show");
    this.replay = h("button", { type: "button", class: "little", onclick: () => this.giveAgain() }, "Replay");
    this.isOver = false;
    this.isAsking = false;
    this.element = h("div", { class: "buttons" }, this.show, MAY_OPERATE && letter.can_replay ? this.replay : null, this.why, this.told);
  }

  /** How its flow is now. */
  follow(flow) {
    const isOver = !flow?.pid || (flow.began_ms !== null && this.letter.id < flow.began_ms);
    if (isOver === this.isOver) return;
    this.isOver = isOver;
    this.able();
    if (isOver) put(this.why, "not kept any more: its run is over");
    else put(this.why, this.letter.can_replay ? "" : `cannot be replayed: ${this.letter.why_not}`);
  }

  able() {
    this.show.disabled = this.isOver;
    this.replay.disabled = this.isOver || this.isAsking;
  }

  async giveAgain() {
    const { flow, id, node, port } = this.letter;
    const where = port ? `${node}.${port}` : node;
    if (!(await confirmed("Replay this dead letter?", `It is given to ${where} of ${flow} once more.`, "Replay"))) return;
    this.isAsking = true;
    this.able();
    const outcome = await act(`/api/letters/${encodeURIComponent(flow)}/${id}/replay`);
    this.isAsking = false;
    this.able();
    this.told.textContent = outcome.text;
    this.told.className = outcome.done ? "small" : "error";
  }
}
