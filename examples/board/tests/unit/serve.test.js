import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, get } from 'node:http';
import { test } from 'node:test';
import { serverOf } from '../../src/serve.js';

const answer = (port, agent) =>
  new Promise((resolve, reject) => {
    get({ port, host: '127.0.0.1', agent }, async (res) => {
      let body = '';
      for await (const piece of res) body += piece;
      resolve({ body, connection: res.headers.connection });
    }).on('error', reject);
  });

test('leaving finishes what is under way and takes nothing new', async () => {
  let finish;
  const entered = new Promise((resolve) => {
    finish = { resolve };
  });
  const { server, leave } = serverOf((_req, res) => {
    finish.answer = () => res.end('finished');
    finish.resolve();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  const agent = new Agent({ keepAlive: true });
  const slow = answer(port, agent);
  await entered;
  const left = new Promise((resolve) => {
    leave(resolve);
  });
  await assert.rejects(answer(port), { code: 'ECONNREFUSED' });
  finish.answer();
  // It says that the connection is the last one's, so that no proxy sends another request on it.
  assert.deepEqual(await slow, { body: 'finished', connection: 'close' });
  await left;
  agent.destroy();
});
