/**
 * One JSON object per line. The message is constant, what changes are fields.
 * @param {(line: string) => void} write
 */
export function logTo(write) {
  const at = (level) => (message, fields) => {
    write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
  };
  return { info: at('info'), warn: at('warn'), error: at('error') };
}
