// The compressed parts of the page, each decoded when it is first looked at.

const overview = JSON.parse(document.getElementById("overview").textContent);

const complete = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", resolve);
});

/** The bytes of a block. */
async function blockBytes(name) {
  await complete;
  const text = document.getElementById(`block-${name}`).textContent;
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A block of JSON. */
async function blockValue(name) {
  return JSON.parse(new TextDecoder().decode(await blockBytes(name)));
}

/** A function that remembers the last results of a slow one. */
function remembering(capacity, load) {
  const kept = new Map();
  return (key) => {
    const found = kept.get(key) ?? load(key);
    kept.delete(key);
    kept.set(key, found);
    if (kept.size > capacity) kept.delete(kept.keys().next().value);
    return found;
  };
}

const details = remembering(128, (run) => blockValue(`run-${run}`));
const sentenceBlock = remembering(16, (index) => blockValue(`text-${index}`));
const matrices = remembering(1, () => blockValue("agreement"));

/** The attention map of a sentence in a run: its pieces, shape, scale and bytes. */
const attentionMap = remembering(16, async (key) => {
  const bytes = await blockBytes(`map-${key}`);
  const end = bytes.indexOf(10);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  return { ...head, weights: bytes.subarray(end + 1) };
});
