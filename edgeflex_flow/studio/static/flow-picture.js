// A flow as engineers draw it: boxes and wires, what flows on each wire, and a window that moves over it.

import { compact, number, percent, put, rate, s } from "./words.js";

const LEAST = 0.3;
const MOST = 4;
const LEAST_FIT = 0.8;
const MOST_FIT = 1.25;
// Between these a picture is shown at first: its texts can be read.
const PHONE_WIDTH = 480;
const FAR = 0.5;
// Seen from farther away, texts are larger and kinds are left out.
const FAR_ID_SIZE = 24;
const ID_WIDTH = 0.62;
// Of a character, for each pixel of its size.

export class Picture {
  constructor(svg, onChoose) {
    this.svg = svg;
    this.onChoose = onChoose;
    this.nodes = new Map();
    this.wires = new Map();
    this.view = null;
    this.size = { width: 1, height: 1 };
    this.isTouched = false;
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (this.view && !this.isTouched && entry.contentRect.width !== width) this.fit();
      width = entry.contentRect.width;
    }).observe(svg);
    this.listen();
  }

  draw(picture) {
    this.size = picture;
    this.nodes.clear();
    this.wires.clear();
    const wires = picture.wires.map((wire) => this.wire(wire, picture));
    const nodes = picture.nodes.map((node) => this.node(node));
    this.svg.replaceChildren(s("g", {}, ...wires), s("g", {}, ...nodes));
    this.fit();
  }

  wire(wire, picture) {
    const line = s("path", { class: "wire-line", d: wire.path });
    const told = s("text", { class: "wire-text", x: wire.x + 2, y: wire.y - 6 }, "");
    const port = wire.port ? s("text", { class: "wire-port", x: wire.x + 2, y: wire.y + 12 }, wire.port) : null;
    const group = s("g", { class: "wire", tabindex: 0, role: "button", "data-wire": wire.id },
      s("path", { class: "wire-hit", d: wire.path }), line, told, port,
      s("circle", { class: "wire-end", cx: this.left(picture, wire.reader), cy: wire.y, r: 4 }));
    this.choosable(group, { wire });
    const source = picture.nodes.find((node) => node.id === wire.source);
    const carriesSamples = source.gives.some((text) => text.startsWith("samples"));
    this.wires.set(wire.id, { group, told, wire, carriesSamples });
    return group;
  }

  left(picture, id) {
    return picture.nodes.find((node) => node.id === id).x;
  }

  node(node) {
    const badge = s("text", { class: "badge-text", x: node.x + node.width - 8, y: node.y - 5, "text-anchor": "end" }, "");
    const group = s("g", { class: `node ${node.role}`, tabindex: 0, role: "button", "data-node": node.id },
      s("rect", { class: "box", x: node.x, y: node.y, width: node.width, height: node.height, rx: 9 }),
      s("rect", { class: "side", x: node.x + 9, y: node.y + 12, width: 4, height: node.height - 24, rx: 2 }),
      s("text", { class: "node-id", x: node.x + 22, y: node.y + node.height / 2 - 3 }, node.id),
      s("text", { class: "node-kind", x: node.x + 22, y: node.y + node.height / 2 + 15 }, node.kind || node.words),
      node.settings.some((setting) => setting.policy)
        ? s("text", { class: "node-policy", x: node.x + node.width - 10, y: node.y + 17, "text-anchor": "end" }, "§") : null,
      badge);
    const size = Math.min(FAR_ID_SIZE, (node.width - 28) / (ID_WIDTH * node.id.length));
    group.style.setProperty("--far-id", `${size}px`);
    this.choosable(group, { node });
    this.nodes.set(node.id, { group, badge, node });
    return group;
  }

  choosable(group, what) {
    group.addEventListener("click", () => { if (!this.moved) this.onChoose(what); });
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.onChoose(what);
    });
  }

  choose(id) {
    for (const [name, { group }] of [...this.nodes, ...this.wires]) {
      if (name === id) group.setAttribute("aria-pressed", "true");
      else group.removeAttribute("aria-pressed");
    }
  }

  update(flow, isRunning) {
    for (const [id, { group, told, wire, carriesSamples }] of this.wires) {
      const now = flow.wires[id];
      const source = flow.nodes[wire.source];
      const reader = flow.nodes[wire.reader];
      const flowing = now && (now.messages_s > 0 || now.rows_s > 0);
      const refused = reader?.letters_minute ?? 0;
      const flagged = Object.values(source?.quality ?? {});
      const worst = flagged.length ? Math.max(...flagged) : 0;
      let state = "quiet";
      if (!isRunning || !now) state = "off";
      else if (refused > 0) state = "errors";
      else if (flowing) state = "flows";
      else if (carriesSamples && now.stands && now.messages > 0) state = "stands";
      const parts = [];
      if (state === "errors") parts.push(`▲ ${compact(refused)}`);
      if (state === "stands") parts.push("‖ stands");
      if (flowing) parts.push(rate(now.messages_s, now.rows_s));
      else if (state === "quiet") parts.push(now.messages > 0 ? "quiet" : "nothing yet");
      if (worst > 0) parts.push(`◇ ${percent(worst)}`);
      put(told, parts.join(" "));
      group.dataset.state = state;
      group.classList.toggle("flagged", worst > 0);
      const words = { off: "the flow does not run", errors: `${refused} refused within a minute`, stands: "stands", flows: "", quiet: "quiet" }[state];
      const label = `Wire from ${wire.source} to ${wire.reader}: ${[flowing ? rate(now.messages_s, now.rows_s) : "", words,
        worst > 0 ? `${percent(worst)} of the rows flagged` : ""].filter(Boolean).join(", ")}`;
      if (group.getAttribute("aria-label") !== label) group.setAttribute("aria-label", label);
    }
    for (const [id, { group, badge, node }] of this.nodes) {
      const now = flow.nodes[id];
      const wrong = Math.max(now?.letters_minute ?? 0, now?.lost_minute ?? 0);
      const away = now?.gauges?.connected === 0 || now?.gauges?.opened === 0;
      const texts = [];
      if (away) texts.push("○ away");
      if (wrong > 0) texts.push(`▲ ${compact(wrong)}/min`);
      else if (now?.failed_minute > 0) texts.push(`△ ${number(now.failed_minute)}/min`);
      put(badge, texts.join("  "));
      group.dataset.state = wrong > 0 ? "errors" : away ? "away" : "well";
      const label = `${node.role === "letters" ? "Wire of all nodes" : node.role} ${id}${node.kind ? `, a ${node.kind}` : ""}` +
        (away ? ", not connected" : "") + (wrong > 0 ? `, ${wrong} errors within a minute` : "");
      if (group.getAttribute("aria-label") !== label) group.setAttribute("aria-label", label);
    }
  }

  // The window over the picture ---------------------------------------------------------------------------------------

  /** `whole`: all of it, however small that is. */
  fit(whole = false) {
    this.isTouched = whole;
    const { width, height } = this.size;
    const widest = this.svg.getBoundingClientRect().width;
    // On a phone a size that can be read shows a node or two: better all of them, and closer by two fingers.
    const least = widest < PHONE_WIDTH ? 0 : LEAST_FIT;
    // As high as it needs to be, within what the style sheet allows.
    this.svg.style.height = `${Math.ceil(height * Math.min(Math.max(widest / width, least), MOST_FIT)) + 24}px`;
    const box = this.svg.getBoundingClientRect();
    const shape = box.width && box.height ? box.width / box.height : 2;
    // Small flows are not blown up, and of long ones the beginning is shown at a size that can be read.
    const wanted = Math.max(width, height * shape, box.width / MOST_FIT);
    const shown = whole || !least ? wanted : Math.min(wanted, Math.max(box.width / least, 320));
    this.view = { x: wanted > shown ? 0 : (width - shown) / 2, y: (height - shown / shape) / 2, width: shown, height: shown / shape };
    if (this.view.height < height) this.view.y = 0;
    this.show();
  }

  show() {
    const { x, y, width, height } = this.view;
    this.svg.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    this.svg.classList.toggle("far", this.svg.getBoundingClientRect().width / width < FAR);
  }

  zoom(factor, at) {
    this.isTouched = true;
    const box = this.svg.getBoundingClientRect();
    const width = Math.min(Math.max(this.view.width / factor, box.width / MOST), Math.max(this.size.width, box.width) / LEAST);
    const scale = width / this.view.width;
    const px = at ? (at.x - box.left) / box.width : 0.5;
    const py = at ? (at.y - box.top) / box.height : 0.5;
    this.view.x += this.view.width * px * (1 - scale);
    this.view.y += this.view.height * py * (1 - scale);
    this.view.height *= scale;
    this.view.width = width;
    this.show();
  }

  move(dx, dy) {
    this.isTouched = true;
    this.view.x += dx;
    this.view.y += dy;
    this.show();
  }

  listen() {
    const pointers = new Map();
    this.svg.addEventListener("wheel", (event) => {
      // The page scrolls by the wheel as everywhere, and the picture zooms with the key that browsers take for it.
      if (!event.ctrlKey && !event.metaKey && !this.svg.contains(document.activeElement)) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), { x: event.clientX, y: event.clientY });
    }, { passive: false });
    this.svg.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event);
      this.moved = false;
    });
    this.svg.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const scale = this.view.width / this.svg.getBoundingClientRect().width;
      if (pointers.size === 2) {
        const other = [...pointers.values()].find((each) => each.pointerId !== event.pointerId);
        const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
        const middle = { x: (event.clientX + other.clientX) / 2, y: (event.clientY + other.clientY) / 2 };
        this.zoom(apart(event, other) / Math.max(apart(before, other), 1), middle);
        this.moved = true;
      } else {
        const dx = before.clientX - event.clientX;
        const dy = before.clientY - event.clientY;
        if (!this.moved && Math.hypot(dx, dy) < 4) return;
        if (!this.moved) this.svg.setPointerCapture(event.pointerId);
        this.moved = true;
        this.move(dx * scale, dy * scale);
      }
      pointers.set(event.pointerId, event);
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"])
      this.svg.addEventListener(name, (event) => pointers.delete(event.pointerId));
    this.svg.addEventListener("keydown", (event) => {
      const step = this.view.width / 12;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (moves[event.key]) this.move(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-") this.zoom(0.8);
      else if (event.key === "0") this.fit(true);
      else return;
      event.preventDefault();
    });
    // What has the focus is brought into sight.
    this.svg.addEventListener("focusin", (event) => {
      if (!event.target.matches(":focus-visible")) return;
      const box = event.target.querySelector(".box, .wire-text, .wire-end").getBBox();
      const { x, y, width, height } = this.view;
      if (box.x < x || box.x + box.width > x + width) this.view.x = box.x + box.width / 2 - width / 2;
      if (box.y < y || box.y + box.height > y + height) this.view.y = box.y + box.height / 2 - height / 2;
      this.show();
    });
    document.getElementById("zoom-in").addEventListener("click", () => this.zoom(1.25));
    document.getElementById("zoom-out").addEventListener("click", () => this.zoom(0.8));
    document.getElementById("fit").addEventListener("click", () => this.fit(true));
  }
}
