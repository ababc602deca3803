// Properties of the outputs: length ratios, repetition, and how much the systems agree.

const REFERENCE = "reference ";

const MEASURES = {
  rep1: "Repeated words",
  rep2: "Repeated pairs",
  rep3: "Repeated triples",
  rep4: "Repeated fours",
  loops: "Lines in a loop",
};

function textsSection(root) {
  const all = [...new Set(RUNS.flatMap((run) => Object.keys(run.repetition ?? {})))];
  const measures = all.filter((name) => !name.startsWith(REFERENCE));
  const rows = RUNS.map((_, run) => run).filter(
    (run) => known(RUNS[run].length_ratio) || RUNS[run].repetition,
  );
  if (rows.length === 0) {
    root.append(
      absent("Length ratios and repetition are missing; seqattn analyse RUN makes them."),
    );
    return () => {};
  }
  const ratio = (run) => RUNS[run].length_ratio;
  const columns = [
    { label: "Run", cell: (run) => RUNS[run].name, sort: (run) => RUNS[run].name },
    {
      label: "Length, output / reference",
      numeric: true,
      cell: (run) => number(ratio(run), 3),
      sort: ratio,
    },
    ...measures.map(repetitionColumn),
  ];
  const about =
    "Repeated: the share of words, or of groups of neighbouring words, that occurred before in " +
    "the same line. Languages repeat by themselves: a line across a bar is the reference. " +
    "Every column has a scale of its own.";
  const explained = measures.length > 0 ? el("p", { class: "about" }, about) : null;
  root.append(...[explained, table("Length ratio and repetition", columns, rows)].filter(Boolean));
  return () => {};
}

/** Shares with bars, all on the scale of the column's largest, and the reference's share. */
function repetitionColumn(measure) {
  const value = (run) => RUNS[run].repetition?.[measure] ?? null;
  const reference = (run) => RUNS[run].repetition?.[REFERENCE + measure] ?? null;
  const shares = RUNS.flatMap((_, run) => [value(run), reference(run)]);
  const most = extent(shares)?.[1] || 1;
  return {
    label: MEASURES[measure] ?? measure,
    numeric: true,
    descending: true,
    sort: value,
    cell: (run) => {
      if (!known(value(run))) return UNKNOWN;
      const told = known(reference(run)) ? `reference ${percent(reference(run), 2)}` : null;
      const bar = shareBar(value(run) / most, known(reference(run)) ? reference(run) / most : null);
      return [percent(value(run), 2), bar, told ? el("small", {}, told) : null].filter(Boolean);
    },
  };
}

function shareBar(share, mark) {
  const bar = el("span", { class: "share-bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", `${100 * share}%`);
  if (mark !== null) {
    const line = el("span", { class: "share-mark" });
    line.style.setProperty("--mark", `${100 * mark}%`);
    bar.append(line);
  }
  return bar;
}

function agreementSection(root) {
  if (overview.agreement.length === 0 || RUNS.length < 2) {
    root.append(absent("Agreement needs two runs or more with translations."));
    return () => {};
  }
  let metric = 0;
  const holder = el("div");
  const draw = async () => drawAgreement(clear(holder), (await matrices(0))[metric]);
  const metrics = overview.agreement.map((name, index) => [String(index), name]);
  const select = choice("Agreement by", metrics, "0", (value) => {
    metric = Number(value);
    draw();
  });
  root.append(el("p", { class: "controls" }, select), holder);
  return draw;
}

function drawAgreement(holder, matrix) {
  const runs = chosen;
  const others = runs.flatMap((row) =>
    runs.filter((column) => column !== row).map((column) => matrix[row][column]),
  );
  // The diagonal would take all the colours: a system always agrees with itself.
  const range = extent(others);
  if (!range) return holder.append(absent("Choose two runs or more that have translations."));
  const names = runs.map((run) => RUNS[run].name);
  const longest = Math.max(...names.map((name) => name.length));
  const rowWidth = Math.min(150, 12 + 7 * longest);
  const room = holder.clientWidth - rowWidth - 60;
  const side = Math.max(14, Math.min(58, Math.floor(room / runs.length)));
  const readout = el(
    "p",
    { class: "readout" },
    "Point at a cell, or go to the map and use the arrow keys.",
  );
  const say = (row, column) =>
    `${names[row]} and ${names[column]}: ${number(matrix[runs[row]][runs[column]], 2)}`;
  const map = heatMap({
    label: "Agreement of the chosen runs",
    rows: names,
    columns: names,
    value: (row, column) => (row === column ? undefined : matrix[runs[row]][runs[column]]),
    range: range[0] === range[1] ? [0, range[1]] : range,
    size: { width: side, height: Math.min(side, 34) },
    rowWidth,
    columnHeight: Math.min(120, 24 + 5.2 * longest),
    slanted: true,
    written: side >= 38 ? (value) => number(value, 1) : null,
    readout,
    say,
  });
  holder.append(
    heatLegend(range, (value) => number(value, 1)),
    scrollBox("Agreement", map),
    readout,
  );
  holder.append(asTable(() => agreementTable(runs, names, matrix)));
}

function agreementTable(runs, names, matrix) {
  return table(
    "Agreement of the chosen runs",
    [
      { label: "Run", cell: (row) => names[row] },
      ...runs.map((run, column) => ({
        label: names[column],
        numeric: true,
        cell: (row) => number(matrix[runs[row]][run], 2),
        sort: (row) => matrix[runs[row]][run],
      })),
    ],
    runs.map((_, index) => index),
  );
}
