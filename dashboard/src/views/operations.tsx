// All operations with their numbers, and one operation with its history.
import { useState } from "preact/hooks";
import { get, segment } from "../api";
import * as format from "../format";
import { link, useResource, type ViewProps } from "../hooks";
import type { Operation, Stats } from "../types";
import { Choice, Field, Loaded, Table, Tile, type Column, Name } from "../ui";
import { OperationHistoryCharts } from "./history";

type Row = Operation & { name: string };

const number = (
    name: string,
    value: (row: Row) => number,
    show: (value: number) => string,
): Column<Row> => ({
    name,
    value,
    isNumber: true,
    cell: (row) => show(value(row)),
});

const COLUMNS: Column<Row>[] = [
    {
        name: "Operation",
        value: ({ name }) => name,
        cell: ({ name }) => (
            <a href={link("operations", name)}>
                <Name text={name} />
            </a>
        ),
    },
    number("Calls", ({ count }) => count, format.count),
    number("Per minute", ({ per_minute }) => per_minute, format.count),
    number("Errors", ({ error_rate }) => error_rate, format.percent),
    number("Average", ({ avg_ms }) => avg_ms, format.milliseconds),
    number("p50", ({ p50_ms }) => p50_ms, format.milliseconds),
    number("p95", ({ p95_ms }) => p95_ms, format.milliseconds),
    number("p99", ({ p99_ms }) => p99_ms, format.milliseconds),
    number("Longest", ({ max_ms }) => max_ms, format.milliseconds),
];

const LAST_HOUR = { from: "-1h", to: "", step: "" };

export function Operations({ address }: ViewProps) {
    return address.argument === null ? (
        <List />
    ) : (
        <Details key={address.argument} name={address.argument} />
    );
}

const WINDOWS = [
    ["1m", "1 min"],
    ["5m", "5 min"],
    ["1h", "1 h"],
    ["start", "Since start"],
] as const;
type Window = (typeof WINDOWS)[number][0];
const KINDS = [
    ["", "All"],
    ["http ", "HTTP"],
    ["step ", "Steps"],
    ["plugin ", "Plugin versions"],
] as const;

function List() {
    const [filter, setFilter] = useState("");
    const [kind, setKind] = useState<(typeof KINDS)[number][0]>("");
    const [window, setWindow] = useState<Window>("start");
    const stats = useResource(
        `stats ${window}`,
        (signal) => get<Stats>("/workflow-metrics/stats", { window }, signal),
        5_000,
    );
    return (
        <>
            <div class="toolbar">
                <Choice label="Kind" options={KINDS} value={kind} onChange={setKind} />
                <Choice
                    label="Window of the numbers"
                    options={WINDOWS}
                    value={window}
                    onChange={setWindow}
                />
                <Field label="Filter">
                    <input
                        type="search"
                        value={filter}
                        placeholder="Part of a name"
                        onInput={(event) => setFilter(event.currentTarget.value)}
                    />
                </Field>
            </div>
            <Loaded resource={stats} what="operations">
                {({ operations }) => {
                    const rows = Object.entries(operations)
                        .map(([name, operation]) => ({ name, ...operation }))
                        .filter(
                            ({ name }) =>
                                name.startsWith(kind) &&
                                name.toLowerCase().includes(filter.toLowerCase()),
                        );
                    return (
                        <Table
                            caption="Operations"
                            columns={COLUMNS}
                            rows={rows}
                            rowKey={({ name }) => name}
                            sort="Calls"
                            empty={
                                filter === "" && kind === ""
                                    ? "Nothing was measured in this window."
                                    : "No operation fits."
                            }
                        />
                    );
                }}
            </Loaded>
        </>
    );
}

function Details({ name }: { name: string }) {
    const operation = useResource(
        name,
        (signal) =>
            get<Operation>(`/workflow-metrics/stats/operation/${segment(name)}`, {}, signal),
        5_000,
    );
    return (
        <>
            <h2 class="item wrap">
                <span>
                    <Name text={name} />
                </span>
            </h2>
            <Loaded resource={operation} what="this operation">
                {(data) => (
                    <section class="tiles" aria-label="Since the start">
                        <Tile
                            label="Calls"
                            value={format.count(data.count)}
                            detail={`${format.perMinute(data.per_minute)}, since start`}
                        />
                        <Tile
                            label="Errors"
                            value={format.percent(data.error_rate)}
                            detail={`${format.count(data.errors)} calls`}
                        />
                        <Tile
                            label="Latency p95"
                            value={format.milliseconds(data.p95_ms)}
                            detail={`p50 ${format.milliseconds(data.p50_ms)}, p99 ${format.milliseconds(data.p99_ms)}`}
                        />
                        <Tile
                            label="Average"
                            value={format.milliseconds(data.avg_ms)}
                            detail={`${format.milliseconds(data.min_ms)} to ${format.milliseconds(data.max_ms)}`}
                        />
                    </section>
                )}
            </Loaded>
            <div class="toolbar section">
                <h2>The last hour</h2>
                <a class="button" href={link("history", null, { show: `o ${name}` })}>
                    Other periods
                </a>
            </div>
            <OperationHistoryCharts operation={name} period={LAST_HOUR} />
        </>
    );
}
