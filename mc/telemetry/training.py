"""Telemetry of training runs: events with every training record of the log.

No event makes the device wait: metrics are those of the log's record, and the layout is the one that was sampled on the CPU.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from mc.layout.tiling import Tiling
from mc.telemetry.provider import TelemetryProvider
from mc.telemetry.schema import TelemetryEvent
from mc.telemetry.sessions import layout_payload
from mc.train.controller import MCController
from nanochat.common import UserError, atomic_write
from nanochat.tracking.sinks import Record
from nanochat.train.callback import Callback, Run

TRAINED = "train/dt"  # only in training records
# Attribute → key of the record.
TIMING = {
    "step": "step",
    "tokens": "total_tokens",
    "tokens_per_step": "train/tokens_per_step",
    "tok_per_sec": "train/tok_per_sec",
    "build_ms": "mc/build_ms",
    "positional_ms": "mc/positional_ms",
    "variant_ms": "mc/variant_ms",
    "variant_pack_ms": "mc/variant_pack_ms",
    "lens_loss_ms": "mc/lens_ms",
    "lens_forward_ms": "train/time/lensnet",
    "lens_ms": "mc/lens_ms",
    "other_ms": "mc/other_ms",
    "time_controller_ms": "mc/time_controller_ms",
    "data_ms": "train/time/data",
    "forward_ms": "train/time/forward",
    "backward_ms": "train/time/backward",
    "optimizer_ms": "train/time/optimizer",
}
LENS = {
    "step": "step",
    "lens_loss": "mc/lens_loss",
    "lens_pairs": "mc/lens_pairs",
    "policy_score_abs_mean": "mc/policy_score_abs_mean",
    "policy_score_std_mean": "mc/policy_score_std_mean",
    "preference_corr_mean": "mc/preference_corr_mean",
    "adv_delta_mean": "mc/adv_delta_mean",
}
ID_FILE = "telemetry_id"


def session_id(folder: Path, resumed: int | None) -> str:
    """Random id of the run in `folder`, where it is stored, so that a resumed run keeps it."""
    file = folder / ID_FILE
    if resumed is None or not file.exists():
        atomic_write(file, secrets.token_hex(16) + "\n")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} ({error}); delete it") from error


class TrainingEvents(Callback):
    """Sends events about a run of a `MCController` to `provider` with each training record, and closes it at the end."""

    def __init__(self, provider: TelemetryProvider) -> None:
        self._provider = provider

    def started(self, run: Run, resumed: int | None) -> None:
        assert isinstance(run.objective, MCController)
        self._controller, self._session_id = run.objective, session_id(run.run_folder, resumed)

    def logged(self, record: Record) -> None:
        if TRAINED not in record:
            return
        step, seconds = record["step"], record[TRAINED]
        self._log("mc_timing", {**_chosen(TIMING, record), "step_ms": float(seconds or 0) * 1e3})
        if self._controller.config.lens_loss.mc_lens_loss_weight:
            self._log("focus_allocator", {"where": "row", **_chosen(LENS, record)})
        shape, variants = self._controller.plan.shape, self._controller.sampler.newest
        tree = {"block_size": shape.geometry.block_size, "max_lod": shape.max_lod, "nodes": list(shape.levels[1:]), "tree": "ram"}
        self._log("mc_tree_snapshot", {"where": "row", "step": step, "tokens": shape.length, **tree})
        if variants is not None:
            last = -variants.levels.shape[1]  # the first row's last variant: priority sampling replaces the earlier ones
            tiling = Tiling(variants.layout.lod[last].numpy(), variants.layout.start[last].numpy())
            payload = layout_payload(tiling, shape.length, variants.layout.lod.shape[1], self._controller.plan.recent)
            self._log("working_context_snapshot", {"where": "row", "step": step, **payload})

    def closing(self) -> None:
        self._provider.close()

    def _log(self, event_type: str, payload: Mapping[str, object]) -> None:
        self._provider.log_event(TelemetryEvent(self._session_id, event_type, payload))


def _chosen(keys: Mapping[str, str], record: Record) -> dict[str, object]:
    """The values of `keys` in the record, without those that are missing or NaN; a missing span took no time."""
    found = {name: record.get(key, 0.0 if key.startswith("train/time/") else None) for name, key in keys.items()}
    return {name: value for name, value in found.items() if value is not None and value == value}
