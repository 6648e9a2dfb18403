import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configFrom } from '../../src/config.js';

test('what is not set has a default', () => {
  assert.deepEqual(configFrom({}), { port: 8000, keep: 1000, folder: 'data', title: 'Board' });
});

test('the environment decides', () => {
  const env = {
    PORT: '0',
    BOARD_KEEP: '5',
    BOARD_DATA: '/srv/board',
    BOARD_TITLE: 'Notes',
    BOWLINE_VOLUME_MESSAGES: '/v',
  };
  assert.deepEqual(configFrom(env), { port: 0, keep: 5, folder: '/srv/board', title: 'Notes' });
  assert.equal(configFrom({ BOWLINE_VOLUME_MESSAGES: '/v' }).folder, '/v');
});

test('all that is wrong is said at once', () => {
  for (const port of ['x', '-1', '65536', '80.5', ' 80', '1e3', '0x50']) {
    assert.throws(
      () => configFrom({ PORT: port, BOARD_KEEP: '0' }),
      /PORT is .* 0 to 65535; BOARD_KEEP is .* 1 to 10000/,
      port,
    );
  }
});
