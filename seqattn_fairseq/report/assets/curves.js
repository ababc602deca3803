// Learning curves of the chosen runs.

// The first updates fall so far that they press the differences of all later ones into a line.
const SPANS = [
  ["0", "all"],
  ["0.25", "without the first quarter"],
  ["0.5", "without the first half"],
  ["0.9", "the last tenth"],
];

function curvesSection(root) {
  if (!RUNS.some((run) => run.has.curves)) {
    root.append(absent("No learning curves: the logs of these trainings were not found."));
    return () => {};
  }
  const state = { name: null, from: "0.25", x: "linear", y: "linear" };
  const controls = el("p", { class: "controls" });
  const holder = el("div");
  root.append(controls, holder);
  const draw = async () => {
    const found = await Promise.all(chosen.map(async (run) => [run, (await details(run)).curves]));
    const names = [...new Set(found.flatMap(([, curves]) => curves.map((curve) => curve.name)))];
    if (!names.includes(state.name)) {
      state.name = names.find((name) => name === "valid loss") ?? names[0] ?? null;
    }
    writeCurveControls(controls, names, state, draw);
    drawCurves(clear(holder), found, state);
  };
  return draw;
}

function writeCurveControls(controls, names, state, draw) {
  // Rewritten only when the curves on offer change: a control in use keeps its focus.
  const offer = names.join("\n");
  if (controls.dataset.offer === offer) return;
  controls.dataset.offer = offer;
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };
  const kind = (key) => (on) => change(key)(on ? "log" : "linear");
  clear(controls).append(
    choice(
      "Curve",
      names.map((name) => [name, name]),
      state.name,
      change("name"),
    ),
    choice("Updates", SPANS, state.from, change("from")),
    toggle("logarithmic updates", state.x === "log", kind("x")),
    toggle("logarithmic values", state.y === "log", kind("y")),
  );
}

function drawCurves(holder, found, state) {
  const whole = found.flatMap(([run, curves]) =>
    curves
      .filter((curve) => curve.name === state.name)
      .map((curve) => ({ run, points: curve.x.map((x, index) => [x, curve.y[index]]) })),
  );
  // Of the shortest training, so that no run vanishes.
  const ends = whole.map((one) => extent(one.points.map(([x]) => x))?.[1] ?? 0);
  const from = state.from * Math.min(...ends);
  const series = whole.map(({ run, points }) => ({
    run,
    points: points.filter(([x]) => x >= from),
  }));
  const options = {
    label: `${state.name} over the training`,
    x: { label: "update", kind: state.x },
    y: { label: state.name, kind: state.y },
    series,
  };
  holder.append(
    lineChart(options, holder.clientWidth),
    asTable(() => curveTable(whole, state.name)),
  );
  const missing = chosen.filter((run) => !series.some((one) => one.run === run));
  if (missing.length > 0) holder.append(absent(`Without this curve: ${runNames(missing)}.`));
}

function runNames(runs) {
  return runs.map((run) => RUNS[run].name).join(", ");
}

function curveTable(series, name) {
  const places = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort(
    (a, b) => a - b,
  );
  const values = series.map((one) => new Map(one.points));
  const columns = [
    { label: "Update", numeric: true, cell: (x) => number(x) },
    ...series.map((one, index) => ({
      label: RUNS[one.run].name,
      numeric: true,
      cell: (x) => brief(values[index].get(x), 5),
    })),
  ];
  return table(`${name} of the chosen runs`, columns, places);
}
