// Line charts with a read-out that follows the mouse, a finger or the arrow keys.

const END_LABEL = 22; // characters of a name at the end of a line
const TICK_ROOM = 42; // pixels

/**
 * A line chart of some width.
 *
 * Options: label; x and y: {label, kind: "linear" or "log", text(value), ticks}; series:
 * [{run, points: [[x, y], ...]}], where an unknown y breaks the line; marked: a mark at every
 * point; discrete: nothing is read off between points; compact: low and without names; bars:
 * {label, values: [[x, height], ...]}; readout(x) -> text of the place.
 */
function lineChart(options, width) {
  const series = options.series.map(({ run, points }) => drawn(run, points, options));
  const xs = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort(
    (a, b) => a - b,
  );
  if (xs.length === 0) return absent("None of the chosen runs has these values.");
  const chart = { ...options, series, xs, at: xs.length - 1, width };
  layOut(chart);
  const readout = el("div", { class: "readout", "aria-hidden": "true" });
  const picture = paint(chart);
  listen(chart, picture, readout);
  show(chart, picture, readout, chart.at);
  return el("figure", {}, picture, readout);
}

/** Every second or third of the ticks where there is no room for all. */
function thinned(ticks, room) {
  const every = Math.ceil((ticks.length * TICK_ROOM) / room);
  return ticks.filter((_, index) => index % every === 0);
}

/** What can be drawn of a series: its known points, and those of them that follow on a gap. */
function drawn(run, all, { x, y }) {
  const fits = (value, axis) => known(value) && (axis.kind !== "log" || value > 0);
  const there = ([left, up]) => fits(left, x) && fits(up, y);
  const points = all.filter(there);
  const starts = new Set(all.filter((point, at) => at === 0 || !there(all[at - 1])));
  return { run, points, starts };
}

function layOut(chart) {
  const labels = chart.width >= 640 && chart.series.length > 1 && !chart.compact;
  const barHeight = chart.bars ? 54 : 0;
  chart.labelled = labels;
  const names = chart.series.map((one) => Math.min(END_LABEL, RUNS[one.run].name.length));
  const room = labels ? 34 + 7.4 * Math.max(...names) : 14;
  chart.frame = { left: 52, right: chart.width - room, top: 22, bottom: chart.compact ? 210 : 300 };
  chart.height = chart.frame.bottom + 42 + barHeight;
  const { left, right, top, bottom } = chart.frame;
  const ys = chart.series.flatMap((one) => one.points.map(([, y]) => y));
  const xRange = chart.x.range ?? extent(chart.xs);
  const xPlaces = xRange[0] === xRange[1] ? padded(xRange, chart.x.kind) : xRange;
  chart.xScale = scale(chart.x.kind, xPlaces, [left, right], Math.max(2, (right - left) / 90));
  if (chart.x.ticks) chart.xScale.ticks = thinned(chart.x.ticks, right - left);
  chart.yScale = scale(chart.y.kind, padded(extent(ys), chart.y.kind), [bottom, top], 5);
}

function paint(chart) {
  const { frame, xScale, yScale } = chart;
  const names = { x: chart.x.label, y: chart.y.label, xText: chart.x.text, yText: chart.y.text };
  const picture = svg(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${chart.width} ${chart.height}`,
      width: chart.width,
      height: chart.height,
      role: "slider",
      tabindex: 0,
      "aria-label": `${chart.label}; arrow keys move along ${chart.x.label}`,
      "aria-valuemin": 0,
      "aria-valuemax": chart.xs.length - 1,
    },
    axes(frame, xScale, yScale, names),
    chart.bars ? bars(chart) : null,
    svg("path", { class: "cursor", d: `M0,${frame.top}V${frame.bottom}` }),
    // Grey lines first, the baseline last: it lies on top.
    [...chart.series]
      .sort((a, b) => slotOf(b.run) - slotOf(a.run))
      .map((one) => drawSeries(chart, one)),
  );
  if (chart.labelled) picture.append(...endLabels(chart));
  return picture;
}

function drawSeries(chart, one) {
  const places = one.points.map(([x, y]) => [chart.xScale.place(x), chart.yScale.place(y)]);
  const pen = (index) => (one.starts.has(one.points[index]) ? "M" : "L");
  const d = places.map(([x, y], index) => `${pen(index)}${x.toFixed(1)},${y.toFixed(1)}`).join("");
  // A single point is no line.
  const marked = chart.marked || places.length === 1;
  return svg(
    "g",
    { class: "run", "data-run": one.run },
    svg("path", { class: `line series slot${slotOf(one.run)}`, d }),
    marked ? places.map(([x, y]) => marker(one.run, x, y)) : null,
  );
}

/** Names at the ends of the coloured lines, pushed apart where they would meet. */
function endLabels(chart) {
  const { frame, xScale, yScale } = chart;
  const ends = chart.series
    .filter((one) => one.points.length > 0 && slots.has(one.run))
    .map((one) => {
      const [x, y] = one.points[one.points.length - 1];
      return { run: one.run, x: xScale.place(x), from: yScale.place(y), y: yScale.place(y) };
    })
    .sort((a, b) => a.y - b.y);
  spread(ends, 15, frame.top + 4, frame.bottom);
  return ends.map((end) =>
    svg(
      "g",
      { class: "run", "data-run": end.run, "aria-hidden": "true" },
      svg("path", {
        class: `leader series slot${slotOf(end.run)}`,
        d: `M${end.x + 3},${end.from}L${frame.right + 14},${end.y}H${frame.right + 20}`,
      }),
      text(
        shortened(RUNS[end.run].name, END_LABEL),
        frame.right + 24,
        end.y + 4,
        "start",
        "end-label",
      ),
    ),
  );
}

/** Move sorted places apart to at least a distance, within [low, high] where they fit. */
function spread(places, distance, low, high) {
  let edge = low;
  for (const place of places) {
    place.y = Math.max(place.y, edge);
    edge = place.y + distance;
  }
  edge = high;
  for (const place of [...places].reverse()) {
    place.y = Math.min(place.y, edge);
    edge = place.y - distance;
  }
}

function shortened(name, length) {
  return name.length > length ? `${name.slice(0, length - 1)}…` : name;
}

/** A strip of bars under the axis: how much each place rests on. */
function bars(chart) {
  const { frame, xScale } = chart;
  const base = frame.bottom + 82;
  const most = Math.max(...chart.bars.values.map(([, value]) => value), 1);
  const group = svg(
    "g",
    { "aria-hidden": "true" },
    text(chart.bars.label, 0, frame.bottom + 42, "start", "axis-label"),
  );
  for (const [x, value] of chart.bars.values) {
    const height = Math.max(1, (value / most) * 26);
    const at = xScale.place(x);
    group.append(svg("rect", { class: "bar", x: at - 11, y: base - height, width: 22, height }));
    if (xScale.ticks.includes(x)) group.append(text(number(value), at, base + 13));
  }
  return group;
}

function listen(chart, picture, readout) {
  const near = (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * chart.width;
    const distance = (x) => Math.abs(chart.xScale.place(x) - at);
    let best = 0;
    chart.xs.forEach((x, index) => {
      if (distance(x) < distance(chart.xs[best])) best = index;
    });
    const height = ((event.clientY - box.top) / box.height) * chart.height;
    show(chart, picture, readout, best, height);
  };
  picture.addEventListener("pointermove", near);
  picture.addEventListener("pointerdown", near);
  picture.addEventListener("keydown", (event) => {
    const last = chart.xs.length - 1;
    const page = Math.ceil(chart.xs.length / 10);
    const target = {
      ArrowLeft: chart.at - 1,
      ArrowDown: chart.at - 1,
      ArrowRight: chart.at + 1,
      ArrowUp: chart.at + 1,
      PageDown: chart.at - page,
      PageUp: chart.at + page,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    show(chart, picture, readout, Math.min(last, Math.max(0, target)));
  });
}

/** Put the read-out to a place: the values of the coloured runs, and of the grey one nearby. */
function show(chart, picture, readout, at, height = null) {
  chart.at = at;
  const x = chart.xs[at];
  const place = chart.xScale.place(x).toFixed(1);
  picture
    .querySelector(".cursor")
    .setAttribute("d", `M${place},${chart.frame.top}V${chart.frame.bottom}`);
  const values = chart.series
    .map((one) => ({ ...one, value: valueAt(one.points, x, chart.discrete) }))
    .filter((one) => one.value !== null);
  const grey = values.filter((one) => !slots.has(one.run));
  const distance = (one) => Math.abs(chart.yScale.place(one.value) - height);
  grey.sort((a, b) => distance(a) - distance(b));
  const shown = values
    .filter((one) => slots.has(one.run))
    .concat(height === null ? [] : grey.slice(0, 1));
  const print = (value) => (chart.y.exact ?? brief)(value, 4);
  const title = chart.readout ? chart.readout(x) : `${chart.x.label} ${number(x)}`;
  const name = (one) => RUNS[one.run].name;
  clear(readout).append(
    el("b", {}, title),
    ...shown.map((one) =>
      el("span", {}, swatch(one.run), name(one), " ", el("b", {}, print(one.value))),
    ),
  );
  picture.setAttribute("aria-valuenow", at);
  picture.setAttribute(
    "aria-valuetext",
    `${title}: ${shown.map((one) => `${name(one)} ${print(one.value)}`).join(", ")}`,
  );
}

/** The value at x; unless discrete, else the nearest point's, but null beyond the ends. */
function valueAt(points, x, discrete) {
  if (discrete) return points.find(([place]) => place === x)?.[1] ?? null;
  if (points.length === 0 || x < points[0][0] || x > points[points.length - 1][0]) return null;
  let best = points[0];
  for (const point of points) {
    if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best[1];
}
