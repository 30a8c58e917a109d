// The console: asks for the figures every two seconds, takes differences, draws. Names of users are only ever set as text.

import { sum, quantile, rate, figures, failing, stale } from "/console/figures.js";
import { drawTopology } from "/console/topology.js";
import { cell, element, fill, number, percent, row, seconds, spark, table } from "/console/draw.js";

const EVERY = 2000; // ms
const KEEP = 310; // seconds of answers: the longest window and a little more
const history = []; // answers, oldest first, each with `at`, seconds of the page's clock
const opened = new Map(); // id of a decision -> its explanation
let paused = false;

const at = (id) => document.getElementById(id);
const chosen = () => ({ pool: at("pool").value, window: Number(at("window").value) });

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return answer.json();
}

async function turn() {
  if (paused || document.hidden) return;
  try {
    const now = await ask("/console/data");
    now.at = performance.now() / 1000;
    if (history.length && history.at(-1).started !== now.started) history.length = 0; // another process: counts began anew
    history.push(now);
    while (history[0].at < now.at - KEEP) history.shift();
    draw();
    await decisions();
  } catch (error) {
    state(`No answer from the gateway: ${error.message}`, "bad");
  }
}

function state(text, kind) {
  const place = at("state");
  if (place.textContent !== text) place.textContent = text; // a live region: said only when it changes
  place.className = kind;
}

function draw() {
  const now = history.at(-1);
  const { pool, window } = chosen();
  at("version").textContent = now.version;
  header(now);
  pools(now);
  problems(now.problems);
  signals(now, pool, window);
  poolTable(now, pool, window);
  drawTopology(at("topology"), now, pool, (name) => rate(figures(history, window, (r) => r.pool === name)));
  proxies(now.proxies);
}

function header(now) {
  if (!now.ready) return state("Starting: no configuration yet", "warn");
  const [refusing, synced] = ["rejecting", "synced"].map((state) => now.proxies.filter((proxy) => proxy.state === state).length);
  const words = [`${synced} of ${now.proxies.length} Envoys in sync`];
  if (refusing) words.push(`${refusing} refuse something`);
  if (now.problems.length) words.push(`${now.problems.length} problem${now.problems.length > 1 ? "s" : ""}`);
  const bad = refusing || (now.proxies.length && !synced);
  state(words.join(", "), bad ? "bad" : now.problems.length ? "warn" : "good");
}

function pools(now) {
  const select = at("pool");
  const names = ["", ...Object.keys(now.pools)];
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const before = select.value;
  fill(select, names.map((name) => element("option", { value: name }, name || "all")));
  select.value = names.includes(before) ? before : "";
}

function problems(found) {
  at("problems-section").hidden = !found.length;
  fill(at("problems"), found.slice(0, 100).map((text) => element("li", {}, text)));
}

function signals(now, pool, window) {
  const fits = (entry) => !pool || entry.pool === pool;
  const found = figures(history, window, fits);
  const ends = history.map((_, index) => index).slice(1);
  const over = (take) => ends.map((end) => take(figures(history.slice(0, end + 1), Math.min(window, 15), fits)));
  const named = Object.entries(now.pools).filter(([name]) => !pool || name === pool).map(([, each]) => each);
  const fullest = Math.max(0, ...named.map((each) => each.saturation ?? 0));
  const shown = history.map((each) => Math.max(0, ...Object.entries(each.pools).filter(([n]) => !pool || n === pool).map(([, p]) => p.saturation ?? 0)));
  const waiting = sum(named.map((each) => each.queued ?? 0));
  const failed = found.errors.server + found.errors.shed;
  fill(at("signals"), [
    card("Traffic", number(rate(found)), "requests/s", `${number(found.tokens.output / found.seconds)} output tokens/s`, over(rate)),
    card("Time to first token, p95", seconds(quantile(found.buckets.ttft, found.ttft, 0.95)), "", `p50 ${seconds(quantile(found.buckets.ttft, found.ttft, 0.5))}, p99 ${seconds(quantile(found.buckets.ttft, found.ttft, 0.99))}`, over((f) => quantile(f.buckets.ttft, f.ttft, 0.95))),
    card("Duration, p95", seconds(quantile(found.buckets.duration, found.duration, 0.95)), "", `per output token p50 ${seconds(quantile(found.buckets.tpot, found.tpot, 0.5))}`, over((f) => quantile(f.buckets.duration, f.duration, 0.95))),
    card("Errors", percent(found.total ? failed / found.total : 0), "of requests", `server ${number(found.errors.server)}, shed ${number(found.errors.shed)}, client ${number(found.errors.client)}, left ${number(found.errors.cancelled)}`, over((f) => (f.total ? (f.errors.server + f.errors.shed) / f.total : 0)), failed ? "bad" : ""),
    card("Saturation", percent(fullest), pool ? "" : "of the fullest pool", `${number(waiting)} wait in the gateway`, shown, fullest >= 1 ? "bad" : ""),
    card("Cached prompt tokens", percent(found.tokens.input ? found.tokens.cached_input / found.tokens.input : 0), "", `${number(found.tokens.input / found.seconds)} prompt tokens/s`, over((f) => (f.tokens.input ? f.tokens.cached_input / f.tokens.input : 0))),
  ]);
}

function card(title, figure, unit, beside, points, kind = "") {
  return element("div", { class: "card" }, [
    element("h3", {}, title),
    element("div", { class: `figure ${kind}` }, [figure, " ", element("small", {}, unit)]),
    element("div", { class: "beside" }, beside),
    spark(points),
  ]);
}

function poolTable(now, pool, window) {
  const names = Object.keys(now.pools).filter((name) => !pool || name === pool);
  const head = ["Pool", "Requests/s", "TTFT p50", "TTFT p95", "Per token p50", "Errors", "Saturation", "Waiting here", "In flight", "Cached", "Endpoints"];
  const rows = names.map((name) => {
    const found = figures(history, window, (entry) => entry.pool === name);
    const each = now.pools[name];
    const endpoints = Object.values(each.endpoints);
    const fresh = endpoints.filter((one) => !stale(one) && !failing(one)).length;
    const failed = found.errors.server + found.errors.shed;
    const meter = element("meter", { min: 0, max: 1.5, high: 1, value: Math.min(each.saturation ?? 0, 1.5), "aria-label": `saturation of ${name}` });
    return row([
      element("th", { scope: "row" }, name),
      cell(number(rate(found))),
      cell(seconds(quantile(found.buckets.ttft, found.ttft, 0.5))),
      cell(seconds(quantile(found.buckets.ttft, found.ttft, 0.95))),
      cell(seconds(quantile(found.buckets.tpot, found.tpot, 0.5))),
      cell(percent(found.total ? failed / found.total : 0), failed ? "bad" : ""),
      element("td", {}, [meter, " ", percent(each.saturation ?? 0)]),
      cell(number(each.queued ?? 0)),
      cell(number(sum(endpoints.map((one) => one.inflight)))),
      cell(percent(found.tokens.input ? found.tokens.cached_input / found.tokens.input : 0)),
      cell(`${fresh} of ${endpoints.length}`, fresh < endpoints.length || !endpoints.length ? "warn" : ""),
    ]);
  });
  table(at("pools"), head, rows, "No InferencePool yet.");
}

function refused(proxy) {
  return Object.assign({}, ...Object.values(proxy.types).map((type) => type.errors));
}

function proxies(found) {
  const rows = found.slice(0, 200).map((proxy) => {
    const errors = refused(proxy);
    return row([
      element("th", { scope: "row" }, proxy.node),
      element("td", {}, proxy.fleet || "all Gateways"),
      element("td", { class: { synced: "good", rejecting: "bad" }[proxy.state] ?? "warn" }, proxy.state),
      element("td", {}, Object.entries(proxy.types).map(([type, each]) => `${type} ${each.resources}`).join(", ")),
      element("td", {}, Object.entries(errors).map(([name, error]) => `${name}: ${error}`).join("; ") || "none"),
    ]);
  });
  table(at("proxies"), ["Envoy", "Gateway", "State", "Resources", "Refused"], rows, "No Envoy is connected.", false);
}

async function decisions() {
  const place = at("decisions");
  if (place.contains(document.activeElement) || place.querySelector("details[open]")) return; // somebody reads
  const { pool } = chosen();
  const answer = await fetch("/decisions?limit=40", { cache: "no-store" });
  if (!answer.ok) return fill(place, [element("p", { class: "empty" }, "Decisions are not recorded.")]);
  const found = (await answer.json()).decisions.filter((one) => !pool || one.pool === pool).slice(0, 20);
  if (!found.length) return fill(place, [element("p", { class: "empty" }, "None yet.")]);
  fill(place, found.map(decision));
}

function decision(one) {
  const time = new Date(one.time * 1000).toLocaleTimeString();
  const what = one.endpoints.length ? `→ ${one.endpoints[0]}` : `refused: ${one.status} ${one.reason}`;
  const about = [`${one.model} in ${one.pool}`, `${number(one.prompt_tokens)} prompt tokens`, `${one.candidates} candidate${one.candidates === 1 ? "" : "s"}`];
  if (one.predicted_ttft_seconds !== null) about.push(`first token expected in ${seconds(one.predicted_ttft_seconds)}`);
  if (one.waited_seconds) about.push(`waited ${seconds(one.waited_seconds)}`);
  const inner = element("div", {}, []);
  const whole = element("details", {}, [element("summary", {}, `${time} ${what} — ${about.join(", ")}`), inner]);
  whole.addEventListener("toggle", async () => {
    if (!whole.open) return;
    try {
      if (!opened.has(one.id)) opened.set(one.id, (await ask(`/decisions/${encodeURIComponent(one.id)}`)).explanation);
      explain(inner, opened.get(one.id), one);
    } catch (error) {
      fill(inner, [element("p", { class: "empty" }, `It is not kept any more: ${error.message}`)]);
    }
  });
  return whole;
}

function explain(place, found, one) {
  if (found.error) return fill(place, [element("p", { class: "empty" }, found.error)]);
  const stages = found.stages ?? [];
  const scorers = [...new Set(stages.flatMap((stage) => stage.scorers.map((each) => each.scorer)))];
  const score = (endpoint, name) => stages.map((stage) => stage.scores[endpoint]?.[name]).find((value) => value !== undefined);
  const dropped = (endpoint) => stages.flatMap((stage) => stage.dropped.filter((each) => each.endpoints.includes(endpoint)).map((each) => each.filter))[0];
  const head = ["Endpoint", "Place", "First token in", "Cached tokens", "In flight", "Waiting", "KV cache", "Age of figures", ...scorers, "Sum", "Left out by"];
  const rows = found.candidates.map((each) => row([
    element("th", { scope: "row" }, each.endpoint),
    cell(one.endpoints.includes(each.endpoint) ? String(one.endpoints.indexOf(each.endpoint) + 1) : ""),
    cell(seconds(each.predicted_ttft_seconds)),
    cell(number(each.matched_tokens)),
    cell(number(each.inflight)),
    cell(number(each.waiting)),
    cell(percent(each.kv_usage)),
    cell(seconds(each.load_age_seconds)),
    ...scorers.map((name) => cell(number(score(each.endpoint, name)))),
    cell(number(score(each.endpoint, "sum"))),
    element("td", {}, each.rests ? "it rests after failures" : each.room === false ? "no room" : dropped(each.endpoint) ?? ""),
  ]));
  const without = (found.dropped ?? []).flatMap((each) => each.endpoints.map((endpoint) => row([
    element("th", { scope: "row" }, endpoint),
    ...head.slice(2).map(() => cell("")),
    element("td", {}, each.filter),
  ])));
  const whole = element("table", {}, []);
  table(whole, head, [...rows, ...without], found.outcome);
  fill(place, [element("div", { class: "wide" }, [whole])]);
}

at("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
});
for (const id of ["pool", "window"]) at(id).addEventListener("change", () => history.length && draw());
document.addEventListener("visibilitychange", turn);
turn();
setInterval(turn, EVERY);
