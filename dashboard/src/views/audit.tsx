// The audit: who did what, newest first.
import { useState } from "preact/hooks";
import * as format from "../format";
import { usePages } from "../pages";
import type { AuditEntry } from "../types";
import { Badge, Button, Code, Field, Filters, Loaded, More, Table, Time } from "../ui";

/** The host's names of actions. The host refuses other names. */
const ACTIONS = [
    "alert.acknowledge",
    "approval.decide",
    "cache.cleanup",
    "cache.clear",
    "instance.cancel",
    "instance.release",
    "metrics.reset",
    "plugin.delete",
    "plugin.upload",
    "retention.run",
    "sign-in.fail",
    "silence.create",
    "silence.delete",
    "token.create",
    "token.revoke",
    "workflow.apply",
    "workflow.archive",
    "workflow.unarchive",
];
const TONES = { begun: "warn", done: "good", failed: "bad", refused: "bad" } as const;
const NOTHING = { actor: "", action: "", subject: "", from: "", to: "" };

export function Audit() {
    const [filter, setFilter] = useState(NOTHING);
    const [typed, setTyped] = useState(NOTHING);
    const instant = (local: string) => (local === "" ? "" : new Date(local).toISOString());
    const pages = usePages<AuditEntry>("/audit", {
        ...filter,
        from: instant(filter.from),
        to: instant(filter.to),
    });
    const text = (name: "actor" | "subject") => (
        <Field label={format.capital(name)}>
            <input
                type="search"
                value={typed[name]}
                onInput={(event) => setTyped({ ...typed, [name]: event.currentTarget.value })}
            />
        </Field>
    );
    const time = (name: "from" | "to") => (
        <Field label={format.capital(name)}>
            <input
                type="datetime-local"
                value={typed[name]}
                onInput={(event) => setTyped({ ...typed, [name]: event.currentTarget.value })}
            />
        </Field>
    );
    return (
        <>
            <form
                onSubmit={(event) => {
                    event.preventDefault();
                    setFilter(typed);
                }}
            >
                <Filters set={Object.values(filter).filter((value) => value !== "").length}>
                    {text("actor")}
                    <Field label="Action">
                        <select
                            value={typed.action}
                            onChange={(event) =>
                                setTyped({ ...typed, action: event.currentTarget.value })
                            }
                        >
                            <option value="">any</option>
                            {ACTIONS.map((action) => (
                                <option key={action}>{action}</option>
                            ))}
                        </select>
                    </Field>
                    {text("subject")}
                    {time("from")}
                    {time("to")}
                    <Button type="submit">Show</Button>
                </Filters>
            </form>
            <Loaded resource={pages} what="the audit">
                {(entries) => (
                    <Table
                        caption="Audit"
                        rows={entries}
                        rowKey={({ id }) => id}
                        empty={
                            filter === NOTHING
                                ? "Nothing was done yet."
                                : "Nothing fits this filter."
                        }
                        columns={[
                            { name: "Time", cell: ({ at }) => <Time at={at} exact /> },
                            {
                                name: "Who",
                                cell: ({ actor }) =>
                                    actor === null ? (
                                        format.NONE
                                    ) : (
                                        <>
                                            {actor.user} <span class="muted">{actor.team}</span>
                                        </>
                                    ),
                            },
                            {
                                name: "From",
                                cell: ({ source }) => (source === "" ? format.NONE : source),
                            },
                            { name: "Action", cell: ({ action }) => <code>{action}</code> },
                            {
                                name: "Subject",
                                cell: ({ subject }) =>
                                    subject === "" ? (
                                        format.NONE
                                    ) : format.isId(subject) ? (
                                        <code>{subject}</code>
                                    ) : (
                                        subject
                                    ),
                            },
                            {
                                name: "Outcome",
                                cell: ({ outcome }) => (
                                    <Badge text={outcome} tone={TONES[outcome]} />
                                ),
                            },
                            {
                                name: "Request",
                                cell: ({ request_id }) => <code>{request_id}</code>,
                            },
                            {
                                name: "Detail",
                                cell: ({ id, detail }) =>
                                    Object.keys(detail).length === 0 ? (
                                        format.NONE
                                    ) : (
                                        <details>
                                            <summary>Detail</summary>
                                            <Code label={`Detail of ${id}`} value={detail} />
                                        </details>
                                    ),
                            },
                        ]}
                    />
                )}
            </Loaded>
            <More pages={pages} />
        </>
    );
}
