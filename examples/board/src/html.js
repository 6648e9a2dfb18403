const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** Text that is HTML already; made only by `html`. */
class Html {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

function shown(value) {
  if (value instanceof Html) return value.text;
  if (Array.isArray(value)) return value.map(shown).join('');
  if (value === undefined || value === null || value === false) return '';
  return String(value).replace(/[&<>"']/g, (c) => ENTITIES[c]);
}

/** A template whose values are escaped, in text and in quoted attributes, unless they come out of `html` themselves. */
export function html(parts, ...values) {
  return new Html(parts.reduce((text, part, i) => text + shown(values[i - 1]) + part));
}
