// One figure of every run as dots, scores with their 95 % intervals, against the baseline.

const DOT_ROWS = 24;
const DOT_STEP = 28;

/** What can be drawn: {key, name, lower, value(run), ends(run)} for each score and cost known. */
function measures() {
  const scores = overview.scores.map(({ key, name }) => ({
    key: `score ${key}`,
    name,
    lower: lowerIsBetter(key),
    digits: 2,
    value: (run) => score(run, key),
    ends: (run) => intervalOf(RUNS[run].scores[key]),
  }));
  const costs = COSTS.map(([key, name, digits, lower]) => ({
    key,
    name,
    lower,
    digits,
    value: (run) => RUNS[run][key],
    ends: () => null,
  }));
  const all = RUNS.map((_, run) => run);
  return [...scores, ...costs].filter(({ value }) => all.some((run) => known(value(run))));
}

function dotsSection(root) {
  const offered = measures();
  if (offered.length === 0) return () => {};
  let measure = offered[0];
  const holder = el("div");
  const draw = () => drawDots(clear(holder), measure);
  const options = offered.map(({ key, name }) => [key, name]);
  const select = choice("Figure", options, measure.key, (key) => {
    measure = offered.find((one) => one.key === key);
    draw();
  });
  root.append(el("h3", {}, "The runs in order"), el("p", { class: "controls" }, select), holder);
  return draw;
}

function drawDots(holder, { name, lower, digits, value, ends }) {
  const all = RUNS.map((_, run) => run).filter((run) => known(value(run)));
  const few = all.length <= DOT_ROWS;
  const runs = few ? all : all.filter((run) => chosen.includes(run));
  const better = (a, b) => (lower ? 1 : -1) * (value(a) - value(b));
  if (runs.length > 0) {
    const rows = runs
      .sort(better)
      .map((run) => ({ run, value: value(run), ends: ends(run), digits }));
    holder.append(dotPlot(rows, name, holder.clientWidth));
  }
  if (!few) holder.append(absent("The chosen runs that have it; the table above has all."));
}

function dotPlot(rows, name, width) {
  const narrow = width < 560;
  const bottom = 26 + rows.length * DOT_STEP;
  const right = width - (narrow ? 66 : 150);
  const frame = { left: narrow ? 96 : 170, right, top: 26, bottom };
  const values = rows.flatMap((row) => [row.value, ...(row.ends ?? [])]);
  const room = [frame.left, frame.right];
  const x = scale("linear", padded(extent(values), "linear"), room, (room[1] - room[0]) / 90);
  const height = bottom + 42;
  const base = rows.find((row) => row.run === BASELINE);
  return svg(
    "svg",
    {
      class: "chart dots",
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": `${name} of the runs; the table above has the figures`,
    },
    base && RUNS.length > 1 ? baselineBand(base, x, frame) : null,
    axes(frame, x, { ticks: [], place: () => 0 }, { x: name, y: "" }),
    rows.map((row, index) => dotRow(row, x, frame, frame.top + DOT_STEP * (index + 0.5), narrow)),
  );
}

function baselineBand(base, x, frame) {
  const group = svg("g");
  if (base.ends) {
    const [from, to] = base.ends.map(x.place);
    const height = frame.bottom - frame.top;
    group.append(svg("rect", { class: "band", x: from, width: to - from, y: frame.top, height }));
  }
  const at = x.place(base.value).toFixed(1);
  group.append(
    svg("path", { class: "baseline", d: `M${at},${frame.top - 4}V${frame.bottom}` }),
    text("baseline", Number(at), frame.top - 10, "middle"),
  );
  return group;
}

function dotRow(row, x, frame, y, narrow) {
  const slot = slotOf(row.run);
  const [low, high] = row.ends ?? [];
  const printed = row.ends && !narrow ? `  ${number(low, 1)} to ${number(high, 1)}` : "";
  const line = row.ends ? `M${x.place(low)},${y}H${x.place(high)}` : null;
  const name = shortened(RUNS[row.run].name, narrow ? 12 : 22);
  return svg(
    "g",
    { class: "run", "data-run": row.run },
    line ? svg("path", { class: `whisker series slot${slot}`, d: line }) : null,
    marker(row.run, x.place(row.value), y),
    text(name, frame.left - 12, y + 4, "end", "end-label"),
    svg(
      "text",
      { class: "tick", x: frame.right + 12, y: y + 4 },
      svg("tspan", { class: "strong-number" }, number(row.value, row.digits)),
      printed,
    ),
  );
}
