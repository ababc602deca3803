// Tables that sort by their headings and scroll inside their own box.

/**
 * A table. Columns: {label, cell(row) -> text or nodes, sort(row) -> number or text, numeric,
 * descending}; a column without `sort` does not sort. The first column heads the rows.
 */
function table(caption, columns, rows) {
  const body = el("tbody");
  const heads = columns.map((column, index) => heading(column, () => sortBy(index)));
  let order = { index: -1, descending: false };
  const write = (shown) => clear(body).append(...shown.map((row) => tableRow(columns, row)));
  const sortBy = (index) => {
    const first = order.index === index ? !order.descending : Boolean(columns[index].descending);
    order = { index, descending: first };
    heads.forEach((head, place) => {
      if (!columns[place].sort) return;
      const direction = first ? "descending" : "ascending";
      head.setAttribute("aria-sort", place === index ? direction : "none");
    });
    write(sorted(rows, columns[index].sort, first));
  };
  write(rows);
  const title = el("caption", {}, caption);
  return scrollBox(caption, el("table", {}, title, el("thead", {}, el("tr", {}, heads)), body));
}

/** A box that scrolls by mouse, touch and keyboard. */
function scrollBox(label, content) {
  return el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, content);
}

function heading(column, sort) {
  const attributes = { scope: "col", class: column.numeric ? "numeric" : null };
  if (!column.sort) return el("th", attributes, column.label);
  const trigger = el("button", { type: "button", onclick: sort }, column.label);
  return el("th", { ...attributes, "aria-sort": "none" }, trigger);
}

function tableRow(columns, row) {
  const cells = columns.map((column, index) =>
    el(
      index === 0 ? "th" : "td",
      { scope: index === 0 ? "row" : null, class: column.numeric ? "numeric" : null },
      column.cell(row),
    ),
  );
  return el("tr", {}, cells);
}

/** The rows by a key; those without one stay last in both directions. */
function sorted(rows, key, descending) {
  const sign = descending ? -1 : 1;
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);
  return [...rows].sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (missing(left) || missing(right)) return Number(missing(left)) - Number(missing(right));
    if (typeof left === "string") return sign * left.localeCompare(right);
    return sign * (left - right);
  });
}

/** A closed box that makes its table when it is opened: the values of a chart. */
function asTable(build) {
  const box = el(
    "details",
    {
      class: "values",
      ontoggle: () => {
        if (box.open && box.children.length === 1) box.append(build());
      },
    },
    el("summary", {}, "Values as a table"),
  );
  return box;
}
