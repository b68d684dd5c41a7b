// One stream of server-sent events a page: the browser connects again by itself, and we tell how it stands.

import { BASE } from "./words.js";

const shown = document.getElementById("live");

function tell(text, state) {
  if (shown.textContent !== text) shown.textContent = text;
  shown.dataset.state = state;
}

/** Calls `onUpdate` with each update while somebody may look. Returns what ends the stream. */
export function stream(query, onUpdate) {
  let source = null;
  const open = () => {
    source = new EventSource(`${BASE}/live?${new URLSearchParams(query)}`);
    source.addEventListener("message", (event) => {
      tell("live", "on");
      onUpdate(JSON.parse(event.data));
    });
    source.addEventListener("stale", () => tell("no news of the site: what you see is old", "off"));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) {
        tell("ended: load the page again", "off");
        setTimeout(() => location.reload(), 5000);
      } else tell("connection lost, trying again", "off");
    });
  };
  // A browser allows a few connections to a host: tabs in the background must not take them all.
  const follow = () => {
    if (document.hidden) source.close();
    else if (source.readyState === EventSource.CLOSED) open();
  };
  const leave = () => source.close();
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", leave);
  open();
  return () => {
    source.close();
    document.removeEventListener("visibilitychange", follow);
    window.removeEventListener("pagehide", leave);
  };
}
