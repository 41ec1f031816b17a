// How the host does now: tiles, and charts of the last minutes.
import { useState } from "preact/hooks";
import { get } from "../api";
import { Chart, type Line } from "../chart";
import * as format from "../format";
import { link, useLive, useResource } from "../hooks";
import type { Snapshot, Stats, Summary } from "../types";
import { Choice, Empty, Loaded, Table, Tile, type Tone } from "../ui";

const WINDOWS = [["1m", "1 min"], ["5m", "5 min"], ["1h", "1 h"], ["start", "Since start"]] as const;
type Window = (typeof WINDOWS)[number][0];
/** What the charts show of each window; longer ones are in the history. */
const CHART_SECONDS: Record<Window, number> = { "1m": 60, "5m": 300, "1h": 900, start: 900 };
const REFRESH_MS = 5_000;

const perMinute = (value: number | null) => (value === null ? format.NONE : `${format.count(value)}/min`);

export function Overview() {
  const [window, setWindow] = useState<Window>("5m");
  const stats = useResource(`stats ${window}`, (signal) => statsOf(window, signal), REFRESH_MS);
  const summary = useResource(`summary ${window}`,
    (signal) => get<Summary>("/workflow-metrics/summary", { window }, signal), REFRESH_MS);
  return (
    <>
      <div class="toolbar">
        <Choice label="Window of the numbers" options={WINDOWS} value={window} onChange={setWindow} />
        {summary.data !== undefined && <p class="headline">{summary.data.headline}</p>}
      </div>
      <Loaded resource={stats} what="numbers">{(data) => <Tiles stats={data} />}</Loaded>
      <Charts seconds={CHART_SECONDS[window]} />
      {stats.data !== undefined && <Slowest stats={stats.data} />}
    </>
  );
}

/** Hosts that know no windows count from their start. */
const statsOf = (window: Window, signal: AbortSignal): Promise<Stats> =>
  get<Stats>("/workflow-metrics/stats", window === "start" ? {} : { window }, signal);

function Tiles({ stats }: { stats: Stats }) {
  const { latest } = useLive();
  const { lifecycle, approvals, instances } = stats;
  const hits = stats.caches.reduce((sum, cache) => sum + cache.hits, 0);
  const reads = hits + stats.caches.reduce((sum, cache) => sum + cache.misses, 0);
  const errors = latest?.operations.error_rate ?? null;
  const firing = latest?.alerts_firing ?? null;
  const alarm: Tone | undefined = firing === null ? undefined : firing > 0 ? "bad" : "good";
  return (
    <section class="tiles" aria-label="Numbers">
      <Tile label="Throughput" value={perMinute(latest?.operations.per_minute ?? null)} detail="operations"
        href={link("operations")} />
      <Tile label="Errors" value={format.percent(errors)} tone={errors !== null && errors > 0.05 ? "bad" : undefined}
        detail="of operations" href={link("operations")} />
      <Tile label="Latency p95" value={format.milliseconds(latest?.operations.p95_ms)}
        detail={`p99 ${format.milliseconds(latest?.operations.p99_ms)}`} href={link("operations")} />
      <Tile label="Alerts firing" value={format.count(firing)} tone={alarm} href={link("alerts")} />
      <Tile label="Running" value={format.count(instances["running"] ?? 0)}
        detail={`${format.count(instances["waiting"] ?? 0)} waiting`} href={link("instances", null, { status: "running" })} />
      <Tile label="Completed" value={format.count(lifecycle.completed)}
        detail={`${format.count(lifecycle.failed)} failed, ${format.count(lifecycle.rejected)} rejected`}
        href={link("instances", null, { status: "completed" })} />
      <Tile label="Approvals open"
        value={format.count(Math.max(0,
          approvals.submitted - approvals.approved - approvals.rejected - approvals.expired - approvals.cancelled))}
        detail={`asked ${format.count(approvals.submitted)}`} href={link("approvals")} />
      <Tile label="Cache hits" value={format.percent(reads === 0 ? null : hits / reads)}
        detail={`${format.count(reads)} reads`} href={link("caches")} />
    </section>
  );
}

function Charts({ seconds }: { seconds: number }) {
  const live = useLive();
  const end = live.latest === undefined ? 0 : Date.parse(live.latest.at) / 1_000;
  const shown = live.snapshots.filter((snapshot) => Date.parse(snapshot.at) / 1_000 >= end - seconds);
  const times = shown.map((snapshot) => Date.parse(snapshot.at) / 1_000);
  const line = (label: string, colour: string, value: (snapshot: Snapshot) => number | null | undefined, fill = false):
    Line => ({ label, colour, fill, values: shown.map((snapshot) => value(snapshot) ?? null) });
  const kinds = [...new Set(live.latest?.caches.filter(({ hit_rate }) => hit_rate !== null).map(({ kind }) => kind))];
  const common = {
    times, group: "overview", range: [end - seconds, end] as [number, number], empty: "Waiting for the first numbers.",
  };
  return (
    <section class="charts" aria-label="Charts of the last minutes">
      <Chart {...common} title="Throughput" format={perMinute} topMin={10}
        lines={[line("Operations", "blue", ({ operations }) => operations.per_minute, true)]} />
      <Chart {...common} title="Latency" format={format.milliseconds} lines={[
        line("p50", "teal", ({ operations }) => operations.p50_ms),
        line("p95", "amber", ({ operations }) => operations.p95_ms),
        line("p99", "red", ({ operations }) => operations.p99_ms),
      ]} />
      <Chart {...common} title="Error rate" format={format.percent} topMin={0.05}
        lines={[line("Errors", "red", ({ operations }) => operations.error_rate, true)]} />
      <Chart {...common} title="Cache hit rate" format={format.percent} topMin={1}
        lines={kinds.slice(0, 6).map((kind, index) => line(format.words(kind), PALETTE[index] ?? "blue",
          ({ caches }) => caches.find((cache) => cache.kind === kind)?.hit_rate))} />
      <Chart {...common} title="Batch sizes" format={format.count} topMin={5}
        lines={[line("Items a call", "violet", ({ batches }) => batches.avg_items, true)]} />
      <Chart {...common} title="Queue" format={format.count} topMin={5} lines={[
        line("Waiting to be written", "amber", ({ queue_depth }) => queue_depth),
        line("Running", "blue", ({ running }) => running),
      ]} />
    </section>
  );
}

const PALETTE = ["blue", "teal", "amber", "violet", "red", "green"];
const SLOWEST_SHOWN = 5;

function Slowest({ stats }: { stats: Stats }) {
  const rows = Object.entries(stats.operations).sort(([, a], [, b]) => b.p95_ms - a.p95_ms).slice(0, SLOWEST_SHOWN);
  return (
    <section aria-labelledby="slowest">
      <h2 id="slowest">Slowest operations</h2>
      {rows.length === 0 ? <Empty title="Nothing was measured yet." /> : (
        <Table caption="Slowest operations" rows={rows} rowKey={([name]) => name} columns={[
          { name: "Operation", cell: ([name]) => <a href={link("operations", name)}>{name}</a> },
          { name: "p95", isNumber: true, cell: ([, operation]) => format.milliseconds(operation.p95_ms) },
          { name: "Calls", isNumber: true, cell: ([, operation]) => format.count(operation.count) },
          { name: "Errors", isNumber: true, cell: ([, operation]) => format.percent(operation.error_rate) },
        ]} />
      )}
    </section>
  );
}
