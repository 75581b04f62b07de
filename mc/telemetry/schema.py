"""Schema of telemetry: all events and attributes that can be sent.

An event is a span whose name is the event's type; attribute `build_ms` of its payload becomes `mc.build_ms`. All values are
numbers, lists of whole numbers or words of a fixed list. There is no kind for free text and no attribute for tokens, so no prompt,
path, URL or credential can be sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

MOST_RUNS = 256  # of a layout in an event, and so the maximum length of a list
PREFIX = "mc."
COUNT_LIMIT = 1 << 63  # OTLP's whole numbers have 64 bits

ValueType = Literal["count", "number", "counts", "word"]
Value = int | float | str | list[int]


class Attribute(NamedTuple):
    """Attribute of an event: its meaning with the unit, and the kind of its value.

    A `count` is a whole number, a `number` any finite one, `counts` at most `MOST_RUNS` whole numbers, a `word` one of `words`.
    """

    meaning: str
    kind: ValueType = "count"
    words: tuple[str, ...] = ()


class EventType(NamedTuple):
    """Type of event. `lasts` names the attribute with the span's duration in milliseconds; without it the duration is 0."""

    meaning: str
    attributes: Mapping[str, Attribute]
    lasts: str = ""


class TelemetryEvent(NamedTuple):
    """An event of the session `session_id`, any text, which is sent as a hash only.

    `event_type` and the keys of `payload` are those of `EVENTS`.
    """

    session_id: str
    event_type: str
    payload: Mapping[str, Any]


def _ms(meaning: str) -> Attribute:
    return Attribute(f"{meaning}, ms", "number")


WHERE = {"where": Attribute("what the event is about: a training row, or a session", "word", ("row", "session"))}
STEP = {"step": Attribute("training step; not of sessions, steps")}
# Of the process that sends, with every event.
COMMON = {
    "dropped_events": Attribute("events that this process could not send so far, events"),
    "redacted_values": Attribute("values that were left out because they are not on this list, so far, values"),
}
EVENTS: Mapping[str, EventType] = {
    "mc_timing": EventType(
        "time of the parts of a training step; means over the steps since the last log",
        STEP
        | {
            "tokens": Attribute("tokens trained on so far, tokens"),
            "tokens_per_step": Attribute("tokens of a step, tokens"),
            "tok_per_sec": Attribute("tokens of rows trained on, tokens/s", "number"),
            "step_ms": _ms("a whole step"),
            "build_ms": _ms("building the trees, GistNet included"),
            "positional_ms": _ms("positions of the variants"),
            "variant_ms": _ms("choosing the variants"),
            "variant_pack_ms": _ms("gathering the variants' entries and targets"),
            "lens_loss_ms": _ms("LensNet's loss, including its passes"),
            "lens_forward_ms": _ms("LensNet's passes"),
            "lens_ms": _ms("alias of lens_loss_ms"),
            "other_ms": _ms("the controller's metrics"),
            "time_controller_ms": _ms("the controller without the passes of its networks"),
            "data_ms": _ms("waiting for rows"),
            "forward_ms": _ms("forward passes of the model, rows and variants"),
            "backward_ms": _ms("backward passes"),
            "optimizer_ms": _ms("the optimizer"),
        },
        lasts="step_ms",
    ),
    "mc_tree_snapshot": EventType(
        "size of a tree",
        WHERE
        | STEP
        | {
            "tokens": Attribute("tokens that the tree holds, tokens"),
            "block_size": Attribute("children of a node, nodes"),
            "max_lod": Attribute("highest level that it may have, levels"),
            "nodes": Attribute("nodes of each level from LOD1 up, nodes", "counts"),
            "tree": Attribute("storage of the gists", "word", ("ram", "disk")),
        },
    ),
    "working_context_snapshot": EventType(
        "layout of a Working Context; in training, of one of the variants of the newest micro-batch",
        WHERE
        | STEP
        | {
            "tokens": Attribute("tokens that it stands for, tokens"),
            "entries": Attribute("entries, entries"),
            "budget": Attribute("most entries it may have, entries"),
            "residency": Attribute("entries / budget, share", "number"),
            "recent": Attribute("newest tokens that stay raw, tokens"),
            "entries_per_lod": Attribute("entries of each level from LOD0 up, entries", "counts"),
            "layout_lod": Attribute("level of each run of entries of one level, in order, levels", "counts"),
            "layout_start": Attribute("first token of each run, tokens", "counts"),
            "layout_count": Attribute("entries of each run, entries", "counts"),
            "layout_runs": Attribute(f"number of runs; beyond {MOST_RUNS} neighbours are merged, runs"),
        },
    ),
    "focus_allocator": EventType(
        "edits of the focus; in training, the quality of LensNet's scores",
        WHERE
        | STEP
        | {
            "refocuses": Attribute("refocuses since the session was opened, refocuses"),
            "expanded": Attribute("nodes expanded since the last such event, nodes"),
            "collapsed": Attribute("nodes made by collapsing since the last such event, nodes"),
            "swap_rate": Attribute("blocks edited / blocks, of the newest refocus, share", "number"),
            "residency": Attribute("entries / budget after it, share", "number"),
            "refocus_ms": _ms("the newest refocus"),
            "lens_loss": Attribute("LensNet's loss, nats", "number"),
            "lens_pairs": Attribute("pairs of variants that a row's loss is made of, pairs", "number"),
            "policy_score_abs_mean": Attribute("mean size of LensNet's scores, 1", "number"),
            "policy_score_std_mean": Attribute("spread of LensNet's scores within a layout, 1", "number"),
            "preference_corr_mean": Attribute("correlation of preference and harm; -1 is perfect, 1", "number"),
            "adv_delta_mean": Attribute("mean loss of the variants above their rows', nats", "number"),
        },
        lasts="refocus_ms",
    ),
    "inference_update": EventType(
        "a turn of a conversation, or a document that was read",
        {
            "tokens": Attribute("tokens of the history after it, tokens"),
            "new_tokens": Attribute("tokens that it added, tokens"),
            "reply_tokens": Attribute("of these, tokens of the reply, tokens"),
            "entries": Attribute("entries of the Working Context after it, entries"),
            "residency": Attribute("entries / budget after it, share", "number"),
            "swap_rate": Attribute("of the newest refocus, share", "number"),
            "refocuses": Attribute("refocuses during it, refocuses"),
            "refocus_ms": _ms("all these refocuses"),
            "turn_ms": _ms("the turn"),
            "tok_per_sec": Attribute("new_tokens / turn_ms, tokens/s", "number"),
        },
        lasts="turn_ms",
    ),
    "mc_preflight": EventType("a test that the collector accepts events", {}),
}


def schema() -> dict[str, dict[str, str]]:
    """{event: {attribute: meaning and unit}} of everything that can be sent; attributes have their prefix, as in a trace."""
    return {
        name: {PREFIX + key: attribute.meaning for key, attribute in (COMMON | dict(event.attributes)).items()}
        for name, event in EVENTS.items()
    }


def allowed(event_type: str, payload: Mapping[str, Any]) -> tuple[dict[str, Value], int]:
    """The part of `payload` that may be sent, and the number of other values, whose key or kind is not in the schema.

    Raises `ValueError` for an unknown event type.
    """
    if event_type not in EVENTS:
        raise ValueError(f"invalid telemetry event type {event_type!r}: expected one of {', '.join(EVENTS)}")
    attributes = EVENTS[event_type].attributes
    kept = {key: value for key, value in payload.items() if key in attributes and _fits(attributes[key], value)}
    return kept, len(payload) - len(kept)


def _fits(attribute: Attribute, value: Any) -> bool:
    if attribute.kind == "count":
        return _is_count(value)
    if attribute.kind == "number":
        return type(value) in (int, float) and math.isfinite(value)
    if attribute.kind == "counts":
        whole = type(value) is list and len(value) <= MOST_RUNS and set(map(type, value)) <= {int}
        return whole and (not value or (_is_count(min(value)) and _is_count(max(value))))
    return type(value) is str and value in attribute.words


def _is_count(value: Any) -> bool:
    return type(value) is int and -COUNT_LIMIT <= value < COUNT_LIMIT
