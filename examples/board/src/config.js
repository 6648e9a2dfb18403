const DEFAULT_PORT = 8000;

/** Messages kept; beyond it the oldest go. Every page reads the folder, so that it must not grow without bound. */
const DEFAULT_KEEP = 1000;
const MAX_KEEP = 10_000;

/**
 * Reads the environment. Throws one error that names everything that is wrong.
 * @param {Record<string, string | undefined>} env
 */
export function configFrom(env) {
  const wrong = [];
  const integer = (name, fallback, min, max) => {
    const text = env[name];
    if (text === undefined || text === '') return fallback;
    const value = /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max))
      wrong.push(`${name} is ${JSON.stringify(text)}, not a number from ${min} to ${max}`);
    return value;
  };
  const config = {
    /** 0: any free one. */
    port: integer('PORT', DEFAULT_PORT, 0, 65_535),
    keep: integer('BOARD_KEEP', DEFAULT_KEEP, 1, MAX_KEEP),
    folder: env.BOARD_DATA || env.BOWLINE_VOLUME_MESSAGES || 'data',
    title: env.BOARD_TITLE || 'Board',
  };
  if (wrong.length > 0) throw new Error(wrong.join('; '));
  return config;
}
