"use strict";
// Says on the first page what the serving bundle is restricted to, in the words of /health.
window.addEventListener("load", async () => {
  const health = await (await fetch("/health")).json();
  if (health.restriction) {
    const shown = document.getElementById("restriction");
    shown.textContent = `The serving bundle ${health.bundle} is not for patients: ${health.restriction}.`;
    shown.hidden = false;
  }
});
