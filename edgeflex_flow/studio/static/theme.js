// Dark, light, or as the system has it. Runs before the page is drawn, so that nothing flashes.
"use strict";

{
  const KEY = "edgeflex-theme";
  const NEXT = { system: "dark", dark: "light", light: "system" };
  const root = document.documentElement;
  let theme = "system";
  try {
    theme = localStorage.getItem(KEY) ?? "system";
  } catch {
    // Storage may be forbidden: then it is as the system has it.
  }
  const apply = () => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    window.dispatchEvent(new Event("themechange"));
  };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = () => {
      button.textContent = { system: "Auto", dark: "Dark", light: "Light" }[theme];
      button.setAttribute("aria-label", `Colours: ${button.textContent}. Change to ${NEXT[theme]}.`);
    };
    tell();
    button.addEventListener("click", () => {
      theme = NEXT[theme] ?? "system";
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // Then it holds for this page alone.
      }
      apply();
      tell();
    });
  });
}
