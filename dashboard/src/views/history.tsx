// The history: earlier numbers, which the host keeps over restarts.
import { useMemo, useState } from "preact/hooks";
import { get } from "../api";
import { Chart, type Line } from "../chart";
import * as format from "../format";
import { link, useResource } from "../hooks";
import type { ViewProps } from "../main";
import { ALL_OPERATIONS } from "../past";
import type { HistoryNames, MetricHistory, OperationHistory } from "../types";
import { Choice, Empty, Field, Loaded } from "../ui";

const RANGES = [
    ["-15m", "15 min"],
    ["-1h", "1 h"],
    ["-6h", "6 h"],
    ["-1d", "24 h"],
    ["-7d", "7 d"],
    ["-30d", "30 d"],
    ["custom", "Custom"],
] as const;
type Range = (typeof RANGES)[number][0];
/**
 * Milliseconds between reloads of a period that ends now. The host writes its points this often.
 */
const REFRESH_MS = 10_000;

export interface Period {
    from: string;
    to: string;
    step: string;
}

const instant = (local: string): string => (local === "" ? "" : new Date(local).toISOString());
/** Returns "cache hits: instances" for `cache_hits{instances}`. */
const metricTitle = (name: string): string =>
    format.words(name.replace("{", ": ").replace("}", ""));

export function History({ address }: ViewProps) {
    const [range, setRange] = useState<Range>("-1h");
    const [start, setStart] = useState("");
    const [end, setEnd] = useState("");
    const [step, setStep] = useState("");
    const isCustom = range === "custom";
    const period = {
        from: isCustom ? instant(start) : range,
        to: isCustom ? instant(end) : "",
        step,
    };
    const names = useResource(`names ${period.from} ${period.to}`, (signal) =>
        get<HistoryNames>(
            "/workflow-metrics/history",
            { from: period.from, to: period.to },
            signal,
        ),
    );
    const chosen = address.query.get("show") ?? "";
    const choose = (show: string) => {
        location.hash = link("history", null, { show });
    };
    const { operations = [], metrics = [] } = names.data ?? {};
    return (
        <>
            <div class="toolbar">
                <Choice label="Period" options={RANGES} value={range} onChange={setRange} />
                {isCustom && (
                    <>
                        <Field label="From">
                            <input
                                type="datetime-local"
                                value={start}
                                max={end}
                                onInput={(event) => setStart(event.currentTarget.value)}
                            />
                        </Field>
                        <Field label="To">
                            <input
                                type="datetime-local"
                                value={end}
                                min={start}
                                onInput={(event) => setEnd(event.currentTarget.value)}
                            />
                        </Field>
                    </>
                )}
                <Field label="Show">
                    <select
                        class="long"
                        value={chosen}
                        onChange={(event) => choose(event.currentTarget.value)}
                    >
                        <option value="">The host at a glance</option>
                        {chosen !== "" &&
                            ![...operations, ...metrics].includes(chosen.slice(2)) && (
                                <option value={chosen}>{chosen.slice(2)}</option>
                            )}
                        <optgroup label="Operations">
                            {operations.map((name) => (
                                <option key={name} value={`o ${name}`}>
                                    {name}
                                </option>
                            ))}
                        </optgroup>
                        <optgroup label="Counters and gauges">
                            {metrics.map((name) => (
                                <option key={name} value={`m ${name}`}>
                                    {metricTitle(name)}
                                </option>
                            ))}
                        </optgroup>
                    </select>
                </Field>
                <Field label="Step">
                    <select value={step} onChange={(event) => setStep(event.currentTarget.value)}>
                        <option value="">Automatic</option>
                        {["10s", "1m", "5m", "1h"].map((value) => (
                            <option key={value}>{value}</option>
                        ))}
                    </select>
                </Field>
            </div>
            {chosen.startsWith("o ") && (
                <OperationHistoryCharts key={chosen} operation={chosen.slice(2)} period={period} />
            )}
            {chosen.startsWith("m ") && (
                <MetricHistoryChart key={chosen} metric={chosen.slice(2)} period={period} />
            )}
            {chosen === "" && (
                <Loaded resource={names} what="the history">
                    {() => (
                        <>
                            {operations.includes(ALL_OPERATIONS) && (
                                <OperationHistoryCharts
                                    operation={ALL_OPERATIONS}
                                    period={period}
                                />
                            )}
                            <Glance known={metrics} period={period} />
                        </>
                    )}
                </Loaded>
            )}
        </>
    );
}

interface Steps {
    from: string;
    to: string;
    step_seconds: number;
}

/** Returns the points of a history for all steps of the period; null for a step without a point. */
function useSteps<P extends { at: string }>(
    history: Steps & { points: P[] },
): {
    times: number[];
    at: (P | null)[];
    range: [number, number];
} {
    return useMemo(() => {
        const { step_seconds: step, points } = history;
        const [from, to] = [Date.parse(history.from) / 1_000, Date.parse(history.to) / 1_000];
        const first = Math.floor(from / step) * step;
        const times = Array.from(
            { length: Math.floor((to - first) / step) + 1 },
            (_, index) => first + index * step,
        );
        const at = times.map((): P | null => null);
        for (const point of points)
            at[Math.round((Date.parse(point.at) / 1_000 - first) / step)] = point;
        return { times, at: at.slice(0, times.length), range: [first, to] };
    }, [history]);
}

export function OperationHistoryCharts({
    operation,
    period,
}: {
    operation: string;
    period: Period;
}) {
    const history = useResource(
        `${operation} ${JSON.stringify(period)}`,
        (signal) =>
            get<OperationHistory>("/workflow-metrics/history", { operation, ...period }, signal),
        period.to === "" ? REFRESH_MS : undefined,
    );
    return (
        <Loaded resource={history} what="the history">
            {(data) => <OperationCharts history={data} />}
        </Loaded>
    );
}

function OperationCharts({ history }: { history: OperationHistory }) {
    const { times, at, range } = useSteps(history);
    const common = { times, range, group: "history" };
    const line = (
        label: string,
        colour: string,
        of: (point: OperationHistory["points"][number]) => number,
        fill = false,
    ): Line => ({
        label,
        colour,
        fill,
        values: at.map((point) => (point === null ? null : of(point))),
    });
    if (history.points.length === 0) return <Nothing />;
    const calls = history.points.reduce((sum, { count }) => sum + count, 0);
    const errors = history.points.reduce((sum, point) => sum + point.errors, 0);
    return (
        <>
            <p class="muted">
                {format.count(calls)} calls, {format.count(errors)} failed (
                {format.percent(calls === 0 ? null : errors / calls)}); one point for every{" "}
                {format.seconds(history.step_seconds)}
            </p>
            <section class="charts" aria-label={`Charts of ${history.operation}`}>
                <Chart
                    {...common}
                    title="Throughput"
                    unit="calls a minute"
                    format={format.perMinute}
                    axis={format.rough}
                    topMin={5}
                    lines={[line("Calls", "blue", ({ per_minute }) => per_minute, true)]}
                />
                <Chart
                    {...common}
                    title="Latency"
                    format={format.milliseconds}
                    lines={[
                        line("p50", "teal", ({ p50_ms }) => p50_ms),
                        line("p95", "amber", ({ p95_ms }) => p95_ms),
                        line("p99", "red", ({ p99_ms }) => p99_ms),
                    ]}
                />
                <Chart
                    {...common}
                    title="Error rate"
                    format={format.percent}
                    topMin={0.05}
                    lines={[line("Errors", "red", ({ error_rate }) => error_rate, true)]}
                />
            </section>
        </>
    );
}

function MetricHistoryChart({ metric, period }: { metric: string; period: Period }) {
    const history = useResource(
        `${metric} ${JSON.stringify(period)}`,
        (signal) => get<MetricHistory>("/workflow-metrics/history", { metric, ...period }, signal),
        period.to === "" ? REFRESH_MS : undefined,
    );
    return (
        <Loaded resource={history} what="the history">
            {(data) =>
                data.points.length === 0 ? (
                    <Nothing />
                ) : (
                    <section class="charts" aria-label="Chart of the period">
                        <MetricsChart
                            title={metricTitle(metric)}
                            histories={[
                                [data.kind === "counter" ? "A minute" : "Value", "violet", data],
                            ]}
                        />
                    </section>
                )
            }
        </Loaded>
    );
}

const Nothing = () => (
    <Empty title="Nothing was measured in this period.">
        Choose a longer one, or another operation.
    </Empty>
);

type Named = [label: string, colour: string, history: MetricHistory];

/** Metrics of the same period and kind in one chart: counters per minute, gauges unchanged. */
function MetricsChart({
    title,
    histories,
    measured,
}: {
    title: string;
    histories: Named[];
    measured?: Set<string>;
}) {
    const [, , first] = histories[0] ?? [];
    return first === undefined ? null : (
        <MetricsLines
            title={title}
            first={first}
            histories={histories}
            measured={measured ?? new Set()}
        />
    );
}

function MetricsLines({
    title,
    first,
    histories,
    measured,
}: {
    title: string;
    first: MetricHistory;
    histories: Named[];
    /**
     * Times at which the host measured anything. A counter without a point at such a time has not
     * changed.
     */
    measured: Set<string>;
}) {
    const { times, range } = useSteps(first);
    const place = (at: string) =>
        Math.round((Date.parse(at) / 1_000 - (times[0] ?? 0)) / first.step_seconds);
    const quiet = new Set([...measured].map(place));
    const lines = histories.map(([label, colour, history]): Line => {
        const values = times.map((_, index): number | null =>
            history.kind === "counter" && quiet.has(index) ? 0 : null,
        );
        for (const { at, value, per_minute } of history.points) {
            if (place(at) < values.length) values[place(at)] = per_minute ?? value;
        }
        return { label, colour, fill: histories.length === 1, values };
    });
    const isCounter = first.kind === "counter";
    return (
        <Chart
            title={title}
            {...(isCounter ? { unit: "a minute" } : {})}
            times={times}
            range={range}
            group="history"
            format={isCounter ? format.perMinute : format.count}
            axis={format.rough}
            topMin={5}
            lines={lines}
        />
    );
}

/** The most telling metrics of a host, by their names. */
const GLANCE: [title: string, lines: [metric: string, label: string, colour: string][]][] = [
    [
        "Instances",
        [
            ["instances_created", "Created", "blue"],
            ["instances_completed", "Completed", "green"],
            ["instances_failed", "Failed", "red"],
            ["instances_rejected", "Rejected", "amber"],
        ],
    ],
    [
        "Approvals",
        [
            ["approvals_submitted", "Asked", "blue"],
            ["approvals_approved", "Approved", "green"],
            ["approvals_rejected", "Rejected", "red"],
            ["approvals_expired", "Expired", "amber"],
        ],
    ],
    [
        "Commits",
        [
            ["commits", "Steps", "blue"],
            ["commit_groups", "Transactions", "teal"],
        ],
    ],
    [
        "Work in hand",
        [
            ["running", "Steps running", "blue"],
            ["queue_depth", "Steps waiting", "amber"],
            ["active_instances", "Instances", "violet"],
        ],
    ],
];

function Glance({ known, period }: { known: string[]; period: Period }) {
    const wanted = GLANCE.flatMap(([, lines]) => lines.map(([metric]) => metric)).filter((metric) =>
        known.includes(metric),
    );
    const histories = useResource(
        `glance ${wanted.join()} ${JSON.stringify(period)}`,
        async (signal) => {
            const asked = wanted.map(async (metric): Promise<[string, MetricHistory]> => [
                metric,
                await get<MetricHistory>(
                    "/workflow-metrics/history",
                    { metric, ...period },
                    signal,
                ),
            ]);
            return new Map(await Promise.all(asked));
        },
        period.to === "" ? REFRESH_MS : undefined,
    );
    if (wanted.length === 0) return <Nothing />;
    return (
        <Loaded resource={histories} what="the history">
            {(data) => {
                const measured = new Set(
                    [...data.values()].flatMap(({ points }) => points.map(({ at }) => at)),
                );
                return (
                    <section class="charts section" aria-label="Charts of the period">
                        {GLANCE.map(([title, lines]) => {
                            const there = lines.flatMap(([metric, label, colour]): Named[] => {
                                const history = data.get(metric);
                                return history === undefined ? [] : [[label, colour, history]];
                            });
                            return there.length === 0 ? null : (
                                <MetricsChart
                                    key={title}
                                    title={title}
                                    histories={there}
                                    measured={measured}
                                />
                            );
                        })}
                    </section>
                );
            }}
        </Loaded>
    );
}
