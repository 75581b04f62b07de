// What outlives a reload beside the conversations. Where the browser stores nothing, it lasts as long as the page.

const KEYS = { settings: "settings", theme: "theme", session: "session", model: "model" };

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
    else storage.setItem(key, JSON.stringify(value));
  } catch {
    // Full or switched off.
  }
}

/** What the user has set; what is missing is the server's to choose. */
export function loadSettings() {
  const settings = read(localStorage, KEYS.settings, {});
  return settings && typeof settings === "object" && !Array.isArray(settings) ? settings : {};
}

export const saveSettings = (settings) => write(localStorage, KEYS.settings, settings);
/** The name of the session that is gone on with, "" for a plain conversation, null for none. */
export function loadSession() {
  const name = read(localStorage, KEYS.session, null);
  return typeof name === "string" ? name : null;
}

export const saveSession = (name) => write(localStorage, KEYS.session, name);
/** The id of the model that was chosen. */
export const loadModel = () => read(localStorage, KEYS.model, null);
export const saveModel = (id) => write(localStorage, KEYS.model, id);
/** Whether a part of the page is shown. */
export const loadFlag = (name, fallback) => read(localStorage, `show-${name}`, fallback) === true;
export const saveFlag = (name, shown) => write(localStorage, `show-${name}`, shown);
/** The conversation that this tab shows: its id, "" for a new one, null if the tab is new. */
export const loadOpenChat = () => read(sessionStorage, "chat", null);
export const saveOpenChat = (id) => write(sessionStorage, "chat", id);
/** "light" or "dark", null for the system's; theme.js reads it as well. */
export const loadTheme = () => read(localStorage, KEYS.theme, null);
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

export const saveToken = (token) => write(sessionStorage, "token", token);
