// Reads the environment, listens, and leaves when it is asked to.
import { appOf } from './app.js';
import { configFrom } from './config.js';
import { logTo } from './log.js';
import { Metrics } from './metrics.js';
import { serverOf } from './serve.js';
import { Store } from './store.js';

const log = logTo((line) => process.stdout.write(line));

process.on('uncaughtException', (error) => {
  log.error('cannot go on', { error: error.message, stack: error.stack });
  process.exit(1);
});

try {
  await run();
} catch (error) {
  log.error('cannot serve', { error: error.message });
  process.exit(1);
}

async function run() {
  const { port, folder, keep, title } = configFrom(process.env);
  const store = await Store.open(folder, keep, log);
  const metrics = new Metrics(() => store.count());
  const { server, leave } = serverOf(appOf({ store, metrics, log, title }));
  // No time limit of its own: whoever sends TERM knows how long it will wait, and then sends KILL.
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.once(signal, () => {
      log.info('finishing what is under way', { signal });
      leave(() => log.info('done'));
    });
  }
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, resolve));
  log.info('serving', { port: server.address().port, folder });
}
