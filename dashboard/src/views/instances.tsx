// Instances: a list with filters, and one instance with all its events.
import type { ComponentChildren } from "preact";
import { useId, useMemo, useState } from "preact/hooks";
import { get, post, segment } from "../api";
import * as format from "../format";
import { link, useResource, type ViewProps } from "../hooks";
import { usePages } from "../pages";
import { may } from "../session";
import type { InstanceDetails, InstanceSummary, Page, Workflow } from "../types";
import {
    ActionDialog,
    Badge,
    Button,
    Code,
    Facts,
    Field,
    Filters,
    Loaded,
    More,
    Name,
    say,
    Table,
    Time,
    Typed,
} from "../ui";
import { Events, Timeline } from "./timeline";

const STATUSES = ["running", "waiting", "completed", "rejected", "failed", "cancelled"];
const TEXTS = [
    ["workflow", "Workflow"],
    ["entity_type", "Entity type"],
    ["entity_id", "Entity id"],
    ["project_id", "Project"],
    ["started_by", "Started by"],
] as const;
const PERIODS = [
    ["900", "15 min"],
    ["3600", "1 h"],
    ["86400", "24 h"],
    ["604800", "7 d"],
] as const;
const REFRESH_MS = 5_000;

export function Instances({ address }: ViewProps) {
    if (address.argument !== null) return <Details key={address.argument} id={address.argument} />;
    return <List query={address.query} />;
}

const entity = (row: InstanceSummary): string =>
    [row.entity_type, row.entity_id].filter((part) => part !== null).join(" ") || format.NONE;
/** Milliseconds from the creation to the end; -1 of an instance that has not ended. */
const tookMs = ({ completed_at, created_at }: InstanceSummary): number =>
    completed_at === null ? -1 : format.instant(completed_at) - format.instant(created_at);
const took = (row: InstanceSummary): string =>
    row.completed_at === null ? format.NONE : format.milliseconds(tookMs(row));

const statusOf = ({ status, quarantined_at }: InstanceSummary): string =>
    quarantined_at === undefined ? status : "quarantined";

function List({ query }: { query: URLSearchParams }) {
    const filter = Object.fromEntries(
        ["status", "within", ...TEXTS.map(([name]) => name)].map((name) => [
            name,
            query.get(name) ?? "",
        ]),
    );
    const { within = "", ...rest } = filter;
    // The period is fixed when it is chosen. With a moving begin the list would change while it is
    // read.
    const since = useMemo(() => {
        const known = PERIODS.some(([seconds]) => seconds === within);
        return known ? new Date(Date.now() - Number(within) * 1_000).toISOString() : "";
    }, [within]);
    const pages = usePages<InstanceSummary>(
        "/instances",
        { ...rest, created_after: since },
        REFRESH_MS,
    );
    const workflows = useResource("names of workflows", (signal) =>
        get<Page<Workflow>>("/workflows", { limit: 200 }, signal),
    );
    const names = useId();
    const isNarrowed = Object.values(filter).some((value) => value !== "");
    const narrow = (name: string, value: string) => {
        location.hash = link("instances", null, { ...filter, [name]: value });
    };
    return (
        <>
            <Filters set={Object.values(filter).filter((value) => value !== "").length}>
                <Field label="Status">
                    <select
                        value={filter["status"]}
                        onChange={(event) => narrow("status", event.currentTarget.value)}
                    >
                        <option value="">Any</option>
                        {STATUSES.map((status) => (
                            <option key={status}>{status}</option>
                        ))}
                    </select>
                </Field>
                <Field label="Created within">
                    <select
                        value={within}
                        onChange={(event) => narrow("within", event.currentTarget.value)}
                    >
                        <option value="">Any time</option>
                        {PERIODS.map(([seconds, label]) => (
                            <option key={seconds} value={seconds}>
                                {label}
                            </option>
                        ))}
                    </select>
                </Field>
                {TEXTS.map(([name, label]) => (
                    <Field key={name} label={label}>
                        <Typed
                            list={name === "workflow" ? names : undefined}
                            value={filter[name] ?? ""}
                            onDone={(text) => narrow(name, text)}
                        />
                    </Field>
                ))}
                <datalist id={names}>
                    {workflows.data?.items.map(({ name }) => (
                        <option key={name} value={name} />
                    ))}
                </datalist>
                <Field label="Open by id">
                    <input type="search" onChange={(event) => open(event.currentTarget)} />
                </Field>
                {isNarrowed && (
                    <a class="button button-quiet" href={link("instances")}>
                        Show all
                    </a>
                )}
            </Filters>
            <Loaded resource={pages} what="instances">
                {(instances) => (
                    <Table
                        caption="Instances"
                        rows={instances}
                        rowKey={({ id }) => id}
                        empty={isNarrowed ? "No instance fits." : "No instance yet."}
                        columns={[
                            {
                                name: "Instance",
                                cell: ({ id }) => (
                                    <a href={link("instances", id)} title={id}>
                                        <code>{format.shortId(id)}</code>
                                    </a>
                                ),
                            },
                            {
                                name: "Workflow",
                                value: ({ workflow }) => workflow,
                                cell: (row) => (
                                    <>
                                        <Name text={row.workflow} />{" "}
                                        <span class="muted">v{row.workflow_version}</span>
                                    </>
                                ),
                            },
                            {
                                name: "Status",
                                value: statusOf,
                                cell: (row) => <Badge text={statusOf(row)} />,
                            },
                            {
                                name: "Reason",
                                value: ({ failure }) => failure?.code ?? "",
                                cell: ({ failure }) =>
                                    failure === null ? (
                                        format.NONE
                                    ) : (
                                        <span title={failure.message}>
                                            <b>
                                                <Name text={failure.code} />
                                            </b>{" "}
                                            <span class="muted reason">{failure.message}</span>
                                        </span>
                                    ),
                            },
                            {
                                name: "At step",
                                value: ({ current_step }) => current_step ?? "",
                                cell: ({ current_step }) =>
                                    current_step === null ? (
                                        format.NONE
                                    ) : (
                                        <Name text={current_step} />
                                    ),
                            },
                            {
                                name: "Entity",
                                value: entity,
                                cell: (row) => (
                                    <span class="entity">
                                        <Name text={entity(row)} />
                                    </span>
                                ),
                            },
                            {
                                name: "Started by",
                                value: ({ started_by }) => started_by,
                                cell: ({ started_by }) => <Name text={started_by} />,
                            },
                            {
                                name: "Created",
                                value: ({ created_at }) => format.instant(created_at),
                                cell: ({ created_at }) => <Time at={created_at} />,
                            },
                            { name: "Took", isNumber: true, value: tookMs, cell: took },
                        ]}
                    />
                )}
            </Loaded>
            <More pages={pages} />
        </>
    );
}

function open(input: HTMLInputElement): void {
    const id = input.value.trim();
    input.setCustomValidity(
        id === "" || format.isId(id) ? "" : "An id is 32 hexadecimal digits in five groups.",
    );
    if (input.reportValidity() && id !== "") location.hash = link("instances", id);
}

/** Most approvals that the details of an instance have. */
const APPROVALS_SHOWN = 500;

const isOpen = ({ status }: InstanceSummary): boolean =>
    status === "running" || status === "waiting";

function Details({ id }: { id: string }) {
    const [cancels, setCancels] = useState(false);
    const [releases, setReleases] = useState(false);
    const instance = useResource(
        id,
        (signal) => get<InstanceDetails>(`/instances/${segment(id)}`, {}, signal),
        REFRESH_MS,
    );
    return (
        <>
            <Loaded resource={instance} what="this instance">
                {(data) => (
                    <>
                        <div class="toolbar item">
                            <h2 class="wrap">
                                <a class="plain" href={link("workflows", data.workflow)}>
                                    <Name text={data.workflow} />
                                </a>{" "}
                                <Badge text={data.status} />
                            </h2>
                            {data.approvals.length > 0 && may("approval_decide") && (
                                <a class="button" href={link("approvals", null, { instance: id })}>
                                    Its approvals (
                                    {data.approvals.length < APPROVALS_SHOWN
                                        ? data.approvals.length
                                        : `${APPROVALS_SHOWN} or more`}
                                    )
                                </a>
                            )}
                            {data.quarantined_at !== undefined && may("workflow_manage") && (
                                <Button onClick={() => setReleases(true)}>Release…</Button>
                            )}
                            {isOpen(data) && may("workflow_manage") && (
                                <Button kind="danger" onClick={() => setCancels(true)}>
                                    Cancel instance…
                                </Button>
                            )}
                        </div>
                        <Facts
                            facts={[
                                ["Id", <code>{data.id}</code>],
                                ["Workflow version", `v${data.workflow_version}`],
                                ["Started by", data.started_by],
                                ...(data.parent_id === undefined
                                    ? []
                                    : [
                                          [
                                              "Parent",
                                              <a href={link("instances", data.parent_id)}>
                                                  <code>{data.parent_id}</code>
                                              </a>,
                                          ] as [string, ComponentChildren],
                                      ]),
                                ["Entity", entity(data)],
                                ["Project", data.project_id ?? format.NONE],
                                ["Created", <Time at={data.created_at} exact />],
                                ...(data.completed_at === null
                                    ? []
                                    : [["Took", took(data)] as [string, string]]),
                            ]}
                        />
                        {data.quarantined_at !== undefined && (
                            <p class="notice notice-bad wrap">
                                <b>In quarantine</b> since <Time at={data.quarantined_at} exact />:
                                its host crashed {data.crashes ?? "several"} times in a row while it
                                was driven. It is not driven until it is released or cancelled.
                            </p>
                        )}
                        {data.failure !== null && (
                            <p class="notice notice-bad wrap">
                                <b>{data.failure.code}</b> {data.failure.message}{" "}
                                <span class="small">(blame: {data.failure.blame})</span>
                            </p>
                        )}
                        <h2>Timeline</h2>
                        <Timeline instance={data} />
                        <h2>Events</h2>
                        <Events instance={data} />
                        {data.children !== undefined && (
                            <>
                                <h2>Children</h2>
                                <ul>
                                    {data.children.map((child) => (
                                        <li key={child.id}>
                                            <code>{child.step}</code>: {child.workflow}{" "}
                                            <a href={link("instances", child.id)}>
                                                <code>{child.id}</code>
                                            </a>
                                        </li>
                                    ))}
                                </ul>
                            </>
                        )}
                        <div class="columns">
                            <section>
                                <h2>Input</h2>
                                <Code label="Input" value={data.input} />
                            </section>
                            <section>
                                <h2>Output</h2>
                                {data.output === null ? (
                                    <p class="muted">{isOpen(data) ? "Not there yet." : "None."}</p>
                                ) : (
                                    <Code label="Output" value={data.output} />
                                )}
                            </section>
                            {isEmpty(data.metadata) ? null : (
                                <section>
                                    <h2>Metadata</h2>
                                    <Code label="Metadata" value={data.metadata} />
                                </section>
                            )}
                        </div>
                    </>
                )}
            </Loaded>
            {releases && (
                <ActionDialog
                    title="Release the instance"
                    action="Release instance"
                    onClose={() => setReleases(false)}
                    run={() => post(`/instances/${segment(id)}/release`)}
                    onDone={() => {
                        say("Released.");
                        instance.reload();
                    }}
                >
                    <p>
                        It is driven again at once. If it is what crashed the host, the host may
                        crash again.
                    </p>
                </ActionDialog>
            )}
            {cancels && (
                <ActionDialog
                    title="Cancel the instance"
                    action="Cancel instance"
                    kind="danger"
                    onClose={() => setCancels(false)}
                    run={() => post(`/instances/${segment(id)}/cancel`)}
                    onDone={() => {
                        say("Cancelled.");
                        instance.reload();
                    }}
                >
                    <p>
                        No further step will run, and its open approvals end. This cannot be undone.
                    </p>
                </ActionDialog>
            )}
        </>
    );
}

const isEmpty = (value: unknown): boolean =>
    value === null || (typeof value === "object" && Object.keys(value).length === 0);
