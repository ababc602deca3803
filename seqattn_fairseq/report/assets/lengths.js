// Quality by length, length generalisation, and alignment error rates.

const ENOUGH = 30; // sentences; BLEU of fewer is mostly chance

/** The parts of the chosen runs that are there: [[run, part], ...]. */
async function chosenParts(part) {
  const found = await Promise.all(chosen.map(async (run) => [run, (await details(run))[part]]));
  return found.filter(([, values]) => values.length > 0);
}

/** A section of a part of the runs: a sentence where no run has it, and where some lack it. */
function partSection(root, part, remedy, drawParts, controls = null) {
  if (!RUNS.some((run) => run.has[part])) {
    root.append(absent(remedy));
    return () => {};
  }
  const holder = el("div");
  if (controls) root.append(controls);
  root.append(holder);
  return async () => {
    const found = await chosenParts(part);
    clear(holder);
    if (found.length > 0) drawParts(holder, found);
    const missing = chosen.filter((run) => !found.some(([other]) => other === run));
    if (missing.length > 0) holder.append(absent(`Not measured for: ${runNames(missing)}.`));
  };
}

function lengthsSection(root) {
  const remedy = "BLEU by length has not been computed; seqattn analyse RUN does.";
  return partSection(root, "lengths", remedy, (holder, found) => {
    const labels = [...new Set(found.flatMap(([, bins]) => bins.map((bin) => bin.label)))];
    labels.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const places = labels.map((_, index) => index);
    const sizes = labels.map((label) => binOf(found[0][1], label)?.sentences ?? 0);
    const points = (bins) =>
      labels.map((label, index) => [
        index,
        sizes[index] < ENOUGH ? null : (binOf(bins, label)?.bleu ?? null),
      ]);
    const options = {
      label: "BLEU by length of the source",
      x: {
        label: "words of the source",
        kind: "linear",
        ticks: places,
        range: [-0.4, labels.length - 0.6],
        text: (x) => labels[x],
      },
      y: { label: "BLEU", kind: "linear", exact: (value) => number(value, 2) },
      series: found.map(([run, bins]) => ({ run, points: points(bins) })),
      marked: true,
      discrete: true,
      bars: { label: "sentences", values: sizes.map((size, index) => [index, size]) },
      readout: (x) => `${labels[x]} words, ${count(sizes[x], "sentence")}`,
    };
    const few = labels.filter((_, index) => sizes[index] < ENOUGH);
    const drawn = few.length < labels.length;
    if (drawn) holder.append(lineChart(options, holder.clientWidth));
    if (few.length > 0) {
      const why = tooFew(few, labels, sizes);
      holder.append(drawn ? el("p", { class: "about" }, why) : absent(why));
    }
    holder.append(asTable(() => binTable(found, labels)));
  });
}

/** What is not drawn, and why. */
function tooFew(few, labels, sizes) {
  const named = few.map((label) => `${label} words (${number(sizes[labels.indexOf(label)])})`);
  const why = `Not drawn, as BLEU of fewer than ${ENOUGH} sentences is mostly chance`;
  return `${why}: ${named.join(", ")}. “Values as a table” has them.`;
}

function binOf(bins, label) {
  return bins.find((bin) => bin.label === label);
}

function binTable(found, labels) {
  const rows = found.flatMap(([run, bins]) =>
    labels.map((label) => ({ run, ...binOf(bins, label), label })),
  );
  return table(
    "BLEU by length of the source",
    [
      { label: "Run", cell: (row) => RUNS[row.run].name, sort: (row) => RUNS[row.run].name },
      { label: "Words", cell: (row) => row.label, sort: (row) => labels.indexOf(row.label) },
      plainColumn("Sentences", "sentences", 0),
      plainColumn("BLEU", "bleu", 2),
      plainColumn("Length ratio", "length_ratio", 3),
    ],
    rows,
  );
}

function plainColumn(label, key, digits) {
  return { label, numeric: true, cell: (row) => number(row[key], digits), sort: (row) => row[key] };
}

const AGAINST_LENGTH = [
  ["bleu", "BLEU", "linear"],
  ["tokens_per_second", "tokens per second", "log"],
  ["peak_memory_mib", "peak memory, MiB", "log"],
];

function generalisationSection(root) {
  const remedy = "Longer inputs have not been tried; seqattn analyse RUN joins sentences and does.";
  return partSection(root, "generalisation", remedy, (holder, found) => {
    const room = holder.clientWidth;
    const columns = room >= 900 ? 3 : room >= 600 ? 2 : 1;
    const width = Math.floor((room - (columns - 1) * 28) / columns);
    const figures = AGAINST_LENGTH.filter(([key]) =>
      found.some(([, rows]) => rows.some((row) => known(row[key]))),
    ).map(([key, label, kind]) => {
      const options = {
        label: `${label} by length of the input`,
        x: {
          label: "source tokens a line",
          kind: "log",
          ticks: lengthsOf(found),
          text: (x) => number(x),
        },
        y: { label, kind },
        series: found.map(([run, rows]) => ({
          run,
          points: rows.map((row) => [row.source_tokens, row[key]]),
        })),
        marked: true,
        compact: true,
        readout: (x) => `${brief(x, 4)} tokens`,
      };
      return lineChart(options, width);
    });
    holder.append(
      el("div", { class: `columns columns${columns}` }, figures),
      asTable(() => generalisationTable(found)),
    );
    if (figures.length < AGAINST_LENGTH.length)
      holder.append(absent("What is not drawn was not measured."));
  });
}

/** The lengths that were tried, as ticks. */
function lengthsOf(found) {
  return found[0][1].map((row) => row.source_tokens);
}

function generalisationTable(found) {
  const rows = found.flatMap(([run, parts]) => parts.map((part) => ({ run, ...part })));
  return table(
    "Inputs of k consecutive sentences",
    [
      { label: "Run", cell: (row) => RUNS[row.run].name, sort: (row) => RUNS[row.run].name },
      plainColumn("k", "k", 0),
      plainColumn("Source tokens", "source_tokens", 1),
      plainColumn("BLEU", "bleu", 2),
      plainColumn("Tokens/s", "tokens_per_second", 0),
      plainColumn("Memory MiB", "peak_memory_mib", 0),
    ],
    rows,
  );
}

function alignmentSection(root) {
  const kinds = {
    normal: "with the piece it predicts",
    shifted: "with the piece it reads (shifted)",
  };
  const measures = { best: "best head", mean: "mean of the heads" };
  const state = { kind: "normal", measure: "best" };
  let draw = null;
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };
  const controls = el(
    "p",
    { class: "controls" },
    choice("A step's attention goes", Object.entries(kinds), state.kind, change("kind")),
    choice("Heads", Object.entries(measures), state.measure, change("measure")),
  );
  const remedy = "No alignment error rates; seqattn analyse RUN with gold alignments makes them.";
  draw = partSection(
    root,
    "alignment",
    remedy,
    (holder, found) => {
      const layers = [...new Set(found.flatMap(([, rows]) => rows.map((row) => row.layer)))].sort(
        (a, b) => a - b,
      );
      const options = {
        label: "Alignment error rate by layer, lower is better",
        x: { label: "layer", kind: "linear", ticks: layers },
        y: {
          label: "alignment error rate (lower is better)",
          kind: "linear",
          exact: (value) => number(value, 3),
        },
        series: found.map(([run, rows]) => ({
          run,
          points: rows
            .filter((row) => row.kind === state.kind)
            .map((row) => [row.layer, row[state.measure]]),
        })),
        marked: true,
        discrete: true,
        readout: (x) => `layer ${x}`,
      };
      holder.append(
        lineChart(options, holder.clientWidth),
        asTable(() => alignmentTable(found)),
      );
    },
    controls,
  );
  return draw;
}

function alignmentTable(found) {
  const rows = found.flatMap(([run, parts]) => parts.map((part) => ({ run, ...part })));
  return table(
    "Alignment error rates",
    [
      { label: "Run", cell: (row) => RUNS[row.run].name, sort: (row) => RUNS[row.run].name },
      plainColumn("Layer", "layer", 0),
      { label: "Kind", cell: (row) => row.kind, sort: (row) => row.kind },
      plainColumn("Best head's number", "best_head", 0),
      plainColumn("Best head", "best", 3),
      plainColumn("Mean of heads", "mean", 3),
    ],
    rows,
  );
}
