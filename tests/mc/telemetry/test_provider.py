"""When telemetry is on: as flags and variables say, and in the first process alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mc.telemetry.exporter import OpenTelemetryProvider
from mc.telemetry.provider import NoOpTelemetryProvider, TelemetryFlags, open_telemetry
from mc.telemetry.schema import TelemetryEvent
from nanochat.common import UserError
from nanochat.flags import to_argv

ENDPOINT = "http://127.0.0.1:9"


@pytest.mark.parametrize("name", ["MC_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", None])
@pytest.mark.parametrize("mode", ["auto", "otlp", "off"])
@pytest.mark.parametrize("rank", [0, 1])
def test_when_it_is_on(name: str | None, mode: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if name is not None:
        monkeypatch.setenv(name, ENDPOINT)
    provider = open_telemetry(TelemetryFlags(mode), "x", rank=rank)
    on = rank == 0 and (mode == "otlp" or mode == "auto" and name is not None)
    assert type(provider) is (OpenTelemetryProvider if on else NoOpTelemetryProvider)
    if on:
        assert provider.collector.address == ("localhost:4318" if name is None else "127.0.0.1:9")
    provider.close()


def test_the_protocol_is_the_flags_or_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_OTEL_ENDPOINT", ENDPOINT)
    assert TelemetryFlags().collector().protocol == "http"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert TelemetryFlags().collector().protocol == "grpc"
    assert TelemetryFlags(mc_telemetry_protocol="http").collector().protocol == "http"


def test_a_wrong_variable_is_refused_in_every_process_unless_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_OTEL_ENDPOINT", "http://tempo:4318")
    for rank in (0, 1):
        with pytest.raises(UserError, match="MC_OTEL_ENDPOINT has no TLS"):
            open_telemetry(TelemetryFlags(), rank=rank)
    assert TelemetryFlags("off").collector() is None


def test_flags_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="mc_telemetry_protocol has no effect with mc_telemetry off"):
        TelemetryFlags("off", "grpc")
    with pytest.raises(ValueError, match="mc_telemetry has no effect without --mc"):
        TelemetryFlags("otlp").check_unused()
    TelemetryFlags().check_unused()
    assert to_argv(TelemetryFlags()) == []


def test_nothing_is_done_with_events_that_go_nowhere() -> None:
    provider = NoOpTelemetryProvider()
    provider.log_event(TelemetryEvent("a", "mc_timing", {"step": 1}))
    provider.close()
    provider.close()


def test_nothing_is_imported_for_telemetry_that_is_off(root: Path) -> None:
    code = "import sys, threading; from mc.telemetry.provider import *; open_telemetry(TelemetryFlags('off'))\n"
    code += "print(threading.active_count(), [name for name in sys.modules if name.startswith(('opentelemetry', 'grpc', 'requests'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 []\n", done.stderr
