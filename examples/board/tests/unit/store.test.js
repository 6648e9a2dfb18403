import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { logTo } from '../../src/log.js';
import { Store } from '../../src/store.js';

const NOW = Date.UTC(2026, 10, 21, 12);

/** A folder, and a way to open it as another process would. */
async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), 'board-'));
  t.after(() => rm(path, { recursive: true }));
  const lines = [];
  const open = (keep = 100) =>
    Store.open(
      path,
      keep,
      logTo((line) => lines.push(line)),
      NOW,
    );
  return { path, open, lines };
}

const texts = (page) => page.messages.map((message) => message.text);

const post = (store, text, at, key) => store.add({ name: 'Ann', text }, key, at);

test('messages come newest first, page by page', async (t) => {
  const store = await (await folder(t)).open();
  for (let i = 0; i < 5; i += 1) await post(store, `m${i}`, NOW + i);
  const first = await store.list(2);
  assert.deepEqual(texts(first), ['m4', 'm3']);
  const second = await store.list(2, first.next);
  assert.deepEqual(texts(second), ['m2', 'm1']);
  const third = await store.list(2, second.next);
  assert.deepEqual([texts(third), third.next], [['m0'], undefined]);
  assert.deepEqual(first.messages[0], { id: first.messages[0].id, name: 'Ann', text: 'm4', at: NOW + 4 });
});

test('two processes share a folder: each sees what the other kept and removed', async (t) => {
  const { open } = await folder(t);
  const [one, two] = [await open(10), await open(10)];
  await Promise.all(Array.from({ length: 8 }, (_, i) => post(i % 2 ? one : two, `m${i}`, NOW + i)));
  const [a, b] = [await one.list(10), await two.list(10)];
  assert.deepEqual(texts(a), ['m7', 'm6', 'm5', 'm4', 'm3', 'm2', 'm1', 'm0']);
  assert.deepEqual(a, b);
  const small = await open(3);
  await post(small, 'last', NOW + 9);
  assert.deepEqual(texts(await one.list(10)), ['last', 'm7', 'm6']);
});

test('the oldest go once there are too many, and the newest stays whatever the clock says', async (t) => {
  const { open, path } = await folder(t);
  const store = await open(3);
  for (let i = 0; i < 7; i += 1) await post(store, `m${i}`, NOW + i);
  assert.deepEqual(texts(await store.list(10)), ['m6', 'm5', 'm4']);
  const names = await readdir(path);
  const starting = (start) => names.filter((name) => name.startsWith(start)).length;
  assert.deepEqual([names.length, starting('.sent-'), starting('.unfinished-')], [6, 3, 0]);
});

test('the same form sent twice is one message', async (t) => {
  const { open } = await folder(t);
  const key = '0123456789abcdef';
  const first = await post(await open(), 'once', NOW, key);
  const again = await post(await open(), 'once', NOW + 50, key);
  assert.deepEqual([first.isNew, again], [true, { id: first.id, isNew: false }]);
  await assert.rejects(post(await open(), 'x', NOW, '../../etc/passwd'), /not a key/);
});

test('the same form sent to several processes at once is one message', async (t) => {
  const { open } = await folder(t);
  const stores = await Promise.all(Array.from({ length: 6 }, () => open()));
  const sent = await Promise.all(stores.map((store, i) => post(store, 'once', NOW + i, '0123456789abcdef')));
  assert.equal(new Set(sent.map(({ id }) => id)).size, 1);
  assert.equal(sent.filter(({ isNew }) => isNew).length, 1);
  assert.equal(await stores[0].count(), 1);
});

test('what is no message is left alone, and said', async (t) => {
  const { open, path, lines } = await folder(t);
  const store = await open();
  await post(store, 'good', NOW);
  const broken = `${NOW + 1}-00000000000000ff.json`;
  await writeFile(join(path, broken), '{"name":');
  await writeFile(join(path, 'README'), 'whoever looks after the volume wrote this');
  assert.deepEqual(texts(await store.list(10)), ['good']);
  assert.equal(await readFile(join(path, broken), 'utf8'), '{"name":');
  assert.ok(
    lines.some((line) => line.includes('cannot be read') && line.includes('00ff')),
    lines.join(''),
  );
});

test('what a killed process left is removed, what another one writes now is not', async (t) => {
  const { open, path } = await folder(t);
  for (const [name, age] of [
    ['.unfinished-old', 7200],
    ['.unfinished-new', 10],
  ]) {
    await writeFile(join(path, name), '{');
    await utimes(join(path, name), NOW / 1000 - age, NOW / 1000 - age);
  }
  const store = await open();
  assert.deepEqual(await readdir(path), ['.unfinished-new']);
  assert.equal(await store.count(), 0);
  await store.probe();
  assert.deepEqual(await readdir(path), ['.unfinished-new']);
});
