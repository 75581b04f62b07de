// Markdown to elements. What the model writes only ever becomes text nodes and the elements made here, never HTML.

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(\S(?:[\s\S]*?\S)?)\*\*|(?<![*\w])\*(\S(?:[^*]*?[^\s*])?)\*(?![*\w])|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The nodes of a line: code, bold, italic, links to http and https. */
function inline(text) {
  const nodes = [];
  let rest = text;
  for (;;) {
    const match = INLINE.exec(rest);
    if (!match) break;
    if (match.index > 0) nodes.push(rest.slice(0, match.index));
    const [whole, ticks, code, bold, italic, label, address] = match;
    if (ticks) nodes.push(element("code", {}, code));
    else if (bold) nodes.push(element("strong", {}, ...inline(bold)));
    else if (italic) nodes.push(element("em", {}, ...inline(italic)));
    else nodes.push(element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label));
    rest = rest.slice(match.index + whole.length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function withBreaks(lines) {
  return lines.flatMap((line, i) => (i ? [element("br"), ...inline(line)] : inline(line)));
}

export function codeBlock(code, language, copyButton) {
  const head = element("div", { class: "code-head" }, element("span", {}, language || "code"), copyButton(() => code));
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, element("code", {}, code)));
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const BULLET = /^(\s*)[-*+]\s+(.*)$/;
const NUMBER = /^(\s*)(\d{1,9})[.)]\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;

const startsBlock = (line) => [FENCE, HEADING, BULLET, NUMBER, QUOTE, RULE].some((pattern) => pattern.test(line));

/** Nodes for `text`. `copyButton(getText)` makes the button of a code block. A block that is not closed yet is one all the same. */
export function markdown(text, copyButton) {
  const lines = text.split("\n");
  const nodes = [];
  let at = 0;

  function takeWhile(condition) {
    const begin = at;
    while (at < lines.length && condition(lines[at])) at += 1;
    return lines.slice(begin, at);
  }

  function fence([, marks, language]) {
    at += 1;
    const code = takeWhile((line) => !(line.trim().startsWith(marks) && /^[`~]+$/.test(line.trim())));
    at += 1;
    return codeBlock(code.join("\n"), language, copyButton);
  }

  function list(pattern, tag) {
    const made = element(tag);
    const first = pattern.exec(lines[at]);
    if (tag === "ol") made.setAttribute("start", first[2]);
    const depth = first[1].length;
    while (at < lines.length) {
      const match = pattern.exec(lines[at]);
      if (!match || match[1].length < depth || RULE.test(lines[at])) break;
      const own = [match.at(-1)];
      at += 1;
      const deeper = takeWhile((line) => line.trim() !== "" && line.search(/\S/) > depth);
      const indent = Math.min(...deeper.map((line) => line.search(/\S/)));
      const item = element("li", {}, ...inline(own[0]));
      if (deeper.length) item.append(...markdown(deeper.map((line) => line.slice(indent)).join("\n"), copyButton));
      made.append(item);
      const blank = at;
      takeWhile((line) => line.trim() === "");
      if (at >= lines.length || !pattern.test(lines[at])) {
        at = blank;
        break;
      }
    }
    return made;
  }

  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (line.trim() === "") at += 1;
    else if ((match = FENCE.exec(line))) nodes.push(fence(match));
    else if ((match = HEADING.exec(line))) {
      nodes.push(element(`h${Math.min(match[1].length + 2, 6)}`, {}, ...inline(match[2])));
      at += 1;
    } else if (RULE.test(line)) {
      nodes.push(element("hr"));
      at += 1;
    } else if (QUOTE.test(line)) {
      const quoted = takeWhile((next) => QUOTE.test(next)).map((next) => QUOTE.exec(next)[1]);
      nodes.push(element("blockquote", {}, ...markdown(quoted.join("\n"), copyButton)));
    } else if (BULLET.test(line)) nodes.push(list(BULLET, "ul"));
    else if (NUMBER.test(line)) nodes.push(list(NUMBER, "ol"));
    else {
      const first = lines[at];
      at += 1;
      nodes.push(element("p", {}, ...withBreaks([first, ...takeWhile((next) => next.trim() !== "" && !startsBlock(next))])));
    }
  }
  return nodes;
}
