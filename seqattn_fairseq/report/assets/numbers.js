// Numbers as people read them. What is not known is an en dash.

const UNKNOWN = "–";
const LEVEL = 0.05; // of significance

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** A number with thousands separated and a fixed number of decimals. */
function number(value, digits = 0) {
  if (!known(value)) return UNKNOWN;
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** A number with about so many significant digits, whatever its size. */
function brief(value, significant = 3) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(significant - 1);
  if (size >= 1000) return number(value);
  return String(Number(value.toPrecision(significant)));
}

function percent(value, digits = 1) {
  return known(value) ? `${number(100 * value, digits)} %` : UNKNOWN;
}

function pValue(value) {
  if (!known(value)) return UNKNOWN;
  if (value < 0.001) return "p < 0.001";
  // Rounded to the level of significance it would not tell its side.
  return `p = ${value.toFixed(value.toFixed(3) === LEVEL.toFixed(3) ? 4 : 3)}`;
}

/** "3 runs", "1 run". */
function count(value, noun) {
  return `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** The smallest and the largest of the known values, or null. */
function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!known(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}
