// Statistics of the attentions by layer and head: one heat map a run, all with the same colours.

const SITES = {
  cross: "Cross-attention",
  encoder_self: "Encoder self-attention",
  decoder_self: "Decoder self-attention",
};

const STATISTICS = {
  sparsity: [
    "Sparsity",
    "share of the visible keys whose weight is exactly zero, in per cent",
    percent,
  ],
  null: ["Null rate", "share of the queries whose weights are all zero, in per cent", percent],
  entropy: ["Entropy", "mean entropy of the rows that are not null, in nats", nats],
  diversity: ["Head diversity", "Jensen-Shannon divergence of the heads of a layer, in nats", nats],
};

function nats(value) {
  return number(value, 2);
}

function attentionSection(root) {
  if (!RUNS.some((run) => run.has.attention)) {
    root.append(
      absent(
        "No attention statistics; seqattn analyse RUN makes them where a variant has attention.",
      ),
    );
    return () => {};
  }
  const state = { site: null, statistic: null };
  const controls = el("p", { class: "controls" });
  const [about, holder] = [el("p", { class: "about" }), el("div")];
  root.append(controls, about, holder);
  const draw = async () => {
    const found = await Promise.all(
      chosen.map(async (run) => [run, (await details(run)).attention]),
    );
    writeAttentionControls(
      controls,
      found.flatMap(([, maps]) => maps),
      state,
      draw,
    );
    about.textContent = state.statistic
      ? `${statisticOf(state)[0]}: ${statisticOf(state)[1]}.`
      : "";
    drawAttention(clear(holder), found, state);
  };
  return draw;
}

function statisticOf({ statistic }) {
  return STATISTICS[statistic] ?? [statistic, statistic, (value) => brief(value, 3)];
}

function writeAttentionControls(controls, maps, state, draw) {
  const sites = [...new Set(maps.map((map) => map.site))];
  const statistics = [...new Set(maps.flatMap((map) => Object.keys(map.values)))];
  const rank = (list, key) => (list.indexOf(key) + list.length + 1) % (list.length + 1);
  sites.sort((a, b) => rank(Object.keys(SITES), a) - rank(Object.keys(SITES), b));
  if (!sites.includes(state.site)) state.site = sites[0] ?? null;
  if (!statistics.includes(state.statistic)) state.statistic = statistics[0] ?? null;
  const offer = `${sites}|${statistics}`;
  if (controls.dataset.offer === offer) return;
  controls.dataset.offer = offer;
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };
  clear(controls).append(
    choice(
      "Attention",
      sites.map((site) => [site, SITES[site] ?? site]),
      state.site,
      change("site"),
    ),
    choice(
      "Statistic",
      statistics.map((key) => [key, statisticOf({ statistic: key })[0]]),
      state.statistic,
      change("statistic"),
    ),
  );
}

function drawAttention(holder, found, state) {
  const shown = found
    .map(([run, maps]) => ({ run, map: maps.find((map) => map.site === state.site) }))
    .filter(({ map }) => map && map.values[state.statistic]);
  const missing = chosen.filter((run) => !shown.some((one) => one.run === run));
  const [title, , print] = statisticOf(state);
  const most = extent(shown.flatMap(({ map }) => map.values[state.statistic].flat()));
  if (most) {
    const range = ["sparsity", "null"].includes(state.statistic)
      ? [0, 1]
      : [Math.min(0, most[0]), most[1] || 1];
    const readout = el(
      "p",
      { class: "readout" },
      "Point at a cell, or go to a map and use the arrow keys.",
    );
    const maps = shown.map((one) =>
      attentionFigure(one, state, range, readout, holder.clientWidth),
    );
    holder.append(
      heatLegend(range, (value) => print(value, 0), "A crossed cell: no value."),
      el("div", { class: "multiples" }, maps),
      readout,
    );
    holder.append(asTable(() => attentionTable(shown, state, title, print)));
  }
  if (missing.length > 0) holder.append(absent(`Without this statistic: ${runNames(missing)}.`));
}

function attentionFigure({ run, map }, state, range, readout, room) {
  const values = map.values[state.statistic];
  const columns = Math.max(...values.map((row) => row.length));
  const width = Math.max(12, Math.min(40, Math.floor((Math.min(room, 380) - 36) / columns)));
  const single = columns === 1;
  const print = statisticOf(state)[2];
  const names = Array.from({ length: columns }, (_, head) => (single ? "layer" : String(head + 1)));
  return el(
    "figure",
    { "data-run": run, class: "run" },
    el("figcaption", {}, swatch(run), ` ${RUNS[run].name}`),
    heatMap({
      label: [`${statisticOf(state)[0]} of ${RUNS[run].name}`, count(values.length, "layer")].join(
        ", ",
      ),
      rows: values.map((_, layer) => `L${layer + 1}`),
      columns: names,
      value: (layer, head) => values[layer][head] ?? null,
      range,
      size: { width: single ? 60 : width, height: single ? 24 : Math.max(20, Math.min(28, width)) },
      rowWidth: 32,
      written: width >= 34 || single ? (value) => print(value, 0).replace(" %", "") : null,
      readout,
      say: (layer, head) =>
        `${RUNS[run].name}, layer ${layer + 1}` +
        `${single ? "" : `, head ${head + 1}`}: ${print(values[layer][head])}`,
    }),
  );
}

function attentionTable(shown, state, title, print) {
  const rows = shown.flatMap(({ run, map }) =>
    map.values[state.statistic].map((values, layer) => ({ run, layer, values })),
  );
  const heads = Math.max(...rows.map((row) => row.values.length));
  const columns = [
    { label: "Run", cell: (row) => RUNS[row.run].name, sort: (row) => RUNS[row.run].name },
    { label: "Layer", numeric: true, cell: (row) => row.layer + 1, sort: (row) => row.layer },
    ...Array.from({ length: heads }, (_, head) => ({
      label: heads === 1 ? title : `Head ${head + 1}`,
      numeric: true,
      cell: (row) => print(row.values[head]),
      sort: (row) => row.values[head],
    })),
  ];
  return table(`${title}, ${SITES[state.site] ?? state.site}`, columns, rows);
}
