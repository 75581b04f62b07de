// A message as elements.

import { codeBlock, element, markdown } from "./markdown.js";

const NAMES = { user: "You", assistant: "Assistant" };

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function iconButton(name, label, action) {
  const button = element("button", { type: "button", class: "icon small", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", action);
  return button;
}

/** A button that copies what `getText()` gives and says so. */
export function copyButton(getText) {
  const button = iconButton("copy", "Copy", async () => {
    try {
      await navigator.clipboard.writeText(getText());
    } catch {
      copyBySelection(getText());
    }
    button.replaceChildren(icon("check"));
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", "Copy");
    }, 1500);
  });
  return button;
}

/** Without https the clipboard is only open to what is selected. */
function copyBySelection(text) {
  const area = element("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export const textOf = (parts) => parts.filter((part) => part.type === "text").map((part) => part.text).join("");

/** The parts of a reply: text, and cards of what a tool was given and gave back. */
export function replyNodes(parts) {
  const nodes = [];
  parts.forEach((part, i) => {
    if (part.type === "text") {
      nodes.push(...markdown(part.text, copyButton));
    } else if (part.type === "python") {
      const card = element("div", { class: "tool", role: "group", "aria-label": "Tool call" }, codeBlock(part.text, "Tool call", copyButton));
      const next = parts[i + 1];
      if (next?.type === "python_output") card.append(result(next.text));
      nodes.push(card);
    } else if (parts[i - 1]?.type !== "python") {
      nodes.push(element("div", { class: "tool" }, result(part.text)));
    }
  });
  return nodes;
}

function result(text) {
  return element("div", { class: "tool-result" }, element("span", {}, "Result"), element("pre", { tabindex: "0" }, text));
}

/**
 * The element of a message; `actions` is {edit, again}, functions, or null where it cannot be changed. The element's `show(message)` draws its content anew.
 */
export function messageElement(message, actions) {
  const body = element("div", { class: "body" });
  const made = element("article", { class: `message ${message.role}`, "aria-label": NAMES[message.role] }, body);
  made.show = (current, writing = false) => {
    if (current.role === "user") body.textContent = textOf(current.parts);
    else body.replaceChildren(...replyNodes(current.parts));
    if (writing) (body.lastElementChild?.matches("p") ? body.lastElementChild : body).append(element("span", { class: "caret", "aria-label": "writing" }));
    if (!writing && current.note) body.append(element("p", { class: "aside" }, current.note));
    made.classList.toggle("writing", writing);
  };
  const bar = element("div", { class: "actions" }, copyButton(() => textOf(message.parts)));
  if (!actions) made.append(bar);
  else if (message.role === "user") bar.append(iconButton("edit", "Edit", actions.edit));
  else bar.append(iconButton("again", "Regenerate", actions.again));
  made.append(bar);
  made.show(message);
  return made;
}

/** Turns the element of a message into a field to edit it; `send(text)` and `cancel()` end that. */
export function editMessage(made, text, send, cancel) {
  const area = element("textarea", { "aria-label": "Edit your message", rows: "1" });
  area.value = text;
  const cancelButton = element("button", { type: "button", class: "plain" }, "Cancel");
  const form = element(
    "form",
    { class: "edit" },
    area,
    element("div", { class: "edit-foot" }, cancelButton, element("button", { type: "submit", class: "primary" }, "Send")),
  );
  const finish = () => {
    if (area.value.trim()) send(area.value);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    finish();
  });
  cancelButton.addEventListener("click", cancel);
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

/** Whether a key press means to send: Enter alone, and not the one that ends the composing of a character. */
export const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

/** Makes a text area as high as its text. */
export function grow(area) {
  area.addEventListener("input", () => resize(area));
}

export function resize(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}
