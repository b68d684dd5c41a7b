// What operators do: asked once more, sent with the session's own word, and told.

import { BASE, h } from "./words.js";

/** Whether the person says yes. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "ask-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "ask-title" }, title),
        h("p", {}, text),
        h("div", { class: "buttons" },
          h("button", { value: "yes", class: "main" }, yes),
          h("button", { value: "no", autofocus: true }, "Cancel"))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** What came of it, in words. */
export async function act(path) {
  const body = new URLSearchParams({ csrf: document.documentElement.dataset.csrf });
  try {
    const answer = await fetch(BASE + path, { method: "POST", body });
    const told = await answer.json();
    return { done: answer.ok && told.done, text: told.text ?? told.detail };
  } catch {
    return { done: false, text: "the studio does not answer" };
  }
}

/** Shows the payload of a dead letter, as text and in hexadecimal digits. */
export async function showPayload(flow, letter) {
  let told;
  try {
    const answer = await fetch(`${BASE}/api/letters/${encodeURIComponent(flow)}/${letter.id}`);
    told = await answer.json();
  } catch {
    told = { done: false, text: "the studio does not answer" };
  }
  const hex = (told.as_hex ?? "").split(" ");
  const lines = [];
  for (let at = 0; at < hex.length && hex[0]; at += 16)
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.slice(at, at + 16).join(" ")}`);
  const content = told.done
    ? [h("h3", {}, "As text"), h("pre", { class: "payload", tabindex: "0" }, told.as_text || "(empty)"),
       h("h3", {}, "In hexadecimal digits"), h("pre", { class: "payload", tabindex: "0" }, lines.join("\n") || "(empty)")]
    : [h("p", { class: "error" }, told.text ?? told.detail ?? "")];
  const dialog = h("dialog", { "aria-labelledby": "payload-title", class: "wide" },
    h("form", { method: "dialog" },
      h("h2", { id: "payload-title" }, `${letter.node}: ${letter.reason}`),
      h("p", {}, letter.text), ...content,
      h("div", { class: "buttons" }, h("button", { value: "close", class: "main" }, "Close"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
