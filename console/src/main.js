// The page: follows the daemon and draws what it tells.

import { begin, lost, opened, tell, verdict } from "./model.js";
import { h, render } from "./preact.js";
import { follow } from "./stream.js";
import { Console } from "./view.js";

const root = /** @type {HTMLElement} */ (document.getElementById("console"));
const model = begin();
/** @type {string | null} */
let page = null;
let waiting = false;

root.replaceChildren();
draw();
follow("/console/live", {
  opened() {
    opened(model);
  },
  told(name, data) {
    if (name === "status") {
      // A daemon of another binary has another page.
      if (page !== null && page !== data.page) return location.reload();
      page = data.page;
    }
    tell(model, name, data);
    draw();
  },
  refused({ error, hint }) {
    model.contact = { kind: "refused", error, hint };
    draw();
  },
  lost(ended) {
    lost(model, Date.now(), ended);
    draw();
  },
});

/** @param {import("./model.js").Range} range */
function look(range) {
  model.range = range;
  draw();
}

/** Once for all that is told together. */
function draw() {
  if (waiting) return;
  waiting = true;
  queueMicrotask(() => {
    waiting = false;
    const { tone, text } = verdict(model);
    const mark = { good: "✓", busy: "…", warn: "!", bad: "✕", idle: "·" }[tone];
    document.title = `${mark} ${text} – Bowline`;
    render(h(Console, { model, look }), root);
  });
}
