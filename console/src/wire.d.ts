// What the daemon tells: crates/control/src/http/console/shape.rs. Times are milliseconds since 1970, sizes bytes.

export interface Shown {
  page: string;
  version: string;
  started: number;
  degraded?: Trouble;
  disk?: { total_bytes: number; free_bytes: number; reserve_bytes: number };
  edge: { state: "starting" | "serving" | "lost"; connections: number; fault: Trouble | null };
  apps: App[];
}

export interface Trouble {
  error: string;
  caused_by: string[];
  hint: string | null;
}

export interface App {
  env: string;
  name: string;
  state: "ready" | "degraded" | "down" | "failed" | "stopped";
  release: number | null;
  urls: string[];
  change: Change | null;
  rolled: Rollout | null;
  fault: Trouble | null;
  maintenance: boolean;
  services: Service[];
  resources: Resource[];
  volumes: { name: string; size_bytes?: number; used_bytes?: number }[];
  jobs: Job[];
  notes: string[];
}

export interface Change {
  id: number;
  phase: "parse" | "guard" | "build" | "release" | "rollout";
  release: number | null;
  since: number;
  waits_on: { what: string; on: string }[];
  rollout: Rollout | null;
}

export interface Rollout {
  strategy: "rolling" | "canary" | "blue_green";
  stable?: number;
  candidate: number;
  stage: "preparing" | "step" | "completing" | "watching" | "undoing" | "ended";
  step?: number;
  of: number;
  weight: number;
  since: number;
  ends?: number;
  asks?: number;
  gives_up?: number;
  verdicts?: Sentence[];
  steps: RolloutStep[];
  weights: { at: number; weight: number }[];
  outcome?: "took_over" | "taken_back";
}

export interface RolloutStep {
  weight: number;
  hold_ms?: number;
  began?: number;
  ended?: number;
  verdicts?: Sentence[];
}

export interface Sentence {
  service: string;
  verdict: "pass" | "fail" | "too_few_data" | "stable_broken";
  text: string;
}

export interface Service {
  name: string;
  wanted: number;
  ready: number;
  scale: Scale | null;
  instances: Instance[];
}

/** Of a service whose load says how many instances it has. */
export interface Scale {
  min: number;
  max: number;
  reason: string;
  bound: string | null;
  bounded: string | null;
}

export interface Instance {
  id: string;
  release: number;
  slot: number;
  state: string;
  waits_on: string | null;
  since: number | null;
  restarts: number;
  memory_bytes: number;
  cpu_us: number;
}

export interface Resource {
  kind: string;
  name: string;
  state: string;
  on: string | null;
  version: string | null;
  external: boolean;
  orphaned: boolean;
  restarts: number;
  memory_bytes: number;
  fault: Trouble | null;
}

export interface Job {
  name: string;
  schedule: string | null;
  next: number | null;
  running: string | null;
  last: string | null;
  last_ended: number | null;
}

export interface Traffic {
  at: number;
  second: number;
  seconds: number;
  series: {
    env: string;
    app: string;
    release: number | null;
    minute: Minute;
    seconds: [second: number, requests: number, errors: number, p50: number, p99: number][];
  }[];
}

export interface Longer {
  quarter: Look;
  day: Look;
}

export interface Look {
  newest: number;
  steps: number;
  step: number;
  series: {
    env: string;
    app: string;
    release: number | null;
    points: [step: number, requests: number, errors: number, p50: number, p99: number][];
  }[];
}

export interface Minute {
  requests: number;
  errors: number;
  p50: number | null;
  p99: number | null;
}

export interface History {
  events: Event[];
  releases: { env: string; app: string; releases: Release[] }[];
}

export interface Release {
  number: number;
  created: number;
  state: "pending" | "active" | "retired" | "failed";
}

export interface Event {
  seq: number;
  at: number;
  env: string | null;
  app: string | null;
  event: string;
  text: string;
}
