// Building elements. Text enters the page as text nodes alone, so no text can be markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; attributes that are null or false are left out, "on..." are listeners. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

let lastId = 0;

function newId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** A labelled drop-down list; options are [value, text]. */
function choice(label, options, value, onchange) {
  const id = newId("choice");
  const select = el(
    "select",
    { id, onchange: () => onchange(select.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)),
  );
  return el("span", { class: "field" }, el("label", { for: id }, label), select);
}

/** A labelled check box. */
function toggle(label, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", { class: "toggle" }, box, ` ${label}`);
}

/** Words that a screen reader says and nobody sees. */
function hiddenText(text) {
  return el("span", { class: "hidden" }, text);
}

/** Let screen readers say something. */
function announce(text) {
  document.getElementById("announcer").textContent = text;
}

function clear(node) {
  node.replaceChildren();
  return node;
}

/** What stands where a chart would if there were data: the reason and the remedy. */
function absent(text) {
  return el("p", { class: "absent" }, text);
}
