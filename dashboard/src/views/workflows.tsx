// Workflows and their definitions.
import { useState } from "preact/hooks";
import { get, segment } from "../api";
import * as format from "../format";
import { link, useResource } from "../hooks";
import type { ViewProps } from "../main";
import { usePages } from "../pages";
import type { NewestVersion, Step, Workflow, WorkflowVersion } from "../types";
import {
    Badge,
    Code,
    Empty,
    Facts,
    Field,
    Loaded,
    More,
    PlainText,
    Table,
    type Tone,
    Time,
} from "../ui";

const TONES: Record<string, Tone> = { active: "good" };

export function Workflows({ address }: ViewProps) {
    return address.argument === null ? (
        <List />
    ) : (
        <Details key={address.argument} name={address.argument} />
    );
}

function List() {
    const pages = usePages<Workflow>("/workflows", {});
    return (
        <>
            <Loaded resource={pages} what="workflows">
                {(workflows) =>
                    workflows.length === 0 ? (
                        <Empty title="No workflow yet.">
                            Apply one with <code>stepwell workflow apply FILE</code>.
                        </Empty>
                    ) : (
                        <Table
                            caption="Workflows"
                            rows={workflows}
                            rowKey={({ id }) => id}
                            columns={[
                                {
                                    name: "Workflow",
                                    cell: ({ name }) => (
                                        <a href={link("workflows", name)}>{name}</a>
                                    ),
                                },
                                {
                                    name: "Description",
                                    cell: ({ description }) => (
                                        <span class="muted">{description}</span>
                                    ),
                                },
                                {
                                    name: "Version",
                                    isNumber: true,
                                    cell: ({ latest_version }) => `v${latest_version}`,
                                },
                                {
                                    name: "Status",
                                    cell: ({ status }) => (
                                        <Badge text={status} tone={TONES[status]} />
                                    ),
                                },
                                {
                                    name: "Changed",
                                    cell: ({ updated_at }) => <Time at={updated_at} />,
                                },
                                {
                                    name: "Instances",
                                    cell: ({ name }) => (
                                        <a href={link("instances", null, { workflow: name })}>
                                            Show
                                            <span class="visually-hidden"> those of {name}</span>
                                        </a>
                                    ),
                                },
                            ]}
                        />
                    )
                }
            </Loaded>
            <More pages={pages} />
        </>
    );
}

function Details({ name }: { name: string }) {
    const newest = useResource(name, (signal) =>
        get<NewestVersion>(`/workflows/${segment(name)}`, {}, signal),
    );
    const [chosen, setChosen] = useState<number | null>(null);
    const number = chosen ?? newest.data?.version ?? 0;
    const shown = useResource(`${name} ${number}`, (signal) =>
        number === 0
            ? Promise.resolve(null)
            : get<WorkflowVersion>(
                  `/workflows/${segment(name)}/versions/${number}`,
                  { source: "true" },
                  signal,
              ),
    );
    return (
        <>
            <Loaded resource={newest} what="this workflow">
                {({ version, definition, status }) => (
                    <>
                        <div class="toolbar item">
                            <h2 class="wrap">{name}</h2>
                            {status === "archived" && <Badge text={status} />}
                            <Field label={`Version, of ${version}`}>
                                <input
                                    type="number"
                                    min={1}
                                    max={version}
                                    value={number}
                                    onChange={(event) =>
                                        setChosen(
                                            Math.min(
                                                version,
                                                Math.max(1, event.currentTarget.valueAsNumber || 1),
                                            ),
                                        )
                                    }
                                />
                            </Field>
                            <a class="button" href={link("instances", null, { workflow: name })}>
                                Its instances
                            </a>
                        </div>
                        <p class="muted wrap">{definition.description}</p>
                    </>
                )}
            </Loaded>
            {newest.data !== undefined && (
                <Loaded resource={shown} what="this version">
                    {(version) =>
                        version === null ? null : (
                            <>
                                <Facts
                                    facts={[
                                        [
                                            "Version",
                                            <>
                                                v{version.version}{" "}
                                                {version.version === newest.data?.version && (
                                                    <Badge text="newest" tone="info" />
                                                )}
                                            </>,
                                        ],
                                        ["Applied by", version.created_by],
                                        ["Applied", <Time at={version.created_at} exact />],
                                    ]}
                                />
                                <h2>Steps</h2>
                                <Steps steps={version.definition.steps} />
                                <h2>Definition</h2>
                                {typeof version.source === "string" ? (
                                    <>
                                        <p class="muted">As it was applied.</p>
                                        <PlainText label="Definition" text={version.source} />
                                    </>
                                ) : (
                                    <Code label="Definition" value={version.definition} />
                                )}
                            </>
                        )
                    }
                </Loaded>
            )}
        </>
    );
}

function Steps({ steps }: { steps: Step[] }) {
    return (
        <Table
            caption="Steps"
            rows={steps}
            rowKey={({ id }) => id}
            columns={[
                { name: "Step", cell: ({ id }) => id },
                {
                    name: "Does",
                    cell: ({ plugin, step, approval }) =>
                        approval === undefined ? (
                            <>
                                runs{" "}
                                <code>
                                    {plugin}/{step}
                                </code>
                            </>
                        ) : (
                            <>asks for an approval: {approval.title}</>
                        ),
                },
                {
                    name: "After",
                    cell: ({ needs }, index) =>
                        needs?.join(", ") ?? (index === 0 ? "the start" : steps[index - 1]?.id),
                },
                {
                    name: "When",
                    cell: ({ when }) => (when === undefined ? "always" : <code>{when}</code>),
                },
                {
                    name: "Attempts",
                    isNumber: true,
                    cell: ({ retry, approval }) =>
                        approval === undefined
                            ? format.count(retry?.max_attempts ?? 1)
                            : format.NONE,
                },
            ]}
        />
    );
}
