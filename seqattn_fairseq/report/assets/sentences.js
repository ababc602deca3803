// The sentences: one by its number, and all those for which something holds.

/** The number of the block that holds a sentence. */
function blockOf(sentence) {
  let index = overview.blocks.length - 1;
  while (overview.blocks[index] > sentence) index -= 1;
  return index;
}

/** A sentence: {source, reference, outputs}; what is not there is null. */
async function sentenceAt(index) {
  const block = blockOf(index);
  return unpacked((await sentenceBlock(block))[index - overview.blocks[block]]);
}

function unpacked([source, reference, ...outputs]) {
  return { source, reference, outputs };
}

/**
 * The numbers of the sentences for which `holds` is true. Goes on in small steps, so that the page
 * stays alive; null if `stopped()` became true on the way.
 */
async function matchingSentences(holds, stopped) {
  const found = [];
  for (let block = 0; block < overview.blocks.length; block += 1) {
    const rows = await sentenceBlock(block);
    if (stopped()) return null;
    rows.forEach((row, offset) => {
      const index = overview.blocks[block] + offset;
      if (holds(unpacked(row), index)) found.push(index);
    });
  }
  return found;
}

/** The filters of the explorer: name -> [label, function(sentence, number) or null for all]. */
function sentenceFilters() {
  const differ = ({ outputs }) => {
    const texts = outputs.filter((text, run) => text !== null && chosen.includes(run));
    return texts.some((text) => text !== texts[0]);
  };
  const wrong = ({ reference, outputs }) =>
    outputs.every((text, run) => !chosen.includes(run) || text !== reference);
  const filters = { all: ["all sentences", null] };
  if (RUNS.length > 1) filters.differ = ["the chosen runs differ", differ];
  if (overview.references) filters.wrong = ["no chosen run equals the reference", wrong];
  if (Object.keys(overview.maps).length > 0) {
    filters.maps = ["with attention maps", (_, index) => index in overview.maps];
  }
  return filters;
}

/** Whether a text occurs in the source, the reference or an output, whatever its case. */
function containing(query) {
  const wanted = query.toLowerCase();
  return ({ source, reference, outputs }) =>
    [source, reference, ...outputs].some((text) => text?.toLowerCase().includes(wanted));
}
