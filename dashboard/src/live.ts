// Live numbers: server-sent events read with fetch, because EventSource cannot send the header with
// the token. Without a stream the same numbers are polled every few seconds, and the page says so.
import { ApiError, get, send } from "./api";
import { nothing, past } from "./past";
import type { Snapshot, Stats, Summary } from "./types";

export type LiveState = "connecting" | "live" | "polling" | "stale";

/** Seconds that are kept, enough for the longest window of the overview. */
export const KEPT_SECONDS = 900;
const BACKOFF_FIRST_MS = 1_000;
const BACKOFF_LAST_MS = 30_000;
const POLL_MS = 5_000;
/**
 * The numbers are stale after this time. The host sends every second, and this is three heartbeats.
 */
const STALE_MS = 15_000;
/**
 * After such a pause the numbers in between are unknown. It is longer than the steps of the history
 * and than three polls.
 */
const SILENCE_MS = 40_000;
/** A longer line of the stream does not come from Stepwell. */
const EVENT_CHARS_MAX = 1 << 20;

export class Live {
  state: LiveState = "connecting";
  snapshots: Snapshot[] = [];
  /** Grows when an alert changes, so that views load again. */
  alertChanges = 0;
  private readonly listeners = new Set<() => void>();
  private readonly stopping = new AbortController();
  private lastHeard = Date.now();
  /**
   * Reads of each cache since the page was opened, with the host's counters at the last snapshot.
   */
  private readonly reads = new Map<
    string,
    { hits: number; misses: number; heard: { hits: number; misses: number } }
  >();

  start(): void {
    void this.run();
    void this.lookBack();
    const watch = setInterval(() => {
      if (this.state !== "connecting" && Date.now() - this.lastHeard > STALE_MS)
        this.become("stale");
    }, 1_000);
    this.stopping.signal.addEventListener("abort", () => clearInterval(watch));
  }

  stop(): void {
    this.stopping.abort();
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  get latest(): Snapshot | undefined {
    return this.snapshots.at(-1);
  }

  private tell(): void {
    this.listeners.forEach((listener) => listener());
  }

  private become(state: LiveState): void {
    if (this.state === state) return;
    this.state = state;
    this.tell();
  }

  private add(snapshot: Snapshot): void {
    const at = Date.parse(snapshot.at);
    const oldest = at - KEPT_SECONDS * 1_000;
    const kept = this.snapshots.filter((one) => Date.parse(one.at) >= oldest);
    const before = kept.at(-1);
    // The host sends its present snapshot to each new subscriber, and may send it again in the same
    // millisecond. The stream may also begin with the snapshot that was polled just before.
    if (before !== undefined && at === Date.parse(before.at)) return;
    const silent = before !== undefined && at - Date.parse(before.at) > SILENCE_MS;
    const between = silent ? [nothing(Date.parse(before.at) + 1)] : [];
    this.snapshots = [...kept, ...between, { ...snapshot, caches: this.count(snapshot.caches) }];
    this.tell();
  }

  /** Counts hits and misses from zero, and goes on when the host's counters are reset. */
  private count(caches: Snapshot["caches"]): Snapshot["caches"] {
    const added = (now: number, before: number) => (now >= before ? now - before : now);
    return caches.map((cache) => {
      const { kind, hits = 0, misses = 0 } = cache;
      const known = this.reads.get(kind) ?? { hits: 0, misses: 0, heard: { hits, misses } };
      const counted = {
        hits: known.hits + added(hits, known.heard.hits),
        misses: known.misses + added(misses, known.heard.misses),
      };
      this.reads.set(kind, { ...counted, heard: { hits, misses } });
      return { ...cache, ...counted };
    });
  }

  /**
   * Loads the minutes before, so that the charts are full at once. A host without a history has
   * none.
   */
  private async lookBack(): Promise<void> {
    const earlier = await past(KEPT_SECONDS, this.stopping.signal).catch(() => []);
    if (this.stopping.signal.aborted || earlier.length === 0) return;
    const first = this.snapshots[0];
    const begin = first === undefined ? Infinity : Date.parse(first.at);
    this.snapshots = [...earlier.filter(({ at }) => Date.parse(at) < begin), ...this.snapshots];
    this.tell();
  }

  private async run(): Promise<void> {
    const signal = this.stopping.signal;
    let backoff = BACKOFF_FIRST_MS;
    while (!signal.aborted) {
      let streams = true;
      try {
        const response = await send("/workflow-metrics/live", {
          signal,
          headers: { accept: "text/event-stream" },
        });
        await this.read(response, () => {
          backoff = BACKOFF_FIRST_MS;
        });
      } catch (error) {
        streams = !(error instanceof ApiError && error.isMissingRoute);
      }
      if (signal.aborted) return;
      // The time until the stream is tried again. That is never on a host without a stream.
      const until = streams ? Date.now() + backoff * (0.5 + Math.random() / 2) : Infinity;
      backoff = Math.min(backoff * 2, BACKOFF_LAST_MS);
      await this.poll(until);
    }
  }

  private async read(response: Response, onEvent: () => void): Promise<void> {
    if (response.body === null) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.lastHeard = Date.now();
      text = (text + value).replaceAll("\r\n", "\n");
      if (text.length > EVENT_CHARS_MAX) {
        await reader.cancel();
        return;
      }
      const events = text.split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) {
        this.handle(event);
        onEvent();
      }
    }
  }

  private handle(event: string): void {
    const lines = event.split("\n");
    const field = (name: string) =>
      lines
        .filter((line) => line.startsWith(`${name}:`))
        .map((line) => line.slice(name.length + 1).trimStart());
    const name = field("event")[0];
    if (name === "alerts") {
      this.alertChanges += 1;
      this.tell();
    } else if (name === "stats") {
      this.state = "live";
      this.add(JSON.parse(field("data").join("\n")) as Snapshot);
    }
  }

  private async poll(until: number): Promise<void> {
    const signal = this.stopping.signal;
    do {
      try {
        this.add(await polled(signal));
        this.lastHeard = Date.now();
        this.become("polling");
      } catch {
        if (signal.aborted) return;
        this.become("stale");
      }
      await pause(Math.max(0, Math.min(POLL_MS, until - Date.now())), signal);
    } while (!signal.aborted && Date.now() < until);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}

/**
 * A snapshot from routes that every host has. Percentiles of many operations cannot be computed
 * from those of each.
 */
async function polled(signal: AbortSignal): Promise<Snapshot> {
  // Of the last minute, as in the stream. Counts since the start would look like a spike.
  const stats = await get<Stats>("/workflow-metrics/stats", { window: "1m" }, signal);
  const summary = await get<Summary>("/workflow-metrics/summary", { window: "1m" }, signal).catch(
    () => null,
  );
  const operations = Object.values(stats.operations);
  const sum = (of: (operation: (typeof operations)[number]) => number) =>
    operations.reduce((total, operation) => total + of(operation), 0);
  const calls = sum(({ count }) => count);
  return {
    at: new Date().toISOString(),
    operations: {
      per_minute: summary?.operations.per_minute ?? sum(({ per_minute }) => per_minute),
      error_rate:
        summary?.operations.error_rate ?? (calls === 0 ? 0 : sum(({ errors }) => errors) / calls),
      p50_ms: null,
      p95_ms: summary?.operations.p95_ms ?? null,
      p99_ms: null,
    },
    lifecycle: stats.lifecycle,
    approvals: stats.approvals,
    caches: stats.caches,
    queue_depth: stats.commits.queue,
    running: stats.instances["running"] ?? 0,
    batches: { items_per_minute: null, avg_items: null },
    alerts_firing: summary?.alerts_firing ?? null,
  };
}
