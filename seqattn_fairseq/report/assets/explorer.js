// The explorer: one sentence at a time, every system's output, what differs marked.

function explorerSection(root) {
  if (overview.sentences === 0) {
    root.append(absent("No sentences; seqattn evaluate RUN translates the test set."));
    return () => {};
  }
  const state = {
    at: 0,
    found: null,
    filter: "all",
    query: "",
    against: overview.references ? "reference" : "baseline",
    search: 0,
  };
  const view = explorerView(state);
  root.append(view.controls, view.steps, view.card);
  root.addEventListener("keydown", (event) => stepByKey(event, state, view));
  view.show = () => showSentence(state, view);
  view.refine = () => refine(state, view);
  return () =>
    state.filter === "differ" || state.filter === "wrong" ? view.refine() : view.show();
}

function explorerView(state) {
  const view = { card: el("div", { class: "card" }) };
  view.controls = explorerControls(state, view);
  view.steps = explorerSteps(state, view);
  return view;
}

/** Search, filter, and what the outputs are compared with. */
function explorerControls(state, view) {
  const id = newId("search");
  const find = () => {
    if (search.value === state.query) return;
    state.query = search.value;
    view.refine();
  };
  const emptied = () => search.value === "" && find();
  const search = el("input", { id, type: "search", onchange: find, oninput: emptied });
  const filters = Object.entries(sentenceFilters()).map(([key, [label]]) => [key, label]);
  const against = ["reference", "baseline"]
    .filter((key) => key === "baseline" || overview.references)
    .map((key) => [key, `the ${key}`]);
  const submit = (event) => {
    event.preventDefault();
    find();
  };
  return el(
    "form",
    { class: "controls", onsubmit: submit },
    el("span", { class: "field" }, el("label", { for: id }, "Search the texts"), search),
    choice("Show", filters, state.filter, (value) => {
      state.filter = value;
      view.refine();
    }),
    choice("Mark differences from", [...against, ["", "nothing"]], state.against, (value) => {
      state.against = value;
      view.show();
    }),
  );
}

/** Next, previous, the number, and the place among the sentences found. */
function explorerSteps(state, view) {
  const id = newId("jump");
  view.number = el("input", {
    id,
    type: "number",
    min: 1,
    max: overview.sentences,
    value: 1,
    onchange: () => jumpTo(state, view, Number(view.number.value) - 1),
  });
  view.place = el("span", { class: "place", role: "status" });
  return el(
    "div",
    { class: "steps" },
    button("← Previous", () => step(state, view, -1), { "aria-keyshortcuts": "p" }),
    button("Next →", () => step(state, view, 1), { "aria-keyshortcuts": "n" }),
    el("span", { class: "field" }, el("label", { for: id }, "Sentence"), view.number),
    view.place,
    el("small", {}, "keys n and p: next and previous"),
  );
}

/** Keys of the explorer, where they do not belong to a field or a chart. */
function stepByKey(event, state, view) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.target.closest("svg")) return;
  const direction = { n: 1, p: -1 }[event.key];
  if (!direction) return;
  event.preventDefault();
  step(state, view, direction);
}

function step(state, view, direction) {
  const numbers = state.found;
  if (!numbers) return jumpTo(state, view, state.at + direction);
  const later = numbers.filter((index) => (direction > 0 ? index > state.at : index < state.at));
  if (later.length > 0) jumpTo(state, view, direction > 0 ? later[0] : later[later.length - 1]);
}

function jumpTo(state, view, index) {
  const wanted = Number.isFinite(index) ? Math.round(index) : state.at;
  state.at = Math.min(overview.sentences - 1, Math.max(0, wanted));
  view.show();
}

/** Look for the sentences that the filter and the search ask for, and go to the nearest. */
async function refine(state, view) {
  state.search += 1;
  const mine = state.search;
  const [, wanted] = sentenceFilters()[state.filter];
  const contains = state.query ? containing(state.query) : null;
  state.found = null;
  if (wanted || contains) {
    view.place.textContent = "searching…";
    const holds = (sentence, index) =>
      (!wanted || wanted(sentence, index)) && (!contains || contains(sentence));
    const found = await matchingSentences(holds, () => mine !== state.search);
    if (found === null) return;
    state.found = found;
    if (found.length > 0 && !found.includes(state.at)) {
      state.at = found.find((index) => index >= state.at) ?? found[0];
    }
  }
  await view.show();
}

async function showSentence(state, view) {
  const index = state.at;
  const sentence = await sentenceAt(index);
  if (index !== state.at) return;
  view.number.value = index + 1;
  view.place.textContent = placeText(state);
  const [previous, next] = view.steps.querySelectorAll("button");
  const numbers = state.found ?? [0, overview.sentences - 1];
  previous.disabled = !(numbers[0] < index);
  next.disabled = !(numbers[numbers.length - 1] > index);
  clear(view.card);
  if (state.found && state.found.length === 0) {
    view.card.append(absent("No sentence is like that."));
    return;
  }
  view.card.append(...sentenceTexts(sentence, state.against), mapPanel(index));
}

function placeText(state) {
  if (!state.found) return `of ${number(overview.sentences)}`;
  if (state.found.length === 0) return "no match";
  const rank = state.found.indexOf(state.at);
  // A sentence that was asked for by its number need not be one of those found.
  const place = rank < 0 ? "no match; there are" : `match ${number(rank + 1)} of`;
  return `${place} ${number(state.found.length)}`;
}
