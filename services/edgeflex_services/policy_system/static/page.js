// Asks before what was typed in a long form is left behind. Everything works without this script.
"use strict";

let isChanged = document.querySelector("form[data-typed='yes']") !== null;
for (const form of document.querySelectorAll("form[data-typed]")) {
  form.addEventListener("input", () => { isChanged = true; });
  form.addEventListener("submit", () => { isChanged = false; });
}
window.addEventListener("beforeunload", (event) => { if (isChanged) event.preventDefault(); });
