// The inbox: approvals that wait for a decision.
import { useState } from "preact/hooks";
import { ApiError, get, post, segment } from "../api";
import * as format from "../format";
import { link, useResource } from "../hooks";
import { usePages } from "../pages";
import { may } from "../session";
import type { Approval, InstanceDetails } from "../types";
import {
    ActionDialog,
    Badge,
    Button,
    Choice,
    Code,
    Empty,
    Field,
    Loaded,
    More,
    say,
    Time,
} from "../ui";

const WHOSE = [
    ["mine", "Mine"],
    ["*", "Everybody's"],
] as const;
const REFRESH_MS = 5_000;
const STATUSES = ["pending", "approved", "rejected", "expired", "cancelled", "any"];

export function Approvals() {
    const [whose, setWhose] = useState<(typeof WHOSE)[number][0]>("mine");
    const [status, setStatus] = useState("pending");
    const [asks, setAsks] = useState<{ approval: Approval; decision: "approve" | "reject" } | null>(
        null,
    );
    const pages = usePages<Approval>(
        "/approvals",
        { status, approver: whose === "mine" ? null : whose },
        REFRESH_MS,
    );
    return (
        <>
            <div class="toolbar">
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
            </div>
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
                        <ul class="inbox">
                            {approvals.map((approval) => (
                                <li key={approval.id} class="card">
                                    <div>
                                        <h2 class="wrap">{approval.title}</h2>
                                        <p class="muted wrap meta">
                                            <Badge text={approval.status} />
                                            <span>
                                                for <b>{approval.approver_id}</b>
                                            </span>
                                            <span>
                                                {may("workflow_read") ? (
                                                    <a
                                                        href={link(
                                                            "instances",
                                                            approval.instance_id,
                                                        )}
                                                    >
                                                        {approval.workflow}
                                                    </a>
                                                ) : (
                                                    approval.workflow
                                                )}
                                                {" / "}
                                                {approval.step}
                                            </span>
                                            <span>
                                                asked <Time at={approval.created_at} />
                                            </span>
                                            {approval.status === "pending" && (
                                                <span>
                                                    expires <Time at={approval.expires_at} />
                                                </span>
                                            )}
                                            {approval.decided_at !== null && (
                                                <span>
                                                    decided <Time at={approval.decided_at} />
                                                </span>
                                            )}
                                            {approval.quorum > 1 && (
                                                <span>{approval.quorum} must approve</span>
                                            )}
                                        </p>
                                        {approval.comment !== null && (
                                            <blockquote class="wrap">{approval.comment}</blockquote>
                                        )}
                                    </div>
                                    {approval.status === "pending" && (
                                        <div class="actions">
                                            <Button
                                                kind="primary"
                                                label={`Approve: ${approval.title}`}
                                                onClick={() =>
                                                    setAsks({ approval, decision: "approve" })
                                                }
                                            >
                                                Approve
                                            </Button>
                                            <Button
                                                label={`Reject: ${approval.title}`}
                                                onClick={() =>
                                                    setAsks({ approval, decision: "reject" })
                                                }
                                            >
                                                Reject
                                            </Button>
                                        </div>
                                    )}
                                </li>
                            ))}
                        </ul>
                    )
                }
            </Loaded>
            <More pages={pages} />
            {asks !== null && (
                <Decide {...asks} onClose={() => setAsks(null)} onDone={pages.reload} />
            )}
        </>
    );
}

function Decide({
    approval,
    decision,
    onClose,
    onDone,
}: {
    approval: Approval;
    decision: "approve" | "reject";
    onClose: () => void;
    onDone: () => void;
}) {
    const [comment, setComment] = useState("");
    const run = async () => {
        try {
            await post(`/approvals/${segment(approval.id)}/decision`, {
                decision,
                comment: comment === "" ? null : comment,
            });
        } catch (error) {
            if (!(error instanceof ApiError) || error.status !== 409) throw error;
            // The approval was decided or expired meanwhile. The message says by whom and when,
            // from the row itself.
            const now = await get<Approval>(`/approvals/${segment(approval.id)}`);
            onDone();
            const when = now.decided_at === null ? "" : ` on ${format.time(now.decided_at)}`;
            throw new ApiError(
                409,
                error.code,
                `${error.message} It is ${now.status}: ${now.approver_id}${when}.`,
            );
        }
    };
    const verb = decision === "approve" ? "Approve" : "Reject";
    return (
        <ActionDialog
            title={verb}
            action={verb}
            kind={decision === "approve" ? "primary" : "danger"}
            run={run}
            onClose={onClose}
            onDone={() => {
                say(decision === "approve" ? "Approved." : "Rejected.");
                onDone();
            }}
        >
            <p class="wrap">{approval.title}</p>
            {may("workflow_read") && <About {...approval} />}
            <Field label="Comment" hint="Others can read it.">
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
