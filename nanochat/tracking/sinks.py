"""Sinks of the metrics of a run: `metrics.jsonl`, the terminal, and W&B on request.

A record is a flat dict of plain values with an integer `step`: one JSON line, one W&B log call, one line on the terminal.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TextIO

from nanochat.common import UserError, atomic_write, ensure_dir
from nanochat.progress import ProgressDisplay
from nanochat.redaction import redact, redact_all
from nanochat.tracking.metric_bounds import Alert

Plain = int | float | str | bool | None
Record = Mapping[str, Plain]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit on the size of files
_FIGURES = {
    "train/loss": "loss {:.4f}",
    "val/bpb": "val bpb {:.4f}",
    "core_metric": "CORE {:.4f}",
    "train/tok_per_sec": "{:,.0f} tok/s",
    "train/peak_mem_mib": "{:,.0f} MiB",
}


class Sink(Protocol):
    """Destination of records, and of lines for people if it overrides `say`."""

    def log(self, record: Record) -> None:
        """Logs one record."""

    def say(self, text: str) -> None:
        """Prints a line for people."""

    def alert(self, alert: Alert) -> None:
        """Reports what went wrong with the run itself."""

    def close(self) -> None:
        """Writes what is left."""


class MetricsLogger:
    """Passes each record to every sink, with secrets redacted (see `nanochat.redaction`).

    A context manager; `close` may be called twice.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def log(self, record: Record) -> None:
        """Logs one record. Raises `TypeError` for a value that is not a plain number, string, bool or None."""
        if type(record.get("step")) is not int:
            raise TypeError(f"a record needs an integer step, not {record.get('step')!r}")
        for key, value in record.items():
            if value is not None and not isinstance(value, int | float | str):
                raise TypeError(f"{key} is a {type(value).__name__}; records hold plain numbers and strings")
        clean = {key: redact(value) if isinstance(value, str) else value for key, value in record.items()}
        for sink in self._sinks:
            sink.log(clean)

    def say(self, text: str) -> None:
        """Prints a line for people."""
        for sink in self._sinks:
            sink.say(redact(text))

    def alert(self, alert: Alert) -> None:
        """Reports what went wrong with the run itself."""
        for sink in self._sinks:
            sink.alert(alert)

    def close(self) -> None:
        """Closes the sinks, last one first."""
        with ExitStack() as stack:  # an error of one does not leave another open
            while self._sinks:
                stack.callback(self._sinks.pop(0).close)

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # else what ended the run says more
                raise


class JsonlSink(Sink):
    """Appends each record to `path` as a JSON line, without a buffer.

    NaN and infinities, which JSON lacks, become null with the value spelled in `<key>_nonfinite` ("nan", "inf", "-inf").
    `resume_step` is the step a run continues from: records of later steps and a torn last line are dropped, so that the
    run writes them again. None starts a new file; an earlier one is kept as `<stem>.previous.jsonl`.

    Records that a full disk does not take are kept, with a line on stderr, and written once there is room. Raises `UserError` if the
    file cannot be written for another reason, or they are still unwritten in the end.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.path = path
        ensure_dir(path.parent)
        if path.exists() and resume_step is not None:
            kept = [line for line, record in _lines(path) if record["step"] <= resume_step]
            atomic_write(path, b"".join(kept))
        elif path.exists():
            os.replace(path, path.with_suffix(f".previous{path.suffix}"))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open for the life of the run)
        self._unwritten = bytearray()

    def log(self, record: Record) -> None:
        values: dict[str, Plain] = {}
        for key, value in record.items():
            finite = not isinstance(value, float) or math.isfinite(value)
            values[key] = value if finite else None
            if not finite:
                values[f"{key}_nonfinite"] = str(value)
        waiting = bool(self._unwritten)
        self._unwritten += (json.dumps(values, allow_nan=False) + "\n").encode("ascii")
        error = self._write()
        if error is not None and error.errno not in FULL:
            raise self._cannot(error)
        if error is not None and not waiting:
            print(f"alert: cannot append to {self.path}: {error.strerror}; its records wait until there is room", file=sys.stderr)

    def close(self) -> None:
        error = self._write()
        self._file.close()
        if error is not None:
            raise self._cannot(error)

    def _write(self) -> OSError | None:
        """Writes what waits; returns why it still does."""
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:
            return error
        return None

    def _cannot(self, error: OSError) -> UserError:
        return UserError(f"cannot append to {self.path}: {error.strerror}; make room and run again to resume")


class WandbSink(Sink):
    """Logs to W&B under the record's step; files go to `folder`/wandb.

    Online if there is a key, else offline (`wandb sync` uploads later); WANDB_MODE overrides. The run's id is kept in
    `folder`, and a resumed run (`resume_step` is not None) keeps it.

    Raises `UserError` if W&B refuses the key or cannot be reached.
    """

    def __init__(
        self, run_name: str, config: Mapping[str, Any], folder: Path, project: str = "nanochat", resume_step: int | None = None
    ) -> None:
        import wandb

        ensure_dir(folder)
        id_file = folder / "wandb_run_id"
        if resume_step is None or not id_file.exists():
            atomic_write(id_file, secrets.token_hex(4) + "\n")
        leaks = redact_all(sys.argv) != sys.argv  # W&B's machine info contains the command
        try:
            mode = None if os.environ.get("WANDB_MODE") or wandb.login(prompt=False) else "offline"
            self._run = wandb.init(
                project=project,
                name=redact(run_name),
                id=id_file.read_text(encoding="ascii").strip(),
                dir=folder,
                config=redact_all(config),
                mode=mode,
                resume="allow",
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=leaks),
            )
        except wandb.Error as error:
            reason = redact(str(error)).partition("\n")[0]
            raise UserError(f"cannot log to W&B: {reason} (WANDB_MODE=offline trains without a connection)") from error
        except UnicodeEncodeError as error:
            raise UserError(f"cannot log to W&B: {error.object!r} is not UTF-8; rename it, or train without --run") from error

    def log(self, record: Record) -> None:
        step = record["step"]
        assert isinstance(step, int)
        self._run.log(dict(record), step=step)

    def mark(self, name: str, text: str) -> None:
        """Marks the run: a W&B alert, and `alert/<name>` in the summary."""
        self._run.alert(title=redact(name), text=redact(text), level="WARN")
        self._run.summary[f"alert/{name}"] = redact(text)

    def close(self) -> None:
        self._run.finish()


class TerminalSink(Sink):
    """Progress for people: a live bar on a terminal, plain lines elsewhere.

    step 00120/00400 (30.0%) | loss 4.1234 | 13,902 tok/s | 1,203 MiB | eta 1m12s
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None) -> None:
        self._total = total_steps
        self._first: tuple[int, float] | None = None
        self._display = ProgressDisplay(stream)
        self._display.show(0, total_steps, "")

    def log(self, record: Record) -> None:
        step = record["step"]
        assert isinstance(step, int)
        figures = [spell.format(record[key]) for key, spell in _FIGURES.items() if record.get(key) is not None]
        if not figures:
            return
        eta = self._eta(step)
        if "train/loss" in record and eta is not None:
            figures.append(f"eta {show_seconds(eta)}")
        if self._display.is_live and "train/loss" in record:
            self._display.show(step, self._total, " | ".join([f"step {step}/{self._total}", *figures]))
        else:
            width = len(str(self._total))
            done = 100.0 * step / max(self._total, 1)
            self.say(f"step {step:0{max(width, 5)}d}/{self._total:05d} ({done:.1f}%) | " + " | ".join(figures))

    def say(self, text: str) -> None:
        self._display.say(text)

    def close(self) -> None:
        self._display.close()

    def _eta(self, step: int) -> float | None:
        """Seconds left at the pace since the first record, including evaluation and saving; None for that first one."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        return (now - first_time) / (step - first_step) * (self._total - step) if step > first_step else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in `path`, without a torn last line. Raises `UserError` if another line is broken."""
    return [record for _, record in _lines(path)]


def show_seconds(seconds: float) -> str:
    """A duration for people: `45s`, `1m12s`, `2h03m`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s" if m else f"{s}s"


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of a metrics file with its record, without a torn last one."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int) and line.endswith(b"\n"):
            yield line, record
        elif number < len(lines):
            raise UserError(f"line {number} of {path} is not a metrics record; remove that line")
