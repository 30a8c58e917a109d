// What happened within a window: differences of cumulative counts. Pure functions, no page.

export const sum = (values) => values.reduce((total, value) => total + value, 0);

// Of an endpoint: its scrapes fail; nothing of it is fresh.
export const failing = (endpoint) => endpoint.scrape_errors > 2;
export const stale = (endpoint) => endpoint.scrape_age_seconds === null || endpoint.scrape_age_seconds > 10;

const ZERO = { total: 0, errors: {}, tokens: {}, duration: [], ttft: [], tpot: [] };

// The oldest answer that is at most `window` seconds older than the newest; the one before it where there is one.
export function since(history, window) {
  const end = history.at(-1);
  const index = history.findIndex((each) => each.at >= end.at - window);
  return history[Math.max(index - 1, 0)];
}

// Counts of the requests of those entries that `fits` lets pass, from `since` to the newest answer.
export function figures(history, window, fits) {
  const end = history.at(-1);
  const begin = since(history, window);
  const before = added(begin.requests.filter(fits));
  const after = added(end.requests.filter(fits));
  const less = (a, b) => Math.max((a ?? 0) - (b ?? 0), 0); // a series that is gone is not a negative rate
  const each = (a, b) => Object.fromEntries(Object.keys(a).map((key) => [key, less(a[key], b[key])]));
  return {
    seconds: Math.max(end.at - begin.at, 0.001),
    buckets: end.buckets,
    total: less(after.total, before.total),
    errors: { client: 0, server: 0, shed: 0, cancelled: 0, ...each(after.errors, before.errors) },
    tokens: { input: 0, cached_input: 0, output: 0, ...each(after.tokens, before.tokens) },
    ...Object.fromEntries(["duration", "ttft", "tpot"].map((name) => [name, after[name].map((count, i) => less(count, before[name][i]))])),
  };
}

function added(entries) {
  const found = structuredClone(ZERO);
  for (const entry of entries) {
    found.total += entry.total;
    for (const kind of ["errors", "tokens"]) for (const [key, value] of Object.entries(entry[kind])) found[kind][key] = (found[kind][key] ?? 0) + value;
    for (const name of ["duration", "ttft", "tpot"]) entry[name].forEach((count, i) => { found[name][i] = (found[name][i] ?? 0) + count; });
  }
  return found;
}

export const rate = (found) => found.total / found.seconds;

// As Prometheus' histogram_quantile: linear within a bucket; null where nothing was observed; the last bound above all bounds.
export function quantile(bounds, counts, q) {
  const total = sum(counts);
  if (!total) return null;
  let rank = q * total;
  for (const [i, count] of counts.entries()) {
    if (rank <= count && count) {
      if (i === bounds.length) return bounds.at(-1);
      const low = i ? bounds[i - 1] : 0;
      return low + (bounds[i] - low) * (rank / count);
    }
    rank -= count;
  }
  return bounds.at(-1);
}
