// What the page knows, from what the daemon tells. No clock but the daemon's, and nothing of the document.

import { counted, listed, rate } from "./words.js";

/**
 * @typedef {import("./wire.js").Shown} Shown
 * @typedef {import("./wire.js").App} App
 * @typedef {import("./wire.js").Event} Event
 * @typedef {import("./wire.js").Release} Release
 * @typedef {import("./wire.js").History} History
 * @typedef {import("./wire.js").Traffic} Traffic
 * @typedef {import("./wire.js").Minute} Minute
 *
 * @typedef {"good" | "busy" | "warn" | "bad" | "idle"} Tone
 * @typedef {{ tone: Tone, text: string }} Verdict
 * @typedef {{ requests: number, errors: number, p50: number, p99: number }} Point
 * @typedef {{ release: number | null, minute: Minute, points: Map<number, Point> }} Series
 * @typedef {"now" | "quarter" | "day"} Range
 * @typedef {{ series: Series[], newest: number, steps: number, step: number }} View
 * @typedef {{ kind: "connecting" } | { kind: "live" } | { kind: "lost", since: number, ended: boolean }
 *   | { kind: "refused", error: string, hint?: string }} Contact
 * @typedef {{
 *   contact: Contact, at: number, shown: Shown | null, events: Event[], releases: Map<string, Release[]>, second: number, seconds: number,
 *   traffic: Map<string, Series[]>, range: Range, longer: import("./wire.js").Longer | null, cpu: Map<string, { us: number, at: number | null, share: number | null }>,
 * }} Model
 */

/** @returns {Model} */
export function begin() {
  return {
    contact: { kind: "connecting" },
    at: 0,
    shown: null,
    events: [],
    releases: new Map(),
    second: 0,
    seconds: 120,
    traffic: new Map(),
    range: "now",
    longer: null,
    cpu: new Map(),
  };
}

/** @param {{ env: string, name: string }} app */
export const keyOf = (app) => `${app.env}/${app.name}`;

/** A new connection: the daemon tells all its seconds again, and may be another one. @param {Model} model */
export function opened(model) {
  model.contact = { kind: "live" };
  model.traffic = new Map();
  model.cpu = new Map();
}

/** @param {Model} model @param {number} now @param {boolean} ended */
export function lost(model, now, ended) {
  if (model.contact.kind !== "lost") model.contact = { kind: "lost", since: now, ended };
}

/** @param {Model} model @param {string} name @param {any} data */
export function tell(model, name, data) {
  if (name === "status") model.shown = data;
  if (name === "history") remember(model, data);
  if (name === "traffic") count(model, data);
  if (name === "longer") model.longer = data;
}

/** @param {Model} model @param {History} history */
function remember(model, { events, releases }) {
  model.events = events;
  model.releases = new Map(releases.map((one) => [keyOf({ env: one.env, name: one.app }), one.releases]));
}

/** @param {Model} model @param {Traffic} traffic */
function count(model, traffic) {
  Object.assign(model, { at: traffic.at || model.at, second: traffic.second, seconds: traffic.seconds });
  const before = model.traffic;
  model.traffic = new Map();
  for (const { env, app, release, minute, seconds } of traffic.series) {
    const key = keyOf({ env, name: app });
    const points = before.get(key)?.find((series) => series.release === release)?.points ?? new Map();
    for (const [second, requests, errors, p50, p99] of seconds) points.set(second, { requests, errors, p50, p99 });
    for (const second of points.keys()) if (second <= traffic.second - traffic.seconds) points.delete(second);
    model.traffic.set(key, [...(model.traffic.get(key) ?? []), { release, minute, points }]);
  }
  measure(model);
}

/**
 * The daemon measures every few seconds: a share is over the time between two measures that were both seen.
 * @param {Model} model
 */
function measure(model) {
  const cpu = new Map();
  for (const one of (model.shown?.apps ?? []).flatMap((app) => app.services.flatMap((service) => service.instances))) {
    const known = model.cpu.get(one.id);
    if (!known) cpu.set(one.id, { us: one.cpu_us, at: null, share: null });
    else if (one.cpu_us === known.us) cpu.set(one.id, known);
    else {
      const share = known.at === null ? null : (one.cpu_us - known.us) / 1000 / Math.max(1, model.at - known.at);
      cpu.set(one.id, { us: one.cpu_us, at: model.at, share });
    }
  }
  model.cpu = cpu;
}

/** What the charts of an app show, as far back as is asked for. @param {Model} model @param {{ env: string, name: string }} app @returns {View} */
export function viewOf({ range, longer, traffic, second, seconds }, app) {
  const live = traffic.get(keyOf(app)) ?? [];
  const look = range === "now" ? undefined : longer?.[range];
  if (!look) return { series: live, newest: second, steps: seconds, step: 1 };
  const nothing = { requests: 0, errors: 0, p50: null, p99: null };
  const own = look.series.filter((one) => one.env === app.env && one.app === app.name);
  const series = own.map(({ release, points }) => ({
    release,
    minute: live.find((one) => one.release === release)?.minute ?? nothing,
    points: new Map(points.map(([at, requests, errors, p50, p99]) => [at, { requests, errors, p50, p99 }])),
  }));
  return { series, newest: look.newest, steps: look.steps, step: look.step };
}

/** Of all releases together, in the last seconds that are whole. @param {Series[]} series @param {number} newest */
export function recent(series, newest, over = 10) {
  const sum = { requests: 0, errors: 0 };
  for (const { points } of series) {
    for (let second = newest - over + 1; second <= newest; second += 1) {
      sum.requests += points.get(second)?.requests ?? 0;
      sum.errors += points.get(second)?.errors ?? 0;
    }
  }
  return { requests: sum.requests / over, errors: sum.errors / over };
}

/** Errors of the last minute. @param {Series[]} series */
export const errorsOf = (series) => series.reduce((sum, { minute }) => sum + minute.errors, 0);

/**
 * What is to come of a rollout, if all goes well and at the earliest: from which moment on the new release carries what. Nothing where
 * nobody knows, since somebody is to look or instances are to get ready.
 * @param {import("./wire.js").Rollout} rollout @param {number} now
 */
export function planned({ stage, step, steps, weight, ends }, now) {
  const holds = steps.every(({ hold_ms }) => hold_ms !== undefined);
  if (stage === "watching")
    return ends === undefined
      ? []
      : [
          { at: now, weight },
          { at: Math.max(ends, now), weight },
        ];
  if (stage !== "step" || step === undefined || !holds) return [];
  const plan = [{ at: now, weight }];
  let at = Math.max(now, ends ?? now);
  for (const next of steps.slice(ends === undefined ? step - 1 : step)) {
    plan.push({ at, weight: next.weight });
    at += next.hold_ms ?? 0;
  }
  // So long that it is seen.
  return plan.concat([
    { at, weight: 100 },
    { at: at + (at - now) / 12, weight: 100 },
  ]);
}

/** How long the picture of a rollout that is over is worth a look. */
const NEWS_MS = 24 * 3_600_000;

/** A rollout that has ended within a day. @param {App} app @param {number} now */
export function rolledOf({ rolled, change }, now) {
  return rolled && !change && now - rolled.since < NEWS_MS ? rolled : null;
}

/** How a step of a rollout stands. @param {import("./wire.js").Rollout} rollout @param {number} at @returns {Tone} */
export function toneOf({ stage, step, steps, outcome }, at) {
  const { began, verdicts = [] } = steps[at];
  if (began === undefined) return "idle";
  if (verdicts.some(({ verdict }) => verdict === "fail")) return "bad";
  if (stage === "step" && step === at + 1) return "busy";
  const undone = stage === "undoing" || outcome === "taken_back";
  if (undone && !steps[at + 1]?.began) return "bad";
  return isForced(steps[at]) ? "warn" : "good";
}

/** One that was held, and was ended by somebody who did not wait. @param {import("./wire.js").RolloutStep} step */
const isForced = ({ ended, verdicts = [] }) =>
  ended !== undefined && verdicts.some(({ verdict }) => verdict === "too_few_data");

/** @type {Record<App["state"], Verdict>} */
const STATES = {
  ready: { tone: "good", text: "ready" },
  degraded: { tone: "warn", text: "fewer than wanted" },
  down: { tone: "bad", text: "down" },
  failed: { tone: "bad", text: "failed" },
  stopped: { tone: "idle", text: "stopped" },
};

/** Its state in a word. @param {App} app @returns {Verdict} */
export function stateOf(app) {
  if (app.state === "down" && app.change) return { tone: "busy", text: "starting" };
  // The new release's instances are wanted before they are ready.
  if (app.state === "degraded" && app.change) return { tone: "busy", text: "changing" };
  if (app.maintenance && app.state !== "stopped") return { tone: "warn", text: "in maintenance" };
  return STATES[app.state];
}

/** What of an app wants a look, the worst first. @param {App} app @param {Series[]} series @param {number} now @returns {Verdict[]} */
export function worries(app, series, now) {
  const { name } = app;
  const state = stateOf(app);
  /** @type {Verdict[]} */
  const all = [];
  if (state.tone === "bad")
    all.push({ tone: "bad", text: app.state === "down" ? `${name} is down` : `${name} failed` });
  for (const one of app.resources.filter((resource) => resource.fault)) {
    all.push({ tone: "bad", text: `${one.kind} ${one.name} of ${name} fails` });
  }
  if (app.state === "degraded" && !app.change)
    all.push({ tone: "warn", text: `${name} has fewer instances than wanted` });
  const { candidate, asks = Number.POSITIVE_INFINITY } = app.change?.rollout ?? {};
  if (now >= asks) all.push({ tone: "warn", text: `release ${candidate} of ${name} waits for somebody to decide` });
  if (app.maintenance && app.state !== "stopped") all.push({ tone: "warn", text: `${name} is in maintenance` });
  if (errorsOf(series) > 0) all.push({ tone: "warn", text: `${name} answered with errors in the last minute` });
  if (app.fault && state.tone !== "bad") all.push({ tone: "warn", text: `the last change of ${name} failed` });
  return all;
}

/** Whether all is well. @param {Model} model @returns {Verdict & { more: string[] }} */
export function verdict({ contact, shown, traffic, at }) {
  if (contact.kind === "lost") return { tone: "bad", text: "No contact with the daemon", more: [] };
  if (contact.kind === "refused") return { tone: "bad", text: "The daemon shows no more consoles", more: [] };
  if (!shown) return { tone: "idle", text: "Looking …", more: [] };
  const all = machine(shown).concat(shown.apps.flatMap((app) => worries(app, traffic.get(keyOf(app)) ?? [], at)));
  const bad = all.filter((one) => one.tone === "bad");
  const sorted = bad.concat(all.filter((one) => one.tone !== "bad"));
  if (sorted.length > 0) {
    const [text, ...more] = sorted.map((one) => one.text);
    return { tone: bad.length > 0 ? "bad" : "warn", text, more };
  }
  const changing = shown.apps.filter((app) => app.change).map((app) => app.name);
  if (changing.length > 0) return { tone: "busy", text: `Changing ${listed(changing)}`, more: [] };
  if (shown.apps.every((app) => app.state === "stopped")) {
    return { tone: "idle", text: shown.apps.length > 0 ? "Nothing runs" : "There is no app yet", more: [] };
  }
  return { tone: "good", text: "All is well", more: [] };
}

/** How much there is of everything. @param {Model} model */
export function glance({ shown, traffic, second }) {
  const apps = shown?.apps ?? [];
  const running = apps.filter((app) => app.state !== "stopped").length;
  const all = [...traffic.values()].flat();
  const errors = errorsOf(all);
  return [
    running === apps.length ? counted(apps.length, "app") : `${running} of ${counted(apps.length, "app")} running`,
    `${rate(recent(all, second).requests)} requests`,
    errors > 0 ? `${counted(errors, "error")} in the last minute` : "no errors in the last minute",
  ].join(" · ");
}

/** @param {Shown} shown @returns {Verdict[]} */
function machine({ degraded, edge, disk }) {
  /** @type {Verdict[]} */
  const all = [];
  if (degraded) all.push({ tone: "bad", text: "The store is refused: nothing can be changed" });
  if (edge.state === "lost") all.push({ tone: "bad", text: "The edge is lost, and is being started again" });
  if (edge.state !== "lost" && edge.fault) all.push({ tone: "warn", text: "The edge serves an older table" });
  if (disk && disk.free_bytes < disk.reserve_bytes) all.push({ tone: "bad", text: "The disk is almost full" });
  return all;
}
