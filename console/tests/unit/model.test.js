import assert from "node:assert/strict";
import { test } from "node:test";

import { bars, ceiling, line, stairs } from "../../src/chart.js";
import {
  begin,
  glance,
  lost,
  opened,
  planned,
  recent,
  rolledOf,
  stateOf,
  tell,
  toneOf,
  verdict,
  viewOf,
} from "../../src/model.js";
import { parse } from "../../src/stream.js";
import { bytes, duration, latency, left, processor, rate } from "../../src/words.js";

const app = {
  env: "local",
  name: "shop",
  state: "ready",
  release: 3,
  urls: [],
  change: null,
  fault: null,
  maintenance: false,
  services: [],
  resources: [],
  volumes: [],
  jobs: [],
  notes: [],
};
const shown = {
  page: "p",
  version: "1",
  started: 0,
  edge: { state: "serving", connections: 0, fault: null },
  apps: [app],
};
const minute = { requests: 1, errors: 0, p50: 1, p99: 2 };

/** A model that was told this. */
function told(...events) {
  const model = begin();
  opened(model);
  for (const [name, data] of events) tell(model, name, data);
  return model;
}

const traffic = (second, series) => ["traffic", { at: second * 1000, second, seconds: 120, series }];
const answered = (seconds, more = {}) => ({ env: "local", app: "shop", release: 3, minute, seconds, ...more });

test("whether all is well is said by the worst", () => {
  const check = (changes, tone, text) => {
    const { apps = [{}], ...rest } = changes;
    const said = verdict(told(["status", { ...shown, ...rest, apps: apps.map((one) => ({ ...app, ...one })) }]));
    assert.deepEqual([said.tone, said.text], [tone, text]);
  };
  const change = { id: 1, phase: "rollout", release: 4, since: 0, waits_on: [] };
  const fault = { error: "e", caused_by: [], hint: null };
  check({}, "good", "All is well");
  check({ apps: [] }, "idle", "There is no app yet");
  check({ apps: [{ state: "stopped" }] }, "idle", "Nothing runs");
  check({ apps: [{ change }] }, "busy", "Changing shop");
  check({ apps: [{ change, state: "degraded" }] }, "busy", "Changing shop");
  const asks = (/** @type {number} */ asks) => ({ ...change, rollout: { candidate: 4, asks } });
  check({ apps: [{ change: asks(1) }] }, "busy", "Changing shop");
  check({ apps: [{ change: asks(0) }] }, "warn", "release 4 of shop waits for somebody to decide");
  check({ apps: [{ state: "degraded" }] }, "warn", "shop has fewer instances than wanted");
  check({ apps: [{ fault }] }, "warn", "the last change of shop failed");
  check({ apps: [{ state: "failed", fault }] }, "bad", "shop failed");
  check({ apps: [{ maintenance: true }, { state: "down", name: "board" }] }, "bad", "board is down");
  check({ degraded: fault }, "bad", "The store is refused: nothing can be changed");
  check({ disk: { total_bytes: 9, free_bytes: 1, reserve_bytes: 2 } }, "bad", "The disk is almost full");
  assert.equal(stateOf({ ...app, state: "down", change }).text, "starting");
});

test("what was shown before is no news when the daemon is gone", () => {
  const model = told(["status", shown]);
  lost(model, 5, false);
  lost(model, 9, false);
  assert.deepEqual([verdict(model).text, model.contact.since], ["No contact with the daemon", 5]);
  opened(model);
  assert.equal(verdict(model).text, "All is well");
});

test("seconds are kept for as long as the daemon keeps them, and releases for as long as it names them", () => {
  const model = told(traffic(10, [answered([[10, 4, 1, 1, 2]])]), traffic(11, [answered([[11, 6, 0, 1, 2]])]));
  const series = () => model.traffic.get("local/shop") ?? [];
  assert.deepEqual(recent(series(), 11, 2), { requests: 5, errors: 0.5 });
  tell(model, ...traffic(130, [answered([])]));
  assert.deepEqual([...series()[0].points.keys()], [11]);
  tell(model, ...traffic(140, []));
  assert.deepEqual(series(), []);
});

test("a share of the processor is told between two measures that were both seen", () => {
  const instance = (cpu_us) => ({
    ...shown,
    apps: [{ ...app, services: [{ name: "web", wanted: 1, ready: 1, instances: [{ id: "i", cpu_us }] }] }],
  });
  const model = told(["status", instance(1_000_000)], traffic(1, []));
  const share = () => model.cpu.get("i").share;
  const measured = (second, us) => {
    tell(model, "status", instance(us));
    tell(model, ...traffic(second, []));
    return share();
  };
  assert.equal(share(), null);
  assert.equal(measured(2, 3_000_000), null, "when that was measured first is not known");
  assert.equal(measured(3, 3_000_000), null);
  assert.equal(measured(4, 4_000_000), 0.5);
});

test("at a glance, and in words that do not change every second", () => {
  const errors = answered([[10, 20, 3, 1, 2]], { minute: { ...minute, errors: 3 } });
  const model = told(["status", shown], traffic(10, [errors]));
  assert.equal(glance(model), "1 app · 2/s requests · 3 errors in the last minute");
  assert.deepEqual(verdict(model).text, "shop answered with errors in the last minute");
});

test("an event of the stream", () => {
  assert.deepEqual(parse('event: status\ndata: {"a":"event: b"}'), { name: "status", data: { a: "event: b" } });
});

test("words and charts", () => {
  assert.deepEqual([0, 1023, 1536, 200 * 2 ** 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "200 MiB"]);
  assert.deepEqual([-5, 59_999, 61_000, 7_200_000, 5 * 86_400_000].map(duration), [
    "0 s",
    "59 s",
    "1 min",
    "2 h",
    "5 days",
  ]);
  assert.deepEqual([0, 0.05, 2, 9.25, 1234.5, 56_000].map(rate), ["0/s", "< 0.1/s", "2/s", "9.3/s", "1235/s", "56k/s"]);
  assert.deepEqual([null, 2.5, 49.1, 1500, 10_000].map(latency), ["–", "< 5 ms", "49 ms", "1.5 s", "> 10 s"]);
  assert.deepEqual([0, 0.0123, 1.5].map(processor), ["0%", "1.2%", "150%"]);
  assert.deepEqual([0, 1, 1.5, 3, 51, 2000].map(ceiling), [1, 1, 2, 5, 100, 2000]);
  assert.equal(bars([0, 1, 0, 10], 10), "M80 64V52M240 64V2");
  assert.equal(line([undefined, 5, 5, undefined, 10], 10), "M60 33h0L120 33M240 2h0");
});

const rollout = {
  strategy: "canary",
  stable: 1,
  candidate: 2,
  stage: "step",
  step: 1,
  of: 2,
  weight: 5,
  since: 0,
  ends: 60_000,
  steps: [
    { weight: 5, hold_ms: 60_000, began: 0 },
    { weight: 50, hold_ms: 30_000 },
  ],
  weights: [{ at: 0, weight: 5 }],
};

test("what is to come of a rollout is known where nobody is waited for", () => {
  const check = (changes, now, expected) =>
    assert.deepEqual(
      planned({ ...rollout, ...changes }, now).map(({ at, weight }) => [at, weight]),
      expected,
    );
  const all = [
    [12_000, 5],
    [60_000, 50],
    [90_000, 100],
    [96_500, 100],
  ];
  check({}, 12_000, all);
  // Its instances are not ready yet: its whole time is to come.
  check({ ends: undefined, weight: 0 }, 0, [
    [0, 0],
    [0, 5],
    [60_000, 50],
    [90_000, 100],
    [97_500, 100],
  ]);
  check({ stage: "watching", weight: 100, ends: 70_000 }, 60_000, [
    [60_000, 100],
    [70_000, 100],
  ]);
  check({ stage: "undoing" }, 0, []);
  check({ strategy: "blue_green", steps: [{ weight: 0, began: 0 }], of: 1 }, 0, []);
});

test("a rollout that is over is shown for a day, and not beside another", () => {
  const rolled = { ...rollout, stage: "ended", since: 1000, outcome: "took_over" };
  assert.equal(rolledOf({ rolled, change: null }, 2000), rolled);
  assert.equal(rolledOf({ rolled, change: { id: 2 } }, 2000), null);
  assert.equal(rolledOf({ rolled, change: null }, 1000 + 24 * 3_600_000), null);
  assert.equal(rolledOf({ rolled: null, change: null }, 2000), null);
});

test("each step of a rollout says how it stands", () => {
  const check = (changes, steps, expected) => {
    const all = { ...rollout, ...changes, steps };
    assert.deepEqual(
      steps.map((_, at) => toneOf(all, at)),
      expected,
    );
  };
  const [first, second] = rollout.steps;
  check({}, [first, second], ["busy", "idle"]);
  check({ step: 2 }, [first, { ...second, began: 1 }], ["good", "busy"]);
  check({ stage: "completing" }, [first, { ...second, began: 1 }], ["good", "good"]);
  check({ stage: "undoing" }, [first, { ...second, began: 1 }], ["good", "bad"]);
  const ended = { stage: "ended", step: undefined };
  check({ ...ended, outcome: "taken_back" }, [first, { ...second, began: 1 }], ["good", "bad"]);
  check({ ...ended, outcome: "took_over" }, [first, { ...second, began: 1 }], ["good", "good"]);
  const held = [{ service: "web", verdict: "too_few_data", text: "" }];
  check(
    { step: 2 },
    [
      { ...first, ended: 1, verdicts: held },
      { ...second, began: 1 },
    ],
    ["warn", "busy"],
  );
  check({}, [{ ...first, verdicts: held }, second], ["busy", "idle"]);
  check({}, [{ ...first, verdicts: [{ service: "web", verdict: "fail", text: "" }] }], ["bad"]);
});

test("weights are stairs", () => {
  const points = [
    { at: 0, weight: 0 },
    { at: 10, weight: 100 },
  ];
  assert.equal(
    stairs(points, (at) => at),
    "M0 64H0V64H10V2V64Z",
  );
  assert.equal(
    stairs([], (at) => at),
    "",
  );
});

test("what is left of a time counts down to nothing", () => {
  assert.deepEqual([71_001, 1, 0, -5, 3_605_000].map(left), ["1:12", "0:01", "0:00", "0:00", "1:00:05"]);
});

test("charts go as far back as is asked for, with what is known of the last minute", () => {
  const model = told(traffic(100, [answered([[100, 4, 0, 1, 2]])]));
  assert.deepEqual([viewOf(model, app).steps, viewOf(model, app).step], [120, 1]);
  model.range = "day";
  assert.equal(viewOf(model, app).step, 1, "not told yet");
  const points = [[7, 40, 1, 5, 9]];
  const series = [
    { env: "local", app: "shop", release: 3, points },
    { env: "local", app: "other", release: 1, points },
  ];
  const look = { newest: 8, steps: 288, step: 300, series };
  tell(model, "longer", { quarter: { ...look, step: 5 }, day: look });
  const { series: own, step } = viewOf(model, app);
  assert.deepEqual([own.length, step, own[0].points.get(7).requests, own[0].minute], [1, 300, 40, minute]);
});
