import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** Memory, processor and event loop of the process, requests by code, and what became of messages. */
export class Metrics {
  #registry = new Registry();

  /** @param {() => Promise<number>} stored counts the messages that are kept */
  constructor(stored) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    this.requests = new Histogram({
      name: 'http_request_duration_seconds',
      help: 'Time from the head of a request to the end of its answer.',
      labelNames: ['method', 'route', 'code'],
      buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.errors = new Counter({
      name: 'http_errors_total',
      help: 'Requests that failed here: the volume, or a mistake in the code.',
      registers,
    });
    this.posted = new Counter({ name: 'board_posted_total', help: 'Messages that were kept.', registers });
    this.refused = new Counter({
      name: 'board_refused_total',
      help: 'Messages that were not kept, by reason.',
      labelNames: ['reason'],
      registers,
    });
    new Gauge({
      name: 'board_messages',
      help: 'Messages on the board.',
      registers,
      async collect() {
        // The other numbers are worth most when the volume cannot be read.
        this.set(await stored().catch(() => Number.NaN));
      },
    });
  }

  get type() {
    return this.#registry.contentType;
  }

  text() {
    return this.#registry.metrics();
  }
}
