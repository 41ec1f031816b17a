// The inbox: approvals that wait for a decision.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, post, segment } from "../api";
import * as format from "../format";
import { link, useResource, type ViewProps } from "../hooks";
import { usePages } from "../pages";
import { may, session } from "../session";
import type { Approval, InstanceDetails } from "../types";
import {
    ActionDialog,
    Badge,
    Button,
    Choice,
    Code,
    Empty,
    Field,
    Filters,
    Loaded,
    More,
    Name,
    say,
    Time,
} from "../ui";

const WHOSE = [
    ["mine", "Mine"],
    ["*", "Everybody's"],
] as const;
type Whose = (typeof WHOSE)[number][0];
const REFRESH_MS = 5_000;
const STATUSES = ["pending", "approved", "rejected", "expired", "cancelled", "any"];
type Decision = "approve" | "reject";
const VERBS = { approve: "Approve", reject: "Reject" } as const;
const DONE = { approve: "Approved", reject: "Rejected" } as const;
/** Decisions in one request. The host takes 1,000 by default. */
const BATCH_MAX = 100;
/** Most titles that a dialog lists. */
const TITLES_MAX = 20;

export function Approvals({ address }: ViewProps) {
    const instance = address.query.get("instance");
    return <Inbox key={instance} instance={instance} />;
}

const isPending = ({ status }: Approval): boolean => status === "pending";
/** The host lets only the approver decide. */
const isMineToDecide = (approval: Approval): boolean =>
    isPending(approval) && approval.approver_id === session()?.principal.user;

function Inbox({ instance }: { instance: string | null }) {
    const ofInstance = instance !== null && may("workflow_read");
    const [whose, setWhose] = useState<Whose>(ofInstance ? "*" : "mine");
    const [status, setStatus] = useState(ofInstance ? "any" : "pending");
    const [asks, setAsks] = useState<{ approvals: Approval[]; decision: Decision } | null>(null);
    const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
    const pages = usePages<Approval>(
        "/approvals",
        { status, approver: whose === "mine" ? null : whose, instance },
        REFRESH_MS,
    );
    const pending = pages.data?.filter(isMineToDecide) ?? [];
    const chosen = pending.filter(({ id }) => selected.has(id));
    const list = useRef<HTMLUListElement>(null);
    const next = useNextFocus(list, pending, asks !== null);
    const select = (ids: string[], isSelected: boolean) => {
        const changed = new Set(selected);
        ids.forEach((id) => (isSelected ? changed.add(id) : changed.delete(id)));
        setSelected(changed);
    };
    const decided = (approvals: Approval[], decision: Decision) => {
        const ids = approvals.map(({ id }) => id);
        next.plan(ids, decision);
        select(ids, false);
        pages.reload();
    };
    return (
        <>
            <Filters set={(whose === "mine" ? 0 : 1) + (status === "pending" ? 0 : 1)}>
                {may("workflow_read") && (
                    <Choice label="Whose" options={WHOSE} value={whose} onChange={setWhose} />
                )}
                <Field label="Status">
                    <select
                        value={status}
                        onChange={(event) => setStatus(event.currentTarget.value)}
                    >
                        {STATUSES.map((value) => (
                            <option key={value}>{value}</option>
                        ))}
                    </select>
                </Field>
            </Filters>
            {instance !== null && (
                <p>
                    Of the instance{" "}
                    <a href={link("instances", instance)}>
                        <code>{format.shortId(instance)}</code>
                    </a>
                    . <a href={link("approvals")}>Show those of all instances</a>
                </p>
            )}
            {pending.length > 1 && (
                <div class="toolbar selection" role="group" aria-label="Selected approvals">
                    <label class="check">
                        <input
                            type="checkbox"
                            checked={chosen.length === pending.length}
                            onChange={(event) =>
                                select(
                                    pending.map(({ id }) => id),
                                    event.currentTarget.checked,
                                )
                            }
                        />
                        Select all {pending.length} that are shown
                    </label>
                    {chosen.length > 0 && (
                        <div class="actions">
                            {(["approve", "reject"] as const).map((decision) => (
                                <Button
                                    key={decision}
                                    {...(decision === "approve" ? { kind: "primary" } : {})}
                                    onClick={() => setAsks({ approvals: chosen, decision })}
                                >
                                    {VERBS[decision]} {chosen.length} selected…
                                </Button>
                            ))}
                        </div>
                    )}
                </div>
            )}
            <Loaded resource={pages} what="approvals">
                {(approvals) =>
                    approvals.length === 0 ? (
                        status === "pending" ? (
                            <Empty
                                title={
                                    whose === "mine" ? "Nothing waits for you." : "Nothing waits."
                                }
                            >
                                What workflows ask for appears here by itself.
                            </Empty>
                        ) : (
                            <Empty title="There are none." />
                        )
                    ) : (
                        <ul class="inbox" ref={list}>
                            {approvals.map((approval) => (
                                <Entry
                                    key={approval.id}
                                    approval={approval}
                                    isSelected={selected.has(approval.id)}
                                    onSelect={
                                        pending.length > 1
                                            ? (isSelected) => select([approval.id], isSelected)
                                            : null
                                    }
                                    onDecide={(decision) =>
                                        setAsks({ approvals: [approval], decision })
                                    }
                                />
                            ))}
                        </ul>
                    )
                }
            </Loaded>
            <More pages={pages} />
            {asks !== null && (
                <Decide
                    {...asks}
                    onClose={() => setAsks(null)}
                    onDone={decided}
                    onStale={pages.reload}
                />
            )}
        </>
    );
}

/** The button that has the focus after a decision, and its approval's place in the list. */
interface Planned {
    id: string | null;
    place: number;
    decision: Decision;
    /** Set once it has the focus. */
    element: HTMLElement | null;
}

/**
 * Moves the focus after a decision: to the same button of the next approval, of the one before at
 * the end of the list, or to the heading if none is left.
 */
function useNextFocus(
    list: { current: HTMLUListElement | null },
    pending: Approval[],
    isAsking: boolean,
) {
    const planned = useRef<Planned | null>(null);
    const focus = (plan: Planned) => {
        const button =
            plan.id === null
                ? null
                : list.current?.querySelector<HTMLElement>(
                      `[data-approval="${CSS.escape(plan.id)}"] [data-decision=${plan.decision}] button`,
                  );
        plan.element = button ?? document.querySelector<HTMLElement>("main h1");
        plan.element?.focus();
    };
    useEffect(() => {
        const plan = planned.current;
        if (plan === null || isAsking) return;
        if (plan.element === null) {
            focus(plan);
        } else if (plan.element.isConnected) {
            // The user went on. The plan ends, or the focus would be taken away later.
            if (document.activeElement !== plan.element) planned.current = null;
        } else if (document.activeElement === document.body) {
            // The next approval ended meanwhile, for example with the decision. The one in its
            // place gets the focus.
            plan.id = pending[Math.min(plan.place, pending.length - 1)]?.id ?? null;
            focus(plan);
        }
        const place = pending.findIndex(({ id }) => id === plan.id);
        if (place >= 0) plan.place = place;
    });
    return {
        plan: (decided: string[], decision: Decision) => {
            const place = pending.findIndex(({ id }) => decided.includes(id));
            const isOpen = ({ id }: Approval) => !decided.includes(id);
            const following = pending.slice(place).find(isOpen);
            const before = pending.slice(0, Math.max(0, place)).findLast(isOpen);
            const id = (following ?? before)?.id ?? null;
            planned.current = { id, place: Math.max(0, place), decision, element: null };
        },
    };
}

function Entry({
    approval,
    isSelected,
    onSelect,
    onDecide,
}: {
    approval: Approval;
    isSelected: boolean;
    onSelect: ((isSelected: boolean) => void) | null;
    onDecide: (decision: Decision) => void;
}) {
    return (
        <li class="card" data-approval={approval.id}>
            {onSelect !== null && isMineToDecide(approval) && (
                <label class="check">
                    <input
                        type="checkbox"
                        aria-label={`Select: ${approval.title}`}
                        checked={isSelected}
                        onChange={(event) => onSelect(event.currentTarget.checked)}
                    />
                </label>
            )}
            <div class="entry">
                <h2 class="wrap">{approval.title}</h2>
                <p class="muted wrap meta">
                    <Badge text={approval.status} />
                    <span>
                        for <b>{approval.approver_id}</b>
                    </span>
                    <span>
                        {may("workflow_read") ? (
                            <a href={link("instances", approval.instance_id)}>
                                <Name text={approval.workflow} />
                            </a>
                        ) : (
                            <Name text={approval.workflow} />
                        )}
                        {" / "}
                        <Name text={approval.step} />
                    </span>
                    <span>
                        asked <Time at={approval.created_at} />
                    </span>
                    {isPending(approval) && (
                        <span>
                            expires <Time at={approval.expires_at} />
                        </span>
                    )}
                    {approval.decided_at !== null && (
                        <span>
                            decided <Time at={approval.decided_at} />
                        </span>
                    )}
                    {approval.quorum > 1 && <span>{approval.quorum} must approve</span>}
                </p>
                {approval.comment !== null && (
                    <blockquote class="wrap">{approval.comment}</blockquote>
                )}
            </div>
            {isMineToDecide(approval) && (
                <div class="actions">
                    {(["approve", "reject"] as const).map((decision) => (
                        <span key={decision} data-decision={decision}>
                            <Button
                                {...(decision === "approve" ? { kind: "primary" } : {})}
                                label={`${VERBS[decision]}: ${approval.title}`}
                                onClick={() => onDecide(decision)}
                            >
                                {VERBS[decision]}
                            </Button>
                        </span>
                    ))}
                </div>
            )}
        </li>
    );
}

/** Sends one decision. After a conflict, the error says who decided and when. */
async function decideOne(
    approval: Approval,
    decision: Decision,
    comment: string | null,
): Promise<void> {
    try {
        await post(`/approvals/${segment(approval.id)}/decision`, { decision, comment });
    } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 409) throw error;
        // The approval was decided or expired meanwhile. The message says by whom and when, from
        // the row itself.
        const now = await get<Approval>(`/approvals/${segment(approval.id)}`);
        const when = now.decided_at === null ? "" : ` on ${format.time(now.decided_at)}`;
        throw new ApiError(
            409,
            error.code,
            `${error.message} It is ${now.status}: ${now.approver_id}${when}.`,
        );
    }
}

interface Refused {
    error?: { message: string };
}

/** Sends several decisions. The error names those that the host refused. */
async function decideMany(
    approvals: Approval[],
    decision: Decision,
    comment: string | null,
): Promise<void> {
    const refused: string[] = [];
    for (let begin = 0; begin < approvals.length; begin += BATCH_MAX) {
        const part = approvals.slice(begin, begin + BATCH_MAX);
        const items = part.map(({ id }) => ({ id, decision, comment }));
        const answer = await post<{ results: Refused[] }>("/approvals:batch-decide", { items });
        part.forEach(({ title }, place) => {
            const error = answer?.results[place]?.error;
            if (error !== undefined) refused.push(`“${title}”: ${error.message}`);
        });
    }
    if (refused.length === 0) return;
    const done = approvals.length - refused.length;
    throw new ApiError(
        409,
        "refused",
        `${DONE[decision]}: ${done}. Not decided: ${refused.length}. ${refused.slice(0, TITLES_MAX).join(" ")}`,
    );
}

function Decide({
    approvals,
    decision,
    onClose,
    onDone,
    onStale,
}: {
    approvals: Approval[];
    decision: Decision;
    onClose: () => void;
    onDone: (approvals: Approval[], decision: Decision) => void;
    /** Some were decided by others. */
    onStale: () => void;
}) {
    const [comment, setComment] = useState("");
    const [first] = approvals;
    const isOne = approvals.length === 1 && first !== undefined;
    const run = async () => {
        const given = comment === "" ? null : comment;
        try {
            await (isOne
                ? decideOne(first, decision, given)
                : decideMany(approvals, decision, given));
        } catch (error) {
            if (error instanceof ApiError && error.status === 409) onStale();
            throw error;
        }
    };
    const verb = VERBS[decision];
    return (
        <ActionDialog
            title={isOne ? verb : `${verb} ${approvals.length} approvals`}
            action={verb}
            kind={decision === "approve" ? "primary" : "danger"}
            run={run}
            onClose={onClose}
            onDone={() => {
                say(isOne ? `${DONE[decision]}.` : `${DONE[decision]}: ${approvals.length}.`);
                onDone(approvals, decision);
            }}
        >
            {isOne ? (
                <p class="wrap">{first.title}</p>
            ) : (
                <ul class="wrap">
                    {approvals.slice(0, TITLES_MAX).map(({ id, title }) => (
                        <li key={id}>{title}</li>
                    ))}
                    {approvals.length > TITLES_MAX && (
                        <li>and {approvals.length - TITLES_MAX} more</li>
                    )}
                </ul>
            )}
            {isOne && may("workflow_read") && <About {...first} />}
            <Field label="Comment" hint="Others can read it. Ctrl+Enter decides.">
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

/** The input of the instance, because a title alone is little to decide by. */
function About({ instance_id: id }: Approval) {
    const instance = useResource(`instance ${id}`, (signal) =>
        get<InstanceDetails>(`/instances/${segment(id)}`, {}, signal),
    );
    return (
        <Loaded resource={instance} what="what it is about">
            {(data) => <Code label="What it is about" value={data.input} />}
        </Loaded>
    );
}
