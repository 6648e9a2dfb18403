export const MAX_NAME = 40;
export const MAX_TEXT = 1000;

const segments = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** As people count them: what is drawn as one character is one, however many code points it takes. */
function length(text) {
  let count = 0;
  for (const _ of segments.segment(text)) count += 1;
  return count;
}

/** UTF-16 units that a character may take on average: a family of four takes eleven, some others have no end. */
const MAX_UNITS = 12;

const fits = (text, max) => text.length <= max * MAX_UNITS && length(text) <= max;

/** More marks on one letter than any language puts there run over the lines around them. */
const STACKED = /(\p{M}{4})\p{M}+/gu;

/** Control characters, and those that turn the direction of what comes after them. */
const UNSEEN = /[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

function clean(value) {
  if (typeof value !== 'string') return '';
  // Through UTF-8, which has no halves of characters: what comes back from the disk is what is shown now.
  const whole = Buffer.from(value).toString();
  return whole.normalize('NFC').replace(/\r\n?/g, '\n').replace(STACKED, '$1');
}

function line(value) {
  return clean(value).replace(/\s+/g, ' ').replace(UNSEEN, '').trim();
}

function paragraphs(value) {
  const lines = clean(value)
    .replaceAll('\t', '  ')
    .split('\n')
    .map((each) => each.replace(UNSEEN, '').trimEnd());
  return lines
    .join('\n')
    .replace(/\n{3,}/g, '\n\n')
    .replace(/^\n+|\s+$/g, '');
}

/** What is drawn; joiners and variation selectors alone are nothing to read. */
const visible = (text) => /[^\s\p{Cf}\p{Mn}]/u.test(text);

/**
 * What a client sent, once it is something that the board keeps. `wrong` says by field what is not.
 * @param {{ name?: unknown, text?: unknown }} given
 * @returns {{ message: { name: string, text: string }, wrong: Record<string, string> }}
 */
export function parse(given) {
  const message = { name: line(given?.name), text: paragraphs(given?.text) };
  const wrong = {};
  if (!visible(message.name)) wrong.name = 'Say who you are.';
  else if (!fits(message.name, MAX_NAME)) wrong.name = `A name has at most ${MAX_NAME} characters.`;
  if (!visible(message.text)) wrong.text = 'Write something.';
  else if (!fits(message.text, MAX_TEXT)) wrong.text = `A message has at most ${MAX_TEXT} characters.`;
  return { message, wrong };
}
