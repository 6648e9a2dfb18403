// Numbers and times as people read them.

/** @param {number} count @param {string} one @param {string} [more] */
export function counted(count, one, more = `${one}s`) {
  return `${count} ${count === 1 ? one : more}`;
}

/** @param {number} bytes */
export function bytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** @param {number} ms */
export function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** What is left of a time: `1:12`; what has begun counts whole. @param {number} ms */
export function left(ms) {
  const seconds = Math.ceil(Math.max(0, ms) / 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** Requests in a second. @param {number} rate */
export function rate(rate) {
  if (Number.isInteger(rate) && rate < 10) return `${rate}/s`;
  if (rate < 0.1) return "< 0.1/s";
  if (rate < 10) return `${rate.toFixed(1)}/s`;
  if (rate < 10_000) return `${Math.round(rate)}/s`;
  return `${Math.round(rate / 1000)}k/s`;
}

/** The daemon's smallest and largest bucket, in milliseconds: beyond them it does not know. */
export const FASTEST = 5;
export const SLOWEST = 10_000;

/** A time of answers. @param {number | null} ms */
export function latency(ms) {
  if (ms === null) return "–";
  if (ms <= FASTEST) return `< ${FASTEST} ms`;
  if (ms >= SLOWEST) return `> ${SLOWEST / 1000} s`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** A share of one processor. @param {number} share */
export function processor(share) {
  const percent = share * 100;
  if (percent < 0.05) return "0%";
  return `${percent < 9.95 ? percent.toFixed(1) : Math.round(percent)}%`;
}

/** A moment in the reader's time zone; with its day where that is not today. @param {number} at @param {number} now */
export function moment(at, now) {
  const [then, today] = [new Date(at), new Date(now)];
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  if (then.toDateString() === today.toDateString()) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

/** @param {string[]} names */
export function listed(names) {
  if (names.length <= 2) return names.join(" and ");
  return `${names[0]}, ${names[1]} and ${names.length - 2} more`;
}
