// The history: earlier numbers, which the host keeps over restarts.
import { useMemo, useState } from "preact/hooks";
import { get } from "../api";
import { Chart, InPlaceOfCharts, ZOOM_HINT, ZoomOut, type Line } from "../chart";
import * as format from "../format";
import { link, useResource, type Resource, type ViewProps } from "../hooks";
import { ALL_OPERATIONS } from "../past";
import type { HistoryNames, HistorySeries, OperationPoint } from "../types";
import { Button, Choice, Empty, Field, Filters, Loaded } from "../ui";

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

/** A chosen period. */
interface Shown {
    range: Range;
    start: string;
    end: string;
}
/** The shortest period to zoom into, in seconds: a few points. */
const SHORTEST_S = 60;

/** A time for a field of local time. */
const local = (seconds: number): string => {
    const time = new Date(seconds * 1_000);
    return new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
};
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
    const [before, setBefore] = useState<Shown[]>([]);
    const show = (shown: Shown) => {
        setRange(shown.range);
        setStart(shown.start);
        setEnd(shown.end);
    };
    const zoom: OnZoom = ([from, to]) => {
        const middle = (from + to) / 2;
        const half = Math.max((to - from) / 2, SHORTEST_S / 2);
        setBefore([...before, { range, start, end }]);
        show({ range: "custom", start: local(middle - half), end: local(middle + half) });
    };
    const zoomOut = () => {
        const last = before.at(-1);
        if (last !== undefined) show(last);
        setBefore(before.slice(0, -1));
    };
    return (
        <ZoomOut.Provider value={before.length === 0 ? null : zoomOut}>
            <Filters
                set={(range === "-1h" ? 0 : 1) + (chosen === "" ? 0 : 1) + (step === "" ? 0 : 1)}
            >
                <Choice
                    label="Period"
                    options={RANGES}
                    value={range}
                    onChange={(chosen) => {
                        setRange(chosen);
                        setBefore([]);
                    }}
                />
                {isCustom && (
                    <>
                        <Field label="From">
                            <input
                                type="datetime-local"
                                step={1}
                                value={start}
                                max={end}
                                onInput={(event) => setStart(event.currentTarget.value)}
                            />
                        </Field>
                        <Field label="To">
                            <input
                                type="datetime-local"
                                step={1}
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
            </Filters>
            <p class="muted zoom">
                <span class="zoom-hint">{ZOOM_HINT}</span>
                {before.length > 0 && <Button onClick={zoomOut}>Zoom out</Button>}
            </p>
            {chosen.startsWith("o ") && (
                <OperationHistoryCharts
                    key={chosen}
                    operation={chosen.slice(2)}
                    period={period}
                    onZoom={zoom}
                />
            )}
            {chosen.startsWith("m ") && (
                <MetricHistoryChart
                    key={chosen}
                    metric={chosen.slice(2)}
                    period={period}
                    onZoom={zoom}
                />
            )}
            {chosen === "" && (
                <Loaded resource={names} what="the history">
                    {() => (
                        <>
                            <Glance
                                operations={operations}
                                metrics={metrics}
                                period={period}
                                onZoom={zoom}
                            />
                        </>
                    )}
                </Loaded>
            )}
        </ZoomOut.Provider>
    );
}

type LoadedSeries = HistorySeries["series"][number];

/** The steps of a period, and at which of them any host measured. */
interface Steps {
    times: number[];
    range: [number, number];
    measured: boolean[];
    /** The places of points among the steps. */
    place: (point: { at: string }) => number;
}

/** Written by every host in each step, so it tells when there was a host. */
const ALWAYS = "metric:running";

function useSeries(names: string[], period: Period): Resource<HistorySeries> {
    const series = [...new Set([...names, ALWAYS])];
    return useResource(
        `${series.join("\n")} ${JSON.stringify(period)}`,
        (signal) => get<HistorySeries>("/workflow-metrics/history", { series, ...period }, signal),
        period.to === "" ? REFRESH_MS : undefined,
    );
}

/**
 * Returns the steps of a history. A last step that has hardly begun is left out: a few events in it
 * would be drawn as a high rate.
 */
function stepsOf(history: HistorySeries): Steps {
    const { step_seconds: step } = history;
    const [from, to] = [Date.parse(history.from) / 1_000, Date.parse(history.to) / 1_000];
    const first = Math.floor(from / step) * step;
    const last = Math.floor(to / step) * step;
    const hasBegun = to - last >= step / 2;
    const count = Math.max(1, Math.round((last - first) / step) + (hasBegun ? 1 : 0));
    const times = Array.from({ length: count }, (_, index) => first + index * step);
    const place = ({ at }: { at: string }) => Math.round((Date.parse(at) / 1_000 - first) / step);
    const measured = times.map(() => false);
    for (const { points } of history.series) {
        for (const point of points as { at: string }[])
            if (place(point) < measured.length) measured[place(point)] = true;
    }
    return { times, measured, place, range: [first, to] };
}

/** The values of points at all steps. Without a point: `missing` if there was a host, else null. */
function valuesOf<P extends { at: string }>(
    { times, measured, place }: Steps,
    points: P[],
    of: (point: P) => number | null,
    missing: number | null,
): (number | null)[] {
    const values = times.map((_, index) => (measured[index] === true ? missing : null));
    for (const point of points) if (place(point) < values.length) values[place(point)] = of(point);
    return values;
}

type OperationSeries = Extract<LoadedSeries, { operation: string }>;
type MetricSeries = Extract<LoadedSeries, { metric: string }>;
const isOperation = (series: LoadedSeries): series is OperationSeries => "operation" in series;

type OnZoom = (range: [number, number]) => void;

export function OperationHistoryCharts({
    operation,
    period,
    onZoom,
}: {
    operation: string;
    period: Period;
    onZoom?: OnZoom;
}) {
    const history = useSeries([`operation:${operation}`], period);
    return (
        <Loaded resource={history} what="the history">
            {(data) => <OperationCharts history={data} operation={operation} onZoom={onZoom} />}
        </Loaded>
    );
}

function OperationCharts({
    history,
    operation,
    onZoom,
}: {
    history: HistorySeries;
    operation: string;
    onZoom: OnZoom | undefined;
}) {
    const points =
        history.series.filter(isOperation).find((series) => series.operation === operation)
            ?.points ?? [];
    // The chart draws anew when these change, so they are made once for each response.
    const { times, range, lines } = useMemo(() => {
        const steps = stepsOf(history);
        const values = (of: (point: OperationPoint) => number, missing: number | null) =>
            valuesOf(steps, points, of, missing);
        const calls: Line = {
            label: "Calls",
            colour: "blue",
            fill: true,
            values: values(({ per_minute }) => per_minute, 0),
        };
        const errors: Line = {
            label: "Errors",
            colour: "red",
            fill: true,
            values: values(({ error_rate }) => error_rate, 0),
        };
        // Without a call there is no latency.
        const latency: Line[] = [
            { label: "p50", colour: "teal", values: values(({ p50_ms }) => p50_ms, null) },
            { label: "p95", colour: "amber", values: values(({ p95_ms }) => p95_ms, null) },
            { label: "p99", colour: "red", values: values(({ p99_ms }) => p99_ms, null) },
        ];
        return { ...steps, lines: { calls: [calls], errors: [errors], latency } };
    }, [history]);
    const common = {
        times,
        range,
        group: "history",
        ...(onZoom === undefined ? {} : { onZoom }),
    };
    if (points.length === 0) return <Nothing />;
    const calls = points.reduce((sum, { count }) => sum + count, 0);
    const errors = points.reduce((sum, point) => sum + point.errors, 0);
    return (
        <>
            <p class="muted">
                {format.count(calls)} calls, {format.count(errors)} failed (
                {format.percent(calls === 0 ? null : errors / calls)}); one point for every{" "}
                {format.seconds(history.step_seconds)}
            </p>
            <section class="charts" aria-label={`Charts of ${operation}`}>
                <Chart
                    {...common}
                    title="Throughput"
                    unit="calls a minute"
                    format={format.perMinute}
                    axis={format.rough}
                    topMin={5}
                    lines={lines.calls}
                />
                <Chart
                    {...common}
                    title="Latency"
                    format={format.milliseconds}
                    lines={lines.latency}
                />
                <Chart
                    {...common}
                    title="Error rate"
                    format={format.percent}
                    topMin={0.05}
                    lines={lines.errors}
                />
            </section>
        </>
    );
}

function MetricHistoryChart({
    metric,
    period,
    onZoom,
}: {
    metric: string;
    period: Period;
    onZoom: OnZoom;
}) {
    const history = useSeries([`metric:${metric}`], period);
    return (
        <Loaded resource={history} what="the history">
            {(data) => {
                const one = metricOf(data, metric);
                return one === undefined || one.points.length === 0 ? (
                    <Nothing />
                ) : (
                    <section class="charts" aria-label="Chart of the period">
                        <MetricsChart
                            title={metricTitle(metric)}
                            history={data}
                            lines={[
                                [metric, one.kind === "counter" ? "A minute" : "Value", "violet"],
                            ]}
                            onZoom={onZoom}
                        />
                    </section>
                );
            }}
        </Loaded>
    );
}

const metricOf = (history: HistorySeries, metric: string): MetricSeries | undefined =>
    history.series.find(
        (series): series is MetricSeries => !isOperation(series) && series.metric === metric,
    );

type Named = [metric: string, label: string, colour: string];

/** Metrics of the same kind in one chart: counters per minute, gauges unchanged. */
function MetricsChart({
    title,
    history,
    lines: named,
    onZoom,
}: {
    title: string;
    history: HistorySeries;
    lines: Named[];
    onZoom: OnZoom;
}) {
    const shape = named.map(([metric]) => metric).join();
    const { times, range, lines, isCounter } = useMemo(() => {
        const steps = stepsOf(history);
        let counters = 0;
        const lines = named.flatMap(([metric, label, colour]): Line[] => {
            const series = metricOf(history, metric);
            if (series === undefined || series.points.length === 0) return [];
            const isCounter = series.kind === "counter";
            if (isCounter) counters += 1;
            // A counter without a point has not changed.
            const values = valuesOf(
                steps,
                series.points,
                ({ value, per_minute }) => per_minute ?? value,
                isCounter ? 0 : null,
            );
            return [{ label, colour, fill: named.length === 1, values }];
        });
        return { ...steps, lines, isCounter: counters > 0 };
    }, [history, shape]);
    if (lines.length === 0) return null;
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
            onZoom={onZoom}
        />
    );
}

const Nothing = () => (
    <InPlaceOfCharts>
        <Empty title="Nothing was measured in this period.">
            Choose a longer one, or another operation.
        </Empty>
    </InPlaceOfCharts>
);

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

/** All operations together and the most telling metrics, in one request. */
function Glance({
    operations,
    metrics,
    period,
    onZoom,
}: {
    operations: string[];
    metrics: string[];
    period: Period;
    onZoom: OnZoom;
}) {
    const wanted = GLANCE.flatMap(([, lines]) => lines.map(([metric]) => metric)).filter((metric) =>
        metrics.includes(metric),
    );
    const hasCalls = operations.includes(ALL_OPERATIONS);
    const history = useSeries(
        [
            ...(hasCalls ? [`operation:${ALL_OPERATIONS}`] : []),
            ...wanted.map((metric) => `metric:${metric}`),
        ],
        period,
    );
    if (!hasCalls && wanted.length === 0) return <Nothing />;
    return (
        <Loaded resource={history} what="the history">
            {(data) => (
                <>
                    {hasCalls && (
                        <OperationCharts
                            history={data}
                            operation={ALL_OPERATIONS}
                            onZoom={onZoom}
                        />
                    )}
                    <section class="charts section" aria-label="Charts of the period">
                        {GLANCE.map(([title, lines]) => (
                            <MetricsChart
                                key={title}
                                title={title}
                                history={data}
                                lines={lines}
                                onZoom={onZoom}
                            />
                        ))}
                    </section>
                </>
            )}
        </Loaded>
    );
}
