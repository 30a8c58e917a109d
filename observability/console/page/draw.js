// Elements and figures for people. Text is set as text: what users named is never markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, inside = []) {
  return made(document.createElement(name), attributes, inside);
}

export function svg(name, attributes = {}, inside = []) {
  return made(document.createElementNS(SVG, name), attributes, inside);
}

function made(found, attributes, inside) {
  for (const [key, value] of Object.entries(attributes)) if (value !== "" || key === "value") found.setAttribute(key, value);
  found.append(...[inside].flat());
  return found;
}

export const fill = (place, inside) => place.replaceChildren(...inside);
export const cell = (text, kind = "") => element("td", { class: `number ${kind}`.trim() }, text);
export const row = (cells) => element("tr", {}, cells);

// A table; the figures' columns are right-aligned unless `numbers` is false.
export function table(place, head, rows, empty, numbers = true) {
  if (!rows.length) return fill(place, [element("tbody", {}, [row([element("td", { class: "empty" }, empty)])])]);
  const heads = head.map((title, i) => element("th", { scope: "col", class: i && numbers ? "number" : "" }, title));
  fill(place, [element("thead", {}, [row(heads)]), element("tbody", {}, rows)]);
}

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return Number.isInteger(value) ? String(value) : value.toFixed(size >= 100 ? 0 : size >= 1 ? 1 : 2);
}

export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 1e-3) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return value < 100 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : `${(value / 60).toFixed(1)} min`;
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${(value * 100).toFixed(value && value < 0.1 ? 1 : 0)} %`);

// A line of the latest points, drawn from zero. Decoration: the figure beside it says what counts.
export function spark(points) {
  const shown = points.slice(-150).map((point) => point ?? 0);
  const most = Math.max(...shown, 1e-9);
  const step = 100 / Math.max(shown.length - 1, 1);
  const line = shown.map((point, i) => `${(i * step).toFixed(2)},${(33 - (point / most) * 30).toFixed(2)}`).join(" ");
  return svg("svg", { viewBox: "0 0 100 36", preserveAspectRatio: "none", "aria-hidden": "true" }, [svg("polyline", { class: "spark", points: line })]);
}
