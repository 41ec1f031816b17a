// What the tests look at: plugins in several versions, workflows, instances in every status, approvals that wait, and
// markup in every text that the host takes.
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** What each text of a stranger tries, in the forms that a browser would run. */
export const ATTACKS = [
    "<script>alert('script')</script>",
    "<img src=x onerror=\"alert('image')\">",
    "\"><svg onload=alert('attribute')>",
    "javascript:alert('address')",
    "</textarea><iframe srcdoc=\"<script>alert('frame')</script>\">",
];
const [script, image, attribute, address, frame] = ATTACKS;

/** A component with other text in it: of the same length, because the program around it counts bytes. */
function patched(component, from, to) {
    const [before, after] = [Buffer.from(from), Buffer.from(to.padEnd(from.length))];
    const at = component.indexOf(before);
    if (at < 0 || after.length !== before.length || component.indexOf(before, at + 1) >= 0) {
        throw new Error(`'${from}' cannot be replaced by '${to}'`);
    }
    const bytes = Buffer.from(component);
    after.copy(bytes, at);
    return bytes;
}

const FLAKY = {
    name: "flaky",
    description: `Fails as told ${image}`,
    steps: [{ id: "it", plugin: "scenarios", step: "script", retry: { max_attempts: 2, initial_delay: "10ms" } }],
};
const REVIEW = {
    name: "review",
    description: script,
    steps: [
        { id: "collect", plugin: "scenarios", step: "echo" },
        {
            id: "sign",
            needs: ["collect"],
            approval: {
                title: "Sign ${input.title}",
                approvers: ["${input.approver}", "grace"],
                quorum: 1,
                expires_in: "24h",
                starter_may_approve: true,
            },
        },
        { id: "file", needs: ["sign"], plugin: "scenarios", step: "echo", input: { note: frame } },
    ],
};

/** Fills a host. Answers what was made, for the tests to look for. */
export async function fill(host, guests, { instances = 12 } = {}) {
    const component = (name) => readFile(join(guests, `${name}.wasm`));
    const me = (await host.get("/whoami")).user;
    const hello = await component("hello");
    const expense = await component("expense");
    await host.post("/plugins", patched(hello, "Greets somebody by name", "<img src onerror=alert>"));
    await host.post(
        "/plugins",
        patched(
            await component("scenarios"),
            "Runs a list of host calls and answers what came back",
            "<script>alert('step')</script>",
        ),
    );
    await host.post("/plugins", expense);
    const example = (name) => readFile(new URL(`../../examples/workflows/${name}.yaml`, import.meta.url), "utf8");
    await host.post("/workflows", await example("hello"));
    // Here, whoever starts a claim approves it too.
    const claim = await example("expense-approval");
    await host.post("/workflows", claim.replace("quorum: 1\n", "quorum: 1\n      starter_may_approve: true\n"));
    await host.post("/workflows", FLAKY);
    await host.post("/workflows", REVIEW);

    const spend = (number, rest = {}) =>
        host.run(
            "expense-approval",
            {
                entity_type: "expense",
                entity_id: `EXP-${1_000 + number}`,
                project_id: `project-${number % 3}`,
                input: {
                    employee: `employee-${number % 5}`,
                    amount: 1_500 + 100 * number,
                    category: "meals",
                    manager: me,
                    receipts: ["r"],
                    ...rest,
                },
            },
            "completed",
            "waiting",
            "failed",
        );
    for (let number = 0; number < instances; number += 1) await spend(number);
    await host.post("/plugins", patched(expense, "1.0.0", "1.1.0"));
    for (let number = 0; number < instances; number += 1) await spend(instances + number);
    await spend(98, { amount: -1 });
    const large = [];
    for (const employee of ["ada", "grace", script]) {
        large.push(await spend(100 + large.length, { employee, amount: 99_000, category: "travel", receipts: [] }));
    }

    const started = await host.run("hello", { input: { name: image } }, "completed");
    await host.post("/instances:batch-update", { items: [{ id: started.id, metadata: { [script]: attribute } }] });
    const many = Array.from({ length: 40 }, (_, number) => ({
        workflow: "hello",
        input: { name: `person ${number}` },
    }));
    const { results } = await host.post("/instances:batch", { items: many });
    for (const { id } of results) await host.reached(id, "completed");

    const label = { plugin: image };
    const script_ = (ops, then) =>
        host.run(
            "flaky",
            { input: { ops, then }, entity_type: script, entity_id: image, project_id: attribute },
            "completed",
            "failed",
        );
    const measured = await script_([
        { op: "count", name: "counter", delta: 3, labels: label },
        { op: "gauge", name: "gauge", value: 12.5, labels: { origin: script } },
        { op: "record", name: "histogram", value: 42, labels: { origin: address } },
        { op: "timer", operation: "timer", stop: true },
        { op: "log", level: "info", message: image },
    ]);
    const failed = await script_([], { fatal: { code: "markup", message: `${script}${image}` } });
    await script_([], "panic");

    // The names of users are checked when they get a token, so those have no markup.
    const stranger = await host.tokenFor("stranger", ["workflow_read", "workflow_start", "approval_decide"]);
    const review = await host.request(
        "POST",
        "/workflows/review/instances",
        { input: { title: image, approver: me }, entity_type: address, entity_id: frame },
        stranger,
    );
    const waiting = await host.reached(review.id, "waiting");
    const commented = await host.run("review", { input: { title: "with a comment", approver: me } }, "waiting");
    const approval = commented.approvals.find(({ approver_id }) => approver_id === me);
    await host.post(`/approvals/${approval.id}/decision`, { decision: "reject", comment: script });
    await host.reached(commented.id, "rejected");
    const cancelled = await host.run("review", { input: { title: "nobody's", approver: me } }, "waiting");
    await host.post(`/instances/${cancelled.id}/cancel`);
    const approver = await host.tokenFor("eve", ["approval_decide"]);
    return { me, approver, large, started, measured, failed, waiting, commented };
}
