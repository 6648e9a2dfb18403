import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));

/** For what should happen at once, on a busy machine. */
const SOON = 30_000;

/** The real process; its environment holds nothing but what the test says. */
export function start(t, env) {
  const child = spawn(process.execPath, [MAIN], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const lines = [];
  const reader = createInterface({ input: child.stdout });
  reader.on('line', (line) => lines.push(JSON.parse(line)));
  const ended = once(child, 'close').then(([code]) => code);
  const says = (message, matches = () => true) => {
    let timer;
    const said = new Promise((resolve, reject) => {
      const look = () => {
        const line = lines.find((each) => each.message === message && matches(each));
        if (line) resolve(line);
      };
      timer = setTimeout(() => reject(new Error(`it did not say ${message}`)), SOON);
      reader.on('line', look);
      ended.then(() => reject(new Error(`it ended without saying ${message}`)));
      look();
    });
    return said.finally(() => clearTimeout(timer));
  };
  return {
    lines,
    says,
    ended,
    kill: (signal) => child.kill(signal),
    url: async () => `http://127.0.0.1:${(await says('serving')).port}`,
  };
}
