// Elements that several parts of the page are made of, and how numbers are written.

export const byId = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat("en-US");

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

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

export function textButton(label, action) {
  const button = element("button", { type: "button", class: "plain" }, label);
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

let toastEnds = 0;
/** A line that goes away by itself, with a button to undo where that is possible. */
export function toast(text, undo = null) {
  const box = byId("toast");
  const button = box.querySelector("button");
  box.firstElementChild.textContent = text;
  box.hidden = false;
  button.hidden = undo === null;
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => (box.hidden = true), undo ? 8000 : 4000);
  button.onclick = () => {
    box.hidden = true;
    undo();
  };
}
