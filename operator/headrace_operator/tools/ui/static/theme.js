// Before the first paint: the theme that was chosen here, else the system's.
"use strict";
(() => {
  const themes = ["system", "light", "dark"];
  const chosen = () => localStorage.getItem("headrace-theme") || "system";
  const set = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
  };
  set(chosen());
  document.addEventListener("DOMContentLoaded", () => {
    set(chosen());
    document.getElementById("theme").addEventListener("click", () => {
      const next = themes[(themes.indexOf(chosen()) + 1) % themes.length];
      localStorage.setItem("headrace-theme", next);
      set(next);
    });
  });
})();
