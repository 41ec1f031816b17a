// Uses the client that openapi-generator writes for typescript-fetch: `tsc` fails if it does not
// fit. `node fetch.js URL TOKEN` then calls a host.
import { Configuration, InstancesApi, ResponseError, WorkflowsApi } from "./generated";

async function main(): Promise<void> {
    const [basePath, accessToken] = process.argv.slice(2);
    const configuration = new Configuration({ basePath, accessToken });
    const workflows = new WorkflowsApi(configuration);
    const instances = new InstancesApi(configuration);

    const applied = await workflows.applyWorkflow({
        definition: {
            name: "fetched",
            steps: [{ id: "ask", approval: { title: "Go on?", approvers: ["ann"], expiresIn: "1h" } }],
        },
    });
    const started = await instances.startInstance({
        name: applied.name,
        startInstance: { input: { amount: 120 } },
    });
    const shown = await instances.showInstance({ id: started.id });
    const code = await workflows.showWorkflow({ name: "missing" }).then(
        () => "found",
        async (error: unknown) => {
            if (!(error instanceof ResponseError)) throw error;
            return ((await error.response.json()) as { error: { code: string } }).error.code;
        },
    );
    console.log(`${shown.workflow} ${shown.status} ${code}`);
}

main().catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
});
