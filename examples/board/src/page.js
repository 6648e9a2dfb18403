import { createHash } from 'node:crypto';
import { html } from './html.js';
import { MAX_NAME, MAX_TEXT } from './message.js';

/** Colours of the style sheet that names are drawn in. */
const COLOURS = 8;

const UNITS = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
];
const AGO = new Intl.RelativeTimeFormat('en', { numeric: 'always' });
const DATE = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short', timeZone: 'UTC' });
const GRAPHEMES = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** How long ago, for people; the date once it is more than a week. */
export function ago(at, now) {
  const age = now - at;
  if (age < 60_000) return 'just now';
  if (age > 7 * 86_400_000) return `${DATE.format(at)} UTC`;
  const [unit, size] = UNITS.find(([, size]) => age >= size);
  return AGO.format(-Math.floor(age / size), unit);
}

const colour = (name) => createHash('sha256').update(name.toLowerCase()).digest()[0] % COLOURS;

const initial = (name) => [...GRAPHEMES.segment(name)][0]?.segment.toUpperCase();

function field({ id, label, hint, wrong, control }) {
  return html`<div class="field">
<label for="${id}">${label}</label>
${control(html`aria-describedby="${id}-hint${wrong && ` ${id}-wrong`}"${wrong && html` aria-invalid="true"`}`)}
<p class="hint" id="${id}-hint">${hint}</p>
${wrong && html`<p class="wrong" id="${id}-wrong">${wrong}</p>`}
</div>`;
}

function form({ given, wrong, key }) {
  return html`<form method="post" action="/" class="card" aria-labelledby="write">
<h2 id="write">Write a message</h2>
<input type="hidden" name="key" value="${key}">
${field({
  id: 'name',
  label: 'Your name',
  hint: `Up to ${MAX_NAME} characters, seen by everyone.`,
  wrong: wrong.name,
  control: (described) =>
    html`<input id="name" name="name" value="${given.name}" required maxlength="${MAX_NAME}" autocomplete="nickname" ${described}>`,
})}
${field({
  id: 'text',
  label: 'Message',
  hint: `Up to ${MAX_TEXT} characters. Plain text; line breaks stay.`,
  wrong: wrong.text,
  control: (described) =>
    html`<textarea id="text" name="text" rows="4" required maxlength="${MAX_TEXT}" dir="auto" ${described}>${'\n'}${given.text}</textarea>`,
})}
<button type="submit">Post</button>
</form>`;
}

function article(message, now, isNew) {
  return html`<li><article id="m-${message.id}" class="card message${isNew && ' new'}" aria-labelledby="by-${message.id}">
<span class="disc c${colour(message.name)}" aria-hidden="true">${initial(message.name)}</span>
<div>
<header><h3 id="by-${message.id}"><bdi>${message.name}</bdi></h3>
<time datetime="${new Date(message.at).toISOString()}" title="${DATE.format(message.at)} UTC">${ago(message.at, now)}</time></header>
<p class="text" dir="auto">${message.text}</p>
</div>
</article></li>
`;
}

function messages({ messages, next, count, before, posted, now }) {
  const older = next && html`<a class="button" rel="next" href="/?before=${next}">Older messages</a>`;
  const newest = before && html`<a class="button" href="/">Newest messages</a>`;
  return html`<section aria-labelledby="messages">
<h2 id="messages">Messages <span class="count">${count}</span></h2>
${
  messages.length === 0
    ? html`<p class="empty">Nothing here yet. The first message is yours.</p>`
    : html`<ol class="messages">${messages.map((message) => article(message, now, message.id === posted))}</ol>`
}
${(older || newest) && html`<nav aria-label="Pages">${newest}${older}</nav>`}
</section>`;
}

/** The board: what can be written, and one page of what was. */
export function board({ title, page, count, before, posted, key, given = {}, wrong = {}, now }) {
  const isWrong = Object.keys(wrong).length > 0;
  const said = isWrong
    ? html`<p class="said bad" role="alert">Not posted yet: something is missing or too long.</p>`
    : posted &&
      html`<p class="said good" role="status">Your message is on the board. <a href="#m-${posted}">See it</a></p>`;
  const body = html`${said}
${form({ given, wrong, key })}
${messages({ ...page, count, before, posted, now })}`;
  return frame(title, isWrong ? `Not posted: ${title}` : title, body);
}

/** A page that only says something. */
export function notice(title, text) {
  return frame(
    title,
    title,
    html`<p class="said bad" role="alert">${text}</p><p><a class="button" href="/">Back to the board</a></p>`,
  );
}

function frame(title, heading, body) {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${heading}</title>
<link rel="icon" href="/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<a class="skip" href="#messages">Skip to the messages</a>
<header class="top"><div><h1><a href="/">${title}</a></h1><p>Leave a word for whoever comes next.</p></div></header>
<main>
${body}
</main>
</body>
</html>
`.toString();
}
