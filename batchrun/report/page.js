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

  const body = document.getElementById("rows");
  if (!body) return;
  const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase(), kinds: row.dataset.kind.split(" ") }));
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const choices = [...document.querySelectorAll(".choices button")];
  let kind = "all";

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text, kinds } of rows) {
      const fits = (kind === "all" || kinds.includes(kind)) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    found.textContent = count === rows.length ? "" : count + " of " + rows.length;
  };
  search.addEventListener("input", show);
  for (const choice of choices) {
    choice.addEventListener("click", () => {
      kind = choice.dataset.kind;
      for (const one of choices) one.setAttribute("aria-pressed", String(one === choice));
      show();
    });
  }
  body.addEventListener("click", (event) => {
    if (String(getSelection())) return;
    const row = event.target.closest("tr");
    const open = row.classList.toggle("open");
    row.querySelector("button").setAttribute("aria-expanded", String(open));
  });
})();
