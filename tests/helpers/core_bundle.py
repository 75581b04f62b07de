"""A CORE bundle of a few examples, as files and as the archive that is downloaded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

YAML = """icl_tasks:
- label: pick
  dataset_uri: small/pick.jsonl
  num_fewshot: [2]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
- label: who
  dataset_uri: small/who.jsonl
  num_fewshot: [0]
  icl_task_type: schema
- label: copy
  dataset_uri: copy.jsonl
  num_fewshot: [1]
  icl_task_type: language_modeling
"""
CSV = "Eval Task,Task Category,Random baseline,#shots\npick,x,25,2\nwho,x,50.0,0\ncopy,x,0,1\n"
EXAMPLES = {
    "small/pick.jsonl": [
        {"query": f"Question {i}: which?", "choices": ["a house", "a horse", "a", "an\u2028owl"], "gold": i % 4} for i in range(6)
    ],
    "small/who.jsonl": [
        {"context_options": [f"Ann saw Bob {i}. Ann", f"Ann saw Bob {i}. Bob"], "continuation": "was glad.", "gold": i % 2}
        for i in range(5)
    ],
    "copy.jsonl": [{"context": f"  one two {i} one two ", "continuation": f"{i}"} for i in range(7)],
}


def bundle_files() -> dict[str, bytes]:
    """Contents by name, below `eval_bundle/`."""
    lines = {name: "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in examples) for name, examples in EXAMPLES.items()}
    files = {"core.yaml": YAML, "eval_meta_data.csv": CSV} | {f"eval_data/{name}": text for name, text in lines.items()}
    return {name: text.encode() for name, text in files.items()}


def write_bundle(folder: Path) -> Path:
    """The bundle as files in `folder`."""
    for name, data in bundle_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zip_bundle(extra: dict[str, bytes] | None = None, leave_out: str = "") -> bytes:
    """The bundle as an archive, with `extra` entries by their full name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in bundle_files().items():
            if name != leave_out:
                archive.writestr(f"eval_bundle/{name}", data)
        archive.writestr("__MACOSX/eval_bundle/._core.yaml", b"junk")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return buffer.getvalue()
