// A message as elements.

import { copyButton, element, grow, iconButton, isSend, number, resize, textButton } from "./elements.js";
import { FormattedText } from "./formatted.js";

export const NAMES = { user: "You", assistant: "Assistant" };

export const textOf = (parts) => parts.filter((part) => part.type === "text").map((part) => part.text).join("");

// What scrolls must be reached with the keyboard.
const scrolls = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollHeight > target.clientHeight + 1) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

/** How many tokens a reply has, how fast they came, and how full the context was: "40 tokens · 12 tokens/s · context 100 / 2,048". */
function statsText({ usage, seconds, limit }) {
  if (!usage) return "";
  const { prompt_tokens: before, completion_tokens: own } = usage;
  const speed = seconds > 0 && own > 1 ? [`${number.format(Number((own / seconds).toPrecision(2)))} tokens/s`] : [];
  const context = limit ? [`context ${number.format(before + own)} / ${number.format(limit)}`] : [];
  return [`${number.format(own)} ${own === 1 ? "token" : "tokens"}`, ...speed, ...context].join(" · ");
}

function result(text) {
  return element("div", { class: "tool-result" }, element("span", {}, "Result"), element("pre", { tabindex: "0" }, text));
}

function toolCall(code) {
  const head = element("div", { class: "code-head" }, element("span", {}, "Tool call"), copyButton(() => code));
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, element("code", {}, code)));
}

/** The body of a reply: texts, which stay the same elements while they grow, and cards of what a tool was given and gave back. */
class Reply {
  constructor(body, actions) {
    this.body = body;
    this.actions = actions;
    this.texts = [];
  }

  show(message, writing) {
    const nodes = [];
    message.parts.forEach((part, i) => {
      if (part.type === "text") {
        const text = (this.texts[i] ??= new FormattedText(this.actions.fetchHtml, this.actions.changed));
        nodes.push(text.element);
        text.set(part.text, writing && i === message.parts.length - 1);
      } else if (part.type === "python") {
        const next = message.parts[i + 1];
        const after = next?.type === "python_output" ? [result(next.text)] : [];
        nodes.push(element("div", { class: "tool", role: "group", "aria-label": "Tool call" }, toolCall(part.text), ...after));
      } else if (message.parts[i - 1]?.type !== "python") {
        nodes.push(element("div", { class: "tool" }, result(part.text)));
      }
    });
    if (!writing && message.note) nodes.push(element("p", { class: "aside" }, message.note));
    if (nodes.length === this.body.childNodes.length && nodes.every((node, i) => node === this.body.childNodes[i])) return;
    this.body.replaceChildren(...nodes);
  }
}

/** The buttons that lead to the other versions of a message. */
function versions(all, message, choose) {
  const at = all.indexOf(message);
  const step = (name, label, to) => {
    const button = iconButton(name, label, () => choose(all[to]));
    button.disabled = !all[to];
    return button;
  };
  const count = element("span", { class: "count", "aria-label": `Version ${at + 1} of ${all.length}` }, `${at + 1} / ${all.length}`);
  return element(
    "div",
    { class: "versions", role: "group", "aria-label": "Versions" },
    step("left", "Earlier version", at - 1),
    count,
    step("right", "Later version", at + 1),
  );
}

/**
 * The element of a message. `actions` has {fetchHtml, changed}, and where the message can be changed {edit, again, choose, versions}.
 * The element's `show(message, writing)` draws its content anew.
 */
export function messageElement(message, actions) {
  const body = element("div", { class: "body" });
  const heading = element("h2", { class: "unseen" }, NAMES[message.role]);
  const made = element("article", { class: `message ${message.role}`, "aria-label": NAMES[message.role] }, heading, body);
  const reply = message.role === "assistant" ? new Reply(body, actions) : null;
  const stats = reply ? element("span", { class: "stats" }) : null;
  made.show = (current, writing = false) => {
    if (reply) {
      reply.show(current, writing);
      stats.textContent = statsText(current);
    } else body.replaceChildren(textOf(current.parts), ...(current.note ? [element("p", { class: "aside" }, current.note)] : []));
    made.classList.toggle("writing", writing);
  };
  const bar = element("div", { class: "actions" }, copyButton(() => textOf(message.parts)));
  if (actions.edit && !reply) bar.append(iconButton("edit", "Edit", actions.edit));
  if (actions.again && reply) bar.append(iconButton("again", "Regenerate", actions.again));
  if (actions.versions?.length > 1) bar.append(versions(actions.versions, message, actions.choose));
  if (reply) bar.append(stats);
  else scrolls.observe(body);
  made.append(bar);
  made.show(message);
  return made;
}

/** Turns the element of a message into a field to edit it; `send(text)` and `cancel()` end that. */
export function editMessage(made, text, send, cancel) {
  const area = element("textarea", { "aria-label": "Edit your message", rows: "1" });
  area.value = text;
  const buttons = element("div", { class: "edit-foot" }, textButton("Cancel", cancel), element("button", { type: "submit", class: "primary" }, "Send"));
  const form = element("form", { class: "edit" }, area, buttons);
  const finish = () => {
    if (area.value.trim()) send(area.value);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    finish();
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (isSend(event)) {
      event.preventDefault();
      finish();
    }
  });
  grow(area);
  made.classList.add("editing");
  made.replaceChildren(form);
  resize(area);
  area.focus();
  area.setSelectionRange(text.length, text.length);
}
