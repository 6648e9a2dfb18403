import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from '../../src/message.js';

const FAMILY = '👩‍👩‍👧‍👦';

test('what is kept', () => {
  const cases = [
    [' Ann  Lindqvist\n', 'Ann Lindqvist', 'hello', 'hello'],
    ['Ann', 'Ann', '\n\n  one\r\ntwo \r\n\r\n\r\n\r\nthree  \n', '  one\ntwo\n\nthree'],
    ['A\u0000n\u0007n', 'Ann', 'a\u001b[31mb', 'a[31mb'],
    ['\u202eAnn', 'Ann', 'x\u2066y\u2069\u200f', 'xy'],
    ['e\u0301', 'é', 'a\tb', 'a  b'],
    [FAMILY.repeat(40), FAMILY.repeat(40), FAMILY, FAMILY],
    ['a'.repeat(40), 'a'.repeat(40), '<b>&amp;</b>', '<b>&amp;</b>'],
    ['Ann', 'Ann', `Z${'\u0335'.repeat(50)}`, `Z${'\u0335'.repeat(4)}`],
    ['half \ud83d', 'half \ufffd', 'x', 'x'],
  ];
  for (const [name, keptName, text, keptText] of cases) {
    assert.deepEqual(parse({ name, text }), { message: { name: keptName, text: keptText }, wrong: {} });
  }
});

test('what is refused, and for which field', () => {
  const cases = [
    [undefined, ['name', 'text']],
    [{}, ['name', 'text']],
    [{ name: ['a'], text: { b: 1 } }, ['name', 'text']],
    [{ name: 'Ann', text: ' \n\t ' }, ['text']],
    [{ name: '\u200b\u200d', text: '\ufe0f' }, ['name', 'text']],
    [{ name: 'a'.repeat(41), text: 'x' }, ['name']],
    [{ name: 'Ann', text: 'x'.repeat(1001) }, ['text']],
  ];
  for (const [given, fields] of cases) {
    assert.deepEqual(Object.keys(parse(given).wrong), fields, JSON.stringify(given)?.slice(0, 60));
  }
});

test('lengths are counted as people see them', () => {
  const wrong = (text) => Object.keys(parse({ name: 'Ann', text }).wrong);
  assert.deepEqual([wrong(FAMILY.repeat(1000)), wrong(FAMILY.repeat(1001))], [[], ['text']]);
  // One character to look at, but without end.
  assert.deepEqual(wrong(`a${'\u200da'.repeat(6001)}`), ['text']);
});
