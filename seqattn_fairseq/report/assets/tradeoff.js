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
  const order = [...points].sort((a, b) => slotOf(b.run) - slotOf(a.run));
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
      order.map((one) => tradeoffPoint(one, x.place(one.x), y.place(one.y), width)),
    ),
  );
}

/** A mark, its figures for the mouse, and its name where it is one of the coloured runs. */
function tradeoffPoint({ run, x, y }, left, up, width) {
  const beyond = left > width * 0.7;
  const name = shortened(RUNS[run].name, 20);
  const label = text(name, left + (beyond ? -9 : 9), up + 4, beyond ? "end" : "start", "end-label");
  return svg(
    "g",
    { class: "run", "data-run": run },
    svg("title", {}, `${RUNS[run].name}: ${brief(x, 5)}, ${number(y, 2)}`),
    marker(run, left, up),
    slots.has(run) ? label : null,
  );
}
