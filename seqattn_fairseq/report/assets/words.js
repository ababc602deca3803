// Differences between two sentences, word by word.

const MOST_CELLS = 4_000_000;

/**
 * The steps from one text to another by a longest common subsequence of words: [kind, words] with
 * kind "same", "added" (only in `after`) or "removed" (only in `before`).
 */
function wordSteps(before, after) {
  const [a, b] = [splitWords(before), splitWords(after)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  const shorter = Math.min(a.length, b.length) - start;
  while (end < shorter && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const middle = commonSteps(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const whole = [
    ...a.slice(0, start).map((word) => ["same", word]),
    ...middle,
    ...a.slice(a.length - end).map((word) => ["same", word]),
  ];
  return joined(whole);
}

function splitWords(text) {
  return text.split(/\s+/u).filter(Boolean);
}

function commonSteps(a, b) {
  const steps = [];
  // Beyond this a table would take seconds: all that differs counts as replaced.
  const lengths = a.length * b.length <= MOST_CELLS ? commonLengths(a, b) : null;
  const width = b.length + 1;
  let [i, j] = [0, 0];
  while (lengths && i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      steps.push(["same", a[i]]);
      i += 1;
      j += 1;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) {
      steps.push(["removed", a[i]]);
      i += 1;
    } else {
      steps.push(["added", b[j]]);
      j += 1;
    }
  }
  return steps.concat(
    a.slice(i).map((word) => ["removed", word]),
    b.slice(j).map((word) => ["added", word]),
  );
}

/** lengths[i][j]: how long a common subsequence of a from i and b from j can be. */
function commonLengths(a, b) {
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      if (a[i] === b[j]) lengths[at] = lengths[at + width + 1] + 1;
      else lengths[at] = Math.max(lengths[at + width], lengths[at + 1]);
    }
  }
  return lengths;
}

/** Neighbouring steps of one kind as one. */
function joined(steps) {
  const runs = [];
  for (const [kind, word] of steps) {
    const last = runs[runs.length - 1];
    if (last && last[0] === kind) last[1].push(word);
    else runs.push([kind, [word]]);
  }
  return runs.map(([kind, words]) => [kind, words.join(" ")]);
}

/** The text with what differs from another marked as inserted and deleted. */
function markedText(before, after) {
  const tags = { added: "ins", removed: "del" };
  const nodes = wordSteps(before, after).map(([kind, words]) =>
    kind === "same" ? words : el(tags[kind], {}, words),
  );
  return nodes.flatMap((node, index) => (index > 0 ? [" ", node] : [node]));
}
