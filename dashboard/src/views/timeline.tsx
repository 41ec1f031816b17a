// The events of an instance and their times: as bars, and as a list in words.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { get, segment } from "../api";
import * as format from "../format";
import { link, useNow, useResource } from "../hooks";
import { may } from "../session";
import type {
    Approval,
    Attempt,
    AttemptLog,
    AttemptWithInput,
    InstanceDetails,
    Page,
} from "../types";
import { Badge, Code, Loaded, Name, TONES, type Tone } from "../ui";

const took = ({ started_at, finished_at }: Attempt): number =>
    format.instant(finished_at) - format.instant(started_at);

interface Bar {
    key: string;
    text: string;
    tone: Tone;
    from: number;
    to: number;
}

const attemptBar = (attempt: Attempt): Bar => ({
    key: `a ${attempt.number}`,
    tone: attempt.failure === null ? "good" : "bad",
    text: `attempt ${attempt.number}: ${format.words(attempt.outcome)}, ${format.milliseconds(took(attempt))}`,
    from: format.instant(attempt.started_at),
    to: format.instant(attempt.finished_at),
});

const approvalBar = (approval: Approval, now: number): Bar => {
    const [from, to] = [
        format.instant(approval.created_at),
        approval.decided_at === null ? now : format.instant(approval.decided_at),
    ];
    return {
        key: approval.id,
        tone: TONES[approval.status] ?? "plain",
        from,
        to,
        text: `${approval.approver_id}: ${approval.status} after ${format.milliseconds(Math.max(0, to - from))}`,
    };
};

/** The times when each step ran and waited. */
export function Timeline({ instance }: { instance: InstanceDetails }) {
    const now = useNow();
    const rows = new Map<string, Bar[]>();
    const add = (step: string, bar: Bar) => rows.set(step, [...(rows.get(step) ?? []), bar]);
    instance.attempts.forEach((attempt) => add(attempt.step, attemptBar(attempt)));
    instance.approvals.forEach((approval) => add(approval.step, approvalBar(approval, now)));
    const start = format.instant(instance.created_at);
    const end = Math.max(start + 1, ...[...rows.values()].flat().map(({ to }) => to));
    const share = (ms: number) => `${Math.min(100, Math.max(0, (ms / (end - start)) * 100))}%`;
    if (rows.size === 0) return <p class="muted">No step has ended yet.</p>;
    return (
        <div class="timeline card">
            <ol>
                {[...rows].map(([step, bars]) => (
                    <li key={step}>
                        <span class="timeline-step">
                            <Name text={step} />
                        </span>
                        <ul class="timeline-track">
                            {bars.map((bar) => (
                                <li
                                    key={bar.key}
                                    class={`bar bar-${bar.tone}`}
                                    title={bar.text}
                                    style={{
                                        left: `min(${share(bar.from - start)}, 100% - 4px)`,
                                        width: share(bar.to - bar.from),
                                    }}
                                >
                                    <span class="visually-hidden">{bar.text}</span>
                                </li>
                            ))}
                        </ul>
                        <span class="timeline-time">
                            {format.milliseconds(
                                Math.max(...bars.map(({ to }) => to)) -
                                    Math.min(...bars.map(({ from }) => from)),
                            )}
                        </span>
                    </li>
                ))}
            </ol>
            <p class="timeline-scale muted" aria-hidden="true">
                <span>0</span>
                <span>{format.milliseconds(end - start)}</span>
            </p>
        </div>
    );
}

interface Event {
    key: string;
    at: string;
    /**
     * The order of events of the same moment: a decision ends a step, and the end of a step causes
     * the next approval.
     */
    rank: number;
    tone: Tone;
    title: ComponentChildren;
    details?: ComponentChildren;
}

/** All events in order, each with the time since the beginning. */
export function Events({ instance }: { instance: InstanceDetails }) {
    const events: Event[] = [
        {
            key: "created",
            at: instance.created_at,
            rank: 0,
            tone: "info",
            title: (
                <>
                    Created by <b>{instance.started_by}</b>
                </>
            ),
        },
        ...instance.attempts.map((attempt) =>
            attemptEvent({ ...attempt, instance_id: instance.id }),
        ),
        ...instance.approvals.flatMap(approvalEvents),
    ];
    if (instance.completed_at !== null) {
        events.push({
            key: "ended",
            at: instance.completed_at,
            rank: 4,
            tone: TONES[instance.status] ?? "plain",
            title: (
                <>
                    Instance <Badge text={instance.status} />
                </>
            ),
        });
    }
    events.sort(
        (left, right) =>
            format.instant(left.at) - format.instant(right.at) || left.rank - right.rank,
    );
    const start = format.instant(instance.created_at);
    return (
        <ol class="events card">
            {events.map(({ key, at, tone, title, details }) => (
                <li key={key} class={`event event-${tone}`}>
                    <time dateTime={at} title={format.fullTime(at)}>
                        {format.clock(at)}{" "}
                        <span class="muted">
                            +{format.milliseconds(format.instant(at) - start)}
                        </span>
                    </time>
                    <div class="wrap">
                        {title}
                        {details}
                    </div>
                </li>
            ))}
        </ol>
    );
}

function attemptEvent(attempt: Attempt & { instance_id: string }): Event {
    const { step, number, outcome, plugin, failure, output, output_omitted, retry_at } = attempt;
    return {
        key: `${step} ${number}`,
        at: attempt.finished_at,
        rank: 2,
        tone: failure === null ? (TONES[outcome] ?? "plain") : "bad",
        title: (
            <>
                <b>{step}</b> <Badge text={outcome} />{" "}
                <span class="muted">
                    {number > 1 && `attempt ${number}, `}
                    {format.milliseconds(took(attempt))}
                    {plugin !== null && <>, {pluginLink(plugin)}</>}
                </span>
            </>
        ),
        details: (
            <>
                {failure !== null && (
                    <p class="event-failure">
                        <b>{failure.code}</b> {failure.message}
                    </p>
                )}
                {retry_at !== null && <p class="muted">Runs again at {format.clock(retry_at)}</p>}
                {plugin !== null && (
                    <Fold title="Input" of={`of ${step}, attempt ${number}`}>
                        {() => <Loadable attempt={attempt} part="input" />}
                    </Fold>
                )}
                {(output !== null || output_omitted !== undefined) && (
                    <Fold
                        title={
                            output_omitted === undefined
                                ? "Output"
                                : `Output, ${format.bytes(output_omitted.bytes)}`
                        }
                        of={`of ${step}, attempt ${number}`}
                    >
                        {() =>
                            output_omitted === undefined ? (
                                <Code
                                    label={`Output of ${step}, attempt ${number}`}
                                    value={output}
                                />
                            ) : (
                                <Loadable attempt={attempt} part="output" />
                            )
                        }
                    </Fold>
                )}
                {plugin !== null && (
                    <Fold title="Log" of={`of ${step}, attempt ${number}`}>
                        {() => <Log attempt={attempt} />}
                    </Fold>
                )}
            </>
        ),
    };
}

/** The log lines of an attempt. */
function Log({
    attempt: { instance_id: instance, step, number },
}: {
    attempt: Attempt & { instance_id: string };
}) {
    const log = useResource(`log ${instance} ${step} ${number}`, async (signal) => {
        const path = `/instances/${segment(instance)}/logs`;
        let after: string | null = null;
        // A step with many attempts has its log on a later page.
        for (let page = 0; page < 20; page += 1) {
            const answer: Page<AttemptLog> = await get(path, { step, after }, signal);
            const own = answer.items.find((item) => item.number === number);
            after = answer.next;
            if (own !== undefined || after === null) return own ?? null;
        }
        return null;
    });
    return (
        <Loaded resource={log} what="the log">
            {(data) =>
                data === null ? (
                    <p class="muted">
                        The attempt wrote no lines, or they are older than they are kept.
                    </p>
                ) : (
                    <>
                        <Code
                            label={`Log of ${step}, attempt ${number}`}
                            text={data.lines
                                .map(
                                    ({ at, level, line }) =>
                                        `${format.clock(at)} ${level.toUpperCase()} ${line}`,
                                )
                                .join("\n")}
                        />
                        {data.dropped > 0 && (
                            <p class="muted">
                                {format.count(data.dropped)} further lines were dropped: the attempt
                                wrote more than is kept.
                            </p>
                        )}
                    </>
                )
            }
        </Loaded>
    );
}

/** A part that is made only when the user opens it. */
function Fold({
    title,
    of,
    children,
}: {
    title: string;
    of: string;
    children: () => ComponentChildren;
}) {
    const [open, setOpen] = useState(false);
    return (
        <details onToggle={(event) => setOpen(event.currentTarget.open)}>
            <summary>
                {title}
                <span class="visually-hidden"> {of}</span>
            </summary>
            {open && children()}
        </details>
    );
}

/** A part of an attempt that the list of attempts does not have. */
function Loadable({
    attempt: { instance_id: instance, step, number },
    part,
}: {
    attempt: Attempt & { instance_id: string };
    part: "input" | "output";
}) {
    const path = `/instances/${segment(instance)}/attempts/${segment(step)}/${number}`;
    const attempt = useResource(`${path} ${part}`, (signal) =>
        get<AttemptWithInput>(path, part === "input" ? { fields: "input" } : {}, signal),
    );
    const label = `${format.capital(part)} of ${step}, attempt ${number}`;
    return (
        <Loaded resource={attempt} what={`the ${part}`}>
            {(data) =>
                part === "input" && data.input === undefined ? (
                    <p class="muted">The step got no input: its template failed.</p>
                ) : (
                    <Code label={label} value={data[part]} />
                )
            }
        </Loaded>
    );
}

function pluginLink(plugin: string): ComponentChildren {
    return may("plugin_read") ? (
        <a href={link("plugins", plugin.split("@")[0] ?? plugin)}>{plugin}</a>
    ) : (
        plugin
    );
}

function approvalEvents(approval: Approval): Event[] {
    const { id, step, approver_id, status, title, comment, created_at, expires_at, decided_at } =
        approval;
    const asked: Event = {
        key: `${id} asked`,
        at: created_at,
        rank: 3,
        tone: decided_at === null ? "warn" : "plain",
        title: (
            <>
                <b>{step}</b> asks <b>{approver_id}</b>
            </>
        ),
        details: (
            <p class="muted">
                “{title}”{decided_at === null && `, expires ${format.relative(expires_at)}`}
            </p>
        ),
    };
    if (decided_at === null) return [asked];
    return [
        asked,
        {
            key: `${id} decided`,
            at: decided_at,
            rank: 1,
            tone: TONES[status] ?? "plain",
            title: (
                <>
                    <b>{step}</b> <Badge text={status} /> <span class="muted">{approver_id}</span>
                </>
            ),
            details: comment !== null && <blockquote>{comment}</blockquote>,
        },
    ];
}
