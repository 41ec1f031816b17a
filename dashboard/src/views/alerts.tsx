// Alerts: their state, their evidence, and who acknowledged them.
import { useEffect, useState } from "preact/hooks";
import { get, post, remove, segment, withQuery } from "../api";
import * as format from "../format";
import { link, useLive, useResource } from "../hooks";
import { usePages } from "../pages";
import { may } from "../session";
import type { Alert, Silence } from "../types";
import {
    ActionDialog,
    Badge,
    Button,
    Choice,
    Code,
    Empty,
    Facts,
    Field,
    Loaded,
    More,
    say,
    Table,
    Time,
    Name,
} from "../ui";

const VIEWS = [
    ["now", "Now"],
    ["history", "History"],
    ["silences", "Silences"],
    ["thresholds", "Thresholds"],
] as const;

export function Alerts() {
    const [view, setView] = useState<(typeof VIEWS)[number][0]>("now");
    return (
        <>
            <div class="toolbar">
                <Choice label="Show" options={VIEWS} value={view} onChange={setView} />
            </div>
            {view === "now" && <Now />}
            {view === "history" && <Past />}
            {view === "silences" && <Silences />}
            {view === "thresholds" && <Thresholds />}
        </>
    );
}

/** A value as the rule measures it. */
function measured(value: number, unit: string): string {
    if (unit === "ratio" || unit === "rate" || unit === "") return format.percent(value);
    return unit === "ms" ? format.milliseconds(value) : `${format.count(value)} ${unit}`;
}

/** The subject of the alert. Operations have a view of their own. */
function Subject({ rule, subject }: Alert) {
    const title = format.capital(format.words(rule));
    if (rule !== "error_rate" && rule !== "p95_latency")
        return (
            <>
                {title}: {subject}
            </>
        );
    return (
        <>
            {title}: <a href={link("operations", subject)}>{subject}</a>
        </>
    );
}

/** The numbers behind the value. */
function evidence({ evidence: numbers }: Alert): [string, string][] {
    return Object.entries(numbers ?? {}).flatMap(([name, value]): [string, string][] => {
        if (typeof value === "number" && name.endsWith("_ms"))
            return [[format.words(name.slice(0, -3)), format.milliseconds(value)]];
        return typeof value === "object" ? [] : [[format.words(name), String(value)]];
    });
}

interface Exemplar {
    operation: string;
    calls: number;
    errors: number;
    p95_ms: number;
}

/** The steps of plugin versions that contribute most, if there are any. */
function Exemplars({ evidence: numbers, subject }: Alert) {
    const exemplars = (numbers?.["exemplars"] ?? []) as Exemplar[];
    if (exemplars.length === 0) return null;
    return (
        <Table
            caption={`What ${subject} is made of`}
            rows={exemplars}
            rowKey={({ operation }) => operation}
            empty=""
            columns={[
                {
                    name: "Mostly from",
                    cell: ({ operation }) => (
                        <a href={link("operations", operation)}>
                            <Name text={operation} />
                        </a>
                    ),
                },
                { name: "Calls", isNumber: true, cell: ({ calls }) => format.count(calls) },
                { name: "Errors", isNumber: true, cell: ({ errors }) => format.count(errors) },
                { name: "P95", isNumber: true, cell: ({ p95_ms }) => format.milliseconds(p95_ms) },
            ]}
        />
    );
}

/** Only operators may change the host's own alerts; the host checks this again. */
const isOurs = ({ team }: { team: string | null }): boolean => team !== null || may("operator");

function Now() {
    const live = useLive();
    const alerts = useResource(
        "alerts",
        (signal) => get<{ alerts: Alert[] }>("/workflow-metrics/alerts", {}, signal),
        10_000,
    );
    const [asks, setAsks] = useState<{ alert: Alert; what: "acknowledge" | "silence" } | null>(
        null,
    );
    useEffect(() => {
        if (live.alertChanges > 0) alerts.reload();
    }, [live.alertChanges]);
    return (
        <>
            <Loaded resource={alerts} what="alerts">
                {(data) =>
                    data.alerts.length === 0 ? (
                        <Empty title="All quiet.">Nothing is over its threshold.</Empty>
                    ) : (
                        <ul class="alerts">
                            {data.alerts.map((alert) => (
                                <li key={alert.id} class={`card alert alert-${alert.state}`}>
                                    <h2 class="wrap">
                                        <Subject {...alert} /> <Badge text={alert.state} />{" "}
                                        <Badge text={alert.severity} />
                                    </h2>
                                    <p class="wrap">{alert.message}</p>
                                    <Facts
                                        facts={[
                                            ["Measured", measured(alert.value, alert.unit)],
                                            ["Threshold", measured(alert.threshold, alert.unit)],
                                            ["Team", alert.team ?? "the host"],
                                            ["Since", <Time at={alert.since} />],
                                            ["Fired", <Time at={alert.fired_at} />],
                                            ...evidence(alert),
                                        ]}
                                    />
                                    <Exemplars {...alert} />
                                    {alert.acknowledged != null && (
                                        <p class="muted wrap">
                                            Acknowledged by {alert.acknowledged.by}{" "}
                                            <Time at={alert.acknowledged.at} />
                                            {alert.acknowledged.comment
                                                ? `: ${alert.acknowledged.comment}`
                                                : ""}
                                        </p>
                                    )}
                                    {alert.silenced_until != null && (
                                        <p class="muted">
                                            Silenced; the silence ends{" "}
                                            <Time at={alert.silenced_until} />
                                        </p>
                                    )}
                                    {!may("workflow_manage") && (
                                        <p class="muted">
                                            To acknowledge or silence it, a token needs the
                                            permission workflow_manage.
                                        </p>
                                    )}
                                    {may("workflow_manage") && !isOurs(alert) && (
                                        <p class="muted">
                                            This alert is the host's: operators look after it.
                                        </p>
                                    )}
                                    {may("workflow_manage") && isOurs(alert) && (
                                        <div class="actions">
                                            {alert.acknowledged == null &&
                                                alert.state !== "resolved" && (
                                                    <Button
                                                        kind="primary"
                                                        label={`Acknowledge ${alert.subject}`}
                                                        onClick={() =>
                                                            setAsks({ alert, what: "acknowledge" })
                                                        }
                                                    >
                                                        Acknowledge…
                                                    </Button>
                                                )}
                                            <Button
                                                label={`Silence ${alert.subject}`}
                                                onClick={() => setAsks({ alert, what: "silence" })}
                                            >
                                                Silence…
                                            </Button>
                                        </div>
                                    )}
                                </li>
                            ))}
                        </ul>
                    )
                }
            </Loaded>
            {asks !== null && (
                <Ask {...asks} onClose={() => setAsks(null)} onDone={alerts.reload} />
            )}
        </>
    );
}

function Ask({
    alert,
    what,
    onClose,
    onDone,
}: {
    alert: Alert;
    what: "acknowledge" | "silence";
    onClose: () => void;
    onDone: () => void;
}) {
    const [comment, setComment] = useState("");
    const [duration, setDuration] = useState("1h");
    const silences = what === "silence";
    const run = () =>
        silences
            ? // For the alert's team: an operator's silence without a team is for all teams.
              post(withQuery("/workflow-metrics/silences", { team: alert.team }), {
                  rule: alert.rule,
                  subject: alert.subject,
                  duration,
                  comment,
              })
            : post(`/workflow-metrics/alerts/${segment(alert.id)}/acknowledge`, { comment });
    return (
        <ActionDialog
            title={silences ? "Silence alerts" : "Acknowledge the alert"}
            action={silences ? "Silence" : "Acknowledge"}
            run={run}
            onClose={onClose}
            onDone={() => {
                say(silences ? "Silenced." : "Acknowledged.");
                onDone();
            }}
        >
            <p class="wrap">
                {format.capital(format.words(alert.rule))}: {alert.subject}
            </p>
            {silences && (
                <Field label="For">
                    <select
                        value={duration}
                        onChange={(event) => setDuration(event.currentTarget.value)}
                    >
                        {["15m", "1h", "4h", "24h"].map((value) => (
                            <option key={value}>{value}</option>
                        ))}
                    </select>
                </Field>
            )}
            <Field label="Comment">
                <textarea
                    autofocus
                    rows={3}
                    maxLength={1000}
                    value={comment}
                    onInput={(event) => setComment(event.currentTarget.value)}
                />
            </Field>
        </ActionDialog>
    );
}

function Past() {
    const pages = usePages<Alert>("/workflow-metrics/alerts/history", {});
    return (
        <Loaded resource={pages} what="earlier alerts">
            {(alerts) => (
                <>
                    <Table
                        caption="Earlier alerts"
                        rows={alerts}
                        rowKey={({ id, since }) => `${id} ${since}`}
                        empty="No alert yet."
                        columns={[
                            { name: "Alert", cell: (alert) => <Subject {...alert} /> },
                            { name: "State", cell: ({ state }) => <Badge text={state} /> },
                            { name: "Since", cell: ({ since }) => <Time at={since} /> },
                            {
                                name: "Resolved",
                                cell: ({ resolved_at }) => <Time at={resolved_at ?? null} />,
                            },
                            {
                                name: "Measured",
                                isNumber: true,
                                cell: ({ value, unit }) => measured(value, unit),
                            },
                            {
                                name: "Acknowledged by",
                                cell: ({ acknowledged }) => acknowledged?.by ?? format.NONE,
                            },
                        ]}
                    />
                    <More pages={pages} />
                </>
            )}
        </Loaded>
    );
}

function Silences() {
    const silences = useResource("silences", (signal) =>
        get<{ silences: Silence[] }>("/workflow-metrics/silences", {}, signal),
    );
    const end = (id: string) =>
        remove(`/workflow-metrics/silences/${segment(id)}`)
            .then(
                () => say("The silence has ended."),
                (error: Error) => say(error.message),
            )
            .finally(silences.reload);
    return (
        <Loaded resource={silences} what="silences">
            {(data) => (
                <Table
                    caption="Silences"
                    rows={data.silences}
                    rowKey={({ id }) => id}
                    empty="Nothing is silenced."
                    columns={[
                        {
                            name: "What",
                            cell: ({ rule, subject }) =>
                                `${format.capital(format.words(rule ?? "every rule"))}: ${subject ?? "everything"}`,
                        },
                        { name: "Ends", cell: ({ until }) => <Time at={until} /> },
                        {
                            name: "Comment",
                            cell: ({ comment }) => (comment === "" ? format.NONE : comment),
                        },
                        { name: "By", cell: ({ created_by }) => created_by },
                        { name: "Team", cell: ({ team }) => team ?? "every team" },
                        {
                            name: "End",
                            cell: ({ id, team }) =>
                                may("workflow_manage") && isOurs({ team }) ? (
                                    <Button onClick={() => void end(id)}>End</Button>
                                ) : (
                                    format.NONE
                                ),
                        },
                    ]}
                />
            )}
        </Loaded>
    );
}

interface Threshold {
    rule: string;
    enabled: boolean;
    unit: string;
    severity?: string;
    threshold?: number;
    resolve_threshold?: number;
    calls_min?: number;
    fire_after?: string;
    resolve_after?: string;
}

/** The thresholds of alerts. They are settings of the host, so the page cannot change them. */
function Thresholds() {
    const judged = useResource("thresholds", (signal) =>
        get<{ window: string; thresholds: Threshold[]; overrides: Record<string, unknown>[] }>(
            "/workflow-metrics/alerts",
            {},
            signal,
        ),
    );
    const value = (number: number | undefined, unit: string) =>
        number === undefined ? format.NONE : measured(number, unit);
    return (
        <Loaded resource={judged} what="thresholds">
            {({ window, thresholds, overrides }) => (
                <>
                    <p class="muted">
                        Worked out over {window}. They are set in the section [alerts] of the host's
                        settings.
                    </p>
                    <Table
                        caption="Thresholds"
                        rows={thresholds}
                        rowKey={({ rule }) => rule}
                        empty="There are no rules."
                        columns={[
                            {
                                name: "Rule",
                                cell: ({ rule }) => format.capital(format.words(rule)),
                            },
                            {
                                name: "Severity",
                                cell: ({ severity }) => <Badge text={severity ?? "off"} />,
                            },
                            {
                                name: "Fires at",
                                isNumber: true,
                                cell: ({ threshold, unit }) => value(threshold, unit),
                            },
                            {
                                name: "Ends at",
                                isNumber: true,
                                cell: ({ resolve_threshold, unit }) =>
                                    value(resolve_threshold, unit),
                            },
                            {
                                name: "Calls needed",
                                isNumber: true,
                                cell: ({ calls_min }) =>
                                    calls_min === undefined ? format.NONE : format.count(calls_min),
                            },
                            { name: "For", cell: ({ fire_after }) => fire_after ?? format.NONE },
                            {
                                name: "Well for",
                                cell: ({ resolve_after }) => resolve_after ?? format.NONE,
                            },
                        ]}
                    />
                    <h2>Overrides</h2>
                    {overrides.length === 0 ? (
                        <Empty title="None.">
                            Every team, plugin and operation has the thresholds above.
                        </Empty>
                    ) : (
                        <Code label="Overrides" value={overrides} />
                    )}
                </>
            )}
        </Loaded>
    );
}
