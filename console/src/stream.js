// Server-Sent Events over fetch: unlike EventSource it tells why the daemon refuses.

/** The daemon says something every second. */
const SILENCE_MS = 5000;
const AGAIN_MS = 1000;

/**
 * @typedef {{
 *   opened(): void,
 *   told(name: string, data: any): void,
 *   refused(fault: { error: string, hint?: string }): void,
 *   lost(ended: boolean): void,
 * }} Listener
 */

/** Follows for as long as the page is there. @param {string} url @param {Listener} listener */
export async function follow(url, listener) {
  for (;;) {
    await once(url, listener);
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** @param {string} url @param {Listener} listener */
async function once(url, listener) {
  const silence = new Silence();
  let ended = false;
  try {
    const response = await fetch(url, { cache: "no-store", signal: silence.signal });
    if (!response.ok || !response.body) {
      return listener.refused(await response.json());
    }
    listener.opened();
    for await (const event of events(response.body, silence)) {
      ended ||= event.name === "ended";
      listener.told(event.name, event.data);
    }
  } catch {
    // The daemon is gone, silent, or no daemon answers there.
  } finally {
    silence.end();
  }
  listener.lost(ended);
}

/** @param {ReadableStream<Uint8Array>} body @param {Silence} silence */
async function* events(body, silence) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    silence.broken();
    const pieces = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = pieces.pop() ?? "";
    for (const piece of pieces) yield parse(piece);
  }
}

/** The daemon writes one line of each. @param {string} piece */
export function parse(piece) {
  const lines = piece.split("\n");
  const field = (/** @type {string} */ name) => lines.find((line) => line.startsWith(name))?.slice(name.length) ?? "";
  return { name: field("event: "), data: JSON.parse(field("data: ")) };
}

/** Gives up on a connection on which nothing is said. */
class Silence {
  #controller = new AbortController();
  #timer = 0;

  constructor() {
    this.signal = this.#controller.signal;
    this.broken();
  }

  broken() {
    clearTimeout(this.#timer);
    this.#timer = Number(setTimeout(() => this.#controller.abort(), SILENCE_MS));
  }

  end() {
    clearTimeout(this.#timer);
  }
}
