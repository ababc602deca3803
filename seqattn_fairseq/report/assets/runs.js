// Which runs the charts show, and how each is drawn. A run keeps its colour while it is chosen.

const RUNS = overview.runs;
const BASELINE = overview.baseline;
const GREY = 8; // the slot of runs beyond the seven colours; slot 0 is the baseline's
const AT_ONCE = 6; // runs that the charts begin with

let chosen = [];
let pinned = null;
const slots = new Map([[BASELINE, 0]]);

function lowerIsBetter(key) {
  return /(^|[^a-z])ter([^a-z]|$)/i.test(key);
}

function score(run, key) {
  return RUNS[run].scores[key]?.value ?? null;
}

/** All runs, the best by the first score first; those without it last. */
function bestFirst() {
  const key = overview.scores[0]?.key;
  const sign = key && lowerIsBetter(key) ? 1 : -1;
  const rank = (run) => (known(score(run, key)) ? sign * score(run, key) : Infinity);
  return RUNS.map((_, run) => run).sort((a, b) =>
    rank(a) === rank(b) ? a - b : rank(a) - rank(b),
  );
}

function slotOf(run) {
  return slots.get(run) ?? GREY;
}

/** Choose the runs of all charts; they are drawn in the order of the report. */
function choose(runs) {
  chosen = [...new Set(runs)].sort((a, b) => a - b);
  for (const run of slots.keys()) {
    if (run !== BASELINE && !chosen.includes(run)) slots.delete(run);
  }
  for (const run of chosen) {
    const free = [1, 2, 3, 4, 5, 6, 7].find((slot) => ![...slots.values()].includes(slot));
    if (!slots.has(run) && free !== undefined) slots.set(run, free);
  }
  pinned = null;
  document.dispatchEvent(new Event("chosen"));
}

/** The baseline and the best of the others; all, if that is hardly more. */
function chooseBest() {
  const others = bestFirst().filter((run) => run !== BASELINE);
  choose([BASELINE, ...others.slice(0, RUNS.length <= AT_ONCE + 2 ? AT_ONCE + 1 : AT_ONCE - 1)]);
}

/** Draw one run strongly and the others faintly; null draws all alike. */
function emphasise(run) {
  const shown = run ?? pinned;
  document.querySelector("main").classList.toggle("emphasis", shown !== null);
  for (const node of document.querySelectorAll("main [data-run]")) {
    node.classList.toggle("strong", node.dataset.run === String(shown));
  }
}

const MARKERS = [
  "M-4,0A4,4 0 1 0 4,0A4,4 0 1 0 -4,0Z",
  "M-4,-4H4V4H-4Z",
  "M0,-5L5,4H-5Z",
  "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
  "M0,5L5,-4H-5Z",
  "M-4.5,-1.5H-1.5V-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5Z",
  "M-5,-2L0,-5L5,-2L3,4H-3Z",
  "M-2.5,-5H2.5V5H-2.5Z",
  "M-2,0A2,2 0 1 0 2,0A2,2 0 1 0 -2,0Z",
];

/** The mark of a run at a place of a chart. */
function marker(run, x, y) {
  const slot = slotOf(run);
  return svg("path", {
    class: `mark series slot${slot}`,
    d: MARKERS[slot],
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
  });
}

/** The sample of a run's line and mark, for legends. */
function swatch(run) {
  const slot = slotOf(run);
  return svg(
    "svg",
    { class: "swatch", viewBox: "-15 -7 30 14", width: 30, height: 14, "aria-hidden": "true" },
    svg("path", { class: `line series slot${slot}`, d: "M-15,0H15" }),
    marker(run, 0, 0),
  );
}

/** The line of runs above the charts: a legend, and the list in which runs are chosen. */
function addRunbar() {
  const names = el("ul");
  const more = el("span", { class: "more" });
  const list = RUNS.length > 1 ? picker() : null;
  document
    .querySelector(".runbar")
    .append(
      el(
        "section",
        { class: "legend", "aria-label": "Runs in the charts" },
        names,
        more,
        list?.box,
      ),
    );
  return () => {
    const coloured = chosen.filter((run) => slots.has(run));
    const rest = chosen.length - coloured.length;
    clear(names).append(...coloured.map((run) => el("li", {}, chip(run))));
    more.textContent = rest > 0 ? `and ${count(rest, "run")} in grey` : "";
    list?.update();
  };
}

function chip(run) {
  const note = run === BASELINE && RUNS.length > 1 ? el("small", {}, " baseline") : null;
  const button = el(
    "button",
    {
      type: "button",
      class: "chip",
      "aria-pressed": "false",
      title: "Stand out in the charts",
      onmouseenter: () => emphasise(run),
      onmouseleave: () => emphasise(null),
      onfocus: () => emphasise(run),
      onblur: () => emphasise(null),
      onclick: () => {
        pinned = pinned === run ? null : run;
        for (const other of document.querySelectorAll(".chip")) {
          other.setAttribute("aria-pressed", String(other === button && pinned === run));
        }
        emphasise(null);
      },
    },
    swatch(run),
    el("span", {}, RUNS[run].name),
    note,
  );
  return button;
}

function picker() {
  const boxes = RUNS.map((run, index) =>
    toggle(run.name, false, (on) =>
      choose(on ? [...chosen, index] : chosen.filter((other) => other !== index)),
    ),
  );
  const query = newId("query");
  const find = () => {
    const wanted = input.value.toLowerCase();
    for (const box of boxes) box.hidden = !box.textContent.toLowerCase().includes(wanted);
  };
  const input = el("input", { id: query, type: "search", oninput: find });
  const popup = el(
    "div",
    { class: "popup" },
    el("div", { class: "field" }, el("label", { for: query }, "Find"), input),
    el(
      "div",
      { class: "buttons" },
      button("Best", chooseBest),
      button("All", () => choose(RUNS.keys())),
      button("Baseline only", () => choose([BASELINE])),
    ),
    el("div", { class: "choices" }, boxes),
  );
  const update = () =>
    boxes.forEach((box, run) => {
      box.querySelector("input").checked = chosen.includes(run);
    });
  return { box: foldOut("Choose runs", popup), update };
}

/** A box that opens under its name and closes on Escape. */
function foldOut(name, content) {
  const box = el(
    "details",
    {
      class: "picker",
      onkeydown: (event) => {
        if (event.key !== "Escape") return;
        box.open = false;
        box.querySelector("summary").focus();
      },
    },
    el("summary", {}, name),
    content,
  );
  return box;
}

function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}
