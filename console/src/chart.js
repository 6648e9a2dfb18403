// Small charts as SVG: two of what was answered, and one of a rollout.

import { planned } from "./model.js";
import { h } from "./preact.js";
import { counted, duration, latency, rate, SLOWEST } from "./words.js";

/** @typedef {import("./model.js").View} View */
/** @typedef {import("./wire.js").Rollout} Rollout */

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
 * @param {{ view: View, name: string }} props
 */
export function Requests({ view, name }) {
  const { series, newest, steps, step } = view;
  const ends = range(newest, steps);
  const floor = ends.map(() => 0);
  const layers = series.map(({ release, points }) => {
    const below = [...floor];
    ends.forEach((second, at) => {
      floor[at] = below[at] + (points.get(second)?.requests ?? 0);
    });
    return { release, below, above: [...floor] };
  });
  const errors = ends.map((second) => series.reduce((sum, one) => sum + (one.points.get(second)?.errors ?? 0), 0));
  const top = ceiling(Math.max(1, ...floor) / step) * step;
  const total = floor.reduce((sum, one) => sum + one, 0);
  const failed = errors.reduce((sum, one) => sum + one, 0);
  const most = `at most ${Math.max(0, ...floor)} in ${step === 1 ? "a second" : duration(step * 1000)}`;
  const label = `Requests of ${name} in the last ${duration(steps * step * 1000)}: ${total}, ${most}; ${counted(failed, "error")}`;
  const inside = [
    ...layers.map((layer) =>
      h("path", { class: `area ${colour(layer.release)}`, d: area(layer.below, layer.above, top) }),
    ),
    failed > 0 && h("path", { class: "errors", d: bars(errors, top) }),
  ];
  return frame(label, rate(top / step), inside, `${duration(steps * step * 1000)} ago`);
}

/**
 * The median and, thicker, the 99th percentile of each release.
 * @param {{ view: View, name: string }} props
 */
export function Latency({ view, name }) {
  const { series, newest, steps, step } = view;
  const ends = range(newest, steps);
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
    `${duration(steps * step * 1000)} ago`,
  );
}

/** So many times what is past is shown of what is to come. */
const AHEAD = 3;

/**
 * What the new release carried, and is to carry if all goes well, above what is left for the one before.
 * @param {{ rollout: Rollout, now: number, name: string }} props
 */
export function Weights({ rollout, now, name }) {
  const over = rollout.outcome !== undefined;
  const to = over ? rollout.since : now;
  const plan = planned(rollout, now);
  const from = rollout.weights[0]?.at ?? to;
  const last = Math.max(plan.at(-1)?.at ?? to, to);
  const end = Math.max(Math.min(last, to + AHEAD * (to - from)), from + (over ? 1_000 : 10_000));
  const place = (/** @type {number} */ at) =>
    round((Math.min(Math.max(0, at - from), end - from) / (end - from)) * WIDTH);
  const past = rollout.weights.concat([{ at: to, weight: rollout.weight }]);
  const carried = past.map(({ weight }) => `${weight}%`).filter((one, at, all) => one !== all[at - 1]);
  const label = `What release ${rollout.candidate} of ${name} carried: ${carried.join(", then ")}`;
  const inside = [
    rollout.stable !== undefined &&
      h("path", { class: `area ${colour(rollout.stable)} before`, d: `M0 2H${place(to)}V${HEIGHT}H0Z` }),
    h("path", { class: `area ${colour(rollout.candidate)}`, d: stairs(past, place) }),
    plan.length > 1 && h("path", { class: `area ${colour(rollout.candidate)} plan`, d: stairs(plan, place) }),
    !over && h("path", { class: "now", d: `M${place(now)} 0V${HEIGHT}` }),
  ];
  const ahead = last > now ? `in ${duration(end - now)}${end < last ? "" : ", at the earliest"}` : "now";
  const until = over && now - to >= 1000 ? `${duration(now - to)} ago` : ahead;
  return frame(label, "100%", inside, `${duration(now - from)} ago`, until);
}

/** Little is drawn as this much, so that it is seen. In percent. */
const LEAST = 3;

/** From each moment on this much, until the next. @param {{ at: number, weight: number }[]} points @param {(at: number) => number} place */
export function stairs(points, place) {
  const [first] = points;
  const steps = points.map(({ at, weight }) => `H${place(at)}V${y(weight > 0 ? Math.max(weight, LEAST) : 0, 100)}`);
  return first ? `M${place(first.at)} ${HEIGHT}${steps.join("")}V${HEIGHT}Z` : "";
}

/** @param {number} newest @param {number} steps */
const range = (newest, steps) => Array.from({ length: steps }, (_, at) => newest - steps + 1 + at);

/** @param {string} label @param {string} top @param {import("preact").ComponentChildren} inside @param {string} from */
function frame(label, top, inside, from, to = "now") {
  return h("div", { class: "chart" }, [
    h("span", { class: "top", "aria-hidden": "true" }, top),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, [
      h("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      inside,
    ]),
    h("span", { class: "from", "aria-hidden": "true" }, from),
    h("span", { class: "to", "aria-hidden": "true" }, to),
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
