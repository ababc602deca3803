// The texts of a sentence: source, reference, and every output with what differs marked.

const LANGUAGES = overview.pair.split(/[-_]/u);
const SHOWN_OTHERS = 6; // outputs of runs that are not chosen, before they are folded

// Kept from sentence to sentence.
let othersOpen = false;

function sentenceTexts(sentence, against) {
  const [from, to] = LANGUAGES;
  const { reference, outputs } = sentence;
  const parts = [labelled("Source", textLine([sentence.source], from))];
  if (reference !== null) parts.push(labelled("Reference", textLine([reference], to)));
  const groups = outputGroups(outputs);
  if (groups.length === 0) return [...parts, absent("No run has translated it.")];
  const base = { reference, baseline: outputs[BASELINE] }[against] ?? null;
  const item = (group) => outputItem(group, base, sentence, against, to);
  const first = groups.filter((group) => group.rank < 2);
  const others = groups.filter((group) => group.rank === 2);
  return [
    ...parts,
    el("h3", {}, "Outputs"),
    ...(base === null ? [] : [differenceKey(against)]),
    el("ol", { class: "outputs" }, first.map(item)),
    ...(others.length > 0 ? [otherOutputs(others, item)] : []),
  ];
}

/** Outputs of the runs that are not chosen: folded, and made when unfolded, if they are many. */
function otherOutputs(groups, item) {
  const list = el("ol", { class: "outputs" });
  const write = () => list.append(...groups.map(item));
  if (groups.length <= SHOWN_OTHERS) {
    write();
    return list;
  }
  if (othersOpen) write();
  const box = el(
    "details",
    {
      class: "others",
      open: othersOpen,
      ontoggle: () => {
        othersOpen = box.open;
        if (box.open && list.children.length === 0) write();
      },
    },
    el("summary", {}, count(groups.length, "output"), " of the runs that are not chosen"),
    list,
  );
  return box;
}

function outputItem({ text, runs }, base, { reference }, against, language) {
  const own = against === "baseline" && runs.includes(BASELINE);
  const marked = base === null || own ? [text] : markedText(base, text);
  const who = el("p", { class: "who" }, whoWrote(runs, text, reference));
  return el("li", {}, who, textLine(marked, language));
}

function differenceKey(against) {
  return el(
    "p",
    { class: "diff-key" },
    `Against the ${against}: `,
    el("ins", {}, "only here"),
    " ",
    el("del", {}, "missing here"),
  );
}

function labelled(label, line) {
  return el("div", { class: "given" }, el("h3", {}, label), line);
}

function textLine(content, language) {
  const empty = content.length === 0 || (content.length === 1 && content[0] === "");
  if (empty) return el("p", { class: "text empty" }, "(empty line)");
  return el("p", { class: "text", dir: "auto", lang: language || null }, content);
}

/** Equal outputs together: baseline first, then the chosen runs, then the others. */
function outputGroups(outputs) {
  const rank = (run) => (run === BASELINE ? 0 : chosen.includes(run) ? 1 : 2);
  const order = outputs.map((_, run) => run).sort((a, b) => rank(a) - rank(b) || a - b);
  const groups = new Map();
  for (const run of order) {
    const output = outputs[run];
    if (output === null) continue;
    if (!groups.has(output)) groups.set(output, { text: output, rank: rank(run), runs: [] });
    groups.get(output).runs.push(run);
  }
  return [...groups.values()];
}

function whoWrote(runs, text, reference) {
  const names = runs.map((run) =>
    el(
      "span",
      { class: "writer" },
      chosen.includes(run) ? swatch(run) : null,
      RUNS[run].name,
      run === BASELINE && RUNS.length > 1 ? el("small", {}, " baseline") : null,
    ),
  );
  const exact = reference !== null && text === reference;
  return [...names, exact ? el("small", { class: "tag" }, "equals the reference") : null];
}
