// Scales from values to places, and the round numbers along them.

/** A scale {place(value), ticks} over [low, high] in value and [from, to] in pixels. */
function scale(kind, [low, high], [from, to], wanted) {
  if (kind === "log" && low > 0) return logScale(low, high, from, to, wanted);
  const step = roundStep((high - low) / wanted);
  const place = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick += 1) {
    ticks.push(Number((tick * step).toPrecision(12)));
  }
  return { place, ticks };
}

function logScale(low, high, from, to, wanted) {
  const span = Math.log(high / low) || 1;
  const place = (value) => from + (Math.log(value / low) / span) * (to - from);
  const decades = Math.max(1, Math.log10(high / low));
  const within = decades > wanted ? [1] : decades > wanted / 3 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of within) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
    }
  }
  if (ticks.length >= 2) return { place, ticks };
  return {
    place,
    ticks: scale("linear", [low, high], [from, to], wanted).ticks.filter((t) => t > 0),
  };
}

/** The next of 1, 2, 5 times a power of ten. */
function roundStep(rough) {
  if (!(rough > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.8);
}

/** Some air around the values, never across zero; equal values get a range of their own. */
function padded(range, kind) {
  const [low, high] = range;
  if (kind === "log") return low === high ? [low / 2, high * 2] : [low / 1.05, high * 1.05];
  if (low === high)
    return low === 0 ? [0, 1] : [low - Math.abs(low) / 10, high + Math.abs(high) / 10];
  const air = (high - low) * 0.06;
  return [low >= 0 ? Math.max(0, low - air) : low - air, high + air];
}

/** A tick in few characters: 20k, 0.005. */
function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  if (size !== 0 && size < 1e-3) return value.toExponential();
  return String(value);
}

function text(content, x, y, anchor = "middle", className = "tick") {
  return svg(
    "text",
    { class: className, x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor },
    content,
  );
}

/** Grid lines and numbers of both axes within a frame {left, right, top, bottom}. */
function axes(frame, x, y, labels) {
  const group = svg("g", { "aria-hidden": "true" });
  for (const tick of y.ticks) {
    const at = y.place(tick).toFixed(1);
    group.append(svg("path", { class: "grid", d: `M${frame.left},${at}H${frame.right}` }));
    group.append(text((labels.yText ?? tickText)(tick), frame.left - 6, Number(at) + 4, "end"));
  }
  for (const tick of x.ticks) {
    const at = x.place(tick);
    group.append(
      svg("path", { class: "grid faint", d: `M${at.toFixed(1)},${frame.top}V${frame.bottom}` }),
    );
    group.append(text((labels.xText ?? tickText)(tick), at, frame.bottom + 17));
  }
  group.append(
    svg("path", { class: "axis", d: `M${frame.left},${frame.bottom}H${frame.right}` }),
    text(labels.y, 0, 11, "start", "axis-label"),
    text(labels.x, frame.right, frame.bottom + 34, "end", "axis-label"),
  );
  return group;
}
