// The state of the host now: tiles, and charts of the last minutes.
import { useState } from "preact/hooks";
import { get } from "../api";
import { Chart, ZOOM_HINT, ZoomOut, type Line } from "../chart";
import * as format from "../format";
import { link, useLive, useResource } from "../hooks";
import { may } from "../session";
import type { Snapshot, Stats, Summary } from "../types";
import { Badge, Button, Choice, Loaded, Table, Tile, type Tone, Name } from "../ui";
import { useWork, WorkByWorkflow, type Work } from "./work";

const WINDOWS = [
    ["1m", "1 min"],
    ["5m", "5 min"],
    ["1h", "1 h"],
    ["start", "Since start"],
] as const;
type Window = (typeof WINDOWS)[number][0];
const CHARTS = [
    ["60", "1 min"],
    ["300", "5 min"],
    ["900", "15 min"],
] as const;
const REFRESH_MS = 5_000;
/** The period of the lines in the tiles. */
const TREND_MS = 300_000;
/** The shortest period to zoom into, in seconds. */
const SHORTEST_S = 10;
/** The period that a hit rate covers. */
const RATE_MS = 60_000;
/** The alerts' default threshold of the error rate. A higher rate is drawn in red. */
const ERROR_RATE_BAD = 0.05;

export function Overview() {
    const [window, setWindow] = useState<Window>("5m");
    const stats = useResource(
        `stats ${window}`,
        (signal) => get<Stats>("/workflow-metrics/stats", { window }, signal),
        REFRESH_MS,
    );
    const summary = useResource(
        `summary ${window}`,
        (signal) => get<Summary>("/workflow-metrics/summary", { window }, signal),
        REFRESH_MS,
    );
    const work = useWork();
    return (
        <>
            <div class="toolbar">
                <p class="headline">
                    {summary.data === undefined ? (
                        "\u00a0"
                    ) : (
                        <Headline summary={summary.data} work={work.data} window={window} />
                    )}
                </p>
                <Choice
                    label="Window of the numbers"
                    options={WINDOWS}
                    value={window}
                    onChange={setWindow}
                />
            </div>
            <Tiles stats={stats.data} summary={summary.data} />
            <Loaded resource={stats} what="numbers" quiet>
                {() => null}
            </Loaded>
            <WorkByWorkflow work={work} />
            <Charts />
            <div class="columns">
                <Slowest summary={summary.data} />
                <MostErrors summary={summary.data} />
            </div>
        </>
    );
}

const ALL_IS_WELL = "All is well";
const WINDOW_TEXT: Record<Window, string> = {
    "1m": "in the last minute",
    "5m": "in the last 5 minutes",
    "1h": "in the last hour",
    start: "since the start",
};

/** The state of the host. It is never well while a step fails, or while work is left undone. */
function Headline({
    summary: { status, headline, most_errors },
    work,
    window,
}: {
    summary: Summary;
    work: Work | undefined;
    window: Window;
}) {
    const failing = most_errors.some(({ operation }) => operation.startsWith("step "));
    const undone = work === undefined ? 0 : work.failed.items.length + work.late.items.length;
    if (status !== "ok" || (!failing && undone === 0)) {
        return (
            <>
                <Badge text={status} /> {headline}
            </>
        );
    }
    return (
        <>
            <Badge text={failing ? "steps fail" : "look at the work"} tone="warn" />{" "}
            {headline.replace(ALL_IS_WELL, `No step failed ${WINDOW_TEXT[window]}`)}
        </>
    );
}

/** The tiles are there before the first numbers, so that nothing moves when they come. */
function Tiles({ stats, summary }: { stats: Stats | undefined; summary: Summary | undefined }) {
    const { latest, snapshots } = useLive();
    const since = Date.parse(snapshots.at(-1)?.at ?? "") - TREND_MS;
    const recent = snapshots.filter(({ at }) => Date.parse(at) >= since);
    const trend = (of: (snapshot: Snapshot) => number | null): [number, number | null][] =>
        recent.map((snapshot) => [Date.parse(snapshot.at), of(snapshot)]);
    // On a host that evaluates no alerts the summary has none, not zero.
    const watched = summary?.alerts_firing ?? null;
    const firing = watched === null ? null : (latest?.alerts_firing ?? watched);
    const alarm: Tone | undefined = firing === null ? undefined : firing > 0 ? "bad" : "good";
    const errors = summary?.operations.error_rate ?? null;
    const rejected = stats === undefined ? null : stats.lifecycle.rejected;
    const open = stats === undefined ? null : (stats.instances["waiting"] ?? 0);
    return (
        <section class="tiles" aria-label="Numbers">
            <Tile
                label="Throughput"
                value={format.perMinute(summary?.operations.per_minute)}
                detail={`${format.count(summary?.operations.count)} operations`}
                href={link("operations")}
                trend={trend(({ operations }) => operations.per_minute)}
            />
            <Tile
                label="Errors"
                value={format.percent(errors)}
                tone={errors !== null && errors > ERROR_RATE_BAD ? "bad" : undefined}
                detail="of operations"
                href={link("operations")}
                trend={trend(({ operations }) => operations.error_rate)}
            />
            <Tile
                label="Latency p95"
                value={format.milliseconds(summary?.operations.p95_ms)}
                detail={`p99 ${format.milliseconds(summary?.operations.p99_ms)}`}
                href={link("operations")}
                trend={trend(({ operations }) => operations.p95_ms)}
            />
            <Tile
                label="Alerts"
                value={firing === 0 ? "None" : format.count(firing)}
                tone={alarm}
                detail={
                    firing === null
                        ? "nothing is watched"
                        : firing === 0
                          ? "nothing is firing"
                          : "firing"
                }
                href={link("alerts")}
            />
            <Tile
                label="Instances in progress"
                value={format.count(
                    stats === undefined ? null : (stats.instances["running"] ?? 0) + (open ?? 0),
                )}
                detail={`${format.count(open)} of them wait`}
                href={link("instances", null, { status: "waiting" })}
            />
            <Tile
                label="Completed"
                value={format.count(stats?.lifecycle.completed)}
                detail={`${format.count(stats?.lifecycle.failed)} failed, ${format.count(rejected)} rejected`}
                href={link("instances", null, { status: "completed" })}
            />
            <Tile
                label="Approvals"
                value={format.count(stats?.approvals.submitted)}
                detail={`${format.count(stats?.approvals.approved)} approved, ${format.count(stats?.approvals.rejected)} rejected`}
                {...(may("approval_decide") ? { href: link("approvals") } : {})}
            />
            <Tile
                label="Cache hits"
                value={format.percent(summary?.cache_hit_rate)}
                detail="of all reads, since start"
                href={link("caches")}
            />
        </section>
    );
}

function Charts() {
    const live = useLive();
    const [zoom, setZoom] = useState<[number, number] | null>(null);
    const [shownSeconds, setShownSeconds] = useState<(typeof CHARTS)[number][0]>("300");
    const seconds = Number(shownSeconds);
    const end = live.latest === undefined ? 0 : Date.parse(live.latest.at) / 1_000;
    const [left, right] = zoom ?? [end - seconds, Infinity];
    const isShown = (at: string) => {
        const time = Date.parse(at) / 1_000;
        return time >= left && time <= right;
    };
    const first = live.snapshots.findIndex(({ at }) => isShown(at));
    const shown = live.snapshots.filter(({ at }) => isShown(at));
    const times = shown.map((snapshot) => Date.parse(snapshot.at) / 1_000);
    const line = (
        label: string,
        colour: string,
        value: (snapshot: Snapshot) => number | null | undefined,
        fill = false,
    ): Line => ({ label, colour, fill, values: shown.map((snapshot) => value(snapshot) ?? null) });
    const rates = hitRates(live.snapshots, Math.max(0, first), shown.length);
    // At least a minute. The charts grow with the number of snapshots, up to the chosen period.
    const begin = Math.max(end - seconds, Math.min(times[0] ?? end, end - 60));
    const common = {
        times,
        group: "overview",
        range: zoom ?? ([begin, end] as [number, number]),
        onZoom: ([from, to]: [number, number]) => {
            // A few seconds have too few points to see anything.
            const half = Math.max((to - from) / 2, SHORTEST_S / 2);
            setZoom([(from + to) / 2 - half, (from + to) / 2 + half]);
        },
        empty: "Waiting for the first numbers.",
    };
    return (
        <ZoomOut.Provider value={zoom === null ? null : () => setZoom(null)}>
            <section aria-labelledby="live-charts">
                <div class="toolbar section">
                    <h2 id="live-charts">Live</h2>
                    <span class="muted zoom-hint">{ZOOM_HINT}</span>
                    {zoom !== null && <Button onClick={() => setZoom(null)}>Zoom out</Button>}
                    <Choice
                        label="Length of the charts"
                        options={CHARTS}
                        value={shownSeconds}
                        onChange={(chosen) => {
                            setShownSeconds(chosen);
                            setZoom(null);
                        }}
                    />
                </div>
                <div class="charts">
                    <Chart
                        {...common}
                        title="Throughput"
                        unit="a minute"
                        format={format.perMinute}
                        axis={format.rough}
                        topMin={10}
                        lines={[
                            line(
                                "Operations",
                                "blue",
                                ({ operations }) => operations.per_minute,
                                true,
                            ),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Latency"
                        format={format.milliseconds}
                        lines={[
                            line("p50", "teal", ({ operations }) => operations.p50_ms),
                            line("p95", "amber", ({ operations }) => operations.p95_ms),
                            line("p99", "red", ({ operations }) => operations.p99_ms),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Error rate"
                        format={format.percent}
                        topMin={0.05}
                        lines={[
                            line("Errors", "red", ({ operations }) => operations.error_rate, true),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Instances"
                        unit="in the last minute"
                        format={format.count}
                        axis={format.rough}
                        topMin={5}
                        lines={[
                            line("Created", "blue", ({ lifecycle }) => lifecycle.created),
                            line("Completed", "green", ({ lifecycle }) => lifecycle.completed),
                            line("Failed", "red", ({ lifecycle }) => lifecycle.failed),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Approvals"
                        unit="in the last minute"
                        format={format.count}
                        axis={format.rough}
                        topMin={5}
                        lines={[
                            line("Submitted", "blue", ({ approvals }) => approvals.submitted),
                            line("Approved", "green", ({ approvals }) => approvals.approved),
                            line("Rejected", "red", ({ approvals }) => approvals.rejected),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Cache hit rate"
                        unit="in the last minute"
                        format={format.percent}
                        topMin={1}
                        lines={rates.map(([kind, values], index): Line => ({
                            label: format.words(kind),
                            colour: PALETTE[index] ?? "blue",
                            values,
                        }))}
                    />
                    <Chart
                        {...common}
                        title="Batch sizes"
                        unit="items a call"
                        format={format.count}
                        axis={format.rough}
                        topMin={5}
                        lines={[
                            line("Average", "violet", ({ batches }) => batches.avg_items, true),
                        ]}
                    />
                    <Chart
                        {...common}
                        title="Work in hand"
                        unit="steps"
                        format={format.count}
                        axis={format.rough}
                        topMin={5}
                        lines={[
                            line("Running", "blue", ({ running }) => running),
                            line("Waiting for a place", "amber", ({ queue_depth }) => queue_depth),
                        ]}
                    />
                </div>
            </section>
        </ZoomOut.Provider>
    );
}

const PALETTE = ["blue", "teal", "amber", "violet", "red", "green"];

/**
 * The hit rates of the caches with the most reads, in the minute before each of `count` snapshots
 * from `first` on.
 */
function hitRates(
    snapshots: Snapshot[],
    first: number,
    count: number,
): [kind: string, values: (number | null)[]][] {
    const times = snapshots.map(({ at }) => Date.parse(at));
    const newest = snapshots.findLast(({ caches }) => caches.length > 0)?.caches ?? [];
    const oldest = snapshots.find(({ caches }) => caches.length > 0)?.caches ?? [];
    const total = ({ hits = 0, misses = 0 }: Snapshot["caches"][number]) => hits + misses;
    const read = (kind: string) => {
        const [begin, end] = [oldest, newest].map((caches) =>
            caches.find((cache) => cache.kind === kind),
        );
        return end === undefined ? 0 : total(end) - (begin === undefined ? 0 : total(begin));
    };
    const kinds = newest
        .map(({ kind }) => ({ kind, reads: read(kind) }))
        .filter(({ reads }) => reads > 0)
        .sort((left, right) => right.reads - left.reads)
        .slice(0, PALETTE.length)
        .map(({ kind }) => kind);
    return kinds.sort().map((kind) => {
        const known = snapshots.map(({ caches }) => caches.find((cache) => cache.kind === kind));
        let from = 0;
        const values = times.map((time, index) => {
            while ((times[from + 1] ?? Infinity) <= time - RATE_MS) from += 1;
            while (known[from] === undefined && from < index) from += 1;
            const [before, now] = [known[from], known[index]];
            if (before?.hits === undefined || now?.hits === undefined) return null;
            const reads = total(now) - total(before);
            return reads > 0 ? (now.hits - before.hits) / reads : null;
        });
        return [kind, values.slice(first, first + count)];
    });
}

function Slowest({ summary }: { summary: Summary | undefined }) {
    return (
        <section>
            <h2>Slowest operations</h2>
            <Table
                caption="Slowest operations"
                rows={summary?.slowest ?? []}
                rowKey={({ operation }) => operation}
                empty={summary === undefined ? "Loading…" : "Nothing was measured yet."}
                columns={[
                    {
                        name: "Operation",
                        cell: ({ operation }) => (
                            <a href={link("operations", operation)}>
                                <Name text={operation} />
                            </a>
                        ),
                    },
                    {
                        name: "p95",
                        isNumber: true,
                        cell: ({ p95_ms }) => format.milliseconds(p95_ms),
                    },
                ]}
            />
        </section>
    );
}

function MostErrors({ summary }: { summary: Summary | undefined }) {
    return (
        <section>
            <h2>Most errors</h2>
            <Table
                caption="Operations with most errors"
                rows={summary?.most_errors ?? []}
                rowKey={({ operation }) => operation}
                empty={summary === undefined ? "Loading…" : "No errors in this window."}
                columns={[
                    {
                        name: "Operation",
                        cell: ({ operation }) => (
                            <a href={link("operations", operation)}>
                                <Name text={operation} />
                            </a>
                        ),
                    },
                    { name: "Errors", isNumber: true, cell: ({ errors }) => format.count(errors) },
                    {
                        name: "Of its calls",
                        isNumber: true,
                        cell: ({ error_rate }) => format.percent(error_rate),
                    },
                ]}
            />
        </section>
    );
}
