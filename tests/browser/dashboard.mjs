// The dashboard in a real browser, against a real server with real plugins. `cargo xtask test` says where all of these
// are: STEPWELL_TEST_BINARY, STEPWELL_TEST_GUESTS, STEPWELL_TEST_CHROMIUM; screenshots go to STEPWELL_TEST_SCREENSHOTS.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { eventually, Host, Proxy } from "./host.mjs";
import { DESKTOP, launch, PHONE, Tab } from "./page.mjs";
import { ATTACKS, fill } from "./world.mjs";

const { STEPWELL_TEST_BINARY: binary, STEPWELL_TEST_GUESTS: guests, STEPWELL_TEST_CHROMIUM: chromium } = process.env;
const [script, image] = ATTACKS;

let browser;
let host;
let world;

/** A test with a tab of its own, which must have noticed nothing when it ends. */
function inBrowser(name, options, run) {
    test(name, async () => {
        const tab = await Tab.open(browser, host, {
            ...options,
            ...(options.signedOut ? {} : { token: options.token?.() ?? host.token }),
        });
        let failure;
        try {
            await run(tab, tab.page);
        } catch (error) {
            failure = error;
            await tab.photograph(`failed ${name}`.replaceAll(/[^a-z0-9]+/gu, "-")).catch(() => undefined);
        }
        try {
            await tab.close();
        } catch (error) {
            failure ??= error;
        }
        if (failure !== undefined) throw failure;
    });
}

describe("the dashboard", () => {
    before(async () => {
        host = await Host.start(binary, { "live.interval": "100ms", "history.interval": "1s" });
        world = await fill(host, guests);
        browser = await launch(chromium);
    });

    after(async () => {
        await browser?.close();
        await host?.stop();
    });

    inBrowser(
        "a token signs in, stays in the tab, and leaves with the one who signs out",
        { signedOut: true },
        async (tab, page) => {
            await tab.isUsable("sign-in");
            await tab.photograph("sign-in");
            await page.getByLabel("Token").fill(`sw_${"0".repeat(64)}`);
            await tab.button("Sign in").click();
            await tab.says("the token is not valid");
            await tab.signIn(host.token);
            await page.reload();
            await page.getByRole("heading", { name: "Overview" }).waitFor();
            const kept = await page.evaluate(() => ({
                session: Object.values(sessionStorage),
                local: Object.values(localStorage),
                url: location.href,
            }));
            assert.deepEqual([kept.session, kept.local], [[host.token], []]);
            assert.ok(!kept.url.includes(host.token));
            await tab.button("Sign out").click();
            await page.getByLabel("Token").waitFor();
            assert.equal(await page.evaluate(() => sessionStorage.length), 0);
        },
    );

    const VIEWS = () => [
        "overview",
        "operations",
        "operations/step expense/score",
        "history",
        "history?show=o+step+expense/score",
        "alerts",
        "instances",
        `instances/${world.failed.id}`,
        `instances/${world.waiting.id}`,
        "workflows",
        "workflows/review",
        "approvals",
        "plugins",
        "plugins/expense",
        "plugins/scenarios",
        "caches",
        "audit",
    ];

    for (const [name, viewport, scheme] of [
        ["light", DESKTOP, "light"],
        ["dark", DESKTOP, "dark"],
        ["phone", PHONE, "light"],
    ]) {
        inBrowser(`every view is usable by everybody: ${name}`, { viewport, scheme }, async (tab, page) => {
            const trend = page.locator(".trend polyline").first();
            await eventually(
                "the charts have begun",
                async () => (await trend.getAttribute("points"))?.split(" ").length > 20,
            );
            for (const view of VIEWS()) {
                const [first, ...rest] = view.split("/");
                await tab.go(
                    first.includes("?")
                        ? view
                        : [first, ...(rest.length === 0 ? [] : [encodeURIComponent(rest.join("/"))])].join("/"),
                );
                const file = view
                    .replace(world.failed.id, "failed")
                    .replace(world.waiting.id, "waiting")
                    .replaceAll(/[^a-z]+/gu, "-");
                await tab.photograph(`${file}-${name}`);
                await tab.isUsable(`${view} ${name}`);
                await tab.hasOnlyItsOwnElements(`${view} ${name}`);
            }
        });
    }

    inBrowser("what happens is shown while it happens", {}, async (tab, page) => {
        await page.getByText("Live", { exact: true }).first().waitFor();
        const created = page
            .getByRole("figure", { name: "Instances in the last minute" })
            .getByRole("listitem")
            .filter({ hasText: "Created" });
        const number = async () => Number((await created.textContent()).replaceAll(/\D/gu, ""));
        const known = await number();
        await host.run("hello", { input: { name: "somebody" } }, "completed");
        await eventually("the new instance is in the chart", async () => (await number()) > known);
        await page.getByText("As a table: Throughput").click();
        const rows = page.getByRole("region", { name: "Throughput as a table" }).locator("tbody tr");
        await eventually("the chart's numbers can be read", async () => (await rows.count()) > 2);
    });

    /** The oldest row of a chart's table. */
    const oldestRow = async (page, title) => {
        await page.getByText(`As a table: ${title}`).click();
        const row = page
            .getByRole("region", { name: `${title} as a table` })
            .locator("tbody tr")
            .last();
        const at = Date.parse(await row.locator("time").getAttribute("datetime"));
        return { at, cells: (await row.locator("td").allTextContents()).slice(1) };
    };
    /** Opens the page when the history has steps that are over. */
    const openedLate = async (token, run) => {
        const created = async () => {
            const path = "/workflow-metrics/history?metric=instances_created&step=10s&from=-15m";
            const { points, to } = await host.get(path);
            return points.some(({ at }) => Date.parse(at) + 20_000 < Date.parse(to));
        };
        await eventually("the history has something older than the page", created);
        const opened = Date.now();
        const tab = await Tab.open(browser, host, { token });
        try {
            await tab.page.getByText("As a table: Batch sizes").click();
            const times = tab.page.getByRole("region", { name: "Batch sizes as a table" }).locator("time");
            await eventually("the charts begin before the page", async () => {
                const oldest = (await times.count()) > 0 && (await times.last().getAttribute("datetime"));
                return oldest !== false && Date.parse(oldest) < opened - 9_000;
            });
            await run(tab, opened);
        } finally {
            await tab.close();
        }
    };

    test("who opens the page sees the minutes before, and live numbers go on from there", async () => {
        await openedLate(host.token, async (tab, opened) => {
            for (const title of [
                "Throughput",
                "Latency",
                "Error rate",
                "Instances",
                "Cache hit rate",
                "Work in hand",
            ]) {
                const { at, cells } = await oldestRow(tab.page, title);
                assert.ok(at < opened - 9_000, `${title} begins at ${new Date(at).toISOString()}`);
                assert.ok(cells.length > 0, title);
                if (title === "Throughput") assert.match(cells[0], /^[1-9].*\/min$/u);
            }
            const created = tab.page.getByRole("slider", { name: /^Chart of Instances/u });
            assert.match(await created.getAttribute("aria-label"), /Created: last [\d,]+, from \d+ to [1-9]/u);
            const rows = tab.page.getByRole("region", { name: "Throughput as a table" }).locator("tbody tr");
            const known = await rows.first().locator("time").getAttribute("datetime");
            await eventually(
                "live numbers come",
                async () => (await rows.first().locator("time").getAttribute("datetime")) > known,
            );
            // In the order of time, without a row twice.
            const times = await rows.locator("time").evaluateAll((all) => all.map(({ dateTime }) => dateTime));
            assert.deepEqual(times, [...new Set(times)].sort().reverse());
        });
    });

    test("another team sees its own minutes before and not this one's", async () => {
        const rival = await host.tokenFor("eve", ["workflow_read"], "rival");
        await openedLate(rival, async (tab, opened) => {
            const { at } = await oldestRow(tab.page, "Instances");
            assert.ok(at < opened - 9_000, "the host's own numbers are everybody's");
            const created = tab.page.getByRole("slider", { name: /^Chart of Instances/u });
            assert.match(await created.getAttribute("aria-label"), /Created: last 0, from 0 to 0;/u);
        });
    });

    for (const [what, answer] of [
        ["without a history", { status: 404, json: { error: { code: "no-such-path", message: "there is none" } } }],
        ["whose history is empty", { json: { step_seconds: 10, from: "", to: "", operations: [], metrics: [] } }],
    ]) {
        inBrowser(`the charts of a host ${what} fill by themselves`, {}, async (tab, page) => {
            await page.route(/\/workflow-metrics\/history/u, (route) => route.fulfill(answer));
            const asked = page.waitForResponse(/\/workflow-metrics\/history/u);
            const opened = Date.now();
            await page.reload();
            await asked;
            await page.getByText("As a table: Throughput").click();
            const rows = page.getByRole("region", { name: "Throughput as a table" }).locator("tbody tr");
            await eventually("there are live numbers", async () => (await rows.count()) > 2);
            const { at } = await oldestRow(page, "Instances");
            assert.ok(at >= opened - 1_000, `${new Date(at).toISOString()} is before the page`);
        });
    }

    inBrowser("the history is shown for the period and the operation that are chosen", {}, async (tab, page) => {
        await tab.go("history");
        await page.getByRole("figure", { name: "Instances a minute" }).waitFor();
        await page.getByRole("region", { name: "Charts of all operations" }).getByText("Throughput").first().waitFor();
        const asked = page.waitForRequest(
            (request) => request.url().includes("from=-6h") && request.url().includes("series="),
        );
        await page.getByText("6 h", { exact: true }).click();
        await asked;
        const operation = "step expense/score";
        const { count } = await host.get(`/workflow-metrics/stats/operation/${encodeURIComponent(operation)}`);
        await eventually("all calls are in the history", async () => {
            const { points } = await host.get(`/workflow-metrics/history?operation=${encodeURIComponent(operation)}`);
            return points.reduce((sum, point) => sum + point.count, 0) === count;
        });
        await page.getByLabel("Show").selectOption({ label: operation });
        await page.getByText(`${count} calls, 0 failed`).waitFor();
        await page.getByText("As a table: Latency").click();
        await page
            .getByRole("region", { name: "Latency as a table" })
            .getByRole("cell", { name: /ms|µs/u })
            .first()
            .waitFor();
        await page.getByText("Custom", { exact: true }).click();
        await page.getByLabel("From", { exact: true }).fill("2020-01-01T00:00");
        await page.getByLabel("To", { exact: true }).fill("2020-01-02T00:00");
        await tab.says("Nothing was measured in this period.");
    });

    /** Marks the middle of a chart with the mouse. */
    const mark = async (page, title) => {
        const plot = page.getByRole("figure", { name: new RegExp(`^${title}`, "u") }).locator(".u-over");
        await plot.scrollIntoViewIfNeeded();
        const { x, y, width, height } = await plot.boundingBox();
        await page.mouse.move(x + width * 0.6, y + height / 2);
        await page.mouse.down();
        await page.mouse.move(x + width * 0.95, y + height / 2, { steps: 5 });
        await page.mouse.up();
    };

    inBrowser("a chart uses the width of its card", {}, async (tab, page) => {
        for (const [view, viewport] of [
            ["overview", DESKTOP],
            ["history", DESKTOP],
            ["overview", PHONE],
        ]) {
            await page.setViewportSize(viewport);
            await tab.go(view);
            await page.locator(".u-over").first().waitFor();
            for (const card of await page.locator(".chart:has(.u-over)").all()) {
                const [outer, inner] = [await card.boundingBox(), await card.locator(".u-over").boundingBox()];
                assert.ok(inner.width / outer.width > 0.72, `${view}: ${inner.width} of ${outer.width}`);
                const right = outer.x + outer.width - inner.x - inner.width;
                assert.ok(right < 36, `${view}: ${right} are empty to the right`);
            }
        }
    });

    inBrowser("the charts before the page come with two requests", {}, async (tab, page) => {
        // The page of the sign-in may still ask for its own series, even while it is reloaded; an empty one does not.
        const address = page.url();
        await page.goto("about:blank");
        const asked = [];
        page.on("request", (request) => {
            const url = new URL(request.url());
            if (url.pathname === "/workflow-metrics/history") asked.push(url.searchParams.getAll("series").length);
        });
        const answered = page.waitForResponse((response) => response.url().includes("series="));
        await page.goto(address);
        assert.equal((await answered).status(), 200);
        await page.getByRole("figure", { name: /^Work in hand/u }).waitFor();
        assert.equal(asked.length, 2, "the names, then all series");
        assert.equal(asked[0], 0);
        assert.ok(asked[1] > 10, `${asked[1]} series`);
        asked.length = 0;
        await tab.go("history");
        await page.getByRole("figure", { name: /^Commits/u }).waitFor();
        assert.equal(asked.length, 2, asked.join());
    });

    inBrowser("one slow call among many is no spike of the percentiles", {}, async (tab, page) => {
        const to = new Date();
        const begin = Math.floor(to.getTime() / 10_000) * 10_000 - 60_000;
        const point = (step, count, ms) => ({
            ...{
                at: new Date(begin + step * 10_000).toISOString(),
                count,
                errors: 0,
                error_rate: 0,
                per_minute: 6 * count,
            },
            ...{ min_ms: ms, avg_ms: ms, p50_ms: ms, p95_ms: ms, p99_ms: ms, max_ms: ms },
        });
        const points = [point(0, 200, 2), point(1, 1, 900), point(2, 200, 2)];
        await page.route(/\/workflow-metrics\/history/u, (route) => {
            const head = { step_seconds: 10, from: new Date(begin).toISOString(), to: to.toISOString() };
            const isNames = !route.request().url().includes("series=");
            const series = [{ operation: "all operations", points }];
            route.fulfill({
                json: { ...head, ...(isNames ? { operations: ["all operations"], metrics: [] } : { series }) },
            });
        });
        await page.reload();
        await page.getByText("As a table: Latency").click();
        const at = points.map((one) => Date.parse(one.at) + 10_000);
        const rows = page.getByRole("region", { name: "Latency as a table" }).locator("tbody tr");
        const texts = await eventually("the minutes before are there", async () => {
            const all = await rows.evaluateAll((found) =>
                found.map((row) => [Date.parse(row.querySelector("time").dateTime), row.lastElementChild.textContent]),
            );
            const texts = all.filter(([time]) => at.includes(time)).map(([, text]) => text);
            return texts.length === 3 && texts;
        });
        assert.deepEqual(texts, ["2.0 ms", "2.0 ms", "2.0 ms"]);
    });

    inBrowser("a period is marked in a chart, and left again", {}, async (tab, page) => {
        await tab.go("history");
        await page
            .getByRole("figure", { name: /^Throughput/u })
            .locator(".u-over")
            .waitFor();
        const asked = page.waitForRequest(
            (request) => request.url().includes("series=") && /from=20\d\d/u.test(request.url()),
        );
        await mark(page, "Throughput");
        const { searchParams } = new URL((await asked).url());
        const seconds = (Date.parse(searchParams.get("to")) - Date.parse(searchParams.get("from"))) / 1_000;
        assert.ok(seconds > 900 && seconds < 1_500, `${seconds} s of an hour are marked`);
        assert.ok(await page.getByLabel("Custom", { exact: true }).isChecked());
        await tab.isUsable("a marked period");
        await tab.button("Zoom out").click();
        assert.ok(await page.getByLabel("1 h", { exact: true }).isChecked());
        await tab.go("overview");
        await page
            .getByRole("figure", { name: /^Instances/u })
            .locator(".u-over")
            .waitFor();
        await mark(page, "Instances");
        await tab.button("Zoom out").click();
        await tab.button("Zoom out").waitFor({ state: "detached" });
    });

    inBrowser("a period is marked with the keyboard, and left again", {}, async (tab, page) => {
        await tab.go("history");
        const chart = page.getByRole("slider", { name: /^Chart of Throughput/u });
        await chart.focus();
        // The chart, or what says in its place that there are no numbers.
        const hasFocus = () => page.evaluate(() => document.activeElement !== document.body);
        const read = () => chart.getAttribute("aria-valuetext");
        assert.equal(await read(), "newest");
        await page.keyboard.press("ArrowLeft");
        const newest = await read();
        assert.match(newest, /^\d\d:\d\d:\d\d, Calls .+/u);
        await page.keyboard.press("ArrowLeft");
        await eventually("the cursor moved", async () => (await read()) !== newest);
        for (let press = 0; press < 20; press += 1) await page.keyboard.press("Shift+ArrowLeft");
        await eventually("a period is marked", async () => /^Marked: \d/u.test(await read()));
        await page.getByText(/ – .+: Enter zooms in/u).waitFor();
        const isInPlace = async () => {
            const place = await chart.evaluate((element) => {
                const [mark, plot] = [".u-select", ".u-over"].map((name) =>
                    element.querySelector(name).getBoundingClientRect(),
                );
                return { from: mark.left - plot.left, to: mark.right - plot.left, width: plot.width };
            });
            assert.ok(place.from > place.width / 2 && place.to <= place.width + 1, JSON.stringify(place));
        };
        await isInPlace();
        await tab.isUsable("a period marked with the keyboard");
        await tab.photograph("history-keyboard-mark");
        await isInPlace();
        await page.keyboard.press("Escape");
        assert.equal(await read(), "newest");
        await page.keyboard.press("End");
        await page.keyboard.press("Shift+Home");
        const asked = page.waitForRequest(
            (request) => request.url().includes("series=") && /from=20\d\d/u.test(request.url()),
        );
        await page.keyboard.press("Enter");
        const { searchParams } = new URL((await asked).url());
        const seconds = (Date.parse(searchParams.get("to")) - Date.parse(searchParams.get("from"))) / 1_000;
        assert.ok(seconds > 3_000 && seconds < 3_700, `${seconds} s of an hour are marked`);
        assert.ok(await page.getByLabel("Custom", { exact: true }).isChecked());
        await eventually("the focus stays", hasFocus);
        await page.keyboard.press("Escape");
        await tab.button("Zoom out").waitFor({ state: "detached" });
        assert.ok(await page.getByLabel("1 h", { exact: true }).isChecked());
        await eventually("the chart has the focus again", () =>
            chart.evaluate((element) => element === document.activeElement),
        );
        await tab.go("overview");
        const live = page.getByRole("slider", { name: /^Chart of Instances/u });
        await live.focus();
        await page.keyboard.press("ArrowLeft");
        assert.notEqual(await live.getAttribute("aria-valuetext"), "newest");
        await page.keyboard.press("Shift+Home");
        await page.keyboard.press("Enter");
        await tab.button("Zoom out").waitFor();
        await page.keyboard.press("Escape");
        await page.keyboard.press("Escape");
        await tab.button("Zoom out").waitFor({ state: "detached" });
    });

    inBrowser("where nothing was called is zero, and has no latency", {}, async (tab, page) => {
        const operation = "step scenarios/script";
        await eventually("the host went on after the calls", async () => {
            const { points } = await host.get(`/workflow-metrics/history?operation=${encodeURIComponent(operation)}`);
            const { points: all } = await host.get("/workflow-metrics/history?metric=running");
            return points.length > 0 && Date.parse(all.at(-1).at) - Date.parse(points.at(-1).at) >= 20_000;
        });
        await tab.go(`history?show=${encodeURIComponent(`o ${operation}`)}`);
        const cells = async (title) => {
            await page.getByText(`As a table: ${title}`).click();
            const rows = page.getByRole("region", { name: `${title} as a table` }).locator("tbody tr");
            await rows.first().waitFor();
            return await rows.evaluateAll((all) =>
                Object.fromEntries(
                    all.map((row) => [row.querySelector("time").dateTime, row.querySelectorAll("td")[1].textContent]),
                ),
            );
        };
        const [calls, latency] = [await cells("Throughput"), await cells("Latency")];
        const quiet = Object.entries(calls).filter(([, text]) => text === "0/min");
        assert.ok(quiet.length > 0, JSON.stringify(calls));
        assert.deepEqual([...new Set(quiet.map(([at]) => latency[at]))], ["–"]);
        assert.ok(Object.values(calls).some((text) => /^[1-9]/u.test(text)));
        // Before the host began nothing is known.
        assert.ok(Object.values(calls).includes("–"));
    });

    inBrowser("without the live stream the numbers are those of the last minute, too", {}, async (tab, page) => {
        await page.route(/\/workflow-metrics\/live$/u, (route) =>
            route.fulfill({ status: 404, json: { error: { code: "no-such-path", message: "there is none" } } }),
        );
        const asked = page.waitForRequest((request) => request.url().endsWith("/workflow-metrics/stats?window=1m"));
        await page.reload();
        await asked;
        await page.getByText("Every 5 s").first().waitFor();
    });

    inBrowser(
        "the overview shows what failed, waits and is late, and is never well above it",
        {},
        async (tab, page) => {
            const late = {
                ...(await host.get(`/instances/${world.waiting.id}`)),
                created_at: new Date(Date.now() - 3 * 86_400_000).toISOString(),
            };
            await page.route(/\/instances\?status=waiting&created_before=/u, (route) =>
                route.fulfill({ json: { items: [late], next: null } }),
            );
            await page.reload();
            const rows = page.getByRole("region", { name: "Work by workflow" }).locator("tbody tr");
            const flaky = rows.filter({ hasText: "flaky" });
            await flaky.getByText("1 × markup").waitFor();
            await flaky.getByText("1 × trap").waitFor();
            const review = rows.filter({ hasText: "review" });
            await review.getByRole("link", { name: /waiting at sign, created 3 d/u }).waitFor();
            await flaky.getByRole("link", { name: "2 failed", exact: true }).waitFor();
            const headline = page.locator(".headline");
            for (const window of ["1 min", "5 min", "Since start"]) {
                await page.getByText(window, { exact: true }).first().click();
                await page.waitForResponse((response) => response.url().includes("/workflow-metrics/summary"));
                await eventually("it has a headline", async () =>
                    (await headline.textContent()).includes("operations"),
                );
                assert.doesNotMatch(await headline.textContent(), /All is well/u, window);
                assert.equal(await headline.locator(".badge-good").count(), 0, window);
            }
            await flaky.getByRole("link", { name: "2 failed" }).click();
            const listed = page.getByRole("region", { name: "Instances" }).locator("tbody tr");
            await eventually("the failed ones are listed", async () => (await listed.count()) === 2);
        },
    );

    inBrowser("numbers of work that was not read to its end say so", {}, async (tab, page) => {
        const old = { ...(await host.get(`/instances/${world.waiting.id}`)), created_at: "2026-01-01T00:00:00Z" };
        for (const query of [/\?status=failed&/u, /\?status=waiting&/u]) {
            await page.route(new RegExp(`/instances${query.source}`, "u"), (route) =>
                route.fulfill({ json: { items: Array.from({ length: 200 }, () => old), next: old.id } }),
            );
        }
        await page.reload();
        const row = page.getByRole("region", { name: "Work by workflow" }).locator("tbody tr").first();
        await row.getByRole("link", { name: "200+ failed" }).waitFor();
        await row.getByRole("link", { name: "200+ waiting" }).waitFor();
        await row.getByText("or earlier").waitFor();
        await tab.says("A number with + counts the newest 200 instances of its kind. There are older ones.");
        await tab.isUsable("more work than was read");
        await tab.photograph("overview-much-work");
        await page.setViewportSize(PHONE);
        await eventually("the charts are as narrow as the window", () =>
            page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        );
        await tab.isUsable("more work than was read, on a phone");
        await tab.photograph("overview-much-work-phone");
    });

    inBrowser("an approval is found, approved with a comment, and the instance goes on", {}, async (tab, page) => {
        const [instance] = world.large;
        await tab.go("approvals");
        await tab.button("Approve: Expense of 99000 cents by ada").click();
        const dialog = page.getByRole("dialog");
        await dialog.getByRole("region", { name: "What it is about" }).getByText('"ada"').waitFor();
        await tab.isUsable("the dialog");
        await tab.photograph("approve-dialog");
        await dialog.getByLabel("Comment").fill(`fine ${image}`);
        await tab.confirm("Approve");
        await tab.says("Approved.");
        await tab.button("Approve: Expense of 99000 cents by ada").waitFor({ state: "detached" });
        assert.equal((await host.reached(instance.id, "completed")).approvals[0].comment, `fine ${image}`);
        await tab.go(`instances/${instance.id}`);
        await tab.says(`fine ${image}`);
        const events = await page.locator(".event").allTextContents();
        const decided = events.findIndex((text) => text.includes("manager approved"));
        assert.ok(decided > 0 && events[decided + 1].includes("manager completed"), events.join("\n"));
        await page.getByText("Everybody's").waitFor({ state: "detached" });
    });

    inBrowser("approvals are decided one after the other with few keys", {}, async (tab, page) => {
        const titles = [];
        for (let number = 1; number <= 3; number += 1) {
            titles.push(`Sign number ${number}`);
            await host.run("review", { input: { title: `number ${number}`, approver: world.me } }, "waiting");
        }
        await tab.go("approvals");
        const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
        const order = (await page.locator(".inbox h2").allTextContents()).filter((title) => titles.includes(title));
        assert.equal(order.length, 3);
        await tab.button(`Approve: ${order[0]}`).focus();
        for (const [place, title] of order.slice(0, 2).entries()) {
            assert.equal(await focused(), `Approve: ${title}`);
            await page.keyboard.press("Enter");
            await page.getByRole("dialog").getByLabel("Comment").fill(`comment ${place}`);
            await page.keyboard.press("Control+Enter");
            await tab.button(`Approve: ${title}`).waitFor({ state: "detached" });
            assert.equal(await focused(), `Approve: ${order[place + 1]}`);
        }
        // The focus stays where the user puts it, also when the list is loaded again.
        await page.getByLabel("Status").focus();
        await page.waitForResponse((response) => new URL(response.url()).pathname === "/approvals");
        assert.equal(await page.evaluate(() => document.activeElement?.tagName), "SELECT");
        const { items } = await host.get("/approvals?status=approved&limit=200");
        assert.ok(items.some(({ title, comment }) => title === order[1] && comment === "comment 1"));
    });

    inBrowser("the last decision gives the focus to the heading", {}, async (tab, page) => {
        const { id } = await host.run("review", { input: { title: "the last", approver: world.me } }, "waiting");
        await tab.go(`approvals?instance=${id}`);
        const entries = page.locator(".inbox > li");
        await eventually("both approvers are listed", async () => (await entries.count()) === 2);
        assert.equal(await entries.filter({ hasText: "for grace" }).getByRole("button").count(), 0);
        await tab.button("Reject: Sign the last").click();
        await page.keyboard.press("Control+Enter");
        await tab.says("Rejected.");
        await tab.button("Reject: Sign the last").waitFor({ state: "detached" });
        await eventually("the heading has it", () => page.evaluate(() => document.activeElement?.tagName === "H1"));
    });

    inBrowser("several approvals are decided together, and the refused ones are named", {}, async (tab, page) => {
        const made = [];
        for (let number = 1; number <= 3; number += 1) {
            const input = { title: `together ${number}`, approver: world.me };
            made.push(await host.run("review", { input }, "waiting"));
        }
        await tab.go("approvals");
        for (const number of [1, 2, 3]) await page.getByLabel(`Select: Sign together ${number}`).check();
        await tab.isUsable("selected approvals");
        await tab.photograph("selected-approvals");
        await tab.button("Approve 3 selected…").click();
        const own = made[1].approvals.find(({ approver_id }) => approver_id === world.me);
        await host.post(`/approvals/${own.id}/decision`, { decision: "reject" });
        const dialog = page.getByRole("dialog");
        await dialog.getByLabel("Comment").fill("all of them");
        await page.keyboard.press("Control+Enter");
        await dialog.getByRole("alert").filter({ hasText: "Approved: 2. Not decided: 1. “Sign together 2”" }).waitFor();
        await page.keyboard.press("Escape");
        await dialog.waitFor({ state: "detached" });
        const { approvals } = await host.reached(made[0].id, "completed");
        assert.ok(approvals.some(({ comment }) => comment === "all of them"));
        await host.reached(made[2].id, "completed");
        await page.getByLabel("Select: Sign together 3").waitFor({ state: "detached" });
        await tab
            .button(/selected…$/u)
            .first()
            .waitFor({ state: "detached" });
    });

    test("the page works under a path behind a proxy", async () => {
        const proxy = await Proxy.start(host, "/tools/stepwell");
        const tab = await Tab.open(browser, host, { token: host.token, url: proxy.url });
        try {
            const { page } = tab;
            await page.getByText("Live", { exact: true }).first().waitFor();
            await tab.go("workflows/hello");
            await page.getByRole("region", { name: "Definition" }).waitFor();
            await tab.go("approvals");
            await page.reload();
            await page.getByRole("heading", { name: "Approvals" }).waitFor();
            await page.getByRole("link", { name: "API", exact: true }).click();
            await page.getByRole("heading", { name: "API reference" }).waitFor();
            const styled = () => getComputedStyle(document.querySelector(".skip")).position;
            assert.equal(await page.evaluate(styled), "fixed");
            await page.getByRole("link", { name: "Stepwell" }).click();
            await page.getByRole("navigation", { name: "Views" }).waitFor();
            assert.deepEqual(proxy.outside, [], "requests beside the path");
        } finally {
            await tab.close();
            await proxy.stop();
        }
    });

    inBrowser("a new tab has the token of an open one, and signing out ends both", {}, async (tab, page) => {
        const second = await tab.context.newPage();
        await second.goto(`${host.url}/workflow-metrics/dashboard#/workflows`);
        await second.getByRole("heading", { name: "Workflows" }).waitFor();
        for (const one of [page, second])
            assert.deepEqual(await one.evaluate(() => Object.values(localStorage)), [], "nothing is stored for good");
        // A tab that somebody else signed in stays.
        const other = await tab.context.newPage();
        await other.addInitScript((token) => sessionStorage.setItem("stepwell.token", token), world.approver);
        await other.goto(`${host.url}/workflow-metrics/dashboard`);
        await other.getByRole("heading", { name: "Approvals" }).waitFor();
        await second.getByRole("button", { name: "Sign out" }).click();
        for (const one of [second, page]) {
            await one.getByLabel("Token").waitFor();
            assert.equal(await one.evaluate(() => sessionStorage.length), 0);
        }
        assert.equal(await other.getByRole("heading", { name: "Approvals" }).count(), 1);
        await other.close();
        await second.reload();
        await second.getByLabel("Token").waitFor();
        await second.waitForTimeout(600);
        assert.equal(await second.getByRole("navigation", { name: "Views" }).count(), 0);
    });

    inBrowser("a phone reaches every view, and sees that a table goes on", { viewport: PHONE }, async (tab, page) => {
        const links = page.getByRole("navigation", { name: "Views" }).getByRole("link");
        assert.equal(await links.count(), 10);
        for (let place = 0; place < 10; place += 1) {
            const { x, y, width, height } = await links.nth(place).boundingBox();
            assert.ok(
                x >= 0 && x + width <= PHONE.width && y + height <= PHONE.height / 2,
                `link ${place} is in sight`,
            );
        }
        await tab.go("instances");
        const status = page.getByLabel("Status");
        assert.ok(!(await status.isVisible()), "filters are folded");
        await page.getByText("Filters", { exact: true }).click();
        await status.selectOption("failed");
        await page.getByText("Filters (1 set)").waitFor();
        const frame = page.locator(".sideways");
        await eventually(
            "the right edge has a shade",
            async () => (await frame.getAttribute("data-hidden")) === "right",
        );
        await tab.isUsable("a table on a phone");
        await page.getByRole("region", { name: "Instances" }).evaluate((box) => box.scrollTo(10_000, 0));
        await eventually("the left edge has one", async () => (await frame.getAttribute("data-hidden")) === "left");
    });

    inBrowser("text that turns itself round is shown with escapes", {}, async (tab, page) => {
        const input = { title: "Acme \u202e000,1 RUE", approver: world.me };
        const { id, approvals } = await host.run("review", { input }, "waiting");
        await tab.go("approvals");
        await page.getByRole("heading", { name: "Sign Acme \\u{202e}000,1 RUE" }).waitFor();
        // What the host keeps as it was said, the page makes harmless.
        const own = approvals.find(({ approver_id }) => approver_id === world.me);
        const comment = "fine \u202eenif\u200b \u2066\ufeff می\u200cخواهم a\u200db";
        await host.post(`/approvals/${own.id}/decision`, { decision: "approve", comment });
        assert.equal((await host.get(`/approvals/${own.id}`)).comment, comment);
        await tab.go(`instances/${id}`);
        await tab.says("fine \\u{202e}enif\\u{200b} \\u{2066}\\u{feff} می\u200cخواهم a\\u{200d}b");
        assert.doesNotMatch(await page.locator("main").innerText(), /[\u202a-\u202e\u2066-\u2069\u200b\ufeff]/u);
    });

    inBrowser("who decides second is told who was first", {}, async (tab, page) => {
        await tab.go("approvals");
        const instance = world.large[1];
        await tab.button("Reject: Expense of 99000 cents by grace").click();
        await host.post(`/approvals/${instance.approvals[0].id}/decision`, { decision: "approve" });
        await tab.confirm("Reject");
        await page
            .getByRole("alert")
            .filter({ hasText: `It is approved: ${world.me}` })
            .waitFor();
    });

    inBrowser("whole numbers keep their digits, and a definition its comments", {}, async (tab, page) => {
        const [long, next] = ["9007199254740993", "18446744073709551615"];
        const text = `# Keeps digits: ${script}\nname: digits\nsteps:\n  - { id: it, plugin: scenarios, step: echo, input: { fixed: ${long}, given: "\${input.id}" } }\n`;
        await host.post("/workflows", text);
        const { id } = await host.run(
            "digits",
            `{"input":{"id":${next},"text":"${long}","list":[-${long},1,0.5]}}`,
            "completed",
        );
        await tab.go(`instances/${id}`);
        const input = page.getByRole("region", { name: "Input" });
        for (const shown of [`"id": ${next}`, `"text": "${long}"`, `-${long},`, "0.5"])
            await input.getByText(shown).waitFor();
        const output = page.getByRole("region", { name: "Output", exact: true });
        for (const shown of [`"fixed": ${long}`, `"given": ${next}`]) await output.getByText(shown).waitFor();
        await tab.go("workflows/digits");
        const definition = page.getByRole("region", { name: "Definition" });
        await definition.getByText("# Keeps digits").waitFor();
        assert.equal(await definition.textContent(), text);
        await tab.hasOnlyItsOwnElements("a definition's text");
        await tab.isUsable("a definition's text");
    });

    inBrowser("instances are narrowed, opened and cancelled", {}, async (tab, page) => {
        await tab.go("instances");
        await page.getByLabel("Status").selectOption("failed");
        await page.getByLabel("Entity type").fill(script);
        // What is typed stays while the list is read again.
        await page.waitForResponse((response) => new URL(response.url()).pathname === "/instances");
        await page.keyboard.press("Enter");
        const rows = page.getByRole("region", { name: "Instances" }).locator("tbody tr");
        await eventually("only the failed ones with that entity are listed", async () => (await rows.count()) === 2);
        await rows.getByRole("link").last().click();
        await page.getByText(`${script}${image}`).first().waitFor();
        await tab.go("instances");
        await page.getByLabel("Created within").selectOption("15 min");
        await page.getByLabel("Workflow").fill("flaky");
        const asked = page.waitForRequest((request) => {
            const { searchParams } = new URL(request.url());
            const ago = Date.now() - Date.parse(searchParams.get("created_after"));
            return searchParams.get("workflow") === "flaky" && ago >= 900_000 && ago < 3_600_000;
        });
        await page.keyboard.press("Enter");
        await asked;
        await eventually("those of the workflow are listed", async () => (await rows.count()) === 3);
        await page.getByLabel("Open by id").fill(script);
        await page.keyboard.press("Enter");
        assert.ok(await page.getByLabel("Open by id").evaluate((input) => !input.validity.valid));
        await page.getByLabel("Open by id").fill(world.started.id);
        await page.keyboard.press("Enter");
        await page.getByText(world.started.id).waitFor();
        const { id } = await host.run("review", { input: { title: "to be cancelled", approver: world.me } }, "waiting");
        await tab.go(`instances/${id}`);
        await tab.button("Cancel instance…").click();
        await tab.confirm("Cancel instance");
        await page.locator("main h2").getByText("cancelled").waitFor();
        assert.equal((await host.get(`/instances/${id}`)).status, "cancelled");
    });

    inBrowser("a step's input and output are shown, wrapped and copied", {}, async (tab, page) => {
        await tab.context.grantPermissions(["clipboard-read", "clipboard-write"]);
        const name = `person ${"with a long name ".repeat(30)}`;
        const { id } = await host.run("hello", { input: { name, big: "LARGE" } }, "completed");
        await tab.go(`instances/${id}`);
        for (const part of ["Input", "Output"]) {
            const event = page.locator(".event").filter({ hasText: "completed" }).first();
            await event.getByText(part, { exact: false }).filter({ visible: true }).first().click();
            const shown = page.getByRole("region", { name: new RegExp(`^${part} of .*, attempt 1$`, "u") });
            await shown.getByText("with a long name").first().waitFor();
            assert.ok(await shown.evaluate((box) => box.scrollWidth <= box.clientWidth), `${part} is wrapped`);
            await page.getByRole("button", { name: new RegExp(`^Copy: ${part} of`, "u") }).click();
            await tab.says("Copied.");
            const copied = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
            if (part === "Input") assert.deepEqual(copied, { name, big: "LARGE" });
            else assert.ok(JSON.stringify(copied).includes("with a long name"), JSON.stringify(copied));
        }
        for (const time of await page.locator(".event > time").allTextContents())
            assert.match(time, /^\d\d:\d\d:\d\d\.\d{6} \+/u);
        await tab.isUsable("an instance with its texts open");
    });

    inBrowser(
        "the input that a template made is shown, and large integers keep their digits",
        {},
        async (tab, page) => {
            const { id } = await host.run("review", { input: { title: "digits", approver: world.me } }, "waiting");
            const own = (await host.get(`/instances/${id}`)).approvals.find(
                ({ approver_id }) => approver_id === world.me,
            );
            await host.post(`/approvals/${own.id}/decision`, { decision: "approve" });
            await host.reached(id, "completed");
            await tab.go(`instances/${id}`);
            await page.getByText("Input of file, attempt 1").first().click();
            const shown = page.getByRole("region", { name: "Input of file, attempt 1" });
            await shown
                .getByText(/iframe srcdoc/u)
                .first()
                .waitFor();
            const body = '{"input":{"number":9007199254740993}}';
            const started = await host.request("POST", "/workflows/hello/instances", body);
            await tab.go(`instances/${started.id}`);
            await page.getByRole("region", { name: "Input", exact: true }).getByText("9007199254740993").waitFor();
        },
    );

    inBrowser("reasons of failures are in the list, and sort it", {}, async (tab, page) => {
        await tab.go("instances?workflow=flaky");
        const region = page.getByRole("region", { name: "Instances" });
        const codes = async () => await region.locator("tbody tr td:nth-child(4) b").allTextContents();
        await eventually("both reasons are listed", async () => (await codes()).length === 2);
        await region.getByRole("button", { name: "Reason" }).click();
        assert.deepEqual(await codes(), ["markup", "trap"]);
        await region.getByRole("button", { name: "Reason" }).click();
        assert.deepEqual(await codes(), ["trap", "markup"]);
    });

    inBrowser("an instance leads to its approvals", {}, async (tab, page) => {
        await tab.go(`instances/${world.commented.id}`);
        await page.getByRole("link", { name: "Its approvals (2)" }).click();
        const entries = page.locator(".inbox > li");
        await eventually("only its approvals are listed", async () => (await entries.count()) === 2);
        await entries.getByText("Sign with a comment").first().waitFor();
        await page.getByRole("link", { name: "Show those of all instances" }).click();
        await page.getByText("Of the instance").waitFor({ state: "detached" });
    });

    inBrowser("a workflow shows its changes and failures, and starts an instance", {}, async (tab, page) => {
        const { definition } = await host.get("/workflows/flaky");
        const retry = { ...definition.steps[0].retry, max_attempts: 1 };
        const changed = { ...definition, steps: [{ ...definition.steps[0], retry }] };
        await host.post("/workflows", { ...changed, name: "changing" });
        await host.post("/workflows", { ...definition, name: "changing" });
        await tab.go("workflows/changing");
        const changes = page.getByRole("region", { name: "Changes from version 1 to 2" });
        await changes.locator(".diff-removed").getByText('"max_attempts": 1').waitFor();
        await changes.locator(".diff-added").getByText('"max_attempts": 2').waitFor();
        assert.equal(await changes.locator(".diff-added, .diff-removed").count(), 2);
        await tab.isUsable("a workflow with changes");
        await tab.go("workflows/flaky");
        const ends = page.getByRole("region", { name: "How instances end, by version" }).locator("tbody tr");
        await ends.getByRole("cell", { name: "66.7 %" }).waitFor();
        await ends.getByText("1 × markup").waitFor();
        await tab.go("workflows/hello");
        await tab.button("Start…").click();
        await tab.isUsable("the dialog that starts an instance");
        const input = page.getByRole("dialog").getByLabel("Input, as JSON");
        await input.fill('{"name": "the dashboard"');
        await page.keyboard.press("Control+Enter");
        await page.getByRole("alert").filter({ hasText: "The input is not JSON" }).waitFor();
        await input.fill('{"name": "the dashboard"}');
        await page.getByRole("dialog").getByLabel("Entity id").fill("E-77");
        await page.keyboard.press("Control+Enter");
        await tab.says("Started.");
        await page.locator("main h2").getByText("completed").waitFor();
        await page.getByText("E-77").first().waitFor();
        const { items } = await host.get("/instances?entity_id=E-77");
        assert.equal(items.length, 1);
    });

    inBrowser("an attempt shows its log lines, as text", {}, async (tab, page) => {
        await tab.go(`instances/${world.measured.id}`);
        await page.locator("summary", { hasText: /^Log/ }).first().click();
        const log = page.getByRole("region", { name: /^Log of /u });
        await log.getByText("INFO", { exact: false }).waitFor();
        assert.ok((await log.textContent()).includes("<img"));
        assert.equal(await log.locator("img").count(), 0);
        await tab.isUsable("an attempt with its log");
        await tab.go(`instances/${world.failed.id}`);
        await page.locator("summary", { hasText: /^Log/ }).first().click();
        await page.getByText("The attempt wrote no lines").first().waitFor();
    });

    const typedOrder = {
        name: "typed-order",
        input: {
            type: "object",
            required: ["title", "count"],
            properties: {
                title: { type: "string", minLength: 3, description: "Shown to the approver." },
                count: { type: "integer", minimum: 1, maximum: 9 },
                priority: { enum: ["low", "high"], default: "low" },
                express: { type: "boolean", default: false },
                due: { type: "string", format: "date-time" },
                tags: { type: "array", items: { type: "string" }, maxItems: 1 },
            },
        },
    };

    for (const [device, options] of [
        ["a computer", {}],
        ["a phone", { viewport: PHONE }],
    ])
        inBrowser(`the form of a start comes from the schema, on ${device}`, options, async (tab, page) => {
            const { definition } = await host.get("/workflows/hello");
            await host.post("/workflows", { ...definition, ...typedOrder });
            const before = (await host.get("/instances?workflow=typed-order")).items.length;
            await tab.go("workflows/typed-order");
            await tab.button("Start…").click();
            const dialog = page.getByRole("dialog");
            await tab.isUsable("the form that starts an instance");
            const labels = await dialog.locator(".property > label").allTextContents();
            assert.deepEqual(labels, ["title (required)", "count (required)", "priority", "express", "due", "tags"]);
            assert.equal(await dialog.getByLabel("priority").inputValue(), '"low"');
            // The keyboard alone: the first field has the focus.
            await page.keyboard.type("ab");
            await page.keyboard.press("Tab");
            await page.keyboard.type("many");
            await page.keyboard.press("Control+Enter");
            await dialog.getByText("Write a whole number.").waitFor();
            const count = dialog.getByLabel("count");
            await eventually("the wrong field has the focus", () =>
                count.evaluate((field) => field === document.activeElement),
            );
            await count.fill("12");
            await dialog.getByLabel("tags").fill('["a", "b"]');
            await page.keyboard.press("Control+Enter");
            await dialog.locator(".mistake", { hasText: "`input.count` must be at most 9" }).waitFor();
            await dialog.locator(".mistake", { hasText: "at least 3 characters" }).waitFor();
            await dialog.locator(".mistake", { hasText: "at most 1 item" }).waitFor();
            await tab.isUsable("the form with mistakes");
            await count.fill("2");
            await dialog.getByLabel("As JSON", { exact: true }).click();
            const text = dialog.getByLabel("Input, as JSON");
            const input = JSON.parse(await text.inputValue());
            assert.deepEqual(input, {
                title: "ab",
                count: 2,
                priority: "low",
                express: false,
                tags: ["a", "b"],
            });
            await text.fill(JSON.stringify({ ...input, title: "abc", tags: ["a"] }));
            await dialog.getByLabel("As JSON", { exact: true }).click();
            assert.equal(await dialog.getByLabel("title").inputValue(), "abc");
            await dialog.getByLabel("due").fill("2026-12-24T18:00:30");
            await dialog.getByLabel("express").selectOption("true");
            await page.keyboard.press("Control+Enter");
            await tab.says("Started.");
            const { items } = await host.get("/instances?workflow=typed-order&fields=input");
            assert.equal(items.length, before + 1);
            assert.equal(items[0].input.express, true);
            assert.match(items[0].input.due, /^2026-12-2\dT\d\d:00:30\.000Z$/);
        });

    inBrowser("long names wrap at words", { viewport: PHONE }, async (tab, page) => {
        const long = "approval-of-a-very-long-name-that-has-many-words";
        const { definition } = await host.get("/workflows/hello");
        await host.post("/workflows", { ...definition, name: long });
        await tab.go("workflows");
        const name = page.getByRole("link", { name: long, exact: true });
        await name.waitFor();
        // The words on each line, from the places of the letters.
        const lines = await name.evaluate((link) => {
            const range = document.createRange();
            const found = new Map();
            for (const text of [...link.childNodes].filter(({ nodeType }) => nodeType === Node.TEXT_NODE)) {
                for (let at = 0; at < text.data.length; at += 1) {
                    range.setStart(text, at);
                    range.setEnd(text, at + 1);
                    const top = Math.round(range.getBoundingClientRect().top);
                    found.set(top, (found.get(top) ?? "") + text.data[at]);
                }
            }
            return [...found.values()];
        });
        assert.ok(lines.length > 1, "it wraps");
        assert.ok(
            lines.slice(0, -1).every((line) => line.endsWith("-")),
            lines.join(" | "),
        );
        await tab.isUsable("a long name on a phone");
    });

    inBrowser(
        "versions are compared, and a plugin is rolled back and follows the newest again",
        {},
        async (tab, page) => {
            const used = async () => {
                const done = await host.run(
                    "expense-approval",
                    { input: { employee: "kim", amount: 100, category: "meals", manager: world.me, receipts: ["r"] } },
                    "completed",
                );
                // A step that is skipped runs no plugin.
                return new Set(done.attempts.map(({ plugin }) => plugin).filter((plugin) => plugin !== null));
            };
            await tab.go("plugins");
            await page.getByRole("link", { name: "expense", exact: true }).click();
            await tab.says("Too few calls to tell.");
            assert.deepEqual(await used(), new Set(["expense@1.1.0"]));
            await tab.button("Roll back to expense 1.0.0").click();
            await page.getByRole("dialog").getByRole("listitem").filter({ hasText: "expense-approval" }).waitFor();
            await tab.photograph("roll-back-dialog");
            await tab.confirm("Roll back");
            await tab.says("New instances run expense@1.0.0.");
            assert.deepEqual(await used(), new Set(["expense@1.0.0"]));
            await tab.button("Follow the newest…").click();
            await tab.confirm("Follow the newest");
            await tab.says("New instances run the newest expense.");
            assert.deepEqual(await used(), new Set(["expense@1.1.0"]));
            await tab.button("Delete expense 1.1.0").click();
            await tab.confirm("Delete version");
            await page.getByRole("alert").filter({ hasText: "is used by" }).waitFor();
        },
    );

    test("an alert is acknowledged and silenced, and its silence is ended", async () => {
        const own = await Host.start(binary, {
            "live.interval": "100ms",
            "history.interval": "100ms",
            "alerts.fire_after": "0s",
            "alerts.p95_latency.threshold": "0.001",
            "alerts.p95_latency.resolve_threshold": "0.0005",
            "alerts.p95_latency.calls_min": "1",
        });
        const { token } = await own.post("/tokens", { user: "ann@example.org", permissions: ["operator"] });
        const tab = await Tab.open(browser, own, { token });
        try {
            const { page } = tab;
            await tab.go("alerts");
            const alert = page.locator(".alert-firing").filter({ hasText: "http POST /tokens" });
            await alert.waitFor();
            await page
                .getByRole("navigation", { name: "Views" })
                .getByRole("link", { name: /Alerts.*\d/u })
                .waitFor();
            await tab.photograph("alerts-firing");
            await tab.isUsable("alerts that fire");
            await tab.button("Acknowledge http POST /tokens").focus();
            await page.keyboard.press("Enter");
            await page.getByRole("dialog").getByLabel("Comment").fill(script);
            await tab.isUsable("the dialog of an alert");
            await tab.confirm("Acknowledge");
            await tab.says("Acknowledged.");
            await alert.getByText("Acknowledged by ann@example.org").getByText(script).waitFor();
            await tab.button("Acknowledge http POST /tokens").waitFor({ state: "detached" });
            await tab.button("Silence http POST /tokens").click();
            await page.getByLabel("For").selectOption("15m");
            await page.getByRole("dialog").getByLabel("Comment").fill(image);
            await tab.confirm("Silence");
            await tab.says("Silenced.");
            await alert.getByText("Silenced; the silence ends").waitFor();
            await tab.hasOnlyItsOwnElements("alerts");
            await page.getByText("Silences", { exact: true }).click();
            await page.getByRole("region", { name: "Silences" }).getByText(image).first().waitFor();
            await tab.hasOnlyItsOwnElements("silences");
            await tab.button("End").click();
            await tab.says("Nothing is silenced.");
            await page.getByText("Thresholds", { exact: true }).click();
            await page.getByRole("region", { name: "Thresholds" }).getByText("P95 latency").waitFor();
            await tab.isUsable("thresholds");
            await tab.go("audit");
            await page.getByRole("region", { name: "Audit" }).getByText("alert.acknowledge").waitFor();
            await page.getByLabel("Action").selectOption("silence.delete");
            await tab.button("Show").click();
            const rows = page.getByRole("region", { name: "Audit" }).locator("tbody tr");
            await eventually("one silence was ended", async () => (await rows.count()) === 1);
            await rows.getByText("ann@example.org").waitFor();
            await rows.getByText("127.0.0.1").waitFor();
            await tab.hasOnlyItsOwnElements("audit");
        } finally {
            await tab.close();
            await own.stop();
        }
    });

    inBrowser("an alert with what it is made of fits a phone", { viewport: PHONE }, async (tab, page) => {
        const since = new Date().toISOString();
        const exemplar = { operation: `plugin expense@1.0.0/${"a-long-name-of-a-step".repeat(3)}`, calls: 548 };
        const alert = {
            ...{ id: "1", rule: "error_rate", severity: "critical", team: "default", state: "firing", unit: "ratio" },
            ...{ subject: "plugin expense@1.0.0", since, fired_at: since, value: 0.26, threshold: 0.05 },
            message: "26 % of 548 calls failed in the last 5m; the threshold is 5 %",
            evidence: { window: "5m", exemplars: [{ ...exemplar, errors: 142, p95_ms: 0.54 }] },
        };
        await page.route(/\/workflow-metrics\/alerts$/u, (route) => route.fulfill({ json: { alerts: [alert] } }));
        await tab.go("alerts");
        const card = page.locator(".alert-firing");
        await card.getByRole("link", { name: "plugin expense@1.0.0", exact: true }).waitFor();
        const { x, width } = await card.boundingBox();
        assert.ok(x + width <= PHONE.width, `it ends at ${x + width}`);
        await tab.isUsable("an alert on a phone");
    });

    inBrowser("caches are cleared after a question, and each has advice", {}, async (tab, page) => {
        await tab.go("caches");
        const advice = page.getByRole("region", { name: "Advice about the caches" }).locator("tbody tr");
        await eventually("every cache has advice", async () => (await advice.count()) === 11);
        await advice.filter({ hasText: "tokens" }).getByText("nothing was ever pushed out").waitFor();
        await tab.button("Clear caches…").click();
        await tab.confirm("Clear");
        await tab.says(/Removed [\d,]+ entries/u);
    });

    inBrowser("everything can be done with the keyboard alone", { signedOut: true }, async (tab, page) => {
        const press = (key) => page.keyboard.press(key);
        const focused = () =>
            page.evaluate(
                () => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent,
            );
        const tabTo = async (name) => {
            for (let presses = 0; presses < 100; presses += 1) {
                if ((await focused()) === name) return;
                await press("Tab");
            }
            assert.fail(`Tab does not reach '${name}'`);
        };
        await page.getByLabel("Token").waitFor();
        await eventually("the cursor is in the field", () =>
            page.evaluate(() => document.activeElement?.getAttribute("name") === "token"),
        );
        await page.keyboard.type(host.token);
        await press("Enter");
        await page.getByRole("navigation", { name: "Views" }).waitFor();
        await press("Tab");
        assert.equal(await focused(), "Skip to the content");
        await press("Enter");
        assert.equal(await focused(), "Overview");
        await press("Shift+Tab");
        await tab.go("overview");
        await page.keyboard.press("Home");
        await page.evaluate(() => document.querySelector(".brand")?.focus());
        await tabTo("Approvals");
        await press("Enter");
        await eventually(
            "a new view is read from its heading",
            async () =>
                (await focused()) === "Approvals" &&
                (await page.evaluate(() => document.activeElement?.tagName === "H1")),
        );
        const wanted = `Reject: Sign ${image}`;
        await tab.button(wanted).waitFor();
        await tabTo(wanted);
        await press("Enter");
        await page.getByRole("dialog").waitFor();
        await press("Escape");
        // The page hears a moment later that it is closed.
        await page.locator("dialog").waitFor({ state: "detached" });
        assert.equal(await focused(), wanted);
        await press("Enter");
        await page.getByRole("dialog").waitFor();
        await tabTo("Reject");
        await press("Enter");
        await tab.says("Rejected.");
        await host.reached(world.waiting.id, "rejected");
    });

    inBrowser(
        "markup in names, inputs, comments, labels and descriptions is shown as the text that it is",
        {},
        async (tab, page) => {
            const shown = [
                ["workflows", [script, image]],
                ["workflows/review", [script]],
                [`instances/${world.failed.id}`, [script, image]],
                [`instances/${world.measured.id}`, [script, image]],
                [`instances/${world.started.id}`, [script, image]],
                [`instances/${world.commented.id}`, [script]],
                [`instances/${world.waiting.id}`, ATTACKS.slice(3)],
                [`instances?entity_type=${encodeURIComponent(script)}`, [script, image]],
                [`instances?started_by=${encodeURIComponent(image)}`, [image]],
                ["plugins/scenarios", ["<script>alert('step')</script>", script, image, ATTACKS[3]]],
                ["plugins/hello", ["<img src onerror=alert>"]],
                [`operations/${encodeURIComponent(image)}`, [image]],
                [`plugins/${encodeURIComponent(script)}`, []],
                [`history?show=${encodeURIComponent(`o ${script}`)}`, []],
                [`${encodeURIComponent(script)}`, []],
            ];
            for (const [address, texts] of shown) {
                await page.evaluate((hash) => {
                    location.hash = hash;
                }, `#/${address}`);
                await tab.loaded();
                for (const text of texts) {
                    await eventually(`${address} shows ${text}`, () =>
                        page.evaluate((wanted) => {
                            const inJson = JSON.stringify(wanted).slice(1, -1);
                            const fields = [...document.querySelectorAll("input")].map(({ value }) => value);
                            const body = document.body.textContent ?? "";
                            return body.includes(wanted) || body.includes(inJson) || fields.includes(wanted);
                        }, text),
                    );
                }
                await tab.hasOnlyItsOwnElements(address);
            }
            await tab.go("approvals");
            await page.getByText("Everybody's").click();
            await page.getByLabel("Status").selectOption("any");
            await page.getByText(`Sign ${image}`).first().waitFor();
            await page.getByText(script).first().waitFor();
            await tab.hasOnlyItsOwnElements("approvals");
        },
    );

    inBrowser(
        "who may only decide sees only what there is to decide",
        { token: () => world.approver },
        async (tab, page) => {
            await page.getByRole("heading", { name: "Approvals" }).waitFor();
            await tab.says("Nothing waits for you.");
            assert.deepEqual(
                await page.getByRole("navigation", { name: "Views" }).getByRole("link").allTextContents(),
                ["Approvals"],
            );
            await page.evaluate(() => {
                location.hash = "#/instances";
            });
            await tab.says("Your token does not permit this view.");
            await tab.isUsable("without permissions");
        },
    );

    inBrowser("a theme that somebody chose stays", { scheme: "light" }, async (tab, page) => {
        await tab.button("Switch to the dark theme").click();
        await page.reload();
        await tab.button("Switch to the light theme").waitFor();
        assert.equal(await page.evaluate(() => document.documentElement.dataset["theme"]), "dark");
    });

    inBrowser("a host that does not answer is told of, and asked again", {}, async (tab, page) => {
        await tab.go("workflows");
        await tab.context.setOffline(true);
        await page.evaluate(() => {
            location.hash = "#/plugins";
        });
        await page.getByRole("alert").filter({ hasText: "Could not load plugins" }).waitFor();
        await tab.photograph("unreachable");
        await tab.isUsable("unreachable");
        await tab.context.setOffline(false);
        await tab.button("Try again").click();
        await page.getByRole("link", { name: "expense", exact: true }).waitFor();
    });

    test("what is packed is the same as what is not", async () => {
        const page = await (
            await fetch(`${host.url}/workflow-metrics/dashboard`, { headers: { accept: "text/html" } })
        ).text();
        for (const [, path] of page.matchAll(/"(dashboard\/assets\/[^"]+)"/gu)) {
            const as = async (encoding) =>
                await fetch(`${host.url}/workflow-metrics/${path}`, { headers: { "accept-encoding": encoding } });
            assert.equal(await (await as("gzip")).text(), await (await as("identity")).text(), path);
        }
    });
});
