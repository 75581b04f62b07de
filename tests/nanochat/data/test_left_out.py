"""The list of what was left out: counts, first names, one line, and back from JSON."""

from __future__ import annotations

import json

from nanochat.data.left_out import LeftOut


def some() -> LeftOut:
    left_out = LeftOut()
    for i in range(12):
        left_out.add("file", "unknown type", f"{i}.pdf")
    left_out.add("file", "test split", "test.jsonl")
    for name in ("a.jsonl", "a.jsonl", "b.jsonl"):
        left_out.add("document", "empty", name)
    left_out.add("file", "not UTF-8", "c.txt", hint=lambda: "looks like latin-1")
    return left_out


LINE = (
    "14 files left out: 0.pdf, 1.pdf, 2.pdf and 9 more (unknown type); test.jsonl (test split); c.txt looks like latin-1 (not UTF-8); "
    "3 documents left out: 3 in a.jsonl, b.jsonl (empty)"
)


def test_the_line_counts_and_names() -> None:
    assert some().line == LINE and LeftOut().line == ""
    one = LeftOut()
    one.add("file", "unknown type", "a.lz4")
    assert one.line == "1 file left out: a.lz4 (unknown type)"
    one.add("document", "empty", count=3)  # of a cache without names
    assert one.line == "1 file left out: a.lz4 (unknown type); 3 documents left out: 3 (empty)"


def test_names_stay_on_one_line() -> None:
    left_out = LeftOut()
    for name in ("two\nlines.pdf", "caf\udce9.pdf", "größe \x1b[31m.pdf"):
        left_out.add("file", "unknown type", name)
    assert left_out.line == r"3 files left out: two\nlines.pdf, caf\xe9.pdf, größe \x1b[31m.pdf (unknown type)"


def test_hints_are_asked_for_the_first_names_alone() -> None:
    asked = []
    left_out = LeftOut()
    for i in range(9):
        left_out.add("document", "not UTF-8", f"{i // 2}.jsonl", hint=lambda i=i: asked.append(i) or "")
    assert asked == [0, 2, 4]


def test_sum_and_json() -> None:
    left_out = some()
    assert LeftOut.of(json.loads(json.dumps(left_out.describe()))).line == LINE
    both = left_out + LeftOut.of(left_out.describe())
    assert [entry["count"] for entry in both.describe()] == [24, 2, 6, 2]
    assert [entry["first"] for entry in both.describe()] == [entry["first"] for entry in left_out.describe()]
    assert left_out.line == LINE, "a sum changes neither of its terms"
