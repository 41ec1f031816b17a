// Workflows and their definitions.
import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { get, segment } from "../api";
import { diffLines } from "../diff";
import * as format from "../format";
import { link, useResource, type ViewProps } from "../hooks";
import { usePages } from "../pages";
import { may } from "../session";
import type {
    InstanceSummary,
    NewestVersion,
    Page,
    Step,
    Workflow,
    WorkflowVersion,
} from "../types";
import {
    Badge,
    Button,
    Code,
    Empty,
    Facts,
    Field,
    Loaded,
    More,
    Name,
    PlainText,
    Table,
    type Tone,
    Time,
} from "../ui";
import { Start } from "./start";
import { Reasons } from "./work";

const REFRESH_MS = 30_000;

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
                                        <a href={link("workflows", name)}>
                                            <Name text={name} />
                                        </a>
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
    const [starts, setStarts] = useState(false);
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
                            <h2 class="wrap">
                                <Name text={name} />
                            </h2>
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
                            {status !== "archived" && may("workflow_start") && (
                                <Button kind="primary" onClick={() => setStarts(true)}>
                                    Start…
                                </Button>
                            )}
                        </div>
                        <p class="muted wrap">{definition.description}</p>
                    </>
                )}
            </Loaded>
            {starts && (
                <Start
                    workflow={name}
                    schema={newest.data?.definition.input}
                    onClose={() => setStarts(false)}
                />
            )}
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
                                <Ends name={name} />
                                <h2>Steps</h2>
                                <Steps steps={version.definition.steps} />
                                <Changes key={version.version} shown={version} />
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

/** Most instances that are counted: one page of the list. */
const COUNTED_MAX = 200;

/** How the newest instances of each version ended. */
function Ends({ name }: { name: string }) {
    const newest = useResource(
        `ends ${name}`,
        (signal) =>
            get<Page<InstanceSummary>>(
                "/instances",
                { workflow: name, limit: COUNTED_MAX },
                signal,
            ),
        REFRESH_MS,
    );
    return (
        <Loaded resource={newest} what="its instances">
            {({ items, next }) => {
                const versions = new Map<number, InstanceSummary[]>();
                for (const item of items) {
                    versions.set(item.workflow_version, [
                        ...(versions.get(item.workflow_version) ?? []),
                        item,
                    ]);
                }
                const number = (of: InstanceSummary[], status: string) =>
                    of.filter((item) => item.status === status).length;
                const ended = (of: InstanceSummary[]) =>
                    of.filter(({ completed_at }) => completed_at !== null).length;
                return (
                    <>
                        <h2>
                            How instances end{" "}
                            {next !== null && (
                                <span class="muted small">newest {COUNTED_MAX} instances</span>
                            )}
                        </h2>
                        <Table
                            caption="How instances end, by version"
                            rows={[...versions].sort(([left], [right]) => right - left)}
                            rowKey={([version]) => String(version)}
                            empty="No instance yet."
                            columns={[
                                { name: "Version", cell: ([version]) => `v${version}` },
                                {
                                    name: "Instances",
                                    isNumber: true,
                                    cell: ([, all]) => format.count(all.length),
                                },
                                ...["completed", "rejected", "failed", "waiting"].map((status) => ({
                                    name: format.capital(status),
                                    isNumber: true,
                                    cell: ([, all]: [number, InstanceSummary[]]) =>
                                        format.count(number(all, status)),
                                })),
                                {
                                    name: "Failed of those that ended",
                                    isNumber: true,
                                    cell: ([, all]) => {
                                        const failed = number(all, "failed");
                                        return (
                                            <span class={failed > 0 ? "bad" : ""}>
                                                {format.percent(
                                                    ended(all) === 0 ? null : failed / ended(all),
                                                )}
                                            </span>
                                        );
                                    },
                                },
                                {
                                    name: "Reasons",
                                    cell: ([, all]) => <Reasons instances={all} />,
                                },
                            ]}
                        />
                    </>
                );
            }}
        </Loaded>
    );
}

/** The changes from another version to the shown one. */
function Changes({ shown }: { shown: WorkflowVersion }) {
    const [from, setFrom] = useState(shown.version - 1);
    const other = useResource(`${shown.name} ${from}`, (signal) =>
        from < 1
            ? Promise.resolve(null)
            : get<WorkflowVersion>(
                  `/workflows/${segment(shown.name)}/versions/${from}`,
                  {},
                  signal,
              ),
    );
    if (shown.version < 2) return null;
    return (
        <>
            <div class="toolbar section">
                <h2>Changes</h2>
                <Field label="since version">
                    <input
                        type="number"
                        min={1}
                        max={shown.version - 1}
                        value={from}
                        onChange={(event) =>
                            setFrom(
                                Math.min(
                                    shown.version - 1,
                                    Math.max(1, event.currentTarget.valueAsNumber || 1),
                                ),
                            )
                        }
                    />
                </Field>
            </div>
            <Loaded resource={other} what="the other version">
                {(before) =>
                    before === null ? null : (
                        <Difference
                            label={`Changes from version ${from} to ${shown.version}`}
                            before={textOf(before, shown)}
                            after={textOf(shown, before)}
                        />
                    )
                }
            </Loaded>
        </>
    );
}

/** The text to compare: as applied, if both versions have it. */
const textOf = (version: WorkflowVersion, other: WorkflowVersion): string =>
    typeof version.source === "string" && typeof other.source === "string"
        ? version.source
        : format.pretty(version.definition);

/** Equal lines that are shown around a change. */
const AROUND = 3;
const SIGNS = { same: "  ", removed: "- ", added: "+ " } as const;

function Difference({ label, before, after }: { label: string; before: string; after: string }) {
    const lines = useMemo(() => diffLines(before, after), [before, after]);
    if (lines.every(({ kind }) => kind === "same"))
        return <p class="muted">The definitions are the same.</p>;
    const isNear = lines.map((_, place) =>
        lines
            .slice(Math.max(0, place - AROUND), place + AROUND + 1)
            .some(({ kind }) => kind !== "same"),
    );
    const parts: ComponentChildren[] = [];
    for (let place = 0; place < lines.length; place += 1) {
        const line = lines[place];
        if (line === undefined) continue;
        if (isNear[place] === true) {
            parts.push(
                <span key={place} class={`diff diff-${line.kind}`}>
                    {SIGNS[line.kind]}
                    {line.text}
                    {"\n"}
                </span>,
            );
            continue;
        }
        const begin = place;
        while (place + 1 < lines.length && isNear[place + 1] === false) place += 1;
        parts.push(
            <span key={begin} class="diff muted">
                … {format.count(place - begin + 1)} equal lines{"\n"}
            </span>,
        );
    }
    return (
        <div class="code-box">
            <pre class="code" tabIndex={0} role="region" aria-label={label}>
                {parts}
            </pre>
        </div>
    );
}

function Steps({ steps }: { steps: Step[] }) {
    return (
        <Table
            caption="Steps"
            rows={steps}
            rowKey={({ id }) => id}
            columns={[
                { name: "Step", cell: ({ id }) => <Name text={id} /> },
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
                    name: "Input",
                    cell: ({ input, approval }) =>
                        approval !== undefined ? (
                            format.NONE
                        ) : input === undefined ? (
                            "that of the instance"
                        ) : (
                            <code class="template">{JSON.stringify(input)}</code>
                        ),
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
