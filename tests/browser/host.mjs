// A server of its own for each test run, and a client that speaks JSON with it.
import { spawn } from "node:child_process";
import { createServer, request as send } from "node:http";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** How long anything may take that is waited for. Not an expectation: only so that a hang becomes a failure. */
const PATIENCE_MS = 60_000;
const BETWEEN_MS = 20;

/** Asks again and again until there is an answer. */
export async function eventually(what, ask) {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
        const answer = await ask();
        if (answer !== undefined && answer !== null && answer !== false) return answer;
        if (Date.now() > deadline) throw new Error(`${what}: not within ${PATIENCE_MS / 1_000} s`);
        await new Promise((resolve) => {
            setTimeout(resolve, BETWEEN_MS);
        });
    }
}

export class Host {
    /** Starts `stepwell serve` on an empty folder, with settings such as `{ "live.interval": "200ms" }`. */
    static async start(binary, settings = {}) {
        const folder = await mkdtemp(join(tmpdir(), "stepwell-browser-"));
        const ready = join(folder, "ready.json");
        const log = await open(join(folder, "log"), "w");
        const own = Object.entries(process.env).filter(([name]) => !name.startsWith("STEPWELL_"));
        const environment = Object.entries(settings).map(([key, value]) => [
            `STEPWELL_${key.toUpperCase().replaceAll(".", "__")}`,
            value,
        ]);
        const server = spawn(
            binary,
            [
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--stop-with-stdin",
                "--data-dir",
                join(folder, "data"),
                "--ready-file",
                ready,
            ],
            {
                env: { ...Object.fromEntries([...own, ...environment]), STEPWELL_LOG: "warn" },
                // When this process dies the pipe closes, and the server stops.
                stdio: ["pipe", "ignore", log.fd],
            },
        );
        const ended = new Promise((resolve, reject) => {
            server.on("error", reject);
            server.on("exit", resolve);
        });
        const told = await Promise.race([
            eventually("the server is ready", () => readFile(ready, "utf8").catch(() => null)),
            ended.then(async (code) => {
                throw new Error(`the server ended with ${code}: ${await readFile(join(folder, "log"), "utf8")}`);
            }),
        ]);
        await log.close();
        const { url, token } = JSON.parse(told);
        return Object.assign(new Host(), { folder, server, ended, url, token });
    }

    async stop() {
        this.server.stdin.end();
        await this.ended;
        await rm(this.folder, { recursive: true, force: true });
    }

    async log() {
        return await readFile(join(this.folder, "log"), "utf8");
    }

    /** Sends a request as the operator, unless somebody else's token is given. What is not 2xx is an error. */
    async request(method, path, body, token = this.token) {
        const isText = body === undefined || typeof body === "string" || body instanceof Uint8Array;
        const response = await fetch(`${this.url}${path}`, {
            method,
            headers: { authorization: `Bearer ${token}` },
            body: isText ? body : JSON.stringify(body),
        });
        const text = await response.text();
        if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
        return text === "" ? null : JSON.parse(text);
    }

    get(path) {
        return this.request("GET", path);
    }

    post(path, body) {
        return this.request("POST", path, body);
    }

    /** Starts an instance and waits until its status is one of those. */
    async run(workflow, body, ...statuses) {
        const { id } = await this.post(`/workflows/${workflow}/instances`, body);
        return await this.reached(id, ...statuses);
    }

    async reached(id, ...statuses) {
        return await eventually(`instance ${id} is ${statuses.join(" or ")}`, async () => {
            const instance = await this.get(`/instances/${id}`);
            return statuses.includes(instance.status) && instance;
        });
    }

    /** A token's text. */
    async tokenFor(user, permissions, team = "default") {
        return (await this.post("/tokens", { team, user, permissions })).token;
    }
}

/** A reverse proxy that offers a host under a path, as `location /path/ { proxy_pass http://host/; }` of nginx does. */
export class Proxy {
    /** Requests that were not below the path. */
    outside = [];

    static async start(host, path) {
        const proxy = new Proxy();
        proxy.server = createServer((request, response) => {
            if (!request.url.startsWith(`${path}/`)) {
                proxy.outside.push(request.url);
                response.writeHead(404).end();
                return;
            }
            const { method, headers } = request;
            const forwarded = send(`${host.url}${request.url.slice(path.length)}`, { method, headers }, (answer) => {
                response.writeHead(answer.statusCode, answer.headers);
                answer.pipe(response);
            });
            forwarded.on("error", () => response.destroy());
            response.on("close", () => forwarded.destroy());
            request.pipe(forwarded);
        });
        await new Promise((resolve) => {
            proxy.server.listen(0, "127.0.0.1", resolve);
        });
        proxy.url = `http://127.0.0.1:${proxy.server.address().port}${path}`;
        return proxy;
    }

    async stop() {
        this.server.closeAllConnections();
        await new Promise((resolve) => {
            this.server.close(resolve);
        });
    }
}
