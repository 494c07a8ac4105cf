// Shared by both pages: number formats, elements, bars. Foreign text is only ever set as text, never as HTML.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const number = (value) => (Math.abs(value) < 10000 ? plain : compact).format(value);

/** Dollars; a dash where no price is known. */
export function dollars(value) {
  if (value === null || value === undefined) return "–";
  const digits = value === 0 || Math.abs(value) >= 1 ? { maximumFractionDigits: 2 } : { maximumSignificantDigits: 3 };
  return "$" + new Intl.NumberFormat("en", { minimumFractionDigits: value % 1 && value < 1 ? 0 : 2, ...digits }).format(value);
}

/** An amount in a limit's unit: dollars for a budget, else a plain number. */
export const amount = (limit, value) => (limit.includes("budget_usd") ? dollars : number)(value);

/** 27 → "27 s", 5400 → "1.5 h". */
export function duration(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 1.5 * size) return `${plain.format(seconds / size)} ${unit}`;
  }
  return `${Math.ceil(seconds)} s`;
}

export const words = (name) => name.replaceAll("_", " ");

/** An element with attributes and children; children that are not elements become text. */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Rows of a table: each cell is [content, class]. Shows the text `nothing` if there are none. */
export function fill(body, rows, nothing) {
  const made = rows.map((cells) =>
    element("tr", {}, ...cells.map(([content, kind]) => element("td", kind ? { class: kind } : {}, content))));
  const none = element("tr", {}, element("td", { colspan: "9", class: "quiet" }, nothing));
  body.replaceChildren(...(made.length ? made : [none]));
}

/** A bar that is `share` full, 0 to 1. */
export function bar(share) {
  const inner = element("i", share >= 1 ? { class: "full" } : share >= 0.8 ? { class: "high" } : {});
  inner.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  return element("div", { class: "bar" }, inner);
}

/** Draw columns of stacked values: `columns` are {title, values}, and `kinds` the classes of the values. */
export function stack(svg, columns, kinds) {
  const most = Math.max(...columns.map(({ values }) => values.reduce((sum, value) => sum + value, 0)), 1e-9);
  svg.setAttribute("viewBox", `0 0 ${columns.length} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...columns.map(({ title, values }, index) => {
    const column = shape("g", {});
    const tip = shape("title", {});
    tip.textContent = title;
    column.append(tip, shape("rect", { x: index, y: 0, width: 1, height: 100, fill: "transparent" }));
    let top = 100;
    values.forEach((value, kind) => {
      const height = (value / most) * 96;
      top -= height;
      column.append(shape("rect", { x: index + 0.1, y: top, width: 0.8, height, class: kinds[kind] }));
    });
    return column;
  }));
  return most;
}

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
