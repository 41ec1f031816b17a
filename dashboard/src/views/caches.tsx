// The host's caches: their hit rates, the hit rates with other settings, and buttons to empty them.
import { useState } from "preact/hooks";
import { get, post, withQuery } from "../api";
import * as format from "../format";
import { useResource } from "../hooks";
import { may } from "../session";
import type { Cache, CacheAdvice } from "../types";
import { ActionDialog, Button, Field, Loaded, say, Table } from "../ui";

export function Caches() {
    const [asks, setAsks] = useState<{ kind: string } | null>(null);
    const [scope, setScope] = useState("team");
    const caches = useResource(
        "caches",
        (signal) => get<{ caches: Cache[] }>("/workflow-metrics/cache/stats", {}, signal),
        5_000,
    );
    const done = (answer: { removed: number } | null) =>
        say(`Removed ${format.count(answer?.removed ?? 0)} entries.`);
    const cleanUp = () => {
        post<{ removed: number }>("/workflow-metrics/cache/cleanup")
            .then(done, (error: Error) => say(error.message))
            .finally(caches.reload);
    };
    return (
        <>
            {may("workflow_manage") && (
                <div class="toolbar">
                    <Button onClick={cleanUp}>Clean up what has run out</Button>
                    <Button kind="danger" onClick={() => setAsks({ kind: "" })}>
                        Clear caches…
                    </Button>
                </div>
            )}
            <Loaded resource={caches} what="caches">
                {(data) => (
                    <Table
                        caption="Caches"
                        rows={data.caches}
                        rowKey={({ kind }) => kind}
                        columns={[
                            {
                                name: "Kind",
                                value: ({ kind }) => kind,
                                cell: ({ kind }) => format.words(kind),
                            },
                            {
                                name: "Hit rate",
                                isNumber: true,
                                value: ({ hit_rate }) => hit_rate ?? -1,
                                cell: ({ hit_rate }) => (
                                    <span class="rate">
                                        <span class="gauge" aria-hidden="true">
                                            <span style={{ width: `${(hit_rate ?? 0) * 100}%` }} />
                                        </span>
                                        {format.percent(hit_rate)}
                                    </span>
                                ),
                            },
                            {
                                name: "Reads",
                                isNumber: true,
                                value: (row) => row.hits + row.misses,
                                cell: (row) => format.count(row.hits + row.misses),
                            },
                            {
                                name: "Entries",
                                isNumber: true,
                                value: ({ entries }) => entries,
                                cell: (row) =>
                                    `${format.count(row.entries)} of ${format.count(row.entries_max)}`,
                            },
                            {
                                name: "Memory",
                                isNumber: true,
                                value: ({ bytes }) => bytes,
                                cell: ({ bytes }) => format.bytes(bytes),
                            },
                            {
                                name: "Kept for",
                                isNumber: true,
                                cell: ({ ttl_ms }) => format.seconds(ttl_ms / 1_000),
                            },
                            {
                                name: "Evicted",
                                isNumber: true,
                                value: ({ evictions }) => evictions,
                                cell: (row) => format.count(row.evictions),
                            },
                            {
                                name: "Load",
                                isNumber: true,
                                value: ({ load_avg_us }) => load_avg_us,
                                cell: ({ load_avg_us, loads }) =>
                                    loads === 0
                                        ? format.NONE
                                        : format.milliseconds(load_avg_us / 1_000),
                            },
                            {
                                name: "Saved",
                                isNumber: true,
                                value: ({ saved_us }) => saved_us,
                                cell: ({ saved_us }) => format.milliseconds(saved_us / 1_000),
                            },
                        ]}
                    />
                )}
            </Loaded>
            <Advice />
            {asks !== null && (
                <ActionDialog
                    title="Clear caches"
                    action="Clear"
                    kind="danger"
                    onClose={() => setAsks(null)}
                    onDone={caches.reload}
                    run={() =>
                        post<{ removed: number }>(
                            withQuery("/workflow-metrics/cache/clear", { kind: asks.kind, scope }),
                        ).then(done)
                    }
                >
                    <p>
                        Nothing is lost: what is read next comes from the database, which is slower
                        for a while.
                    </p>
                    <Field label="Which">
                        <select
                            value={asks.kind}
                            onChange={(event) => setAsks({ kind: event.currentTarget.value })}
                        >
                            <option value="">All kinds</option>
                            {caches.data?.caches.map(({ kind }) => (
                                <option key={kind} value={kind}>
                                    {format.words(kind)}
                                </option>
                            ))}
                        </select>
                    </Field>
                    {may("operator") && (
                        <Field label="Whose">
                            <select
                                value={scope}
                                onChange={(event) => setScope(event.currentTarget.value)}
                            >
                                <option value="team">My team's</option>
                                <option value="host">The whole host's</option>
                            </select>
                        </Field>
                    )}
                </ActionDialog>
            )}
        </>
    );
}

/** Parts of the current size for which the host computes hit rates. */
const SIZES = ["an eighth", "a quarter", "half", "now", "twice", "4 times", "8 times"];

function Advice() {
    const advice = useResource(
        "cache advice",
        (signal) => get<{ caches: CacheAdvice[] }>("/workflow-metrics/cache/advice", {}, signal),
        30_000,
    );
    return (
        <section>
            <h2>Advice</h2>
            <p class="muted">
                What reads of a sample of the keys say of other settings. They are set under [cache]
                in the host's configuration.
            </p>
            <Loaded resource={advice} what="the advice">
                {(data) => (
                    <Table
                        caption="Advice about the caches"
                        rows={data.caches}
                        rowKey={({ kind }) => kind}
                        columns={[
                            {
                                name: "Kind",
                                value: ({ kind }) => kind,
                                cell: ({ kind }) => format.words(kind),
                            },
                            { name: "Set", cell: ({ suggestion }) => settings(suggestion) },
                            {
                                name: "Why",
                                cell: ({ reason }) => <span class="prose">{reason}</span>,
                            },
                            { name: "Hit rate by size", cell: ({ curve }) => curveText(curve) },
                        ]}
                    />
                )}
            </Loaded>
        </section>
    );
}

/** A suggestion in the form of the configuration. */
function settings(suggestion: CacheAdvice["suggestion"]): string {
    if (suggestion === null) return format.NONE;
    const { entries, bytes, ttl_ms } = suggestion;
    return [
        ...(entries === null ? [] : [`entries = ${entries}`]),
        ...(bytes === null ? [] : [`bytes = ${bytes}`]),
        ...(ttl_ms === null ? [] : [`ttl = "${Math.round(ttl_ms / 1_000)}s"`]),
    ].join(", ");
}

/** A small cache has no eighth of an entry, so its curve has only the last of the sizes. */
function curveText(curve: CacheAdvice["curve"]): string {
    if (curve.length === 0) return format.NONE;
    const names = SIZES.slice(SIZES.length - curve.length);
    return curve
        .map(({ hit_rate }, index) => `${names[index] ?? ""} ${format.percent(hit_rate)}`)
        .join(", ");
}
