// What the page says first: the headline, and every figure of every run in one table.

// Key, name, decimals, and whether less is better.
const COSTS = [
  ["parameters", "Parameters", 0, true],
  ["updates", "Updates", 0, true],
  ["tokens_per_second", "Training tokens/s", 0, false],
  ["train_hours", "Training hours", 2, true],
  ["train_memory_mib", "Training memory, MiB", 0, true],
  ["decode_sentences_per_second", "Decoding sentences/s", 1, false],
];

function drawHeader() {
  const header = document.querySelector("header.page");
  const size = overview.sentences > 0 ? count(overview.sentences, "sentence") : null;
  const facts = [overview.pair, `${overview.subset} set`, size, count(RUNS.length, "run")];
  header.append(
    el("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    el("p", { class: "deck" }, headline()),
    el("p", { class: "made" }, `Made ${overview.made} by seqattn_fairseq ${overview.version}`),
  );
}

/** The best run by the first score, and how sure its distance from the baseline is. */
function headline() {
  const first = overview.scores[0];
  if (!first) return "None of these runs has been scored yet.";
  const best = bestFirst()[0];
  const value = score(best, first.key);
  if (!known(value)) return "None of these runs has been scored yet.";
  const { name } = RUNS[best];
  if (RUNS.length === 1) return `${first.name} of ${name}: ${number(value, 2)}.`;
  const lead = `Best by ${first.name}: ${name} with ${number(value, 2)}`;
  const base = score(BASELINE, first.key);
  if (best === BASELINE) return `${lead}, the baseline itself.`;
  if (!known(base)) return `${lead}. The baseline has no such score.`;
  const side = value < base ? "below" : "above";
  const away = `${number(Math.abs(value - base), 2)} ${side} the baseline`;
  return `${lead}, ${away} ${RUNS[BASELINE].name}; ${verdict(RUNS[best].scores[first.key])}.`;
}

/** A p-value in words. */
function verdict(cell) {
  if (!known(cell.p_value)) return "whether by chance was not tested";
  const found = cell.p_value < LEVEL ? "a difference" : "no difference";
  return `the paired test finds ${found} (${pValue(cell.p_value)})`;
}

function summarySection(root) {
  const rows = RUNS.map((_, run) => run);
  root.append(filterField(root, rows), el("div", { class: "holder" }), signatures());
  writeSummary(root, rows);
}

function filterField(root, rows) {
  if (RUNS.length < 12) return el("span");
  const id = newId("filter");
  const input = el("input", {
    id,
    type: "search",
    oninput: () => {
      const wanted = input.value.toLowerCase();
      const named = (run) => `${RUNS[run].name} ${RUNS[run].variant}`.toLowerCase();
      writeSummary(
        root,
        rows.filter((run) => named(run).includes(wanted)),
      );
    },
  });
  return el(
    "p",
    { class: "controls" },
    el("span", { class: "field" }, el("label", { for: id }, "Find a run"), input),
  );
}

function writeSummary(root, rows) {
  const caption = `Scores and costs, ${count(rows.length, "run")}`;
  clear(root.querySelector(".holder")).append(table(caption, summaryColumns(), rows));
}

function summaryColumns() {
  const costs = COSTS.filter(([key]) => RUNS.some((run) => known(run[key])));
  const columns = [
    { label: "Run", cell: runName, sort: (run) => RUNS[run].name },
    ...overview.scores.map(scoreColumn),
    ...costs.map(costColumn),
  ];
  if (RUNS.some((run) => run.hardware)) {
    columns.push({ label: "Hardware", cell: (run) => RUNS[run].hardware ?? UNKNOWN });
  }
  return columns;
}

function costColumn([key, label, digits, lower]) {
  return {
    label,
    numeric: true,
    descending: !lower,
    cell: (run) => number(RUNS[run][key], digits),
    sort: (run) => RUNS[run][key],
  };
}

function runName(run) {
  const { name, variant } = RUNS[run];
  const marks = [];
  if (run === BASELINE && RUNS.length > 1) marks.push(el("small", { class: "tag" }, "baseline"));
  if (variant && variant !== name) marks.push(el("small", {}, variant));
  return el("span", { class: "run-name", title: RUNS[run].folder }, el("span", {}, name), marks);
}

function scoreColumn({ key, name }) {
  const distinct = new Set(RUNS.map((run) => run.scores[key]?.signature).filter(known));
  return {
    label: distinct.size > 1 ? `${name} (settings differ)` : name,
    numeric: true,
    descending: !lowerIsBetter(key),
    sort: (run) => score(run, key),
    cell: (run) => scoreCell(RUNS[run].scores[key], score(BASELINE, key), run),
  };
}

/** Value, 95 % interval of the bootstrap, and the p-value with a mark that needs no colour. */
function scoreCell(cell, base, run) {
  if (!cell || !known(cell.value)) return UNKNOWN;
  const parts = [el("span", { class: "value" }, number(cell.value, 2))];
  const ends = intervalOf(cell);
  if (ends) {
    const printed = `${number(ends[0], 1)} to ${number(ends[1], 1)}`;
    parts.push(el("small", {}, hiddenText("95 % interval "), printed));
  }
  if (known(cell.p_value) && run !== BASELINE) parts.push(testMark(cell, base));
  return parts;
}

/** The ends of the 95 % interval of the bootstrap, or null. */
function intervalOf(cell) {
  if (!known(cell?.mean) || !known(cell.interval)) return null;
  return [cell.mean - cell.interval, cell.mean + cell.interval];
}

function testMark(cell, base) {
  const sure = cell.p_value < LEVEL && cell.value !== base;
  const higher = cell.value > base;
  const [mark, word] = sure ? (higher ? ["▲", "higher"] : ["▼", "lower"]) : ["≈", "unsure"];
  return el(
    "small",
    { class: sure ? "test sure" : "test" },
    el("span", { "aria-hidden": "true" }, `${mark} `),
    hiddenText(`${word}, `),
    pValue(cell.p_value),
  );
}

function signatures() {
  if (overview.scores.length === 0)
    return absent("No scores yet; seqattn evaluate RUN makes them.");
  const lines = overview.scores.map(({ key, name }) => {
    const used = new Set(RUNS.map((run) => run.scores[key]?.signature).filter(known));
    const texts = [...used].map((index) => el("code", {}, overview.signatures[index]));
    return [el("dt", {}, name), el("dd", {}, texts)];
  });
  return el("div", { class: "key" }, tableKey(), el("dl", {}, lines.flat()));
}

/** What stands under the scores, if anything does. */
function tableKey() {
  const cells = RUNS.flatMap((run) => Object.values(run.scores));
  const words = [];
  if (cells.some(intervalOf)) words.push("Under a score: the 95 % interval of the bootstrap.");
  if (cells.some((cell) => known(cell.p_value))) {
    words.push(
      "The p-value is that of the paired test against the baseline, not corrected for the",
      `number of runs: ▲ higher and ▼ lower with p < ${LEVEL}; ≈ no difference shown.`,
    );
  }
  return words.length > 0 ? el("p", {}, words.join(" ")) : null;
}
