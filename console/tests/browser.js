// A real Chromium, driven by lines of JSON on standard input; each is answered with one line. The tests of tests/e2e hold the other end.

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE_MS = 60_000;

const browser = await chromium.launch({
  executablePath: ["chromium", "chromium-browser", "google-chrome"].map((name) => `/usr/bin/${name}`).find(existsSync),
  args: ["--no-sandbox", "--disable-gpu"],
});
/** What the page complains about: a refused script, a failed request, an exception. @type {string[]} */
let complaints = [];
/** @type {import("playwright-core").Page} */
let page;

const verbs = {
  /** A new page. */
  async open({ url, width = 1280, dark = false }) {
    await page?.context().close();
    complaints = [];
    const colorScheme = dark ? "dark" : "light";
    const context = await browser.newContext({
      viewport: { width, height: 900 },
      colorScheme,
      reducedMotion: "reduce",
    });
    page = await context.newPage();
    page.on("console", (message) => {
      // That nobody answers is for the page to say.
      if (message.type() === "error" && !message.text().includes("net::ERR_")) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on(
      "request",
      (request) => new URL(request.url()).origin !== new URL(url).origin && complaints.push(request.url()),
    );
    await page.goto(url);
  },
  /** Until this text is seen, or, with `gone`, until it is not. */
  async wait({ text, gone = false }) {
    const state = gone ? "hidden" : "visible";
    await page.getByText(text).first().waitFor({ state, timeout: PATIENCE_MS });
  },
  // biome-ignore lint/performance/useDomNodeTextContent: what is seen is meant, not what is there
  text: () => page.innerText("body"),
  title: () => page.title(),
  click: ({ button }) => page.getByRole("button", { name: button }).first().click(),
  count: ({ selector }) => page.locator(selector).count(),
  /** How much wider than the window the page is. */
  overflow: () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
  async shot({ file }) {
    await page.screenshot({ path: file, fullPage: true });
  },
  /** The names of the elements that Tab goes to, from the top. */
  async tab({ times }) {
    const reached = [];
    for (let i = 0; i < times; i += 1) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement?.textContent ?? ""));
    }
    return reached;
  },
  /** What axe finds: WCAG 2.2 A and AA. */
  async axe() {
    await page.evaluate(axe);
    const found = await page.evaluate(async () => {
      // @ts-expect-error: just loaded
      const { violations } = await globalThis.axe.run({
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
      });
      return violations;
    });
    return found.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
  },
  complaints: () => complaints,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { verb, ...words } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ ok: (await verbs[verb](words)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
