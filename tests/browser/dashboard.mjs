// Drives the dashboard of a running host in Chromium: `node dashboard.mjs` with STEPWELL_URL and STEPWELL_TOKEN.
// Every finding is a line on stderr; the exit code says whether there was one. Screenshots go to SCREENSHOTS, if set.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const { STEPWELL_URL: url, STEPWELL_TOKEN: token, SCREENSHOTS: folder } = process.env;
const views = ["overview", "operations", "history", "alerts", "instances", "workflows", "approvals", "plugins", "caches"];
const findings = [];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
page.on("pageerror", (error) => findings.push(`error in the page: ${error.message}`));
page.on("console", (message) => {
  // The browser itself reports answers such as the 401 that is provoked here; policy violations and ours count.
  if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) findings.push(message.text());
});
page.on("request", (request) => {
  if (!request.url().startsWith(url)) findings.push(`request to another origin: ${request.url()}`);
  if (request.url().includes(token)) findings.push("the token is in a URL");
});
page.on("dialog", async (dialog) => {
  findings.push(`a script of somebody ran: ${dialog.message()}`);
  await dialog.dismiss();
});

async function look(name) {
  if (folder !== undefined) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) findings.push(`${name}: ${wide} px wider than the window`);
}

async function check(name) {
  const violations = await page.evaluate(async () => (await globalThis.axe.run()).violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 160)).slice(0, 3).join(" | ")}`));
  findings.push(...violations.map((violation) => `${name}: ${violation}`));
}

/** Evaluated through the debugging protocol, which the page's policy does not hold back and the page cannot do. */
const addAxe = async () => { await page.evaluate(axe); };

try {
  await page.goto(`${url}/workflow-metrics/dashboard`);
  await addAxe();
  await check("sign-in");
  await look("sign-in");
  await page.getByLabel("Token").fill(`sw_${"0".repeat(64)}`);
  await page.keyboard.press("Enter");
  await page.getByText("the token is not valid").waitFor();
  await page.getByLabel("Token").fill(token);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();

  for (const [width, height, scheme] of [[1280, 900, "light"], [1280, 900, "dark"], [360, 740, "light"]]) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    for (const view of views) {
      await page.evaluate((hash) => { location.hash = hash; }, `#/${view}`);
      await page.locator("h1").filter({ hasText: new RegExp(view, "i") }).waitFor();
      await page.locator(".skeleton").waitFor({ state: "detached" });
      await look(`${view}-${width}-${scheme}`);
      await check(`${view} ${width} ${scheme}`);
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  const go = async (view) => {
    await page.evaluate((hash) => { location.hash = hash; }, `#/${view}`);
    await page.locator("h1").filter({ hasText: new RegExp(view, "i") }).waitFor();
  };

  await go("caches");
  await page.getByRole("button", { name: "Clear caches" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Clear", exact: true }).click();
  await page.getByText(/Removed .* entries/).waitFor();

  await go("approvals");
  await page.getByText("Everybody's").click();
  await page.getByLabel("Status").selectOption("any");
  await page.locator(".inbox > li").first().waitFor();
  await page.getByText("Mine").click();
  await page.getByLabel("Status").selectOption("pending");
  const approve = page.getByRole("button", { name: /^Approve/ }).first();
  await approve.waitFor();
  await approve.click();
  await page.getByRole("dialog").getByLabel("Comment").fill("<img src=x onerror=alert(1)>");
  await page.getByRole("dialog").getByRole("button", { name: "Approve", exact: true }).click();
  await page.getByText("Approved.", { exact: true }).waitFor();

  await go("instances");
  await page.locator("tbody a").first().click();
  await page.getByRole("heading", { name: "Timeline" }).waitFor();
  await look("instance");
  await check("instance");

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  if (await page.evaluate(() => sessionStorage.length) !== 0) findings.push("signing out left something behind");
} catch (error) {
  findings.push(error.message);
  if (folder !== undefined) await page.screenshot({ path: `${folder}/failed.png` });
} finally {
  await browser.close();
}
findings.forEach((finding) => console.error(finding));
process.exitCode = findings.length === 0 ? 0 : 1;
