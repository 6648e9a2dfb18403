import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { link, mkdir, open, readdir, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';

/** Milliseconds since 1970 and a key: names sort by time. */
const ID = /^\d{13}-[0-9a-f]{16}$/;
const KEY = /^[0-9a-f]{16}$/;
const SUFFIX = '.json';
const UNFINISHED = '.unfinished-';
/** A second name of a message's file, by its key alone: whoever links it first has sent the message. */
const SENT = '.sent-';

/** An unfinished file this old belongs to nobody who still writes. */
const ABANDONED_MS = 3_600_000;

export const isId = (text) => typeof text === 'string' && ID.test(text);

/** Told apart from any other, and not to be guessed. */
export const newKey = () => randomBytes(8).toString('hex');

/**
 * A folder with a file per message. A file gets its name by link(2) once it is on the disk, and never changes after
 * that: readers need no lock, and any number of processes may share the folder.
 */
export class Store {
  #folder;
  #keep;
  #log;
  /** What was read before; a file never changes. */
  #read = new Map();

  constructor(folder, keep, log) {
    this.#folder = folder;
    this.#keep = keep;
    this.#log = log;
  }

  /** Makes the folder, and removes what a process that was killed left unfinished. */
  static async open(folder, keep, log, now = Date.now()) {
    await mkdir(folder, { recursive: true });
    const store = new Store(folder, keep, log);
    const names = await readdir(folder);
    const kept = new Set(
      names.filter((name) => name.endsWith(SUFFIX)).map((name) => name.slice(-16 - SUFFIX.length, -SUFFIX.length)),
    );
    const isLeft = (name) =>
      name.startsWith(UNFINISHED) || (name.startsWith(SENT) && !kept.has(name.slice(SENT.length)));
    for (const name of names) {
      if (!isLeft(name)) continue;
      const path = join(folder, name);
      const age = now - (await stat(path).catch(() => ({ mtimeMs: now }))).mtimeMs;
      if (age > ABANDONED_MS) await gone(path);
    }
    return store;
  }

  /** Identifiers, newest first. */
  async #ids() {
    const names = await readdir(this.#folder);
    const ids = names.filter((name) => name.endsWith(SUFFIX)).map((name) => name.slice(0, -SUFFIX.length));
    return ids.filter(isId).sort().reverse();
  }

  async count() {
    return (await this.#ids()).length;
  }

  /** Up to `limit` messages, newest first, older than `before`; `next` continues there. */
  async list(limit, before) {
    const ids = await this.#ids();
    const present = new Set(ids);
    for (const id of this.#read.keys()) if (!present.has(id)) this.#read.delete(id);
    const older = before === undefined ? ids : ids.filter((id) => id < before);
    const page = older.slice(0, limit);
    const messages = (await Promise.all(page.map((id) => this.#load(id)))).filter((message) => message !== undefined);
    return { messages, next: older.length > page.length ? page.at(-1) : undefined };
  }

  async #load(id) {
    const known = this.#read.get(id);
    if (known !== undefined) return known;
    try {
      const { name, text } = JSON.parse(await readFile(this.#path(id), 'utf8'));
      if (typeof name !== 'string' || typeof text !== 'string') throw new Error('it is no message');
      const message = Object.freeze({ id, name, text, at: Number(id.slice(0, 13)) });
      this.#read.set(id, message);
      return message;
    } catch (error) {
      // Another process may have removed it meanwhile. Anything else is left for whoever looks after the volume.
      if (error.code !== 'ENOENT') this.#log.error('a message cannot be read', { id, error: error.message });
      return undefined;
    }
  }

  /**
   * Keeps a message: once this returns, it survives a loss of power. The same key again is the same message, sent twice.
   * @returns {Promise<{ id: string, isNew: boolean }>}
   */
  async add({ name, text }, key = newKey(), now = Date.now()) {
    if (!KEY.test(key)) throw new Error(`not a key: ${key}`);
    const ids = await this.#ids();
    const sent = ids.find((id) => id.endsWith(key));
    if (sent !== undefined) return { id: sent, isNew: false };
    const { id, isNew } = await this.#write(`${String(now).padStart(13, '0')}-${key}`, key, { name, text });
    for (const old of [id, ...ids].sort().reverse().slice(this.#keep)) {
      await gone(this.#path(old));
      await gone(this.#sent(old.slice(-16)));
    }
    return { id, isNew };
  }

  /** Two that send the same at the same time agree by the name that only one of them can link. */
  async #write(id, key, message) {
    const unfinished = join(this.#folder, UNFINISHED + newKey());
    let isNew = true;
    try {
      await this.#onDisk(unfinished, JSON.stringify({ ...message, id }));
      isNew = await linked(unfinished, this.#sent(key));
    } finally {
      await gone(unfinished);
    }
    if (!isNew) id = await this.#idOf(key);
    // It may be among the oldest, and gone already.
    await linked(this.#sent(key), this.#path(id)).catch((error) => {
      if (error.code !== 'ENOENT') throw error;
    });
    const folder = await open(this.#folder, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
    return { id, isNew };
  }

  async #idOf(key) {
    const { id } = JSON.parse(await readFile(this.#sent(key), 'utf8'));
    if (!isId(id) || !id.endsWith(key)) throw new Error(`${SENT}${key} names no message`);
    return id;
  }

  async #onDisk(path, content) {
    const file = await open(path, 'wx', 0o640);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
  }

  /** Fails if a message could not be kept now. */
  async probe() {
    const path = join(this.#folder, UNFINISHED + newKey());
    try {
      const file = await open(path, 'wx', 0o640);
      await file.writeFile('{}').finally(() => file.close());
    } finally {
      await gone(path);
    }
  }

  #path(id) {
    return join(this.#folder, id + SUFFIX);
  }

  #sent(key) {
    return join(this.#folder, SENT + key);
  }
}

/** Whether the name was free. */
async function linked(path, name) {
  try {
    await link(path, name);
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    return false;
  }
}

async function gone(path) {
  try {
    await unlink(path);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}
