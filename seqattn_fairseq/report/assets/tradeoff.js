// A score against a cost: each run a point of one picture.

function tradeoffSection(root) {
  const all = measures();
  const scores = all.filter((one) => one.key.startsWith("score "));
  const costs = all.filter((one) => !scores.includes(one));
  if (scores.length === 0 || costs.length === 0 || RUNS.length < 2) return () => {};
  const usual = costs.find((one) => one.key === "decode_sentences_per_second") ?? costs[0];
  const state = { score: scores[0], cost: usual };
  const holder = el("div");
  const draw = () => drawTradeoff(clear(holder), state);
  const select = (label, key, offered) =>
    choice(
      label,
      offered.map((one) => [one.key, one.name]),
      state[key].key,
      (value) => {
        state[key] = offered.find((one) => one.key === value);
        draw();
      },
    );
  const controls = [select("Score", "score", scores), select("Cost", "cost", costs)];
  root.append(
    el("h3", {}, "Quality against cost"),
    el("p", { class: "controls" }, controls),
    holder,
  );
  return draw;
}

function drawTradeoff(holder, { score: up, cost }) {
  const points = RUNS.map((_, run) => ({ run, x: cost.value(run), y: up.value(run) })).filter(
    ({ x, y }) => known(x) && known(y),
  );
  if (points.length === 0) {
    holder.append(absent("No run has both of these figures."));
    return;
  }
  const width = Math.min(holder.clientWidth, 860);
  const frame = { left: 52, right: width - 20, top: 22, bottom: 320 };
  const ranges = ["x", "y"].map((key) => padded(extent(points.map((one) => one[key])), "linear"));
  const x = scale("linear", ranges[0], [frame.left + 12, frame.right - 12], width / 130);
  const y = scale("linear", ranges[1], [frame.bottom - 10, frame.top + 10], 5);
  const better = (one) => `${one.name} (${one.lower ? "less" : "more"} is better)`;
  const height = frame.bottom + 42;
  const marks = points
    .map((one) => ({ ...one, left: x.place(one.x), up: y.place(one.y) }))
    .sort((a, b) => slotOf(b.run) - slotOf(a.run));
  const labels = labelPlaces(marks, width);
  holder.append(
    svg(
      "svg",
      {
        class: "chart",
        viewBox: `0 0 ${width} ${height}`,
        width,
        height,
        role: "img",
        "aria-label": `${up.name} against ${cost.name}; the table above has the figures`,
      },
      axes(frame, x, y, { x: better(cost), y: better(up) }),
      marks.map((one) => tradeoffPoint(one, labels.get(one.run))),
    ),
  );
}

/** A mark, its figures for the mouse, and its name where there is a place for it. */
function tradeoffPoint({ run, x, y, left, up }, label) {
  return svg(
    "g",
    { class: "run", "data-run": run },
    svg("title", {}, `${RUNS[run].name}: ${brief(x, 5)}, ${number(y, 2)}`),
    marker(run, left, up),
    label ? text(label.name, label.x, label.y, label.anchor, "end-label") : null,
  );
}

/** Where the names of the coloured runs stand: run -> place, clear of all marks and other names. */
function labelPlaces(marks, width) {
  const taken = marks.map(({ left, up }) => box(left - 6, up - 6, 12, 12));
  const places = new Map();
  for (const mark of marks.filter(({ run }) => slots.has(run)).reverse()) {
    const offered = labelsAround(mark).filter(({ area }) => area.left >= 0 && area.right <= width);
    const free = offered.find(({ area }) => !taken.some((other) => meet(area, other)));
    if (!free) continue;
    taken.push(free.area);
    places.set(mark.run, free);
  }
  return places;
}

/** Places for the name of a mark, the best first: beside it, then above and below. */
function labelsAround({ run, left, up }) {
  const name = shortened(RUNS[run].name, 20);
  const room = 7.4 * name.length;
  return [0, -18, 18, -36, 36].flatMap((shift) => {
    const y = up + 4 + shift;
    const right = { x: left + 9, anchor: "start", area: box(left + 9, y - 13, room, 17) };
    const other = { x: left - 9, anchor: "end", area: box(left - 9 - room, y - 13, room, 17) };
    return [right, other].map((place) => ({ ...place, name, y }));
  });
}

function box(left, top, width, height) {
  return { left, top, right: left + width, bottom: top + height };
}

function meet(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
