"use strict";
// Marks are links to designs; this makes them show their design in place, tell of it, and answer to the arrow keys.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const tip = document.getElementById("tip");
  const designs = [...document.querySelectorAll(".design")];

  function select(id, { scroll = false } = {}) {
    const chosen = designs.find((design) => design.id === id);
    if (!chosen) return false;
    for (const design of designs) design.classList.toggle("shown", design === chosen);
    for (const link of document.querySelectorAll("a.mark, tbody a")) {
      if (link.getAttribute("href") === `#${id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (scroll) chosen.scrollIntoView({ block: "nearest" });
    return true;
  }

  function show(mark) {
    const source = document.getElementById(`tip-${mark.dataset.key}`);
    if (!source) return;
    tip.replaceChildren(...[...source.cloneNode(true).childNodes]);
    tip.hidden = false;
    const at = mark.querySelector(".hit").getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const room = root.clientWidth - box.width - 8;
    const left = Math.max(8, Math.min(room, at.left + at.width / 2 - box.width / 2));
    const above = at.top - box.height - 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 48 ? above : at.bottom + 8) + window.scrollY}px`;
  }

  function hide() { tip.hidden = true; }

  function place(mark) { return Number(mark.querySelector(".hit").getAttribute("cx")); }
  function visible(mark) { return mark.getClientRects().length > 0; }

  function step(marks, mark, key) {
    const shown = marks.filter(visible);
    const here = shown.indexOf(mark);
    const there = { ArrowRight: here + 1, ArrowUp: here + 1, ArrowLeft: here - 1, ArrowDown: here - 1,
                    Home: 0, End: shown.length - 1 }[key];
    return there === undefined ? undefined : shown[Math.max(0, Math.min(shown.length - 1, there))];
  }

  // One stop of the Tab key per plot; arrow keys walk from there, in the order of the horizontal axis.
  function rove(marks, chosen) {
    for (const mark of marks) mark.setAttribute("tabindex", mark === chosen ? "0" : "-1");
  }

  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = [...plot.querySelectorAll(".mark")].sort((one, other) => place(one) - place(other));
    rove(marks, marks.find(visible));
    for (const mark of marks) {
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => { rove(marks, mark); show(mark); });
      mark.addEventListener("blur", hide);
      mark.addEventListener("keydown", (event) => {
        if (event.key === "Escape") hide();
        const next = step(marks, mark, event.key);
        if (!next) return;
        event.preventDefault();
        next.focus();
      });
    }
    plot.addEventListener("seriesshown", () => rove(marks, marks.find(visible)));
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#design-"]');
    if (!link) return;
    const id = link.getAttribute("href").slice(1);
    if (!select(id, { scroll: true })) return;
    event.preventDefault();
    history.replaceState(null, "", `#${id}`);
  });
  window.addEventListener("hashchange", () => select(location.hash.slice(1), { scroll: true }));

  for (const radio of document.querySelectorAll(".toggle input")) {
    radio.addEventListener("change", () => {
      const chart = document.getElementById(radio.dataset.chart);
      chart.dataset.series = radio.value;
      chart.querySelector("svg.plot").dispatchEvent(new Event("seriesshown"));
    });
  }

  if (!select(location.hash.slice(1))) {
    const first = document.querySelector(".design[data-first]") || designs[0];
    if (first) select(first.id);
  }
})();
