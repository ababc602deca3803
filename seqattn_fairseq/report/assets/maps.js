// Cross-attention of a sentence: all heads small, one of them large.

const MEAN = "mean";
// Kept from sentence to sentence, so that one head can be followed through many.
const mapState = { run: null, layer: null, head: MEAN };

function mapPanel(sentence) {
  const runs = overview.maps[sentence];
  const panel = el("div", { class: "map-panel" });
  const anyMaps = Object.keys(overview.maps).length > 0;
  if (!runs) {
    if (anyMaps)
      panel.append(absent("This sentence has no map; choose to show those with attention maps."));
    return panel;
  }
  panel.append(el("h3", {}, "Cross-attention"));
  const [controls, holder] = [el("p", { class: "controls" }), el("div")];
  panel.append(controls, holder);
  if (!runs.includes(mapState.run)) mapState.run = runs.includes(BASELINE) ? BASELINE : runs[0];
  const draw = async () => {
    const map = await attentionMap(`${sentence}-${mapState.run}`);
    const [layers, heads] = map.shape;
    if (mapState.layer === null || mapState.layer >= layers) mapState.layer = layers - 1;
    if (mapState.head !== MEAN && mapState.head >= heads) mapState.head = MEAN;
    writeMapControls(controls, runs, map, draw);
    drawMap(clear(holder), map, draw);
  };
  draw();
  return panel;
}

function writeMapControls(controls, runs, map, draw) {
  const [layers, heads] = map.shape;
  const state = `${runs}|${layers}|${heads}|${Object.values(mapState)}`;
  // The focus stays on the control that was used: only its neighbours' lists can have changed.
  const held = controls.contains(document.activeElement)
    ? [...controls.querySelectorAll("select")].indexOf(document.activeElement)
    : -1;
  if (controls.dataset.state === state) return;
  controls.dataset.state = state;
  const numbered = (total, noun) =>
    Array.from({ length: total }, (_, index) => [String(index), `${noun} ${index + 1}`]);
  const change = (key, read) => (value) => {
    mapState[key] = read(value);
    draw();
  };
  const readHead = (value) => (value === MEAN ? MEAN : Number(value));
  clear(controls).append(
    choice(
      "Run",
      runs.map((run) => [String(run), RUNS[run].name]),
      String(mapState.run),
      change("run", Number),
    ),
    choice("Layer", numbered(layers, "layer"), String(mapState.layer), change("layer", Number)),
    choice(
      "Head",
      [[MEAN, "mean of the heads"], ...numbered(heads, "head")],
      String(mapState.head),
      change("head", readHead),
    ),
  );
  if (held >= 0) controls.querySelectorAll("select")[held].focus();
}

/** A function (target, source) -> weight of the chosen layer and head. */
function weightsOf(map, layer, head) {
  const [, heads, targets, sources] = map.shape;
  const at = (one, t, s) => map.weights[((layer * heads + one) * targets + t) * sources + s];
  const unit = map.scale / 255;
  if (head !== MEAN) return (t, s) => at(head, t, s) * unit;
  const all = Array.from({ length: heads }, (_, one) => one);
  return (t, s) => (all.reduce((sum, one) => sum + at(one, t, s), 0) * unit) / heads;
}

function drawMap(holder, map, draw) {
  const weight = weightsOf(map, mapState.layer, mapState.head);
  const [, , targets, sources] = map.shape;
  const range = [0, largest(weight, targets, sources) || 1];
  const longest = (pieces, most) =>
    Math.min(most, Math.max(...pieces.map((piece) => piece.length)));
  const side = sources > 60 ? 14 : 22;
  const readout = el(
    "p",
    { class: "readout" },
    "Point at a cell, or go to the map and use the arrow keys.",
  );
  const print = (value) => number(value, 3);
  const picture = heatMap({
    label: `Cross-attention, ${count(targets, "target piece")}, ${count(sources, "source piece")}`,
    rows: map.target,
    columns: map.source,
    value: (t, s) => weight(t, s) || undefined,
    range,
    size: { width: side, height: side },
    rowWidth: 20 + 7 * longest(map.target, 16),
    columnHeight: 24 + 5.6 * longest(map.source, 16),
    slanted: true,
    readout,
    say: (t, s) => `${map.target[t]} ← ${map.source[s]}: ${print(weight(t, s))}`,
  });
  const about = "Rows: pieces of the output; columns: pieces of the source. Blank is zero.";
  holder.append(
    contactSheet(map, draw),
    heatLegend(range, (value) => number(value, 2), about),
    scrollBox("Cross-attention", picture),
    readout,
    asTable(() => mapTable(map, weight, print)),
  );
}

function largest(weight, targets, sources) {
  let most = 0;
  for (let t = 0; t < targets; t += 1)
    for (let s = 0; s < sources; s += 1) most = Math.max(most, weight(t, s));
  return most;
}

/** Every layer and head as a small picture; the drop-down lists above choose the same. */
function contactSheet(map, draw) {
  const [layers, heads] = map.shape;
  const sheet = el("div", { class: "sheet", "aria-hidden": "true" });
  sheet.style.setProperty("--heads", heads);
  for (let layer = 0; layer < layers; layer += 1) {
    sheet.append(el("span", { class: "sheet-name" }, `L${layer + 1}`));
    for (let head = 0; head < heads; head += 1) {
      const small = thumbnail(map, layer, head);
      const picked = layer === mapState.layer && (head === mapState.head || mapState.head === MEAN);
      small.classList.toggle("picked", picked);
      small.title = `layer ${layer + 1}, head ${head + 1}`;
      small.addEventListener("click", () => {
        Object.assign(mapState, { layer, head });
        draw();
      });
      sheet.append(small);
    }
  }
  return sheet;
}

/** Weights as the opacity of black; the style inverts it in the dark. */
function thumbnail(map, layer, head) {
  const [, heads, targets, sources] = map.shape;
  const canvas = el("canvas", { width: sources, height: targets });
  const start = (layer * heads + head) * targets * sources;
  const pixels = new ImageData(sources, targets);
  for (let index = 0; index < targets * sources; index += 1) {
    pixels.data[4 * index + 3] = map.weights[start + index];
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function mapTable(map, weight, print) {
  const rows = map.target.map((piece, index) => ({ piece, index }));
  return table(
    "Weights of the chosen layer and head",
    [
      { label: "Output", cell: (row) => row.piece },
      ...map.source.map((piece, source) => ({
        label: piece,
        numeric: true,
        cell: (row) => print(weight(row.index, source)),
      })),
    ],
    rows,
  );
}
