// What the page looks like. All text goes through Preact as text: nothing that an app says becomes markup.

import { colour, Latency, Requests, Weights } from "./chart.js";
import { errorsOf, glance, keyOf, recent, rolledOf, stateOf, toneOf, verdict, viewOf, worries } from "./model.js";
import { h } from "./preact.js";
import { bytes, counted, duration, latency, left, moment, processor, rate } from "./words.js";

/**
 * @typedef {import("./model.js").Model} Model
 * @typedef {import("./model.js").Series} Series
 * @typedef {import("./model.js").Tone} Tone
 * @typedef {import("./model.js").Verdict} Verdict
 * @typedef {import("./wire.js").App} App
 * @typedef {import("./wire.js").Trouble} Trouble
 * @typedef {import("./wire.js").Rollout} Rollout
 */

const EVENTS_SHOWN = 4;
const EVENTS_MORE = 30;

/** How far back charts go. @type {{ range: import("./model.js").Range, text: string }[]} */
const RANGES = [
  { range: "now", text: "2 min" },
  { range: "quarter", text: "15 min" },
  { range: "day", text: "24 h" },
];

/** @typedef {(range: import("./model.js").Range) => void} Look */

/** @param {{ model: Model, look: Look }} props */
export function Console({ model, look }) {
  const { shown } = model;
  return [
    h("a", { class: "skip", href: "#apps" }, "To the apps"),
    h("header", { class: "top" }, [h("p", { class: "brand" }, "Bowline"), h(Outcome, { model })]),
    h(Contact, { model }),
    shown && [
      shown.degraded &&
        h("div", { class: "wide" }, h(Problem, { title: "The store is refused", trouble: shown.degraded })),
      shown.edge.fault && h("div", { class: "wide" }, h(Problem, { title: "The edge", trouble: shown.edge.fault })),
      shown.apps.length > 1 && h(Overview, { model }),
      h("main", { id: "apps", tabindex: -1, class: model.contact.kind === "live" ? "" : "stale" }, [
        shown.apps.length === 0 && h(Nothing, {}),
        shown.apps.map((app) => h(AppCard, { key: keyOf(app), app, model, look })),
      ]),
      h(Machine, { model }),
    ],
  ];
}

/** @param {{ model: Model }} props */
function Outcome({ model }) {
  const { tone, text, more } = verdict(model);
  return h("div", { class: `verdict ${tone}` }, [
    h("div", { role: "status" }, [
      h("h1", {}, [h(Icon, { tone }), h("span", {}, text)]),
      more.length > 0 &&
        h(
          "ul",
          {},
          more.slice(0, 5).map((one) => h("li", { key: one }, one)),
        ),
      more.length > 5 && h("p", {}, `and ${more.length - 5} more`),
    ]),
    model.contact.kind === "live" && h("p", { class: "glance" }, glance(model)),
  ]);
}

/** @param {{ model: Model }} props */
function Contact({ model }) {
  const { contact } = model;
  if (contact.kind === "refused") {
    return h("div", { class: "wide panel bad", role: "alert" }, [
      h("strong", {}, contact.error),
      h("p", {}, contact.hint),
    ]);
  }
  if (contact.kind !== "lost") return null;
  const since = moment(contact.since, contact.since);
  return h("div", { class: "wide panel bad", role: "alert" }, [
    h("strong", {}, contact.ended ? `The daemon ended at ${since}.` : `The daemon has not answered since ${since}.`),
    h("p", {}, `${model.shown ? "What is below is as it was then. " : ""}This page goes on as soon as it is back.`),
  ]);
}

function Nothing() {
  return h("section", { class: "app" }, [
    h("h2", {}, "There is no app yet"),
    h("p", {}, ["Start one: ", h("code", {}, "bowline up FOLDER")]),
  ]);
}

/** Every app in a word, to go to. @param {{ model: Model }} props */
function Overview({ model }) {
  const apps = model.shown?.apps ?? [];
  return h("nav", { class: "wide overview", "aria-label": "Apps" }, [
    apps.map((app) => {
      const { tone, text } = look(app, model);
      return h("a", { key: keyOf(app), class: `chip ${tone}`, href: `#${anchor(app)}` }, [
        h(Icon, { tone }),
        h("strong", {}, app.name),
        h("span", {}, text),
      ]);
    }),
  ]);
}

/** The worst that is to be said of an app. @param {App} app @param {Model} model */
function look(app, model) {
  const state = stateOf(app);
  const worst = worries(app, seriesOf(app, model), model.at)[0];
  if (worst && state.tone !== "bad") return { tone: worst.tone, text: state.text };
  if (app.change) return { tone: /** @type {Tone} */ ("busy"), text: "changing" };
  return state;
}

/** @param {App} app @param {Model} model @returns {Series[]} */
const seriesOf = (app, model) => model.traffic.get(keyOf(app)) ?? [];

/** @param {App} app */
const anchor = (app) => `app-${app.env}-${app.name}`;

/** @param {{ app: App, model: Model, look: Look }} props */
function AppCard({ app, model, look }) {
  const state = stateOf(app);
  const series = seriesOf(app, model);
  const id = anchor(app);
  return h("section", { class: "app", id, tabindex: -1, "aria-labelledby": `${id}-name` }, [
    h("header", {}, [
      h("h2", { id: `${id}-name` }, [app.name, " ", h("span", { class: "faint" }, app.env)]),
      h("span", { class: `pill ${state.tone}` }, [h(Icon, { tone: state.tone }), state.text]),
      h("span", { class: "release" }, releaseOf(app)),
    ]),
    app.urls.length > 0 &&
      h(
        "ul",
        { class: "urls", "aria-label": "Addresses" },
        app.urls.map((url) => h("li", { key: url }, h(Address, { url }))),
      ),
    app.change && h(Change, { change: app.change, name: app.name, live: app.release, now: model.at }),
    app.fault && h(Problem, { title: "The last change failed", trouble: app.fault }),
    h(Rolled, { rollout: rolledOf(app, model.at), name: app.name, now: model.at }),
    app.resources.map(
      (one) => one.fault && h(Problem, { key: one.name, title: `${one.kind} ${one.name}`, trouble: one.fault }),
    ),
    h(Traffic, { app, series, model, look }),
    app.services.map((service) => h(Service, { key: service.name, service, app, model })),
    h(Releases, { app, releases: model.releases.get(keyOf(app)) ?? [], now: model.at }),
    h(Data, { app }),
    h(Jobs, { app, now: model.at }),
    h(Notes, { notes: app.notes }),
    h(Events, {
      title: "What happened",
      events: model.events.filter((one) => one.env === app.env && one.app === app.name),
      now: model.at,
    }),
  ]);
}

/** @param {App} app */
function releaseOf({ release, state }) {
  if (release !== null) return `release ${release}`;
  return state === "stopped" || state === "failed" ? "nothing runs" : "no release yet";
}

/** @param {{ url: string }} props */
function Address({ url }) {
  const safe = /^https?:\/\//.test(url);
  return safe ? h("a", { href: url, rel: "noreferrer" }, url) : url;
}

const STEPS = [
  { phases: ["parse", "guard", "build"], text: "Build" },
  { phases: ["release"], text: "Record" },
  { phases: ["rollout"], text: "Start and switch over" },
];

/** @param {{ change: NonNullable<App["change"]>, name: string, live: number | null, now: number }} props */
function Change({ change, name, live, now }) {
  const at = STEPS.findIndex((step) => step.phases.includes(change.phase));
  const what = change.release === null ? "A new release" : `Release ${change.release}`;
  // The first release takes the place of none.
  const rollout = change.rollout?.stable === undefined ? null : change.rollout;
  const waits = change.waits_on.filter((one) => !rollout || !isDrawn(one, rollout, now));
  return h("div", { class: `panel ${rollout?.stage === "undoing" ? "bad" : "busy"}` }, [
    h("h3", {}, [titleOf(what, change, live), " ", h("span", { class: "age" }, `for ${duration(now - change.since)}`)]),
    h("ol", { class: "steps" }, [
      STEPS.map(({ text }, step) =>
        h(
          "li",
          {
            key: text,
            class: step < at ? "done" : step === at ? "on" : "",
            "aria-current": step === at ? "step" : undefined,
          },
          [h("span", { class: "dot" }, step < at ? h(Icon, { tone: "good" }) : String(step + 1)), text],
        ),
      ),
    ]),
    rollout && h(Rolling, { rollout, name, now }),
    waits.length > 0 &&
      h("ul", { class: "waits" }, [
        waits.slice(0, 8).map(({ what, on }) => h("li", { key: what }, [h("b", {}, what), " waits on ", on])),
        waits.length > 8 && h("li", {}, `and ${waits.length - 8} more`),
      ]),
  ]);
}

/** @param {string} what @param {NonNullable<App["change"]>} change @param {number | null} live */
function titleOf(what, { release, rollout }, live) {
  if (rollout?.stage === "undoing") return `${what} is taken back`;
  if (rollout?.stage === "watching") return `${what} carries everything, and is watched`;
  return live !== null && live !== release ? `${what} is to follow release ${live}` : `${what} is on its way`;
}

/** A rollout that is over, as it went. @param {{ rollout: Rollout | null, name: string, now: number }} props */
function Rolled({ rollout, name, now }) {
  if (!rollout) return null;
  const tookOver = rollout.outcome === "took_over";
  const { candidate, stable, strategy, since } = rollout;
  const title = tookOver ? `Release ${candidate} took over from ${stable}` : `Release ${candidate} was taken back`;
  return h("div", { class: "panel idle" }, [
    h("h3", {}, [
      h(Icon, { tone: tookOver ? "good" : "bad" }),
      title,
      " ",
      h("span", { class: "age" }, `${duration(now - since)} ago`),
    ]),
    h("div", { class: "rolling" }, [
      h(Weights, { rollout, now, name }),
      strategy !== "rolling" && h(Steps, { rollout, name, now }),
    ]),
  ]);
}

/** @param {{ rollout: Rollout, name: string, now: number }} props */
function Steps({ rollout, name, now }) {
  return h(
    "ol",
    { class: "judged", "aria-label": `Steps of the rollout of ${name}` },
    rollout.steps.map((_, at) => h(Judged, { key: at, rollout, at, now })),
  );
}

/** Verdicts, and the end of what is judged or watched. @param {{ what: string, on: string }} one @param {Rollout} rollout @param {number} now */
function isDrawn({ what, on }, { candidate, verdicts = [], asks, ends }, now) {
  return verdicts.some(({ text }) => text === on) || (what === `r${candidate}` && now < (asks ?? ends ?? 0));
}

/** A rollout as it moves. @param {{ rollout: Rollout, name: string, now: number }} props */
function Rolling({ rollout, name, now }) {
  const { candidate, weight, strategy } = rollout;
  const carries = (/** @type {number | undefined} */ release, /** @type {number} */ part) =>
    h("span", {}, [h("span", { class: `swatch ${colour(release ?? null)}` }), `release ${release}: ${part}%`]);
  return h("div", { class: "rolling" }, [
    h("p", { class: "carries" }, [
      h("b", {}, [carries(candidate, weight)]),
      carries(rollout.stable, 100 - weight),
      h("span", { class: "age" }, standing(rollout, now)),
    ]),
    h("div", { class: "bar", "aria-hidden": "true" }, [
      weight > 0 && h("span", { class: colour(candidate), style: { flexGrow: weight } }),
      weight < 100 && h("span", { class: colour(rollout.stable ?? null), style: { flexGrow: 100 - weight } }),
    ]),
    h(Weights, { rollout, now, name }),
    strategy !== "rolling" && h(Steps, { rollout, name, now }),
    rollout.stage === "watching" &&
      // Too few requests hold nothing up any more.
      h(Sentences, { verdicts: (rollout.verdicts ?? []).filter(({ verdict }) => verdict !== "too_few_data") }),
  ]);
}

/** Where it is, and until when. @param {Rollout} rollout @param {number} now */
function standing({ stage, step, of, ends, asks, strategy }, now) {
  const place = {
    preparing: "preparing",
    step: `step ${step} of ${of}`,
    completing: "completing",
    watching: "watched",
    undoing: "taken back",
    ended: "over",
  }[stage];
  if (ends !== undefined && now < ends) return `${place}, ${left(ends - now)} left`;
  if (asks !== undefined && now >= asks) return `${place}: promote or abort?`;
  return stage === "step" && strategy === "canary" && ends !== undefined ? `${place}, held` : place;
}

/** @param {{ rollout: Rollout, at: number, now: number }} props */
function Judged({ rollout, at, now }) {
  const { weight, hold_ms, began, ended, verdicts = [] } = rollout.steps[at];
  const tone = toneOf(rollout, at);
  const time =
    began === undefined
      ? hold_ms !== undefined && `for ${duration(hold_ms)}`
      : `for ${duration((ended ?? now) - began)}${ended === undefined && hold_ms !== undefined ? ` of ${duration(hold_ms)}` : ""}`;
  return h("li", { class: tone, "aria-current": tone === "busy" ? "step" : undefined }, [
    h("p", {}, [
      h(Icon, { tone }),
      h("b", {}, rollout.strategy === "blue_green" ? "A look" : `${weight}%`),
      " ",
      time && h("span", { class: "age" }, tone === "warn" ? `${time}, ended by hand` : time),
    ]),
    h(Sentences, { verdicts }),
  ]);
}

/** @param {{ verdicts: import("./wire.js").Sentence[] }} props */
function Sentences({ verdicts }) {
  return verdicts.map(({ service, text }) =>
    h("p", { class: "sentence", key: service }, [h("b", {}, service), ": ", text]),
  );
}

/** @param {{ title: string, trouble: Trouble }} props */
function Problem({ title, trouble }) {
  return h("div", { class: "panel bad" }, [
    h("h3", {}, [h(Icon, { tone: "bad" }), title]),
    h("p", {}, trouble.error),
    trouble.caused_by.map((cause) => h("p", { class: "cause", key: cause }, ["because: ", cause])),
    trouble.hint && h("p", { class: "hint" }, [h("b", {}, "What to do: "), trouble.hint]),
  ]);
}

/** @param {{ app: App, series: Series[], model: Model, look: Look }} props */
function Traffic({ app, series, model, look }) {
  const view = viewOf(model, app);
  const isKnown = [model.longer?.day, model.longer?.quarter].some((one) =>
    one?.series.some(({ env, app: name }) => env === app.env && name === app.name),
  );
  if (series.length === 0 && !isKnown) {
    const answers = app.state !== "stopped" && app.state !== "failed";
    return !answers ? null : h("p", { class: "quiet" }, "No requests in the last 24 hours");
  }
  const now = recent(series, model.second);
  const errors = errorsOf(series);
  const chart = { view, name: app.name };
  const own = series.filter(({ release, minute }) => release !== null && minute.p99 !== null);
  const slowest = own.reduce((worst, one) => ((one.minute.p99 ?? 0) > (worst?.minute.p99 ?? 0) ? one : worst), own[0]);
  return h("div", { class: "traffic" }, [
    h("div", { class: "ranges", role: "group", "aria-label": `How far back the charts of ${app.name} go` }, [
      RANGES.map(({ range, text }) =>
        h(
          "button",
          { key: range, type: "button", "aria-pressed": String(range === model.range), onClick: () => look(range) },
          text,
        ),
      ),
    ]),
    h("div", { class: "charts" }, [
      h("figure", {}, [
        h("figcaption", {}, [
          h("span", { class: "label" }, "Requests"),
          h("b", {}, rate(now.requests)),
          errors > 0
            ? h("span", { class: "pill bad" }, [h(Icon, { tone: "bad" }), counted(errors, "error"), " in a minute"])
            : h("span", { class: "faint" }, "no errors in the last minute"),
        ]),
        h(Requests, chart),
      ]),
      h("figure", {}, [
        h("figcaption", {}, [
          h("span", { class: "label" }, "Time to answer"),
          h("b", {}, latency(slowest?.minute.p99 ?? null)),
          h(
            "span",
            { class: "faint" },
            slowest ? `for 99%, ${latency(slowest.minute.p50)} for half` : "no requests in the last minute",
          ),
        ]),
        h(Latency, chart),
      ]),
    ]),
    series.length > 1 && h(Split, { app, series, model }),
  ]);
}

/** Who carries the traffic now. @param {{ app: App, series: Series[], model: Model }} props */
function Split({ app, series, model }) {
  const rows = series.map((one) => ({ ...one, now: recent([one], model.second) }));
  const total = rows.reduce((sum, { now }) => sum + now.requests, 0);
  return h("div", { class: "split" }, [
    total > 0 &&
      h("div", { class: "bar", "aria-hidden": "true" }, [
        rows.map(({ release, now }) =>
          h("span", { key: String(release), class: colour(release), style: { flexGrow: now.requests / total } }),
        ),
      ]),
    h("div", { class: "scroll", role: "region", "aria-label": `Traffic of ${app.name} by release`, tabindex: 0 }, [
      h("table", {}, [
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Answered by", "Requests", "Errors/min", "Median", "99%"].map((text) =>
              h("th", { scope: "col", key: text }, text),
            ),
          ),
        ),
        h("tbody", {}, [
          rows.map(({ release, minute, now }) =>
            h("tr", { key: String(release) }, [
              h("th", { scope: "row" }, [h("span", { class: `swatch ${colour(release)}` }), carrier(release, app)]),
              h("td", {}, rate(now.requests)),
              h("td", { class: minute.errors > 0 ? "bad" : "" }, String(minute.errors)),
              h("td", {}, latency(minute.p50)),
              h("td", {}, latency(minute.p99)),
            ]),
          ),
        ]),
      ]),
    ]),
  ]);
}

/** @param {number | null} release @param {App} app */
function carrier(release, app) {
  if (release === null) return "the edge itself";
  return release === app.change?.release && release !== app.release
    ? `release ${release}, coming`
    : `release ${release}`;
}

/** @type {Record<string, Tone>} */
const INSTANCE_TONES = {
  ready: "good",
  starting: "busy",
  unready: "warn",
  draining: "idle",
  stopped: "idle",
  crashed: "bad",
};

/** @param {{ service: import("./wire.js").Service, app: App, model: Model }} props */
function Service({ service, app, model }) {
  const releases = [...new Set(service.instances.map((one) => one.release))].sort((a, b) => a - b);
  if (service.instances.length === 0) {
    if (service.wanted > 0) {
      return h("p", { class: "quiet" }, `${service.name}: no instance runs, ${service.wanted} wanted`);
    }
    return service.scale ? h("p", { class: "quiet" }, `${service.name} rests: the next request starts it`) : null;
  }
  return h("div", { class: "service" }, [
    h("h3", {}, [service.name, " ", h("span", { class: "faint" }, `${service.ready} of ${service.wanted} ready`)]),
    service.scale && h(Scaling, { scale: service.scale }),
    releases.map((release) =>
      h("div", { class: "slots", key: release }, [
        (releases.length > 1 || release !== app.release) &&
          h("p", { class: "of" }, [h("span", { class: `swatch ${colour(release)}` }), carrier(release, app)]),
        h("ul", { "aria-label": `Instances of ${service.name}, release ${release}` }, [
          service.instances
            .filter((one) => one.release === release)
            .map((one) =>
              h(Instance, { key: one.id, one, share: model.cpu.get(one.id)?.share ?? null, now: model.at }),
            ),
        ]),
      ]),
    ),
  ]);
}

/** @param {{ scale: import("./wire.js").Scale }} props */
function Scaling({ scale }) {
  const parts = [`scales ${scale.min} to ${scale.max}`, scale.reason, scale.bounded].filter(Boolean);
  return h("p", { class: scale.bound && scale.bound !== "min" ? "quiet warn" : "quiet" }, parts.join("; "));
}

/** @param {{ one: import("./wire.js").Instance, share: number | null, now: number }} props */
function Instance({ one, share, now }) {
  const tone = INSTANCE_TONES[one.state] ?? "idle";
  const facts = [
    one.since !== null && `up ${duration(now - one.since)}`,
    one.memory_bytes > 0 && bytes(one.memory_bytes),
    share !== null && `${processor(share)} CPU`,
  ].filter((fact) => fact !== false);
  return h("li", { class: `tile ${tone}` }, [
    h("p", { class: "state" }, [h(Icon, { tone }), h("b", {}, `#${one.slot}`), " ", one.state]),
    facts.length > 0 && h("p", { class: "facts" }, facts.join(" · ")),
    one.restarts > 0 && h("p", { class: "facts" }, `restarted ${counted(one.restarts, "time")}`),
    one.waits_on && h("p", { class: "on" }, ["waits on ", one.waits_on]),
  ]);
}

/** @type {Record<import("./wire.js").Release["state"], Verdict>} */
const RELEASE_STATES = {
  pending: { tone: "busy", text: "coming" },
  active: { tone: "good", text: "stable" },
  retired: { tone: "idle", text: "superseded" },
  failed: { tone: "bad", text: "failed" },
};

/** It carries everything, and is not stable yet. @type {Verdict} */
const WATCHED = { tone: "good", text: "watched" };

/** @param {{ app: App, releases: import("./wire.js").Release[], now: number }} props */
function Releases({ app, releases, now }) {
  if (releases.length < 2) return null;
  return h("div", { class: "service" }, [
    h("h3", {}, "Releases"),
    h(
      "ol",
      { class: "releases", "aria-label": `Releases of ${app.name}, the newest first` },
      releases.map(({ number, created, state }) => {
        const { tone, text } = state === "pending" && number === app.release ? WATCHED : RELEASE_STATES[state];
        return h("li", { key: number }, [
          h("span", { class: `swatch ${colour(number)}` }),
          h("b", {}, String(number)),
          h(Icon, { tone }),
          `${text}, ${duration(now - created)} old`,
        ]);
      }),
    ),
  ]);
}

/** @param {{ app: App }} props */
function Data({ app }) {
  if (app.resources.length + app.volumes.length === 0) return null;
  return h("div", { class: "service" }, [
    h("h3", {}, "Data"),
    h("ul", { class: "slots", "aria-label": `Data of ${app.name}` }, [
      app.resources.map((one) => {
        const tone =
          one.state === "ready" ? "good" : one.state === "failing" ? "bad" : one.state === "stopped" ? "idle" : "busy";
        const facts = [
          one.version,
          one.external && "elsewhere",
          one.orphaned && "not in the file any more",
          one.memory_bytes > 0 && bytes(one.memory_bytes),
          one.restarts > 0 && `restarted ${counted(one.restarts, "time")}`,
        ].filter(Boolean);
        return h("li", { class: `tile ${tone}`, key: `${one.kind}.${one.name}` }, [
          h("p", { class: "state" }, [h(Icon, { tone }), h("b", {}, `${one.kind} ${one.name}`), " ", one.state]),
          facts.length > 0 && h("p", { class: "facts" }, facts.join(" · ")),
          one.on && h("p", { class: "on" }, one.on),
        ]);
      }),
      app.volumes.map(({ name, size_bytes, used_bytes }) =>
        h("li", { class: "tile idle", key: `volume.${name}` }, [
          h("p", { class: "state" }, [h("b", {}, `volume ${name}`)]),
          used_bytes !== undefined && size_bytes !== undefined
            ? h(Gauge, { used: used_bytes, size: size_bytes })
            : h("p", { class: "facts" }, size_bytes === undefined ? "no size set" : `of ${bytes(size_bytes)}`),
        ]),
      ),
    ]),
  ]);
}

/** @param {{ used: number, size: number, what?: string }} props */
function Gauge({ used, size, what = "" }) {
  const part = Math.min(1, used / Math.max(1, size));
  return [
    h(
      "div",
      { class: `gauge ${part > 0.9 ? "bad" : ""}`, "aria-hidden": "true" },
      h("span", { style: { width: `${part * 100}%` } }),
    ),
    h("p", { class: "facts" }, `${bytes(used)} of ${bytes(size)}${what} used`),
  ];
}

/** @param {{ app: App, now: number }} props */
function Jobs({ app, now }) {
  if (app.jobs.length === 0) return null;
  return h("div", { class: "service" }, [
    h("h3", {}, "Jobs"),
    h("ul", { class: "slots", "aria-label": `Jobs of ${app.name}` }, [
      app.jobs.map((job) => {
        /** @type {Tone} */
        const tone = job.running ? "busy" : job.last === null ? "idle" : job.last === "succeeded" ? "good" : "bad";
        const last =
          job.last && job.last_ended !== null
            ? `${job.last.replaceAll("_", " ")} ${moment(job.last_ended, now)}`
            : "has not run yet";
        return h("li", { class: `tile ${tone}`, key: job.name }, [
          h("p", { class: "state" }, [h(Icon, { tone }), h("b", {}, job.name), " ", job.running ?? last]),
          job.next !== null && h("p", { class: "facts" }, `next at ${moment(job.next, now)}`),
          job.next === null && job.schedule === null && h("p", { class: "facts" }, "on demand"),
        ]);
      }),
    ]),
  ]);
}

/** @param {{ notes: string[] }} props */
function Notes({ notes }) {
  if (notes.length === 0) return null;
  return h("details", { class: "notes" }, [
    h("summary", {}, counted(notes.length, "note")),
    h(
      "ul",
      {},
      notes.map((note) => h("li", { key: note }, note)),
    ),
  ]);
}

/** @param {{ title: string, events: import("./wire.js").Event[], now: number }} props */
function Events({ title, events, now }) {
  if (events.length === 0) return null;
  const newest = [...events].reverse();
  const item = (/** @type {import("./wire.js").Event} */ one) =>
    h("li", { key: one.seq, class: /fail|crash|lost|timed_out/.test(one.event) ? "bad" : "" }, [
      h("time", { datetime: new Date(one.at).toISOString() }, moment(one.at, now)),
      h("span", {}, one.text),
    ]);
  return h("div", { class: "events" }, [
    h("h3", {}, title),
    h("ol", {}, newest.slice(0, EVENTS_SHOWN).map(item)),
    newest.length > EVENTS_SHOWN &&
      h("details", {}, [
        h("summary", {}, `${counted(Math.min(EVENTS_MORE, newest.length - EVENTS_SHOWN), "earlier event")}`),
        h("ol", {}, newest.slice(EVENTS_SHOWN, EVENTS_SHOWN + EVENTS_MORE).map(item)),
      ]),
  ]);
}

/** @param {{ model: Model }} props */
function Machine({ model }) {
  const { shown } = model;
  if (!shown) return null;
  const { disk, edge, version, started } = shown;
  return h("footer", { class: "machine" }, [
    h("p", {}, `Bowline ${version}, up ${duration(model.at - started)}`),
    h("p", {}, `edge ${edge.state}, ${counted(edge.connections, "open connection")}`),
    disk &&
      h(
        "div",
        { class: "disk" },
        h(Gauge, { used: disk.total_bytes - disk.free_bytes, size: disk.total_bytes, what: " of the disk" }),
      ),
    h("p", {}, h("a", { href: "/metrics" }, "metrics")),
    h(Events, { title: "Of the machine", events: model.events.filter((one) => one.app === null), now: model.at }),
  ]);
}

/** By their shape, too: colour alone says nothing to some. @type {Record<Tone, string>} */
const SHAPES = {
  good: "M3.5 8.5l3 3 6-7",
  busy: "M8 3v5l3.5 2",
  warn: "M8 3.5v5.5M8 12.2v.3",
  bad: "M4.5 4.5l7 7M11.5 4.5l-7 7",
  idle: "M4.5 8h7",
};

/** @param {{ tone: Tone }} props */
function Icon({ tone }) {
  return h("svg", { class: `icon ${tone}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, [
    h("circle", { cx: 8, cy: 8, r: 8 }),
    h("path", { d: SHAPES[tone] }),
  ]);
}
