// What outlives a reload: the conversation and the settings. Where the browser stores nothing, they last as long as the page.

const KEYS = { messages: "chat", settings: "settings", theme: "theme", session: "session" };

function read(storage, key, fallback) {
  try {
    const text = storage.getItem(key);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

function write(storage, key, value) {
  try {
    if (value === null) storage.removeItem(key);
    else storage.setItem(key, typeof value === "string" ? value : JSON.stringify(value));
  } catch {
    // Full or switched off.
  }
}

const isPart = (part) => ["text", "python", "python_output"].includes(part?.type) && typeof part.text === "string";
const isMessage = (message) => ["user", "assistant"].includes(message?.role) && Array.isArray(message.parts) && message.parts.every(isPart);

/** The conversation: [{role, parts: [{type, text}], note?}]. What is not one, say of another version, is dropped. */
export function loadMessages() {
  const messages = read(localStorage, KEYS.messages, []);
  return Array.isArray(messages) && messages.every(isMessage) ? messages.filter((message) => message.parts.length) : [];
}

export const saveMessages = (messages) => write(localStorage, KEYS.messages, messages);

/** What the user has set; what is missing is the server's to choose. */
export function loadSettings() {
  const settings = read(localStorage, KEYS.settings, {});
  return settings && typeof settings === "object" && !Array.isArray(settings) ? settings : {};
}

export const saveSettings = (settings) => write(localStorage, KEYS.settings, settings);
/** The name of the session that is gone on with, null for none. */
export function loadSession() {
  const name = read(localStorage, KEYS.session, null);
  return typeof name === "string" ? name : null;
}

export const saveSession = (name) => write(localStorage, KEYS.session, name === null ? null : JSON.stringify(name));
export const saveTheme = (theme) => write(localStorage, KEYS.theme, theme);

/** The token is kept for this tab only. */
export function loadToken() {
  const fromAddress = new URLSearchParams(location.hash.slice(1)).get("token");
  if (fromAddress) {
    saveToken(fromAddress);
    history.replaceState(null, "", location.pathname);
    return fromAddress;
  }
  return read(sessionStorage, "token", null);
}

export const saveToken = (token) => write(sessionStorage, "token", JSON.stringify(token));
