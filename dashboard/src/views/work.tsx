// The work of the team: what failed, waits and is late, by workflow.
import { get } from "../api";
import * as format from "../format";
import { link, useNow, useResource, type Resource } from "../hooks";
import type { InstanceSummary, Page } from "../types";
import { Loaded, Name, Table } from "../ui";

const REFRESH_MS = 30_000;
/** Most instances of each kind that are read: one page of the list. */
const READ_MAX = 200;
/** Failures of this period are shown. */
const FAILED_S = 86_400;
/** An instance is late when it runs for longer than this. */
const RUNS_LATE_S = 900;
/** An instance is late when it waits for longer than this. */
const WAITS_LATE_S = 86_400;
/** Most reasons of failures in a cell. */
const REASONS_MAX = 5;

type Kind = "failed" | "waiting" | "late";

/** The instances of each kind that were read, and whether there are more. */
export type Work = Record<Kind, { items: InstanceSummary[]; hasMore: boolean }>;

const ago = (seconds: number): string => new Date(Date.now() - seconds * 1_000).toISOString();

export function useWork(): Resource<Work> {
    return useResource(
        "work",
        async (signal): Promise<Work> => {
            const instances = (query: Record<string, string>) =>
                get<Page<InstanceSummary>>("/instances", { ...query, limit: READ_MAX }, signal);
            const [failed, waiting, running, forgotten] = await Promise.all([
                instances({ status: "failed", created_after: ago(FAILED_S) }),
                instances({ status: "waiting" }),
                instances({ status: "running", created_before: ago(RUNS_LATE_S) }),
                instances({ status: "waiting", created_before: ago(WAITS_LATE_S) }),
            ]);
            const all = (...pages: Page<InstanceSummary>[]) => ({
                items: pages.flatMap(({ items }) => items),
                hasMore: pages.some(({ next }) => next !== null),
            });
            return { failed: all(failed), waiting: all(waiting), late: all(running, forgotten) };
        },
        REFRESH_MS,
    );
}

interface Row extends Record<Kind, InstanceSummary[]> {
    workflow: string;
}

function rowsOf({ failed, waiting, late }: Work): Row[] {
    const rows = new Map<string, Row>();
    const add = (kind: Kind, instances: InstanceSummary[]) => {
        for (const instance of instances) {
            const { workflow } = instance;
            const row = rows.get(workflow) ?? { workflow, failed: [], waiting: [], late: [] };
            row[kind].push(instance);
            rows.set(workflow, row);
        }
    };
    add("failed", failed.items);
    add("waiting", waiting.items);
    add("late", late.items);
    const weight = (row: Row) => row.failed.length + row.late.length;
    return [...rows.values()].sort(
        (left, right) => weight(right) - weight(left) || right.waiting.length - left.waiting.length,
    );
}

/** What each workflow needs somebody for, the workflow with the most failures first. */
export function WorkByWorkflow({ work }: { work: Resource<Work> }) {
    const now = useNow();
    return (
        <section aria-labelledby="work">
            <h2 id="work">Work</h2>
            <Loaded resource={work} what="the work">
                {(data) => (
                    <>
                        <Table
                            caption="Work by workflow"
                            rows={rowsOf(data)}
                            rowKey={({ workflow }) => workflow}
                            empty="Nothing failed in the last 24 hours, and nothing waits or is late."
                            columns={[
                                {
                                    name: "Workflow",
                                    cell: ({ workflow }) => (
                                        <a href={link("workflows", workflow)}>
                                            <Name text={workflow} />
                                        </a>
                                    ),
                                },
                                {
                                    name: "Failed in 24 h",
                                    isNumber: true,
                                    value: ({ failed }) => failed.length,
                                    cell: ({ workflow, failed }) => (
                                        <Number
                                            count={counted(data, "failed", failed)}
                                            query={{
                                                workflow,
                                                status: "failed",
                                                within: String(FAILED_S),
                                            }}
                                            isBad
                                        />
                                    ),
                                },
                                {
                                    name: "Reasons",
                                    cell: ({ failed }) => <Reasons instances={failed} />,
                                },
                                {
                                    name: "Waiting",
                                    isNumber: true,
                                    value: ({ waiting }) => waiting.length,
                                    cell: ({ workflow, waiting }) => (
                                        <Number
                                            count={counted(data, "waiting", waiting)}
                                            query={{ workflow, status: "waiting" }}
                                        />
                                    ),
                                },
                                {
                                    name: "Waits for",
                                    cell: ({ waiting }) => <Steps instances={waiting} />,
                                },
                                {
                                    name: "Late",
                                    isNumber: true,
                                    value: ({ late }) => late.length,
                                    cell: ({ late }) =>
                                        late.length === 0 ? (
                                            counted(data, "late", late)
                                        ) : (
                                            <b class="bad">{counted(data, "late", late)}</b>
                                        ),
                                },
                                {
                                    name: "Oldest late",
                                    cell: ({ late }) => (
                                        <Oldest
                                            instances={late}
                                            now={now}
                                            hasOlder={data.late.hasMore}
                                        />
                                    ),
                                },
                            ]}
                        />
                        <p class="muted small note">
                            Late: runs for longer than 15 minutes, or waits for longer than a day.
                            {Object.values(data).some(({ hasMore }) => hasMore) &&
                                ` A number with + counts the newest ${READ_MAX} instances of its kind. There are older ones.`}
                        </p>
                    </>
                )}
            </Loaded>
        </section>
    );
}

/** The number of instances of a kind, with + if more of this kind were not read. */
export const counted = (work: Work, kind: Kind, instances: InstanceSummary[]): string =>
    format.count(instances.length) + (work[kind].hasMore ? "+" : "");

function Number({
    count,
    query,
    isBad,
}: {
    count: string;
    query: Record<string, string>;
    isBad?: boolean;
}) {
    if (count === "0") return <>0</>;
    return (
        <a class={isBad === true ? "bad" : ""} href={link("instances", null, query)}>
            {count}
            <span class="visually-hidden"> {query["status"]}</span>
        </a>
    );
}

/** The steps at which instances wait, the most frequent first. */
function Steps({ instances }: { instances: InstanceSummary[] }) {
    const steps = grouped(instances.map(({ current_step }) => current_step ?? "the next step"));
    if (steps.length === 0) return <>{format.NONE}</>;
    return <Counts counts={steps} others="other steps" />;
}

function Oldest({
    instances,
    now,
    hasOlder,
}: {
    instances: InstanceSummary[];
    now: number;
    /** Lists begin with the newest, so what was not read is older. */
    hasOlder: boolean;
}) {
    const [oldest] = [...instances].sort((left, right) =>
        left.created_at.localeCompare(right.created_at),
    );
    if (oldest === undefined) return <>{format.NONE}</>;
    const what = oldest.quarantined_at === undefined ? oldest.status : "in quarantine";
    return (
        <a href={link("instances", oldest.id)}>
            {what}
            {oldest.current_step !== null && (
                <>
                    {" "}
                    at <Name text={oldest.current_step} />
                </>
            )}
            , created {format.relative(oldest.created_at, now)}
            {hasOlder && " or earlier"}
        </a>
    );
}

/** The codes of the failures, the most frequent first. */
export function Reasons({ instances }: { instances: InstanceSummary[] }) {
    const codes = grouped(
        instances.flatMap(({ failure, status }) =>
            failure !== null && status === "failed" ? [failure.code] : [],
        ),
    );
    if (codes.length === 0) return <>{format.NONE}</>;
    return <Counts counts={codes} others="other reasons" />;
}

function grouped(names: string[]): [name: string, count: number][] {
    const counts = new Map<string, number>();
    for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
    return [...counts].sort(([, left], [, right]) => right - left);
}

function Counts({ counts, others }: { counts: [string, number][]; others: string }) {
    return (
        <>
            {counts.slice(0, REASONS_MAX).map(([name, count]) => (
                <div key={name}>
                    {count} × <Name text={name} />
                </div>
            ))}
            {counts.length > REASONS_MAX && (
                <div class="muted">
                    {counts.length - REASONS_MAX} {others}
                </div>
            )}
        </>
    );
}
