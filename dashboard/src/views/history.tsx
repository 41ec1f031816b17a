// What was measured earlier, kept by the host over restarts.
import { useState } from "preact/hooks";
import { get } from "../api";
import { Chart } from "../chart";
import * as format from "../format";
import { useResource } from "../hooks";
import type { HistoryNames, MetricHistory, MetricName, OperationHistory } from "../types";
import { Choice, Field, Loaded } from "../ui";

const RANGES = [
  ["-15m", "15 min"], ["-1h", "1 h"], ["-6h", "6 h"], ["-24h", "24 h"], ["-168h", "7 d"], ["custom", "Custom"],
] as const;
type Range = (typeof RANGES)[number][0];

const nameOf = (metric: MetricName): string =>
  (typeof metric === "string" ? metric : metric.metric ?? metric.name ?? "");
const instant = (local: string): string => (local === "" ? "" : new Date(local).toISOString());

export function History() {
  const [range, setRange] = useState<Range>("-1h");
  const [start, setStart] = useState("");
  const [end, setEnd] = useState("");
  const [step, setStep] = useState("");
  const [chosen, setChosen] = useState("");
  const from = range === "custom" ? instant(start) : range;
  const to = range === "custom" ? instant(end) : "";
  const names = useResource(`names ${from} ${to}`, (signal) =>
    get<HistoryNames>("/workflow-metrics/history", { from, to }, signal));
  return (
    <>
      <div class="toolbar">
        <Choice label="Period" options={RANGES} value={range} onChange={setRange} />
        {range === "custom" && (
          <>
            <Field label="From">
              <input type="datetime-local" value={start} onInput={(event) => setStart(event.currentTarget.value)} />
            </Field>
            <Field label="To">
              <input type="datetime-local" value={end} onInput={(event) => setEnd(event.currentTarget.value)} />
            </Field>
          </>
        )}
        <Field label="Step">
          <select value={step} onChange={(event) => setStep(event.currentTarget.value)}>
            <option value="">Fitting</option>
            {["10s", "1m", "1h"].map((value) => <option key={value}>{value}</option>)}
          </select>
        </Field>
      </div>
      <Loaded resource={names} what="the history">{({ operations, metrics }) => {
        const known = [...operations.map((name) => `o ${name}`), ...metrics.map((metric) => `m ${nameOf(metric)}`)];
        const shown = known.includes(chosen) ? chosen : known[0];
        if (shown === undefined) return <p class="muted">Nothing was measured in this period.</p>;
        const name = shown.slice(2);
        return (
          <>
            <Field label="Show">
              <select value={shown} onChange={(event) => setChosen(event.currentTarget.value)}>
                <optgroup label="Operations">
                  {operations.map((operation) => <option key={operation} value={`o ${operation}`}>{operation}</option>)}
                </optgroup>
                <optgroup label="Counters and gauges">
                  {[...new Set(metrics.map(nameOf))].map((metric) => (
                    <option key={metric} value={`m ${metric}`}>{format.words(metric)}</option>
                  ))}
                </optgroup>
              </select>
            </Field>
            <HistoryCharts of={shown.startsWith("o ") ? { operation: name } : { metric: name }}
              from={from} to={to} step={step} />
          </>
        );
      }}</Loaded>
    </>
  );
}

export function HistoryCharts({ of, from, to, step }: {
  of: { operation: string } | { metric: string }; from: string; to: string; step: string;
}) {
  const history = useResource(`${JSON.stringify(of)} ${from} ${to} ${step}`, (signal) =>
    get<OperationHistory | MetricHistory>("/workflow-metrics/history", { ...of, from, to, step }, signal));
  return (
    <Loaded resource={history} what="the history">
      {(data) => ("operation" in data ? <OperationCharts history={data} /> : <MetricChart history={data} />)}
    </Loaded>
  );
}

const seconds = (points: { at: string }[]): number[] => points.map(({ at }) => Date.parse(at) / 1_000);

function OperationCharts({ history: { points } }: { history: OperationHistory }) {
  const common = { times: seconds(points), group: "history" };
  const values = (of: (point: (typeof points)[number]) => number) => points.map(of);
  return (
    <section class="charts" aria-label="Charts of the period">
      <Chart {...common} title="Calls per minute" format={format.count} topMin={5} lines={[
        { label: "Calls", colour: "blue", fill: true, values: values(({ per_minute }) => per_minute) },
      ]} />
      <Chart {...common} title="Latency" format={format.milliseconds} lines={[
        { label: "p50", colour: "teal", values: values(({ p50_ms }) => p50_ms) },
        { label: "p95", colour: "amber", values: values(({ p95_ms }) => p95_ms) },
        { label: "p99", colour: "red", values: values(({ p99_ms }) => p99_ms) },
      ]} />
      <Chart {...common} title="Error rate" format={format.percent} topMin={0.05} lines={[
        { label: "Errors", colour: "red", fill: true, values: values(({ error_rate }) => error_rate) },
      ]} />
    </section>
  );
}

function MetricChart({ history: { metric, points } }: { history: MetricHistory }) {
  return (
    <section class="charts" aria-label="Chart of the period">
      <Chart title={format.words(metric)} times={seconds(points)} format={format.count} topMin={5} lines={[
        { label: "Value", colour: "violet", fill: true, values: points.map(({ value }) => value) },
      ]} />
    </section>
  );
}
