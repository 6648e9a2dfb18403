import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { start } from './process.js';

async function board(t, env = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'board-'));
  t.after(() => rm(folder, { recursive: true }));
  const again = () => start(t, { PORT: '0', BOARD_DATA: folder, ...env });
  const process = again();
  return { folder, process, again, url: await process.url() };
}

const form = (fields, headers = {}) => ({
  method: 'POST',
  redirect: 'manual',
  headers,
  body: new URLSearchParams(fields),
});

const json = (body, headers = {}) => ({
  method: 'POST',
  headers: { 'Content-Type': 'application/json', ...headers },
  body: JSON.stringify(body),
});

test('a message is posted by a form, shown once it is kept, and still there after a restart', async (t) => {
  const { url, process, again } = await board(t);
  const posted = await fetch(url, form({ name: 'Ann', text: 'one\ntwo <b>' }));
  assert.equal(posted.status, 303);
  const to = posted.headers.get('location');
  const page = await (await fetch(url + to)).text();
  assert.ok(page.includes('one\ntwo &lt;b&gt;') && page.includes('Your message is on the board.'), page);
  assert.equal((await (await fetch(`${url}/?posted=made-up`)).text()).includes('is on the board.'), false);

  process.kill('SIGTERM');
  await process.says('done');
  assert.equal(await process.ended, 0);
  const { messages, next } = await (await fetch(`${await again().url()}/messages`)).json();
  assert.deepEqual([messages.length, messages[0].name, messages[0].text, next], [1, 'Ann', 'one\ntwo <b>', null]);
});

test('programs post and read JSON, page by page', async (t) => {
  const { url } = await board(t);
  for (let i = 0; i < 3; i += 1) {
    const posted = await fetch(`${url}/messages`, json({ name: 'Ann', text: `m${i}` }));
    assert.equal(posted.status, 201);
    assert.equal((await posted.json()).text, `m${i}`);
  }
  const first = await (await fetch(`${url}/messages?limit=2`)).json();
  const second = await (await fetch(url + first.next)).json();
  assert.deepEqual(
    [...first.messages, ...second.messages].map((m) => m.text),
    ['m2', 'm1', 'm0'],
  );
  assert.equal(second.next, null);
});

test('a form without sense comes back as it was typed', async (t) => {
  const { url } = await board(t);
  const key = '00112233445566aa';
  const refused = await fetch(url, form({ name: ' ', text: 'typed', key }));
  assert.equal(refused.status, 422);
  const page = await refused.text();
  for (const part of ['Say who you are.', 'typed</textarea>', 'role="alert"', `value="${key}"`])
    assert.ok(page.includes(part), part);
  const mended = form({ name: 'Ann', text: 'typed', key });
  const [once, twice] = [await fetch(url, mended), await fetch(url, mended)];
  assert.equal(once.headers.get('location'), twice.headers.get('location'), 'sent twice, kept once');
});

test('what is refused, and how', async (t) => {
  const { url } = await board(t);
  const good = { name: 'Ann', text: 'x' };
  const cases = [
    ['/messages', json({ name: 'Ann' }), 422, 'input'],
    ['/messages', json([]), 422, 'input'],
    ['/messages', json({ ...good, text: 'x'.repeat(140_000) }), 413, 'size'],
    ['/messages', { ...json({}), body: '{"name"' }, 400, 'form'],
    ['/messages', json(good, { 'Sec-Fetch-Site': 'cross-site' }), 403, 'site'],
    ['/', form(good, { 'Sec-Fetch-Site': 'same-site' }), 403, 'site'],
    ['/', { method: 'DELETE' }, 405, 'method'],
    ['/nothing', {}, 404, 'path'],
    ['/..%2f..%2fetc%2fpasswd', {}, 404, 'path'],
    ['/%', {}, 404, 'path'],
  ];
  for (const [path, request, status, reason] of cases) {
    const answer = await fetch(url + path, { redirect: 'manual', ...request });
    assert.deepEqual([answer.status, (await answer.json()).reason], [status, reason], `${request.method} ${path}`);
  }
  assert.deepEqual((await (await fetch(`${url}/messages`)).json()).messages, []);
  assert.equal((await fetch(url, form(good, { 'Sec-Fetch-Site': 'same-origin' }))).status, 303);
  const page = await (await fetch(`${url}/nothing`, { headers: { Accept: 'text/html' } })).text();
  assert.ok(page.includes('There is nothing here.'), page);
});

test('no answer lets a script in', async (t) => {
  const { url } = await board(t);
  for (const path of ['/', '/nothing', '/messages', '/style.css']) {
    const { headers } = await fetch(url + path);
    assert.match(headers.get('content-security-policy'), /default-src 'none'/, path);
    assert.doesNotMatch(headers.get('content-security-policy'), /unsafe|script-src/, path);
    assert.equal(headers.get('x-content-type-options'), 'nosniff', path);
    assert.equal(headers.get('x-powered-by'), null, path);
  }
});

test('metrics tell memory, processor, codes and errors', async (t) => {
  const { url } = await board(t);
  await fetch(url);
  await fetch(`${url}/made-up-${Math.random()}`);
  await fetch(url, form({ name: 'Ann', text: 'x' }));
  await fetch(url, form({ name: 'Ann', text: '' }));
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const series = [
    'process_resident_memory_bytes ',
    'process_cpu_seconds_total ',
    'http_request_duration_seconds_count{method="GET",route="/",code="200"} 1',
    'http_request_duration_seconds_count{method="GET",route="other",code="404"} 1',
    'http_request_duration_seconds_count{method="POST",route="/",code="303"} 1',
    'http_errors_total 0',
    'board_posted_total 1',
    'board_refused_total{reason="input"} 1',
    'board_messages 1',
  ];
  for (const each of series) assert.ok(metrics.includes(each), `${each}\n${metrics}`);
  assert.ok(!metrics.includes('made-up'));
});

test('without its folder it is alive but not ready, and says so', async (t) => {
  const { url, folder, process } = await board(t);
  const status = async (path) => (await fetch(url + path)).status;
  assert.deepEqual([await status('/healthz'), await status('/readyz')], [200, 200]);
  await rm(folder, { recursive: true });
  assert.deepEqual([await status('/healthz'), await status('/readyz')], [200, 503]);
  assert.equal((await fetch(url, form({ name: 'Ann', text: 'x' }))).status, 500);
  await process.says('a request failed', (line) => line.level === 'error' && line.code === 'ENOENT');
  assert.match(await (await fetch(`${url}/metrics`)).text(), /http_errors_total 1\n/);
  // `board` removes it in the end.
  await mkdir(folder);
});

test('every request is a line of the log, and no line shows what was written', async (t) => {
  const { url, process } = await board(t);
  await fetch(url, form({ name: 'Ann', text: 'not for the log' }, { 'X-Request-Id': 'r-1' }));
  const line = await process.says('request', (each) => each.status === 303);
  assert.deepEqual([line.level, line.method, line.path, line.request_id], ['info', 'POST', '/', 'r-1']);
  assert.ok(!JSON.stringify(process.lines).includes('not for the log'));
});

test('it says why it cannot start', async (t) => {
  const { folder, url } = await board(t);
  await writeFile(join(folder, 'file'), '');
  const cases = [
    [{ PORT: 'http' }, /PORT is "http"/],
    [{ PORT: new URL(url).port, BOARD_DATA: folder }, /EADDRINUSE/],
    [{ PORT: '0', BOARD_DATA: join(folder, 'file') }, /EEXIST|ENOTDIR/],
  ];
  for (const [env, why] of cases) {
    const process = start(t, env);
    assert.match((await process.says('cannot serve')).error, why);
    assert.equal(await process.ended, 1);
  }
});
