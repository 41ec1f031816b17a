// Workflows and their definitions.
import { useState } from "preact/hooks";
import { get, segment } from "../api";
import { link, useResource } from "../hooks";
import type { ViewProps } from "../main";
import { usePages } from "../pages";
import type { Workflow, WorkflowVersion } from "../types";
import { Button, Code, Facts, Field, Loaded, Table, Time } from "../ui";

export function Workflows({ address }: ViewProps) {
  return address.argument === null ? <List /> : <Details key={address.argument} name={address.argument} />;
}

function List() {
  const pages = usePages<Workflow>("/workflows", {});
  return (
    <>
      <Loaded resource={pages} what="workflows">{(workflows) => (
        <Table caption="Workflows" rows={workflows} rowKey={({ id }) => id} empty="No workflow yet." columns={[
          { name: "Workflow", cell: ({ name }) => <a href={link("workflows", name)}>{name}</a> },
          { name: "Description", cell: ({ description }) => description },
          { name: "Version", isNumber: true, cell: ({ latest_version }) => `v${latest_version}` },
          { name: "Changed", cell: ({ updated_at }) => <Time at={updated_at} /> },
          { name: "Instances", cell: ({ name }) => <a href={link("instances", null, { workflow: name })}>Show</a> },
        ]} />
      )}</Loaded>
      {pages.more !== null && <Button onClick={pages.more} disabled={pages.busy}>More</Button>}
    </>
  );
}

function Details({ name }: { name: string }) {
  const newest = useResource(name, (signal) => get<WorkflowVersion>(`/workflows/${segment(name)}`, {}, signal));
  const [chosen, setChosen] = useState<number | null>(null);
  const number = chosen ?? newest.data?.version ?? 0;
  const shown = useResource(`${name} ${number}`, (signal) => (number === 0 ? Promise.resolve(null)
    : get<WorkflowVersion>(`/workflows/${segment(name)}/versions/${number}`, {}, signal)));
  return (
    <>
      <p><a href={link("workflows")}>← All workflows</a></p>
      <h2>{name}</h2>
      <Loaded resource={newest} what="this workflow">{({ version }) => (
        <div class="toolbar">
          <Field label="Version">
            <input type="number" min={1} max={version} value={number}
              onChange={(event) => setChosen(Math.min(version, Math.max(1, event.currentTarget.valueAsNumber || 1)))} />
          </Field>
          <a class="button" href={link("instances", null, { workflow: name })}>Its instances</a>
        </div>
      )}</Loaded>
      <Loaded resource={shown} what="this version">{(version) => (version === null ? null : (
        <>
          <Facts facts={[["Version", `v${version.version}`], ["By", version.created_by], ["Since", <Time at={version.created_at} />]]} />
          <Code label="Definition" value={version.definition} />
        </>
      ))}</Loaded>
    </>
  );
}
