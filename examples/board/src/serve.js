import { createServer } from 'node:http';

/** Requests are small: a client that needs longer holds a connection for nothing. */
const LIMITS = { headersTimeout: 10_000, requestTimeout: 30_000, maxHeaderSize: 16_384 };

/** Longer than a proxy in front keeps a connection, so that it is never closed here while a request is on its way. */
const KEEP_ALIVE = 120_000;

/**
 * A server that can leave in good order.
 * @param {import('node:http').RequestListener} listener
 */
export function serverOf(listener) {
  const open = new Set();
  let leaving = false;
  const server = createServer({ ...LIMITS, keepAliveTimeout: KEEP_ALIVE }, (req, res) => {
    open.add(res);
    if (leaving) last(res);
    res.once('close', () => {
      open.delete(res);
      if (leaving) setImmediate(() => server.closeIdleConnections());
    });
    listener(req, res);
  });
  /** Takes no new connections, finishes what is under way, and closes each connection with its answer. */
  const leave = (done) => {
    leaving = true;
    open.forEach(last);
    server.close(done);
    server.closeIdleConnections();
  };
  return { server, leave };
}

function last(res) {
  if (!res.headersSent) res.setHeader('Connection', 'close');
}
