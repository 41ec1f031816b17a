// Uses the types that openapi-typescript generates: `tsc` fails if they do not fit. `node client.js
// URL TOKEN` then calls a host.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Instance = components["schemas"]["InstanceDetails"];

const [url, token] = process.argv.slice(2);
const client = createClient<paths>({
    baseUrl: url,
    headers: { Authorization: `Bearer ${token}` },
});

const applied = await client.POST("/workflows", {
    body: {
        name: "typed",
        steps: [{ id: "ask", approval: { title: "Go on?", approvers: ["ann"], expires_in: "1h" } }],
    },
});
if (!applied.data) throw new Error(JSON.stringify(applied.error));

const started = await client.POST("/workflows/{name}/instances", {
    params: { path: { name: applied.data.name }, header: { "Idempotency-Key": "one" } },
    body: { input: { amount: 120 } },
});
if (!started.data) throw new Error(JSON.stringify(started.error));

const shown = await client.GET("/instances/{id}", { params: { path: { id: started.data.id } } });
if (!shown.data) throw new Error(JSON.stringify(shown.error));
const instance: Instance = shown.data;

const page = await client.GET("/instances", { params: { query: { limit: 1, status: instance.status } } });
const next: string | null | undefined = page.data?.next;

const missing = await client.GET("/workflows/{name}", { params: { path: { name: "missing" } } });
const code: string | undefined = missing.error?.error.code;
if (code !== "not-found") throw new Error(`unexpected: ${code}`);

console.log(`${instance.workflow} ${instance.status} ${typeof next}`);
