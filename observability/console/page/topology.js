// Gateway -> route -> pool -> endpoint as four columns of boxes; the bar in a box is how full it is, a coloured line has traffic.

import { failing, stale } from "/console/figures.js";
import { number, percent, svg, fill, element } from "/console/draw.js";

const COLUMNS = [0, 230, 560, 850]; // px
const WIDTHS = [180, 280, 240, 250];
const ROW = 40;
const MOST = 60; // boxes in a column

export function drawTopology(place, now, pool, rate) {
  const routes = now.topology.routes.filter((route) => !pool || route.backends.some((each) => each.name === pool));
  if (!routes.length && !Object.keys(now.pools).length) return fill(place, [element("p", { class: "empty" }, "No routes yet.")]);
  const nodes = [[], [], [], []];
  const edges = [];
  const places = new Map();
  const put = (column, key, title, sub, more = {}) => {
    const id = `${column} ${key}`;
    if (!places.has(id) && nodes[column].length < MOST) {
      const node = { title, sub, ...more, y: nodes[column].length * ROW };
      nodes[column].push(node);
      places.set(id, node);
    }
    return places.get(id);
  };
  const join = (from, column, to, live) => from && to && edges.push({ from, to, column, live });
  for (const route of routes) {
    const gateway = put(0, route.gateway, route.gateway || "all Gateways", "Gateway");
    const middle = put(1, `${route.gateway} ${route.route}`, route.route, route.hostnames.join(", "));
    join(gateway, 0, middle, true);
    for (const backend of route.backends) {
      const found = now.pools[backend.name];
      const is = backend.pool && found;
      const target = put(2, backend.name, backend.name, is ? `${number(rate(backend.name))} requests/s, ${percent(found.saturation)} full` : "Service", is ? { full: found.saturation ?? 0 } : {});
      join(middle, 1, target, is && rate(backend.name) > 0);
    }
  }
  for (const [name, each] of Object.entries(now.pools)) {
    if (pool && name !== pool) continue;
    const target = put(2, name, name, "no route leads here", { full: each.saturation ?? 0 });
    for (const [endpoint, one] of Object.entries(each.endpoints)) {
      const sub = failing(one) ? "does not answer scrapes" : stale(one) ? "no fresh figures" : `${number(one.inflight)} in flight, ${number(one.waiting)} wait, KV ${percent(one.kv_usage)}`;
      const kind = failing(one) ? "failing" : stale(one) ? "stale" : "";
      join(target, 2, put(3, `${name} ${endpoint}`, endpoint, sub, { full: one.kv_usage, kind }), one.inflight > 0);
    }
  }
  const height = Math.max(...nodes.map((column) => column.length)) * ROW + 8;
  const lines = edges.map(({ from, to, column, live }) => {
    const x = COLUMNS[column] + WIDTHS[column] + 4;
    const end = COLUMNS[column + 1] + 4;
    const [a, b] = [from.y + 20, to.y + 20];
    return svg("path", { class: live ? "live" : "", d: `M${x} ${a} C${x + 25} ${a} ${end - 25} ${b} ${end} ${b}` });
  });
  const boxes = nodes.flatMap((column, i) => column.map((node) => box(node, i)));
  const hidden = now.topology.more + Math.max(routes.length - MOST, 0);
  const picture = svg("svg", { width: 1110, height, viewBox: `0 0 1110 ${height}`, role: "img", "aria-label": described(routes, now) }, [...lines, ...boxes]);
  fill(place, hidden ? [picture, element("p", { class: "empty" }, `${hidden} routes more are not drawn.`)] : [picture]);
}

function box(node, column) {
  const [x, width] = [COLUMNS[column] + 4, WIDTHS[column]];
  const parts = [svg("rect", { x, y: node.y + 4, width, height: 32, rx: 4, class: node.kind ?? "" })];
  if (node.full) parts.push(svg("rect", { x: x + 1, y: node.y + 31, width: (width - 2) * Math.min(node.full, 1), height: 4, class: node.full >= 1 ? "bar full" : "bar" }));
  const cut = (text) => (text.length > width / 7 ? `${text.slice(0, Math.floor(width / 7) - 1)}…` : text);
  parts.push(svg("text", { x: x + 8, y: node.y + 17 }, [cut(node.title)]), svg("text", { x: x + 8, y: node.y + 29, class: "sub" }, [cut(node.sub)]));
  return svg("g", {}, [svg("title", {}, [`${node.title}: ${node.sub}`]), ...parts]);
}

function described(routes, now) {
  const ways = routes.slice(0, 20).map((route) => `${route.route} leads to ${route.backends.map((each) => each.name).join(" and ") || "nothing"}`);
  const pools = Object.entries(now.pools).map(([name, each]) => `${name} has ${Object.keys(each.endpoints).length} endpoints`);
  return [...ways, ...pools].join("; ");
}
