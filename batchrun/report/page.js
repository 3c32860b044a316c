"use strict";
(() => {
  const tip = document.getElementById("tip");
  document.addEventListener("pointermove", (event) => {
    const spot = event.target.closest("[data-tip]");
    tip.hidden = !spot;
    if (!spot) return;
    tip.textContent = spot.dataset.tip;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, event.clientY - height - 10) + "px";
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // A table that is wider than the page can be scrolled with the keyboard.
  for (const area of document.querySelectorAll(".scroll")) {
    if (area.scrollWidth > area.clientWidth) area.tabIndex = 0;
  }
})();
