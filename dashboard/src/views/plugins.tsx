// Plugins, their versions with their numbers, two versions against each other, and the way back to an earlier one.
import { useState } from "preact/hooks";
import { get, getAll, remove, segment } from "../api";
import * as format from "../format";
import { useResource } from "../hooks";
import { may } from "../session";
import type { Comparison, Operation, PluginVersion, Stats } from "../types";
import { ActionDialog, Badge, Button, Field, Loaded, say, Table, Time } from "../ui";

export function Plugins() {
  const versions = useResource("plugins", (signal) => getAll<PluginVersion>("/plugins", signal));
  const stats = useResource("stats", (signal) => get<Stats>("/workflow-metrics/stats", {}, signal), 10_000);
  const [deletes, setDeletes] = useState<PluginVersion | null>(null);
  return (
    <>
      <Loaded resource={versions} what="plugins">{({ items, next }) => {
        const names = [...new Set(items.map(({ name }) => name))].sort();
        if (names.length === 0) return <p class="muted">No plugin yet: <code>stepwell plugin upload FILE</code>.</p>;
        return (
          <>
            {next !== null && <p class="muted">These are the newest {items.length} versions.</p>}
            {names.map((name) => (
              <Plugin key={name} name={name} versions={items.filter((version) => version.name === name)}
                operations={stats.data?.operations ?? {}} onDelete={setDeletes} />
            ))}
          </>
        );
      }}</Loaded>
      {deletes !== null && (
        <ActionDialog title={`Delete ${deletes.name} ${deletes.version}`} action="Delete version" kind="danger"
          run={() => remove(`/plugins/${segment(deletes.name)}/${segment(deletes.version)}`)}
          onClose={() => setDeletes(null)} onDone={() => { say("Deleted."); versions.reload(); }}>
          <p>Workflows that name no version run the one before it from then on. A version that instances still need is
            kept, and the host says so.</p>
        </ActionDialog>
      )}
    </>
  );
}

function Plugin({ name, versions, operations, onDelete }: {
  name: string; versions: PluginVersion[]; operations: Record<string, Operation>;
  onDelete: (version: PluginVersion) => void;
}) {
  const of = (version: PluginVersion) => operations[`plugin ${name}@${version.version}`];
  return (
    <section class="plugin" aria-label={name}>
      <h2>{name}</h2>
      <p class="muted wrap">{versions[0]?.description}</p>
      <Table caption={`Versions of ${name}`} rows={versions} rowKey={({ id }) => id} columns={[
        { name: "Version", cell: (row) => <>{row.version}{row === versions[0] && <> <Badge text="newest" tone="info" /></>}</> },
        { name: "Uploaded", cell: (row) => <Time at={row.uploaded_at} /> },
        { name: "By", cell: (row) => row.uploaded_by },
        { name: "Digest", cell: (row) => <code title={row.digest}>{row.digest.slice(0, 12)}</code> },
        { name: "Size", isNumber: true, cell: (row) => format.bytes(row.component_bytes) },
        { name: "Calls", isNumber: true, cell: (row) => format.count(of(row)?.count) },
        { name: "Errors", isNumber: true, cell: (row) => format.percent(of(row)?.error_rate) },
        { name: "p95", isNumber: true, cell: (row) => format.milliseconds(of(row)?.p95_ms) },
        ...(may("plugin_manage") ? [{ name: "Delete", cell: (row: PluginVersion) => (
          <Button label={`${row === versions[0] && versions.length > 1 ? "Roll back" : "Delete"} ${name} ${row.version}`}
            onClick={() => onDelete(row)}>{row === versions[0] && versions.length > 1 ? "Roll back…" : "Delete…"}</Button>
        ) }] : []),
      ]} />
      {versions.length > 1 && <Compare name={name} versions={versions.map(({ version }) => version)} />}
    </section>
  );
}

function Compare({ name, versions }: { name: string; versions: string[] }) {
  const [baseline, setBaseline] = useState(versions[1] ?? "");
  const [candidate, setCandidate] = useState(versions[0] ?? "");
  const [open, setOpen] = useState(false);
  const choose = (value: string, set: (value: string) => void) => (
    <select value={value} onChange={(event) => set(event.currentTarget.value)}>
      {versions.map((version) => <option key={version}>{version}</option>)}
    </select>
  );
  return (
    <details class="card" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Compare versions</summary>
      <div class="toolbar">
        <Field label="Baseline">{choose(baseline, setBaseline)}</Field>
        <Field label="Candidate">{choose(candidate, setCandidate)}</Field>
      </div>
      {open && <Verdict name={name} baseline={baseline} candidate={candidate} />}
    </details>
  );
}

function Verdict({ name, baseline, candidate }: { name: string; baseline: string; candidate: string }) {
  const comparison = useResource(`${name} ${baseline} ${candidate}`, (signal) =>
    get<Comparison>(`/workflow-metrics/plugins/${segment(name)}/compare`, { baseline, candidate }, signal));
  return (
    <Loaded resource={comparison} what="comparisons">{(data) => (
      <>
        <p><Badge text={data.verdict} /></p>
        <ul>{data.reasons.map((reason) => <li key={reason}>{reason}</li>)}</ul>
        <Table caption="Two versions" rows={[data.baseline, data.candidate]} rowKey={({ version }) => version} columns={[
          { name: "Version", cell: ({ version }) => version },
          { name: "Calls", isNumber: true, cell: ({ count }) => format.count(count) },
          { name: "Errors", isNumber: true, cell: ({ error_rate }) => format.percent(error_rate) },
          { name: "p50", isNumber: true, cell: ({ p50_ms }) => format.milliseconds(p50_ms) },
          { name: "p95", isNumber: true, cell: ({ p95_ms }) => format.milliseconds(p95_ms) },
        ]} />
      </>
    )}</Loaded>
  );
}
