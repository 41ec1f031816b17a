// The minutes before the page was opened, from the history: snapshots like those of the live
// stream, one for every ten seconds. Values without a series in the history are null.
import { get } from "./api";
import type { HistoryNames, HistorySeries, MetricPoint, OperationPoint, Snapshot } from "./types";

const PATH = "/workflow-metrics/history";
const STEP_S = 10;
/**
 * A live snapshot covers about a minute. So each of these covers the minute that ends with its
 * step.
 */
const WINDOW_STEPS = 6;
/**
 * Seconds without a point after which the host counts as absent. A host writes points every ten
 * seconds.
 */
const SILENCE_S = 30;
/** The most series of one request. The host's own series are fewer. */
const SERIES_MAX = 64;

export const ALL_OPERATIONS = "all operations";
const LIFECYCLE = ["created", "completed", "failed"] as const;
const APPROVALS = ["submitted", "approved", "rejected"] as const;
const GAUGES = ["running", "queue_depth"] as const;
const WANTED = new Set<string>([
  ...LIFECYCLE.map((name) => `instances_${name}`),
  ...APPROVALS.map((name) => `approvals_${name}`),
  ...GAUGES,
]);
const WANTED_OF_EACH = /^(?:cache_hits|cache_misses|batch_items)\{/u;

/** A snapshot without any values, at which lines end. */
export const nothing = (at: number): Snapshot => ({
  at: new Date(at).toISOString(),
  operations: { per_minute: null, error_rate: null, p50_ms: null, p95_ms: null, p99_ms: null },
  lifecycle: {},
  approvals: {},
  caches: [],
  queue_depth: null,
  running: null,
  batches: { items_per_minute: null, avg_items: null },
  alerts_firing: null,
});

const seconds = ({ at }: { at: string }): number => Date.parse(at) / 1_000;
const keyed = <P extends { at: string }>(points: P[]): Map<number, P> =>
  new Map(points.map((point) => [seconds(point), point]));
/** Returns `storage` for `cache_hits{storage}`. */
const label = (name: string): string => name.slice(name.indexOf("{") + 1, -1);

/** Loads the snapshots of the last seconds; none if the host has no history. */
export async function past(lastSeconds: number, signal: AbortSignal): Promise<Snapshot[]> {
  const period = { from: `-${lastSeconds}s`, step: `${STEP_S}s` };
  const names = await get<HistoryNames>(PATH, period, signal);
  const metrics = names.metrics.filter((name) => WANTED.has(name) || WANTED_OF_EACH.test(name));
  const operations = names.operations.filter(
    (name) => name === ALL_OPERATIONS || name.startsWith("batch "),
  );
  // Live numbers are those of one host. Numbers of all hosts would make a step where the two meet.
  const asked = { ...period, hosts: "this" };
  const counted = new Map<string, Map<number, MetricPoint>>();
  const called = new Map<string, Map<number, OperationPoint>>();
  const series = [
    ...operations.map((name) => `operation:${name}`),
    ...metrics.map((name) => `metric:${name}`),
  ].slice(0, SERIES_MAX);
  if (series.length === 0) return [];
  const history = await get<HistorySeries>(PATH, { series, ...asked }, signal);
  for (const one of history.series) {
    if ("operation" in one) called.set(one.operation, keyed(one.points));
    else counted.set(one.metric, keyed(one.points));
  }
  return snapshots(counted, called, Date.parse(history.to) / 1_000);
}

/** Halvings of the search for a percentile: to a millionth of the longest call. */
const HALVINGS = 20;

/**
 * Estimates a percentile of several steps together, in milliseconds: each step's calls are spread
 * evenly between its percentiles. The percentiles of single steps, beside the live ones of a minute,
 * would look like spikes.
 */
function percentile(points: OperationPoint[], share: number): number | null {
  const calls = points.reduce((sum, { count }) => sum + count, 0);
  if (calls === 0) return null;
  let [low, high] = [0, Math.max(...points.map(({ max_ms }) => max_ms))];
  for (let halving = 0; halving < HALVINGS; halving += 1) {
    const middle = (low + high) / 2;
    const below = points.reduce((sum, point) => sum + point.count * shareBelow(point, middle), 0);
    if (below >= share * calls) high = middle;
    else low = middle;
  }
  return high;
}

/** Estimates the share of a step's calls that took at most `ms`. */
function shareBelow(point: OperationPoint, ms: number): number {
  const known: [share: number, ms: number][] = [
    [0, point.min_ms],
    [0.5, point.p50_ms],
    [0.95, point.p95_ms],
    [0.99, point.p99_ms],
    [1, point.max_ms],
  ];
  let before = known[0] ?? [0, 0];
  if (ms < before[1]) return 0;
  for (const next of known) {
    if (ms < next[1]) {
      const part = (ms - before[1]) / (next[1] - before[1]);
      return before[0] + part * (next[0] - before[0]);
    }
    before = next;
  }
  return 1;
}

function snapshots(
  counted: Map<string, Map<number, MetricPoint>>,
  called: Map<string, Map<number, OperationPoint>>,
  to: number,
): Snapshot[] {
  // Gauges have a point for every step in which the host ran.
  const measured = new Set(
    [...counted.values(), ...called.values()].flatMap((points) => [...points.keys()]),
  );
  // An unfinished step would look like a fall.
  const over = [...measured].filter((step) => step + STEP_S <= to);
  if (over.length === 0) return [];
  const [first, last] = [Math.min(...over), Math.max(...over)];
  const value = (name: string, step: number): number => counted.get(name)?.get(step)?.value ?? 0;
  const caches = [...counted.keys()].filter((name) => name.startsWith("cache_")).map(label);
  const kinds = [...new Set(caches)].sort();
  const batches = [...called.keys()].filter((name) => name !== ALL_OPERATIONS);
  // Counts run backwards, because live counts begin at zero where these end.
  const reads = new Map(kinds.map((kind) => [kind, { hits: 0, misses: 0 }]));
  const made: Snapshot[] = [];
  for (let step = last; step >= first; step -= STEP_S) {
    const end = (step + STEP_S) * 1_000;
    if (!measured.has(step)) {
      made.push(nothing(end));
      continue;
    }
    const window = Array.from({ length: WINDOW_STEPS }, (_, back) => step - back * STEP_S).filter(
      (one) => measured.has(one),
    );
    const sum = (of: (step: number) => number) => window.reduce((total, one) => total + of(one), 0);
    const events = (name: string) => sum((one) => value(name, one));
    const calls = (name: string) => sum((one) => called.get(name)?.get(one)?.count ?? 0);
    const all = called.get(ALL_OPERATIONS);
    const count = calls(ALL_OPERATIONS);
    const errors = sum((one) => all?.get(one)?.errors ?? 0);
    const merged = window.flatMap((one) => all?.get(one) ?? []);
    const batchCalls = batches.reduce((total, name) => total + calls(name), 0);
    const items = batches.reduce(
      (total, name) => total + events(`batch_items{${name.slice("batch ".length)}}`),
      0,
    );
    made.push({
      at: new Date(end).toISOString(),
      operations: {
        per_minute: all === undefined ? null : (count * WINDOW_STEPS) / window.length,
        error_rate: all === undefined ? null : count === 0 ? 0 : errors / count,
        p50_ms: percentile(merged, 0.5),
        p95_ms: percentile(merged, 0.95),
        p99_ms: percentile(merged, 0.99),
      },
      lifecycle: Object.fromEntries(LIFECYCLE.map((name) => [name, events(`instances_${name}`)])),
      approvals: Object.fromEntries(APPROVALS.map((name) => [name, events(`approvals_${name}`)])),
      caches: kinds.map((kind) => ({ kind, hit_rate: null, entries: 0, ...reads.get(kind) })),
      queue_depth: counted.get("queue_depth")?.get(step)?.value ?? null,
      running: counted.get("running")?.get(step)?.value ?? null,
      batches: { items_per_minute: items, avg_items: batchCalls === 0 ? 0 : items / batchCalls },
      alerts_firing: null,
    });
    for (const [kind, { hits, misses }] of reads) {
      reads.set(kind, {
        hits: hits - value(`cache_hits{${kind}}`, step),
        misses: misses - value(`cache_misses{${kind}}`, step),
      });
    }
  }
  made.reverse();
  if (to - last > SILENCE_S) made.push(nothing((last + STEP_S) * 1_000 + 1));
  return made;
}
