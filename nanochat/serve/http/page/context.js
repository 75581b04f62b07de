// Which messages of a conversation are sent, where the model cannot take all of them.

import { RequestError, streamReply } from "./api.js";
import { textOf } from "./message.js";

const TOKENS_PER_CHARACTER = 0.3; // until enough was said to tell
const ENOUGH = 200; // characters
const KEEP = 0.75; // of what was too much, so that the beginning does not move with each message
const TOO_LONG = new Set(["context_length_exceeded", "limit_exceeded", "string_too_long"]);

const charactersOf = (messages) => messages.reduce((sum, { parts }) => sum + parts.reduce((all, { text }) => all + text.length, 0), 0);

/** Whether the server refused a request because the messages in it are too long or too many. */
export const isTooLong = (error) => error.status === 413 || (error.param?.startsWith("messages") && TOO_LONG.has(error.code));

/** The index of the first message to send: as in the last reply, or later where that and a reply of `reserve` tokens exceed `limit`. */
export function firstSent(path, limit, reserve) {
  const last = path.findLast(({ usage }) => usage);
  const begin = limit > last?.limit ? 0 : Math.max(0, path.findIndex(({ id }) => id === last?.from)); // another model may take more
  if (!limit || !last) return begin;
  const at = path.indexOf(last);
  const { prompt_tokens: before, completion_tokens: own } = last.usage;
  const characters = charactersOf(path.slice(begin, at));
  const perCharacter = characters < ENOUGH ? TOKENS_PER_CHARACTER : before / characters;
  const expected = before + own + perCharacter * charactersOf(path.slice(at + 1));
  return expected + reserve > limit ? later(path, begin, (KEEP * (limit - reserve)) / expected) ?? path.length - 1 : begin;
}

/** A later beginning than `begin`, with at most `share` of the characters; null if only the last message is left. */
export function later(path, begin, share = KEEP) {
  const most = share * charactersOf(path.slice(begin));
  let first = null;
  for (let i = begin + 1; i < path.length; i += 1) {
    if (path[i].role !== "user") continue;
    first = i;
    if (charactersOf(path.slice(i)) <= most) break;
  }
  return first;
}

/** Turns as the server takes them. */
export function requestMessages(messages, system) {
  const turns = messages.map(({ role, parts }) => ({
    role,
    content: parts.some((part) => part.type !== "text") ? parts.map(({ type, text }) => ({ type, text })) : textOf(parts),
  }));
  return system ? [{ role: "system", content: system }, ...turns] : turns;
}

/**
 * Asks for a reply to `path` from the message at `begin` on, or from a later one if the server finds that too long. `on` is as in
 * `streamReply`; `accepted` gets the index of the first message that was sent.
 */
export async function streamSliding(path, begin, system, body, token, signal, on) {
  for (;;) {
    const from = begin;
    try {
      const messages = requestMessages(path.slice(from), system);
      return await streamReply({ ...body, messages }, token, signal, { ...on, accepted: () => on.accepted(from) });
    } catch (error) {
      const next = error instanceof RequestError && isTooLong(error) ? later(path, from) : null;
      if (next === null) throw error;
      begin = next;
    }
  }
}
