// A page in Chromium that notices whatever a page of ours must never do.
import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const screenshots = process.env["STEPWELL_TEST_SCREENSHOTS"];
if (screenshots !== undefined) await mkdir(screenshots, { recursive: true });

export const DESKTOP = { width: 1360, height: 900 };
export const PHONE = { width: 375, height: 812 };

export async function launch(executablePath) {
    return await chromium.launch({
        executablePath,
        // Its sandbox refuses to be root's, as CI is.
        args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
    });
}

/**
 * For work on the page without building the program: STEPWELL_TEST_ASSETS names a folder with the built script and style,
 * which take the place of those in the program.
 */
const assets = process.env["STEPWELL_TEST_ASSETS"];
const OWN_ASSET = /\/dashboard\/assets\/dashboard\.[0-9a-f]+\.(js|css)$/u;

/** A tab of its own, at the dashboard of `host`. */
export class Tab {
    findings = [];

    static async open(browser, host, { token, viewport = DESKTOP, scheme = "light", url = host.url } = {}) {
        const context = await browser.newContext({ viewport, colorScheme: scheme, reducedMotion: "reduce" });
        if (assets !== undefined) {
            await context.route(OWN_ASSET, (route) =>
                route.fulfill({ path: join(assets, `dashboard.${OWN_ASSET.exec(route.request().url())[1]}`) }),
            );
        }
        const page = await context.newPage();
        const tab = Object.assign(new Tab(), { context, page, url });
        tab.guard(token ?? host.token);
        await page.goto(`${url}/workflow-metrics/dashboard`);
        if (token !== undefined) await tab.signIn(token);
        return tab;
    }

    guard(token) {
        const { page, findings, url } = this;
        page.on("pageerror", (error) => findings.push(`an error in the page: ${error.message}`));
        page.on("dialog", async (dialog) => {
            findings.push(`a stranger's script ran: ${dialog.message()}`);
            await dialog.dismiss();
        });
        page.on("console", (message) => {
            // The browser reports every answer that is an error; some are provoked here. What a policy forbids is another text.
            if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
                findings.push(message.text());
        });
        page.on("request", (request) => {
            if (!request.url().startsWith(url)) findings.push(`a request to another origin: ${request.url()}`);
            if (request.url().includes(token)) findings.push(`the token is in a URL: ${request.url()}`);
        });
    }

    async signIn(token) {
        await this.page.getByLabel("Token").fill(token);
        await this.page.keyboard.press("Enter");
        await this.page.getByRole("navigation", { name: "Views" }).waitFor();
    }

    /** Goes to `#/view` and waits until all of it is there. */
    async go(address) {
        await this.page.evaluate((hash) => {
            location.hash = hash;
        }, `#/${address}`);
        await this.page.locator(`nav a[aria-current][href="#/${address.split(/[/?]/)[0]}"]`).waitFor();
        await this.loaded();
    }

    async loaded() {
        await this.page.locator(".skeleton").first().waitFor({ state: "detached" });
        await this.page.locator("main h1").waitFor();
    }

    button(name) {
        return this.page.getByRole("button", { name });
    }

    /** Presses a button of the dialog that is open. */
    async confirm(name) {
        await this.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
    }

    async says(text) {
        await this.page.getByText(text).first().waitFor();
    }

    /** Saves what is seen, for people. */
    async photograph(name) {
        if (screenshots === undefined) return;
        await this.page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true, animations: "disabled" });
    }

    /** Nothing sticks out of the window, and axe finds nothing that would keep somebody out. */
    async isUsable(name) {
        const wide = await this.page.evaluate(
            () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        assert.equal(wide, 0, `${name}: sticks out of the window by ${wide} px`);
        // Through the debugging protocol, which the page's policy does not hold back and the page cannot do.
        await this.page.evaluate(axe);
        const violations = await this.page.evaluate(async () =>
            (await globalThis.axe.run({ rules: { "target-size": { enabled: true } } })).violations.map(
                ({ id, nodes }) =>
                    `${id}: ${nodes
                        .slice(0, 3)
                        .map(({ html }) => html.slice(0, 160))
                        .join(" | ")}`,
            ),
        );
        assert.deepEqual(violations, [], name);
    }

    /** No element of the page came out of somebody's text. */
    async hasOnlyItsOwnElements(name) {
        const strangers = await this.page.evaluate(() =>
            [
                ...document.querySelectorAll(
                    "img, iframe, object, embed, script:not([src]), [onload], [onerror], a[href^='javascript' i]",
                ),
            ].map((element) => element.outerHTML.slice(0, 160)),
        );
        assert.deepEqual(strangers, [], name);
    }

    async close() {
        await this.context.close();
        assert.deepEqual(this.findings, []);
    }
}
