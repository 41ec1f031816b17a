// Every operation with its numbers; one of them with its history.
import { useState } from "preact/hooks";
import { get, segment } from "../api";
import * as format from "../format";
import { link, useResource } from "../hooks";
import type { ViewProps } from "../main";
import type { Operation, Stats } from "../types";
import { Facts, Field, Loaded, Table, type Column } from "../ui";
import { HistoryCharts } from "./history";

type Row = Operation & { name: string };

const number = (name: string, value: (row: Row) => number, show: (value: number) => string): Column<Row> =>
  ({ name, value, isNumber: true, cell: (row) => show(value(row)) });

const COLUMNS: Column<Row>[] = [
  { name: "Operation", value: ({ name }) => name, cell: ({ name }) => <a href={link("operations", name)}>{name}</a> },
  number("Calls", ({ count }) => count, format.count),
  number("Per minute", ({ per_minute }) => per_minute, format.count),
  number("Errors", ({ error_rate }) => error_rate, format.percent),
  number("Average", ({ avg_ms }) => avg_ms, format.milliseconds),
  number("p50", ({ p50_ms }) => p50_ms, format.milliseconds),
  number("p95", ({ p95_ms }) => p95_ms, format.milliseconds),
  number("p99", ({ p99_ms }) => p99_ms, format.milliseconds),
  number("Longest", ({ max_ms }) => max_ms, format.milliseconds),
];

export function Operations({ address }: ViewProps) {
  return address.argument === null ? <List /> : <Details key={address.argument} name={address.argument} />;
}

function List() {
  const [filter, setFilter] = useState("");
  const stats = useResource("stats", (signal) => get<Stats>("/workflow-metrics/stats", {}, signal), 5_000);
  return (
    <>
      <div class="toolbar">
        <Field label="Filter">
          <input type="search" value={filter} placeholder="http, step, plugin …"
            onInput={(event) => setFilter(event.currentTarget.value)} />
        </Field>
      </div>
      <Loaded resource={stats} what="operations">{({ operations }) => {
        const rows = Object.entries(operations).map(([name, operation]) => ({ name, ...operation }))
          .filter(({ name }) => name.toLowerCase().includes(filter.toLowerCase()));
        return <Table caption="Operations" columns={COLUMNS} rows={rows} rowKey={({ name }) => name} sort="Calls"
          empty={filter === "" ? "Nothing was measured yet." : "No operation fits the filter."} />;
      }}</Loaded>
    </>
  );
}

function Details({ name }: { name: string }) {
  const operation = useResource(name, (signal) =>
    get<Operation>(`/workflow-metrics/stats/operation/${segment(name)}`, {}, signal), 5_000);
  return (
    <>
      <p><a href={link("operations")}>← All operations</a></p>
      <h2 class="wrap">{name}</h2>
      <Loaded resource={operation} what="this operation">{(data) => (
        <Facts facts={[
          ["Calls", format.count(data.count)], ["Errors", `${format.count(data.errors)} (${format.percent(data.error_rate)})`],
          ["Per minute", format.count(data.per_minute)], ["Average", format.milliseconds(data.avg_ms)],
          ["p50", format.milliseconds(data.p50_ms)], ["p95", format.milliseconds(data.p95_ms)],
          ["p99", format.milliseconds(data.p99_ms)], ["Longest", format.milliseconds(data.max_ms)],
        ]} />
      )}</Loaded>
      <h2>The last hour</h2>
      <HistoryCharts of={{ operation: name }} from="-1h" to="" step="" />
    </>
  );
}
