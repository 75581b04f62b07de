"""Small files in the schema that the hub's data sets have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GSM8K = [
    {
        "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many in all?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
    },
    {"question": "A car costs 5 times $200. What is that?", "answer": "5*200 = $<<5*200=1000>>1,000\n#### 1,000"},
    {"question": "No calculator: one and one?", "answer": "Two.\n#### 2"},
]
ARC = [
    {
        "id": "a",
        "question": "Which is a fruit?",
        "choices": {"text": ["stone", "pear", "rain", "sand"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    {"id": "b", "question": "What falls?", "choices": {"text": ["rain", "light", "sound"], "label": ["1", "2", "3"]}, "answerKey": "1"},
]
MMLU = [
    {"question": "2+2?", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1},
    {"question": "Capital of France?", "subject": "geography", "choices": ["Rome", "Bonn", "Oslo", "Paris"], "answer": 3},
]
SMOLTALK = [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
        ],
        "source": "everyday",
    },
    {
        "messages": [
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "B."},
            {"role": "user", "content": "C?"},
        ],
        "source": "cut",
    },
]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """`rows` as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """`rows` as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path
