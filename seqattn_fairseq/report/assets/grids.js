// Heat maps: cells with a read-out that follows the mouse or the arrow keys.

/**
 * A heat map. Options: label; rows and columns: names; value(row, column) -> number, null where it
 * is not known, undefined for a blank cell; range: [low, high] of the colours; size: {width,
 * height} of a cell; rowWidth and columnHeight: room for the names; slanted: names of columns at an
 * angle; written(value) -> text in the cell; readout: where the values are told;
 * say(row, column) -> words of a cell.
 */
function heatMap(options) {
  const grid = { row: 0, column: 0, columnHeight: 20, slanted: false, ...options };
  grid.width =
    grid.rowWidth +
    grid.columns.length * grid.size.width +
    (grid.slanted ? grid.columnHeight * 0.6 : 4);
  grid.height = grid.columnHeight + grid.rows.length * grid.size.height + 3;
  const cursor = svg("rect", {
    class: "cell-cursor",
    width: grid.size.width,
    height: grid.size.height,
  });
  const picture = svg(
    "svg",
    {
      class: "heat",
      viewBox: `0 0 ${grid.width} ${grid.height}`,
      width: grid.width,
      height: grid.height,
      role: "application",
      "aria-roledescription": "heat map",
      tabindex: 0,
      "aria-label": `${grid.label}; arrow keys read the cells`,
    },
    gridNames(grid),
    gridCells(grid),
    cursor,
  );
  listenToGrid(grid, picture, cursor);
  return picture;
}

function cellCorner(grid, row, column) {
  return [grid.rowWidth + column * grid.size.width, grid.columnHeight + row * grid.size.height];
}

function gridNames(grid) {
  const group = svg("g", { "aria-hidden": "true" });
  const longest = Math.floor(grid.rowWidth / 7);
  grid.rows.forEach((name, row) => {
    const [x, y] = cellCorner(grid, row, 0);
    const label = text(shortened(name, longest), x - 6, y + grid.size.height / 2 + 4, "end");
    label.setAttribute("direction", "ltr");
    group.append(label);
  });
  grid.columns.forEach((name, column) => {
    const [x, y] = cellCorner(grid, 0, column);
    const middle = x + grid.size.width / 2;
    const label = text(shortened(name, 16), middle, y - 6, grid.slanted ? "start" : "middle");
    if (grid.slanted) label.setAttribute("transform", `rotate(-55 ${middle} ${y - 6})`);
    group.append(label);
  });
  return group;
}

function gridCells(grid) {
  const [x, y] = cellCorner(grid, 0, 0);
  const group = svg("g", { "aria-hidden": "true" });
  const [width, height] = [
    grid.columns.length * grid.size.width,
    grid.rows.length * grid.size.height,
  ];
  group.append(svg("rect", { class: "plane", x, y, width, height }));
  for (let row = 0; row < grid.rows.length; row += 1) {
    for (let column = 0; column < grid.columns.length; column += 1) {
      const value = grid.value(row, column);
      if (value === undefined) continue;
      group.append(...gridCell(grid, row, column, value));
    }
  }
  return group;
}

function gridCell(grid, row, column, value) {
  const [x, y] = cellCorner(grid, row, column);
  const gap = grid.size.width > 18 ? 1.5 : 0.5;
  const box = { x, y, width: grid.size.width - gap, height: grid.size.height - gap };
  if (!known(value)) {
    const cross = `M${x + 4},${y + 4}L${x + box.width - 4},${y + box.height - 4}`;
    return [
      svg("rect", { class: "cell unknown", ...box }),
      svg("path", { class: "unknown", d: cross }),
    ];
  }
  const cell = svg("rect", { class: "cell", ...box });
  const share = heatShare(value, grid.range);
  cell.style.setProperty("--v", `${(100 * share).toFixed(1)}%`);
  if (!grid.written) return [cell];
  const [middle, base] = [x + box.width / 2, y + box.height / 2 + 4];
  return [cell, text(grid.written(value), middle, base, "middle", inkOn(share))];
}

/** Black or white, whichever reads better: the ramps of light and dark cross at other shares. */
function inkOn(share) {
  return `written${share > 0.405 ? " upper" : ""}${share > 0.6 ? " top" : ""}`;
}

function heatShare(value, [low, high]) {
  return high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0;
}

function listenToGrid(grid, picture, cursor) {
  const move = (row, column, aloud) => {
    grid.row = Math.min(grid.rows.length - 1, Math.max(0, row));
    grid.column = Math.min(grid.columns.length - 1, Math.max(0, column));
    const [x, y] = cellCorner(grid, grid.row, grid.column);
    cursor.setAttribute("x", x - 0.75);
    cursor.setAttribute("y", y - 0.75);
    picture.classList.add("reading");
    const words = grid.say(grid.row, grid.column);
    grid.readout.textContent = words;
    if (aloud) announce(words);
  };
  const near = (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * grid.width - grid.rowWidth;
    const y = ((event.clientY - box.top) / box.height) * grid.height - grid.columnHeight;
    if (x >= 0 && y >= 0)
      move(Math.floor(y / grid.size.height), Math.floor(x / grid.size.width), false);
  };
  picture.addEventListener("pointermove", near);
  picture.addEventListener("pointerdown", near);
  picture.addEventListener("pointerleave", () => picture.classList.remove("reading"));
  picture.addEventListener("focus", () => move(grid.row, grid.column, false));
  picture.addEventListener("blur", () => picture.classList.remove("reading"));
  picture.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const ends = { Home: [grid.row, 0], End: [grid.row, grid.columns.length - 1] };
    const step = steps[event.key];
    if (!step && !ends[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    if (step) move(grid.row + step[0], grid.column + step[1], true);
    else move(...ends[event.key], true);
  });
}

/** The bar that explains the colours. */
function heatLegend([low, high], print, note) {
  return el(
    "div",
    { class: "heat-legend" },
    el("span", {}, print(low)),
    el("span", { class: "ramp", "aria-hidden": "true" }),
    el("span", {}, print(high)),
    note ? el("span", { class: "note" }, note) : null,
  );
}
