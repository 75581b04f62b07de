"""The preflight against receivers of all kinds: what it says, and that only an accepted event is a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common import UserError
from scripts.mc_otel_preflight import main
from tests.helpers.otlp_receiver import Receiver, receiver


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    def use(there: Receiver, **more: str) -> None:
        for name, value in (there.environment | more).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_accepted(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        environment(there)
        assert main([]) == 0
        out, err = capfd.readouterr()
        address, sent = out.splitlines()
        assert address == f"collector: 127.0.0.1:{there.port} over {protocol}, without TLS, from MC_OTEL_ENDPOINT" and err == ""
        assert sent.startswith("accepted in ") and sent.endswith(" ms: a trace of one span mc_preflight")
        assert [span.name for span in there.spans] == ["mc_preflight"] and there.services == {"megacontext-preflight"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_refused(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        there.status = 401
        environment(there)
        assert main([]) == 1
    out, err = capfd.readouterr()
    reason = "401 Unauthorized" if protocol == "http" else "UNAUTHENTICATED"
    assert err == f"error: refused with status {reason}; credentials go into OTEL_EXPORTER_OTLP_HEADERS, as authorization=Bearer%20…\n"
    assert "accepted" not in out and ("in detail: who are you?" in out) == (protocol == "grpc")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_connection(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        environment(there)
    assert main([]) == 1
    assert "error: no connection" in (err := capfd.readouterr().err) and "is the collector running" in err


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_timed_out(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        there.hangs.set()
        environment(there)
        assert main(["--timeout-seconds=0.2"]) == 1
    assert capfd.readouterr().err == "error: timed out\n"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_rejected_in_part(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        there.rejected = 1
        environment(there)
        assert main([]) == 1
    out, err = capfd.readouterr()
    assert err == "error: the collector rejected 1 of the events\n" and "in detail: too old" in out


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_tls_there(protocol: str, environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver(protocol) as there:
        environment(there, MC_OTEL_ENDPOINT=there.endpoint.replace("http://", "https://user:s3cr3t@"))
        assert main([]) == 1
    out, err = capfd.readouterr()
    assert "with TLS" in out and "error: TLS failed" in err and "MC_OTEL_INSECURE=1" in err and "s3cr3t" not in out + err


def test_the_wrong_protocol(environment, capfd: pytest.CaptureFixture[str]) -> None:
    with receiver("grpc") as there:
        environment(there)
        assert main(["--mc-telemetry-protocol=http"]) == 1
    assert capfd.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "x"])
def test_flags_that_are_wrong(value: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--timeout-seconds={value}"])
    err = capfd.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and "timeout" in err


def test_variables_that_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MC_OTEL_ENDPOINT", "http://tempo:4318")
    with pytest.raises(UserError, match="MC_OTEL_ENDPOINT has no TLS"):
        main([])
