"""Rows of results.csv: one per run, each appended in one write, as a whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from nanochat.common import UserError, ensure_dir

COLUMNS = (
    "timestamp",
    "git_commit",
    "experiment_name",
    "seed",
    "depth",
    "max_seq_len",
    "device_batch_size",
    "total_batch_size",
    "target_param_data_ratio",
    "warmdown_ratio",
    "warmdown_shape",
    "target_metric_name",
    "target_metric_threshold",
    "time_to_target_sec_measured",
    "time_to_target_sec_extrapolated",
    "extrapolation_method",
    "tok_per_sec_median",
    "dt_median_ms",
    "wall_time_sec",
    "final_train_loss",
    "min_val_bpb",
    "peak_mem_mib",
    "status",
    "config_hash",
    "hardware",
)
ResultRow = Mapping[str, str]
Key = tuple[str, int]  # config hash, seed


class Results:
    """Results at `path`. A row counts once its line is complete: a torn last line is removed before the next append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        """All rows as text, in the order they were appended. Raises `UserError` for a file with other columns."""
        if not self.path.exists():
            return []
        try:
            text = self.path.read_bytes()
            lines = list(csv.reader(io.StringIO(text[: text.rfind(b"\n") + 1].decode("utf-8"), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read {self.path}: {error}") from error
        if lines and tuple(lines[0]) != COLUMNS:
            raise UserError(f"{self.path} has other columns than these results; move it away")
        for number, line in enumerate(lines, start=1):
            if len(line) != len(COLUMNS):
                raise UserError(f"line {number} of {self.path} has {len(line)} values instead of {len(COLUMNS)}; remove that line")
        return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]

    def newest(self) -> dict[Key, dict[str, str]]:
        """The last row of each configuration and seed."""
        return {key(row): row for row in self.rows()}

    def append(self, values: Mapping[str, Any]) -> None:
        """Appends one row; None is an empty cell. Raises `UserError` if the disk is full, and leaves the file unchanged."""
        assert values.keys() == set(COLUMNS), f"not the columns: {values.keys() ^ set(COLUMNS)}"
        ensure_dir(self.path.parent)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            self.rows()  # raises for a file with other columns
            with open(self.path, "ab+") as f:
                whole = _whole_lines(f.seek(0, os.SEEK_END), f)
                f.truncate(whole)
                lines = [] if whole else [COLUMNS]
                lines.append([_text(values[name]) for name in COLUMNS])
                data = _csv(lines)
                try:
                    if os.write(f.fileno(), data) != len(data):
                        raise OSError(None, "the disk is full")
                    os.fsync(f.fileno())
                except OSError as error:
                    f.truncate(whole)
                    raise UserError(f"cannot append to {self.path}: {error.strerror}; make room and run again") from error


def key(row: ResultRow) -> Key:
    """Config hash and seed of a row."""
    return row["config_hash"], int(row["seed"])


def _whole_lines(size: int, f: io.BufferedRandom) -> int:
    """Bytes up to the end of the last complete line."""
    f.seek(0)
    return f.read(size).rfind(b"\n") + 1


def _csv(lines: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else " ".join(str(value).split())
