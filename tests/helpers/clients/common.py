"""What the programs share: the server's address and model (their arguments), what they ask, and how they tell what has worked.

The model (`bench.tiny_chat.sum_with_a_tool`) says "Sum:", calls the calculator with 6*7, and says "-done!".
"""

from __future__ import annotations

import json
import sys

URL, MODEL = sys.argv[1:3]
ASK = [{"role": "user", "content": "go"}]
BEFORE, SAID = "Sum:", "Sum:-done!"
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Calculates.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}
CITIES = ("Oslo", "Rome")
SCHEMA = {
    "type": "object",
    "properties": {"to": {"enum": list(CITIES)}, "boxes": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["to", "boxes"],
    "additionalProperties": False,
}
SHIP = {"type": "function", "function": {"name": "ship", "description": "Ships boxes.", "parameters": SCHEMA}}


def works(feature: str, found: object, expected: object = True) -> None:
    """Tells that `feature` works, if what was `found` is as `expected`; otherwise ends the program."""
    if found != expected:
        sys.exit(f"{feature}: found {found!r}; expected {expected!r}")
    print(feature, flush=True)


def is_shipment(text: str) -> bool:
    """True if `text` is JSON of `SCHEMA`."""
    value = json.loads(text)
    return set(value) == {"to", "boxes"} and value["to"] in CITIES and 1 <= value["boxes"] <= 9
