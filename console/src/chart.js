// Two small charts of the live seconds, as SVG.

import { h } from "./preact.js";
import { counted, latency, rate, SLOWEST } from "./words.js";

/** @typedef {import("./model.js").Series} Series */

const WIDTH = 240;
const HEIGHT = 64;

/** Which of the four colours is a release's: neighbours differ. @param {number | null} release */
export const colour = (release) => (release === null ? "edge" : `release-${release % 4}`);

/** The next of 1, 2, 5, 10, 20 … @param {number} value */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

/**
 * What releases answered, one above the other, and the errors of all of them before it.
 * @param {{ series: Series[], newest: number, seconds: number, name: string }} props
 */
export function Requests({ series, newest, seconds, name }) {
  const ends = range(newest, seconds);
  const floor = ends.map(() => 0);
  const layers = series.map(({ release, points }) => {
    const below = [...floor];
    ends.forEach((second, at) => {
      floor[at] = below[at] + (points.get(second)?.requests ?? 0);
    });
    return { release, below, above: [...floor] };
  });
  const errors = ends.map((second) => series.reduce((sum, one) => sum + (one.points.get(second)?.errors ?? 0), 0));
  const top = ceiling(Math.max(1, ...floor));
  const total = floor.reduce((sum, one) => sum + one, 0);
  const failed = errors.reduce((sum, one) => sum + one, 0);
  const label = `Requests of ${name} in the last two minutes: ${total}, at most ${Math.max(0, ...floor)} in a second; ${counted(failed, "error")}`;
  return frame(label, rate(top), [
    ...layers.map((layer) =>
      h("path", { class: `area ${colour(layer.release)}`, d: area(layer.below, layer.above, top) }),
    ),
    failed > 0 && h("path", { class: "errors", d: bars(errors, top) }),
  ]);
}

/**
 * The median and, thicker, the 99th percentile of each release.
 * @param {{ series: Series[], newest: number, seconds: number, name: string }} props
 */
export function Latency({ series, newest, seconds, name }) {
  const ends = range(newest, seconds);
  const own = series.filter(({ release }) => release !== null).slice(-3);
  const highest = Math.max(0, ...own.flatMap(({ points }) => [...points.values()].map((point) => point.p99)));
  const top = Math.min(ceiling(Math.max(highest, 10)), SLOWEST);
  const each = own.map(
    ({ release, minute }) => `release ${release}: median ${latency(minute.p50)}, 99% within ${latency(minute.p99)}`,
  );
  const label = `Time to answer of ${name} in the last minute: ${each.join("; ") || "no requests"}`;
  return frame(
    label,
    latency(top).replace("> ", ""),
    own.flatMap(({ release, points }) => [
      h("path", {
        class: `line p99 ${colour(release)}`,
        d: line(
          ends.map((second) => points.get(second)?.p99),
          top,
        ),
      }),
      h("path", {
        class: `line p50 ${colour(release)}`,
        d: line(
          ends.map((second) => points.get(second)?.p50),
          top,
        ),
      }),
    ]),
  );
}

/** @param {number} newest @param {number} seconds */
const range = (newest, seconds) => Array.from({ length: seconds }, (_, at) => newest - seconds + 1 + at);

/** @param {string} label @param {string} top @param {import("preact").ComponentChildren} inside */
function frame(label, top, inside) {
  return h("div", { class: "chart" }, [
    h("span", { class: "top", "aria-hidden": "true" }, top),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, [
      h("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      inside,
    ]),
    h("span", { class: "from", "aria-hidden": "true" }, "2 min ago"),
    h("span", { class: "to", "aria-hidden": "true" }, "now"),
  ]);
}

/** @param {number} at @param {number} count */
const x = (at, count) => round((at / Math.max(1, count - 1)) * WIDTH);

/** @param {number} value @param {number} top */
const y = (value, top) => round(HEIGHT - Math.min(1, value / top) * (HEIGHT - 2));

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10;

/** @param {number[]} below @param {number[]} above @param {number} top */
export function area(below, above, top) {
  const points = above.map((value, at) => `${x(at, above.length)} ${y(value, top)}`);
  const back = below.map((value, at) => `${x(at, below.length)} ${y(value, top)}`).reverse();
  return `M${points.join("L")}L${back.join("L")}Z`;
}

/** One for each second that has any, high enough to be seen. @param {number[]} values @param {number} top */
export function bars(values, top) {
  const bar = (/** @type {number} */ value, /** @type {number} */ at) =>
    value > 0 ? `M${x(at, values.length)} ${HEIGHT}V${Math.min(y(value, top), HEIGHT - 12)}` : "";
  return values.map(bar).join("");
}

/** Seconds without requests are a gap. @param {(number | undefined)[]} values @param {number} top */
export function line(values, top) {
  let pen = "M";
  let path = "";
  values.forEach((value, at) => {
    if (value === undefined) {
      pen = "M";
      return;
    }
    const place = `${x(at, values.length)} ${y(value, top)}`;
    path += pen === "M" ? `M${place}h0` : `L${place}`;
    pen = "L";
  });
  return path;
}
