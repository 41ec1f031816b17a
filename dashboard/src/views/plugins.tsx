// Plugins, and one plugin: its versions with their numbers, a comparison of two versions, the
// rollback to an earlier version, and its own metrics.
import { useState } from "preact/hooks";
import { get, getAll, remove, segment } from "../api";
import * as format from "../format";
import { link, useResource, type ViewProps } from "../hooks";
import { apply, changesFor } from "../rollback";
import { may } from "../session";
import type { Comparison, Operation, PluginVersion, Series, Stats } from "../types";
import {
    ActionDialog,
    Badge,
    Button,
    Empty,
    Facts,
    Field,
    Loaded,
    say,
    Table,
    Time,
    Name,
} from "../ui";

const REFRESH_MS = 10_000;

export function Plugins({ address }: ViewProps) {
    return address.argument === null ? (
        <List />
    ) : (
        <Details key={address.argument} name={address.argument} />
    );
}

/**
 * Loads the statistics of versions. They need the permission `workflow_read` and are only a part of
 * this view.
 */
const useStats = () =>
    useResource(
        "stats",
        (signal) =>
            may("workflow_read")
                ? get<Stats>("/workflow-metrics/stats", {}, signal)
                : Promise.resolve(undefined),
        REFRESH_MS,
    );

const operationOf = (
    stats: Stats | undefined,
    { name, version }: PluginVersion,
): Operation | undefined => stats?.operations[`plugin ${name}@${version}`];

const numbers = (stats: Stats | undefined) => [
    {
        name: "Calls",
        isNumber: true,
        cell: (row: PluginVersion) => format.count(operationOf(stats, row)?.count),
    },
    {
        name: "Errors",
        isNumber: true,
        cell: (row: PluginVersion) => format.percent(operationOf(stats, row)?.error_rate),
    },
    {
        name: "p95",
        isNumber: true,
        cell: (row: PluginVersion) => format.milliseconds(operationOf(stats, row)?.p95_ms),
    },
];

function List() {
    const versions = useResource("plugins", (signal) => getAll<PluginVersion>("/plugins", signal));
    const stats = useStats();
    return (
        <Loaded resource={versions} what="plugins">
            {({ items, next }) => {
                // The list is newest first, so the first version of each name is the newest.
                const newest = [
                    ...new Map(
                        [...items].reverse().map((version) => [version.name, version]),
                    ).values(),
                ].sort((left, right) => left.name.localeCompare(right.name));
                if (newest.length === 0) {
                    return (
                        <Empty title="No plugin yet.">
                            Upload one with <code>stepwell plugin upload FILE</code>.
                        </Empty>
                    );
                }
                return (
                    <>
                        {next !== null && (
                            <p class="muted">Those of the newest {items.length} versions.</p>
                        )}
                        <Table
                            caption="Plugins"
                            rows={newest}
                            rowKey={({ id }) => id}
                            columns={[
                                {
                                    name: "Plugin",
                                    cell: ({ name }) => (
                                        <a href={link("plugins", name)}>
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
                                { name: "Newest", cell: ({ version }) => version },
                                {
                                    name: "Versions",
                                    isNumber: true,
                                    cell: ({ name }) =>
                                        format.count(
                                            items.filter((version) => version.name === name).length,
                                        ),
                                },
                                {
                                    name: "Uploaded",
                                    cell: ({ uploaded_at }) => <Time at={uploaded_at} />,
                                },
                                ...numbers(stats.data),
                            ]}
                        />
                    </>
                );
            }}
        </Loaded>
    );
}

type Asked = { what: "delete" | "use"; version: PluginVersion } | { what: "follow" } | null;

function Details({ name }: { name: string }) {
    const versions = useResource(name, (signal) =>
        getAll<PluginVersion>(`/plugins/${segment(name)}`, signal),
    );
    const stats = useStats();
    const [asked, setAsked] = useState<Asked>(null);
    const close = () => setAsked(null);
    const mayRollBack = may("workflow_manage") && may("workflow_read");
    return (
        <>
            <Loaded resource={versions} what="this plugin">
                {({ items }) => {
                    const [newest] = items;
                    if (newest === undefined) return <Empty title="There is no such plugin." />;
                    return (
                        <>
                            <div class="toolbar item">
                                <h2 class="wrap">
                                    <Name text={name} />
                                </h2>
                                {mayRollBack && items.length > 1 && (
                                    <Button onClick={() => setAsked({ what: "follow" })}>
                                        Follow the newest…
                                    </Button>
                                )}
                            </div>
                            <p class="muted wrap">{newest.description}</p>
                            <Table
                                caption={`Versions of ${name}`}
                                rows={items}
                                rowKey={({ id }) => id}
                                columns={[
                                    {
                                        name: "Version",
                                        cell: (row) => (
                                            <>
                                                {row.version}{" "}
                                                {row === newest && (
                                                    <Badge text="newest" tone="info" />
                                                )}
                                            </>
                                        ),
                                    },
                                    {
                                        name: "Uploaded",
                                        cell: (row) => <Time at={row.uploaded_at} />,
                                    },
                                    { name: "By", cell: (row) => row.uploaded_by },
                                    {
                                        name: "Digest",
                                        cell: (row) => (
                                            <code title={row.digest}>
                                                {row.digest.slice(0, 12)}
                                            </code>
                                        ),
                                    },
                                    {
                                        name: "Size",
                                        isNumber: true,
                                        cell: (row) => format.bytes(row.component_bytes),
                                    },
                                    ...numbers(stats.data),
                                    ...(mayRollBack || may("plugin_manage")
                                        ? [
                                              {
                                                  name: "Actions",
                                                  cell: (version: PluginVersion) => (
                                                      <span class="row-actions">
                                                          {mayRollBack && version !== newest && (
                                                              <Button
                                                                  label={`Roll back to ${name} ${version.version}`}
                                                                  onClick={() =>
                                                                      setAsked({
                                                                          what: "use",
                                                                          version,
                                                                      })
                                                                  }
                                                              >
                                                                  Roll back…
                                                              </Button>
                                                          )}
                                                          {may("plugin_manage") && (
                                                              <Button
                                                                  kind="quiet"
                                                                  label={`Delete ${name} ${version.version}`}
                                                                  onClick={() =>
                                                                      setAsked({
                                                                          what: "delete",
                                                                          version,
                                                                      })
                                                                  }
                                                              >
                                                                  Delete…
                                                              </Button>
                                                          )}
                                                      </span>
                                                  ),
                                              },
                                          ]
                                        : []),
                                ]}
                            />
                            {items.length > 1 && may("workflow_read") && (
                                <Compare
                                    name={name}
                                    versions={items.map(({ version }) => version)}
                                />
                            )}
                            <h2>Steps</h2>
                            <Table
                                caption="Steps"
                                rows={newest.steps}
                                rowKey={(step) => step.name}
                                columns={[
                                    {
                                        name: "Step",
                                        cell: (step) =>
                                            may("workflow_read") ? (
                                                <a
                                                    href={link(
                                                        "operations",
                                                        `step ${name}/${step.name}`,
                                                    )}
                                                >
                                                    {step.name}
                                                </a>
                                            ) : (
                                                step.name
                                            ),
                                    },
                                    {
                                        name: "Does",
                                        cell: ({ description }) => (
                                            <span class="muted">{description}</span>
                                        ),
                                    },
                                ]}
                            />
                            <h2>Grants</h2>
                            <Facts
                                facts={[
                                    [
                                        "Host interfaces",
                                        newest.grants.interfaces.join(", ") || "none",
                                    ],
                                    [
                                        "Shared buckets",
                                        newest.grants.shared_buckets.join(", ") || "none",
                                    ],
                                ]}
                            />
                            <Measured name={name} stats={stats.data} />
                        </>
                    );
                }}
            </Loaded>
            {asked?.what === "use" && (
                <RollBack
                    reference={`${name}@${asked.version.version}`}
                    onClose={close}
                    onDone={versions.reload}
                />
            )}
            {asked?.what === "follow" && (
                <RollBack reference={name} onClose={close} onDone={versions.reload} />
            )}
            {asked?.what === "delete" && (
                <ActionDialog
                    title={`Delete ${name} ${asked.version.version}`}
                    action="Delete version"
                    kind="danger"
                    run={() =>
                        remove(`/plugins/${segment(name)}/${segment(asked.version.version)}`)
                    }
                    onClose={close}
                    onDone={() => {
                        say("Deleted.");
                        versions.reload();
                    }}
                >
                    <p>
                        Workflows that name no version run the newest that is left. A version that
                        instances still need is kept, and the host says so.
                    </p>
                </ActionDialog>
            )}
        </>
    );
}

function RollBack({
    reference,
    onClose,
    onDone,
}: {
    reference: string;
    onClose: () => void;
    onDone: () => void;
}) {
    const changes = useResource(reference, (signal) => changesFor(reference, signal));
    const known = changes.data ?? [];
    const isPinned = reference.includes("@");
    return (
        <ActionDialog
            title={isPinned ? `Roll back to ${reference}` : `Follow the newest ${reference}`}
            action={isPinned ? "Roll back" : "Follow the newest"}
            disabled={known.length === 0}
            run={() => apply(known)}
            onClose={onClose}
            onDone={() => {
                say(`New instances run ${isPinned ? reference : `the newest ${reference}`}.`);
                onDone();
            }}
        >
            <Loaded resource={changes} what="the workflows">
                {(data) =>
                    data.length === 0 ? (
                        <p>Every workflow that uses this plugin does so already.</p>
                    ) : (
                        <>
                            <p>
                                These workflows get a new version that{" "}
                                {isPinned ? (
                                    <>
                                        names <code>{reference}</code>
                                    </>
                                ) : (
                                    "names no version"
                                )}
                                :
                            </p>
                            <ul>
                                {data.map(({ workflow }) => (
                                    <li key={workflow}>{workflow}</li>
                                ))}
                            </ul>
                            <p class="muted">
                                Instances that have begun keep the versions they began with.
                            </p>
                        </>
                    )
                }
            </Loaded>
        </ActionDialog>
    );
}

function Compare({ name, versions }: { name: string; versions: string[] }) {
    const [baseline, setBaseline] = useState(versions[1] ?? "");
    const [candidate, setCandidate] = useState(versions[0] ?? "");
    const choose = (value: string, set: (value: string) => void) => (
        <select value={value} onChange={(event) => set(event.currentTarget.value)}>
            {versions.map((version) => (
                <option key={version}>{version}</option>
            ))}
        </select>
    );
    return (
        <section aria-labelledby="comparison">
            <div class="toolbar section">
                <h2 id="comparison">Comparison, last 24 hours</h2>
                <Field label="Baseline">{choose(baseline, setBaseline)}</Field>
                <Field label="Candidate">{choose(candidate, setCandidate)}</Field>
            </div>
            {baseline === candidate ? (
                <p class="muted">Choose two versions that differ.</p>
            ) : (
                <Verdict name={name} baseline={baseline} candidate={candidate} />
            )}
        </section>
    );
}

const VERDICTS: Record<Comparison["verdict"], string> = {
    better: "The candidate does better.",
    same: "No difference that matters.",
    worse: "The candidate does worse.",
    too_few_calls: "Too few calls to tell.",
};

function Verdict({
    name,
    baseline,
    candidate,
}: {
    name: string;
    baseline: string;
    candidate: string;
}) {
    const comparison = useResource(
        `${name} ${baseline} ${candidate}`,
        (signal) =>
            get<Comparison>(
                `/workflow-metrics/plugins/${segment(name)}/compare`,
                { baseline, candidate },
                signal,
            ),
        REFRESH_MS,
    );
    return (
        <Loaded resource={comparison} what="the comparison">
            {(data) => (
                <>
                    <div class={`verdict card verdict-${data.verdict}`}>
                        <p>
                            <Badge text={data.verdict} /> <b>{VERDICTS[data.verdict]}</b>
                        </p>
                        <ul class="muted">
                            {data.reasons.map((reason) => (
                                <li key={reason}>{reason}</li>
                            ))}
                        </ul>
                    </div>
                    <Table
                        caption="Two versions"
                        rows={[
                            { ...data.baseline, role: "baseline" },
                            { ...data.candidate, role: "candidate" },
                        ]}
                        rowKey={({ role }) => role}
                        columns={[
                            {
                                name: "Version",
                                cell: ({ version, role }) => (
                                    <>
                                        {version} <span class="muted">{role}</span>
                                    </>
                                ),
                            },
                            {
                                name: "Calls",
                                isNumber: true,
                                cell: ({ count }) => format.count(count),
                            },
                            {
                                name: "Errors",
                                isNumber: true,
                                cell: ({ error_rate }) => format.percent(error_rate),
                            },
                            {
                                name: "Average",
                                isNumber: true,
                                cell: ({ avg_ms }) => format.milliseconds(avg_ms),
                            },
                            {
                                name: "p50",
                                isNumber: true,
                                cell: ({ p50_ms }) => format.milliseconds(p50_ms),
                            },
                            {
                                name: "p95",
                                isNumber: true,
                                cell: ({ p95_ms }) => format.milliseconds(p95_ms),
                            },
                            {
                                name: "p99",
                                isNumber: true,
                                cell: ({ p99_ms }) => format.milliseconds(p99_ms),
                            },
                        ]}
                    />
                </>
            )}
        </Loaded>
    );
}

const SERIES_SHOWN = 100;

/** The plugin's own metrics. It chooses the texts of the labels. */
function Measured({ name, stats }: { name: string; stats: Stats | undefined }) {
    const rows = (stats?.plugins ?? [])
        .filter(({ plugin }) => plugin.split("@")[0] === name)
        .flatMap(({ plugin, series }) =>
            series.map((one) => ({ ...one, version: plugin.slice(name.length + 1) })),
        );
    if (rows.length === 0) return null;
    const labels = (series: Series) =>
        Object.entries(series.labels)
            .map(([label, value]) => `${label}=${value}`)
            .join(", ");
    return (
        <>
            <h2>Its own metrics</h2>
            {rows.length > SERIES_SHOWN && (
                <p class="muted">
                    The first {SERIES_SHOWN} of {rows.length}.
                </p>
            )}
            <Table
                caption="Its own metrics"
                rows={rows.slice(0, SERIES_SHOWN)}
                rowKey={(row) => `${row.version} ${row.name} ${JSON.stringify(row.labels)}`}
                columns={[
                    { name: "Metric", cell: (row) => row.name },
                    { name: "Version", cell: ({ version }) => version },
                    { name: "Labels", cell: (row) => labels(row) || format.NONE },
                    { name: "Kind", cell: ({ kind }) => kind },
                    {
                        name: "Value",
                        isNumber: true,
                        cell: (row) => format.count(row.value ?? row.count),
                    },
                    { name: "Average", isNumber: true, cell: (row) => format.count(row.avg) },
                    { name: "p95", isNumber: true, cell: (row) => format.count(row.p95) },
                ]}
            />
        </>
    );
}
