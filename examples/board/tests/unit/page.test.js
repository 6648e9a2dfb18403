import assert from 'node:assert/strict';
import { test } from 'node:test';
import { html } from '../../src/html.js';
import { ago, board, notice } from '../../src/page.js';

const NOW = Date.UTC(2026, 10, 21, 12);
const HOSTILE = `"><script>alert('x')</script>&`;

const shown = (parts) =>
  board({ title: 'Board', page: { messages: [], next: undefined }, count: 0, key: 'k', now: NOW, ...parts });

test('values are escaped once, in text and in attributes', () => {
  assert.equal(`${html`<a title="${`"'`}">${'<&>'}</a>`}`, '<a title="&quot;&#39;">&lt;&amp;&gt;</a>');
  assert.equal(`${html`${[html`<i>${'&'}</i>`, '<']}${undefined}${false}${0}`}`, '<i>&amp;</i>&lt;0');
});

test('nothing that anyone wrote becomes markup', () => {
  const message = { id: '1', name: HOSTILE, text: HOSTILE, at: NOW };
  const pages = [
    shown({ title: HOSTILE, page: { messages: [message], next: HOSTILE }, before: HOSTILE, key: HOSTILE }),
    shown({ given: { name: HOSTILE, text: HOSTILE }, wrong: { name: HOSTILE, text: HOSTILE } }),
    notice(HOSTILE, HOSTILE),
  ];
  for (const page of pages) {
    assert.ok(
      page.includes('&lt;script&gt;alert(&#39;x&#39;)') && !page.includes('<script') && !page.includes('">"'),
      page,
    );
  }
});

test('what was typed is still there when it is refused, and the field says why', () => {
  const page = shown({ given: { name: '', text: '\nkept' }, wrong: { name: 'Say who you are.' } });
  assert.match(page, /role="alert"/);
  assert.match(page, /<input id="name"[^>]*aria-describedby="name-hint name-wrong" aria-invalid="true">/);
  // The first line end in a textarea is not part of its text.
  assert.ok(page.includes('>\n\nkept</textarea>'), page);
});

test('how long ago', () => {
  const cases = [
    [0, 'just now'],
    [-5_000, 'just now'],
    [60_000, '1 minute ago'],
    [59 * 60_000, '59 minutes ago'],
    [3_600_000, '1 hour ago'],
    [50 * 3_600_000, '2 days ago'],
    [8 * 86_400_000, '13 Nov 2026, 12:00 UTC'],
  ];
  for (const [age, words] of cases) assert.equal(ago(NOW - age, NOW), words);
});
