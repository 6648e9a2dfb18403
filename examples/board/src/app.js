import { fileURLToPath } from 'node:url';
import express from 'express';
import { parse } from './message.js';
import { board, notice } from './page.js';
import { isId, newKey } from './store.js';

const PAGE = 30;
const MAX_PAGE = 100;

/** The longest message takes less, even if every byte of it is written as `%F0`. */
const MAX_BODY = '128kb';

const METHODS = new Set(['GET', 'HEAD', 'POST']);

const PUBLIC = fileURLToPath(new URL('../public/', import.meta.url));

/** There is no script here, and none that someone smuggles in may run. */
const POLICY =
  "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/** What is answered with something else than a page. */
class Refusal extends Error {
  constructor(status, reason, message, wrong) {
    super(message);
    Object.assign(this, { status, reason, wrong });
  }
}

/**
 * The board's routes.
 * @param {{ store: import('./store.js').Store, metrics: import('./metrics.js').Metrics, log: object, title: string, now?: () => number }} parts
 */
export function appOf({ store, metrics, log, title, now = Date.now }) {
  const app = express();
  app.disable('x-powered-by');
  // One value per name, no nesting: `?before[]=` is text like any other.
  app.set('query parser', 'simple');
  app.use(observed(metrics, log), guarded);

  const form = express.urlencoded({ extended: false, limit: MAX_BODY, parameterLimit: 10 });
  const json = express.json({ limit: MAX_BODY });

  app.get('/', async (req, res) => {
    const { before, posted } = req.query;
    send(res, 200, await show({ before: isId(before) ? before : undefined, posted }));
  });
  app.post('/', sameSite, form, async (req, res) => {
    const given = req.body ?? {};
    const { message, wrong } = parse(given);
    if (Object.keys(wrong).length > 0) {
      metrics.refused.inc({ reason: 'input' });
      const typed = { name: text(given.name), text: text(given.text) };
      send(res, 422, await show({ key: text(given.key), given: typed, wrong }));
      return;
    }
    const { id } = await keep(message, given.key);
    res.redirect(303, `/?posted=${id}`);
  });

  app.get('/messages', async (req, res) => {
    const { before, limit } = req.query;
    const size = /^\d{1,4}$/.test(limit ?? '') ? Math.min(Math.max(Number(limit), 1), MAX_PAGE) : PAGE;
    const { messages, next } = await store.list(size, isId(before) ? before : undefined);
    const url = next && `/messages?limit=${size}&before=${next}`;
    res.json({ messages: messages.map(shown), next: url ?? null });
  });
  app.post('/messages', sameSite, json, async (req, res) => {
    const { message, wrong } = parse(req.body);
    if (Object.keys(wrong).length > 0) throw new Refusal(422, 'input', 'it is no message', wrong);
    const { id } = await keep(message, req.body.key);
    res.status(201).json(shown({ id, ...message, at: Number(id.slice(0, 13)) }));
  });

  app.get('/healthz', (_req, res) => {
    res.type('text').send('ok\n');
  });
  app.get('/readyz', async (_req, res) => {
    try {
      await store.probe();
      res.type('text').send('ready\n');
    } catch (error) {
      log.warn('not ready: the volume cannot be written', { error: error.message });
      res.status(503).type('text').send(`the volume cannot be written: ${error.message}\n`);
    }
  });
  app.get('/metrics', async (_req, res) => {
    res.type(metrics.type).send(await metrics.text());
  });
  for (const name of ['style.css', 'favicon.svg']) {
    app.get(`/${name}`, (_req, res) => res.sendFile(name, { root: PUBLIC, maxAge: '1h' }));
  }

  app.use((req) => {
    if (!METHODS.has(req.method)) throw new Refusal(405, 'method', 'that is not done here');
    throw new Refusal(404, 'path', 'there is nothing here');
  });
  app.use(failed);
  return app;

  async function show({ before, posted, key, given, wrong }) {
    const [page, count] = await Promise.all([store.list(PAGE, before), store.count()]);
    const known = page.messages.some((message) => message.id === posted) ? posted : undefined;
    return board({
      title,
      page,
      count,
      before,
      posted: known,
      key: isKey(key) ? key : newKey(),
      given,
      wrong,
      now: now(),
    });
  }

  async function keep(message, key) {
    const { id, isNew } = await store.add(message, isKey(key) ? key : newKey(), now());
    if (isNew) {
      metrics.posted.inc();
      log.info('posted', { id, characters: message.text.length });
    }
    return { id };
  }

  // Express tells an error handler by its four parameters.
  async function failed(error, req, res, next) {
    if (res.headersSent) return next(error);
    const { status, reason, message } = outcome(error);
    if (reason !== 'path' && reason !== 'method') metrics.refused.inc({ reason });
    if (status >= 500) {
      metrics.errors.inc();
      log.error('a request failed', { path: req.path, error: error.message, code: error.code });
    }
    if (req.accepts(['json', 'html']) === 'html') {
      send(res, status, notice(title, sentence(message)));
    } else {
      res.status(status).json({ error: message, reason, wrong: error.wrong });
    }
  }
}

const isKey = (value) => typeof value === 'string' && /^[0-9a-f]{16}$/.test(value);

const text = (value) => (typeof value === 'string' ? value : '');

const sentence = (message) => `${message[0].toUpperCase()}${message.slice(1)}.`;

const shown = ({ id, name, text, at }) => ({ id, name, text, at: new Date(at).toISOString() });

function send(res, status, page) {
  res.status(status).set('Cache-Control', 'no-store').type('html').send(page);
}

/** What a failure means to whoever asked. */
function outcome(error) {
  if (error instanceof Refusal) return error;
  if (error.code === 'ENOSPC' || error.code === 'EDQUOT') {
    return { status: 507, reason: 'full', message: 'the disk is full: nothing was kept' };
  }
  if (error.status === 413) return { status: 413, reason: 'size', message: 'that is too long' };
  if (error.status >= 400 && error.status < 500) {
    return { status: error.status, reason: 'form', message: 'that cannot be read' };
  }
  return { status: 500, reason: 'failure', message: 'that did not work, and it is not your fault' };
}

/** Nobody logs in here, but other sites must not make their visitors write. Browsers say where a request comes from. */
function sameSite(req, _res, next) {
  const site = req.get('Sec-Fetch-Site');
  if (site !== undefined && site !== 'same-origin' && site !== 'none') {
    throw new Refusal(403, 'site', 'messages are written on the board itself');
  }
  next();
}

function guarded(_req, res, next) {
  res.set({
    'Content-Security-Policy': POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
  });
  next();
}

/** Counts and logs every request once its answer is out, or its client gone. Probes are only counted. */
function observed(metrics, log) {
  const PROBES = new Set(['/healthz', '/readyz', '/metrics']);
  return (req, res, next) => {
    const began = process.hrtime.bigint();
    res.once('close', () => {
      const seconds = Number(process.hrtime.bigint() - began) / 1e9;
      // By route and known methods: whoever asks for anything must not make a series of it.
      const route = req.route?.path ?? 'other';
      const method = METHODS.has(req.method) ? req.method : 'other';
      const code = res.writableFinished ? res.statusCode : 499;
      metrics.requests.observe({ method, route, code }, seconds);
      if (PROBES.has(route)) return;
      const ms = Math.round(seconds * 1e6) / 1000;
      log.info('request', {
        method: req.method,
        path: req.path,
        status: code,
        ms,
        request_id: req.get('X-Request-Id'),
      });
    });
    next();
  };
}
