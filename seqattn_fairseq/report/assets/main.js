// The page: its sections in order, each drawn again when the chosen runs or the width change.

// Name in the address, short title, title, and the function that builds it.
const SECTIONS = [
  ["summary", "Scores", "Scores and costs", scoresSection],
  ["curves", "Curves", "Learning curves", curvesSection],
  ["attention", "Attention", "Attention by layer and head", attentionSection],
  ["lengths", "Length", "Quality by length", lengthsSection],
  ["generalisation", "Longer inputs", "Quality and cost on longer inputs", generalisationSection],
  ["alignment", "Alignment", "Attention as word alignment", alignmentSection],
  ["texts", "Repetition", "Length and repetition of the outputs", textsSection],
  ["agreement", "Agreement", "Agreement between the systems", agreementSection],
  ["explorer", "Sentences", "Sentences", explorerSection],
  ["notes", "Notes", "Notes, and what is missing", notesSection],
];

function scoresSection(root) {
  summarySection(root);
  const draws = [dotsSection(root), tradeoffSection(root)];
  return () => draws.forEach((draw) => draw());
}

/** What is missing, and the command that makes it. */
function notesSection(root) {
  const notes = [
    ...overview.notes.map((note) => ["", note]),
    ...RUNS.flatMap((run) => run.notes.map((note) => [run.name, note])),
  ];
  if (notes.length === 0)
    root.append(el("p", {}, "Nothing is missing: every figure of this page was there."));
  else {
    const columns = [
      { label: "Run", cell: ([name]) => name || "all", sort: ([name]) => name },
      { label: "Note", cell: ([, note]) => note },
    ];
    root.append(table("Notes", columns, notes));
  }
  return () => {};
}

/** Put a section on the page and return the function that draws it. */
function addSection([id, , title, build]) {
  const body = el("div", { class: "body" });
  const heading = el("h2", { id: `${id}-title` }, title);
  document
    .querySelector("main")
    .append(el("section", { id, tabindex: -1, "aria-labelledby": `${id}-title` }, heading, body));
  return build(body);
}

function drawNavigation() {
  const links = SECTIONS.map(([id, title]) => el("li", {}, el("a", { href: `#${id}` }, title)));
  document.querySelector("nav.sections").append(el("ul", {}, links));
}

/** A frame has passed: what was drawn is on the screen. */
function nextFrame() {
  return new Promise((resolve) => {
    setTimeout(resolve);
  });
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    const text =
      "This browser cannot unpack the page's data; use one that was released after May 2023.";
    document.querySelector("main").append(el("p", { class: "alert", role: "alert" }, text));
    return;
  }
  drawHeader();
  drawNavigation();
  const drawRunbar = addRunbar();
  chooseBest();
  drawRunbar();
  const draws = [drawRunbar];
  for (const section of SECTIONS) {
    const draw = addSection(section);
    draws.push(draw);
    await draw();
    await nextFrame();
  }
  redrawOnChange(draws);
  document.documentElement.dataset.ready = "true";
}

/** Draw all again, never twice at a time, when other runs are chosen or the width changes. */
function redrawOnChange(draws) {
  let wanted = false;
  let drawing = false;
  const redraw = async () => {
    wanted = true;
    if (drawing) return;
    drawing = true;
    while (wanted) {
      wanted = false;
      for (const draw of draws) await draw();
    }
    drawing = false;
  };
  document.addEventListener("chosen", redraw);
  let width = document.documentElement.clientWidth;
  let waiting = null;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
}

start();
