// Instances: a list with filters, and one of them with everything that happened to it.
import { useState } from "preact/hooks";
import { get, post, segment } from "../api";
import * as format from "../format";
import { link, useNow, useResource } from "../hooks";
import type { ViewProps } from "../main";
import { usePages } from "../pages";
import { may } from "../session";
import type { Approval, Attempt, Instance, InstanceDetails } from "../types";
import { ActionDialog, Badge, Button, Code, Facts, Field, Loaded, say, Table, Time } from "../ui";

const STATUSES = ["running", "waiting", "completed", "rejected", "failed", "cancelled"];
const TEXTS = [
  ["workflow", "Workflow"], ["entity_type", "Entity type"], ["entity_id", "Entity id"], ["project_id", "Project"],
  ["started_by", "Started by"],
] as const;

export function Instances({ address }: ViewProps) {
  if (address.argument !== null) return <Details key={address.argument} id={address.argument} />;
  return <List key={address.query.toString()} query={address.query} />;
}

function List({ query }: { query: URLSearchParams }) {
  const filter = Object.fromEntries(["status", ...TEXTS.map(([name]) => name)].map((name) => [name, query.get(name) ?? ""]));
  const pages = usePages<Instance>("/instances", filter);
  const narrow = (name: string, value: string) => {
    location.hash = link("instances", null, { ...filter, [name]: value });
  };
  return (
    <>
      <div class="toolbar">
        <Field label="Status">
          <select value={filter["status"]} onChange={(event) => narrow("status", event.currentTarget.value)}>
            <option value="">Any</option>
            {STATUSES.map((status) => <option key={status}>{status}</option>)}
          </select>
        </Field>
        {TEXTS.map(([name, label]) => (
          <Field key={name} label={label}>
            <input type="search" value={filter[name]} onChange={(event) => narrow(name, event.currentTarget.value.trim())} />
          </Field>
        ))}
        <Button onClick={pages.reload}>Refresh</Button>
      </div>
      <Loaded resource={pages} what="instances">{(instances) => (
        <Table caption="Instances" rows={instances} rowKey={({ id }) => id} empty="No instance fits." columns={[
          { name: "Instance", cell: ({ id }) => <a href={link("instances", id)} title={id}>{format.shortId(id)}</a> },
          { name: "Workflow", cell: (row) => `${row.workflow} v${row.workflow_version}` },
          { name: "Status", cell: ({ status }) => <Badge text={status} /> },
          { name: "At step", cell: ({ current_step }) => current_step ?? format.NONE },
          { name: "Entity", cell: (row) => [row.entity_type, row.entity_id].filter((part) => part !== null).join(" ") || format.NONE },
          { name: "Started by", cell: ({ started_by }) => started_by },
          { name: "Created", cell: ({ created_at }) => <Time at={created_at} /> },
          { name: "Took", isNumber: true, cell: (row) => (row.completed_at === null ? format.NONE
            : format.milliseconds(Date.parse(row.completed_at) - Date.parse(row.created_at))) },
        ]} />
      )}</Loaded>
      {pages.more !== null && <Button onClick={pages.more} disabled={pages.busy}>More</Button>}
    </>
  );
}

const isOpen = ({ status }: Instance): boolean => status === "running" || status === "waiting";

function Details({ id }: { id: string }) {
  const [cancels, setCancels] = useState(false);
  const instance = useResource(id, (signal) => get<InstanceDetails>(`/instances/${segment(id)}`, {}, signal), 5_000);
  return (
    <>
      <p><a href={link("instances")}>← All instances</a></p>
      <Loaded resource={instance} what="this instance">{(data) => (
        <>
          <div class="toolbar">
            <h2 class="wrap">{data.workflow} <Badge text={data.status} /></h2>
            {isOpen(data) && may("workflow_manage") && (
              <Button kind="danger" onClick={() => setCancels(true)}>Cancel instance…</Button>
            )}
          </div>
          <Facts facts={[
            ["Id", data.id], ["Version", `v${data.workflow_version}`], ["Started by", data.started_by],
            ["Entity", [data.entity_type, data.entity_id].filter((part) => part !== null).join(" ") || format.NONE],
            ["Project", data.project_id ?? format.NONE], ["Created", <Time at={data.created_at} />],
            ["Ended", <Time at={data.completed_at} />],
          ]} />
          {data.failure !== null && (
            <p class="notice notice-bad wrap"><b>{data.failure.code}</b> {data.failure.message} ({data.failure.blame})</p>
          )}
          <h2>Timeline</h2>
          <Timeline instance={data} />
          <h2>Attempts</h2>
          <Table caption="Attempts" rows={data.attempts} rowKey={({ step, number }) => `${step} ${number}`}
            empty="No step has ended yet." columns={[
              { name: "Step", cell: ({ step }) => step },
              { name: "Attempt", isNumber: true, cell: ({ number }) => number },
              { name: "Outcome", cell: ({ outcome }) => <Badge text={outcome} /> },
              { name: "Plugin", cell: ({ plugin }) => plugin ?? format.NONE },
              { name: "Began", cell: ({ started_at }) => <Time at={started_at} /> },
              { name: "Took", isNumber: true, cell: (row) => format.milliseconds(took(row)) },
              { name: "Failure", cell: ({ failure }) => (failure === null ? format.NONE : `${failure.code}: ${failure.message}`) },
            ]} />
          <div class="columns">
            <section><h2>Input</h2><Code label="Input" value={data.input} /></section>
            <section><h2>Output</h2><Code label="Output" value={data.output} /></section>
          </div>
          {data.attempts.filter(({ output }) => output !== null).map(({ step, number, output }) => (
            <details key={`${step} ${number}`} class="card">
              <summary>Output of {step}, attempt {number}</summary><Code label={`Output of ${step}`} value={output} />
            </details>
          ))}
        </>
      )}</Loaded>
      {cancels && (
        <ActionDialog title="Cancel the instance" action="Cancel instance" kind="danger" onClose={() => setCancels(false)}
          run={() => post(`/instances/${segment(id)}/cancel`)} onDone={() => { say("Cancelled."); instance.reload(); }}>
          <p>No further step will run, and its open approvals end. This cannot be undone.</p>
        </ActionDialog>
      )}
    </>
  );
}

const took = ({ started_at, finished_at }: Attempt): number => Date.parse(finished_at) - Date.parse(started_at);

interface Bar { key: string; text: string; tone: string; from: number; to: number }

const attemptBar = (attempt: Attempt): Bar => ({
  key: `a ${attempt.number}`, tone: attempt.failure === null ? "good" : "bad",
  text: `attempt ${attempt.number}: ${format.words(attempt.outcome)}, ${format.milliseconds(took(attempt))}`,
  from: Date.parse(attempt.started_at), to: Date.parse(attempt.finished_at),
});

const approvalBar = (approval: Approval, now: number): Bar => {
  const [from, to] = [Date.parse(approval.created_at), approval.decided_at === null ? now : Date.parse(approval.decided_at)];
  const tone = approval.status === "approved" ? "good" : approval.status === "rejected" ? "bad" : "warn";
  return {
    key: approval.id, tone, from, to,
    text: `${approval.approver_id}: ${approval.status} after ${format.milliseconds(Math.max(0, to - from))}`,
  };
};

/** When each step ran and waited. The table of attempts below it says the same in words. */
function Timeline({ instance }: { instance: InstanceDetails }) {
  const now = useNow(5_000);
  const rows = new Map<string, Bar[]>();
  const add = (step: string, bar: Bar) => rows.set(step, [...rows.get(step) ?? [], bar]);
  instance.attempts.forEach((attempt) => add(attempt.step, attemptBar(attempt)));
  instance.approvals.forEach((approval) => add(approval.step, approvalBar(approval, now)));
  const start = Date.parse(instance.created_at);
  const end = Math.max(start + 1, ...[...rows.values()].flat().map(({ to }) => to));
  const share = (ms: number) => `${Math.min(100, Math.max(0, (ms / (end - start)) * 100))}%`;
  if (rows.size === 0) return <p class="muted">No step has ended yet.</p>;
  return (
    <div class="timeline card">
      <ol>
        {[...rows].map(([step, bars]) => (
          <li key={step}>
            <span class="timeline-step">{step}</span>
            <ul class="timeline-track">
              {bars.map((bar) => (
                <li key={bar.key} class={`bar bar-${bar.tone}`} title={bar.text}
                  style={{ left: share(bar.from - start), width: share(bar.to - bar.from) }}>
                  <span class="visually-hidden">{bar.text}</span>
                </li>
              ))}
            </ul>
            <span class="timeline-time">{format.milliseconds(Math.max(0, ...bars.map(({ to }) => to)) - Math.min(...bars.map(({ from }) => from)))}</span>
          </li>
        ))}
      </ol>
      <p class="timeline-scale muted" aria-hidden="true"><span>0</span><span>{format.milliseconds(end - start)}</span></p>
    </div>
  );
}
