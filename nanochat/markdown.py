"""Values as Markdown. Any string is shown as text: it opens no tag, no fence and no new row or column."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")


def escape(text: str) -> str:
    """`text` on one line with all Markdown and HTML syntax escaped."""
    return _ACTIVE.sub(r"\\\1", " ".join(visible(text).split()))


def visible(text: str) -> str:
    """`text` with control and direction characters spelled as escapes; line feeds and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _spelled(c) for c in text)


def fenced(text: str, language: str = "text") -> str:
    """A code block around any text: its fence is longer than every run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def number(value: Any) -> str:
    """A scalar for a table: thousands separated, six significant digits, yes and no, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """A table; the columns with an index in `right` are right-aligned."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    lines = [[escape(title) for title in header], rule, *([number(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def values(mapping: Mapping[str, Any], level: int = 3) -> list[str]:
    """Blocks of Markdown for free-form values: scalars in one table, then each nested value in a table under a heading of `level`."""
    nests = {key: value for key, value in mapping.items() if isinstance(value, dict) or _is_rows(value)}
    scalars = [(label(key), _joined(value)) for key, value in mapping.items() if key not in nests]
    blocks = [table(("", ""), scalars)] if scalars else []
    for key, nest in nests.items():
        if not nest:
            continue
        rows = nest
        if isinstance(nest, dict):
            named = all(isinstance(value, dict) for value in nest.values())
            rows = [{"": label(name), **value} for name, value in nest.items()] if named else None
        blocks.append(f"{'#' * level} {escape(label(key))}")
        if rows is None:
            blocks.append(table(("", ""), [(label(name), _joined(value)) for name, value in nest.items()]))
        else:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            cells = [[_joined(row.get(name, "")) for name in columns] for row in rows]
            blocks.append(table([label(name) for name in columns], cells, right=range(1, len(columns))))
    return blocks


def label(key: str) -> str:
    """A key in readable form."""
    return key.replace("_", " ")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _joined(value: Any) -> Any:
    """A list of scalars becomes one string; other values stay."""
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value)
    return value


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
