"""The provider against a real receiver over both protocols: what arrives, and what a bad collector costs."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource

import mc.telemetry.exporter
from mc.telemetry.collector import Collector, find_collector
from mc.telemetry.exporter import BATCH, CLOSE_SECONDS, QUEUE, OpenTelemetryProvider
from mc.telemetry.otlp import Outcome, Sender, to_span, trace_id
from mc.telemetry.schema import TelemetryEvent
from nanochat.common import UserError
from tests.helpers.otlp_receiver import attributes, receiver

PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])
HANG_SECONDS = 30.0  # a guard: what takes as long hangs


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for seconds that need not."""
    monkeypatch.setattr(mc.telemetry.exporter, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(mc.telemetry.exporter, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(mc.telemetry.exporter, "SEND_SECONDS", 0.7)  # too short for the SDK's first pause


def opened(collector: Collector, said: list[str]) -> OpenTelemetryProvider:
    return OpenTelemetryProvider("megacontext-test", collector, said.append)


def event(step: int = 0, session: str = "a", **payload: object) -> TelemetryEvent:
    return TelemetryEvent(session, "mc_timing", {"step": step, **payload})


def until(condition) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def close(provider: OpenTelemetryProvider) -> None:
    """As a script does, but where it hangs the test ends."""
    thread = threading.Thread(target=provider.close, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()


@PROTOCOLS
def test_what_arrives(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=mine")
    said: list[str] = []
    before = time.time_ns()
    with receiver(protocol) as there:
        provider = opened(find_collector({**there.environment, "OTEL_EXPORTER_OTLP_HEADERS": "x-scope=me"}), said)
        provider.log_event(event(3, step_ms=2.5, prompt="who am I?", build_ms=float("nan")))
        provider.log_event(TelemetryEvent("b", "working_context_snapshot", {"where": "row", "layout_lod": [2, 0], "tokens": 1 << 40}))
        provider.log_event(event(4))
        provider.close()
        provider.close()
    timing, layout, again = sorted(there.spans, key=lambda span: span.end_time_unix_nano)
    counts = {"dropped_events": 0, "redacted_values": 2}
    assert (timing.name, attributes(timing)) == ("mc_timing", {"step": 3, "step_ms": 2.5} | counts)
    assert (layout.name, attributes(layout)) == (
        "working_context_snapshot", {"where": "row", "layout_lod": [2, 0], "tokens": 1 << 40} | counts
    )  # fmt: skip
    assert timing.end_time_unix_nano - timing.start_time_unix_nano == 2_500_000
    assert before <= layout.start_time_unix_nano == layout.end_time_unix_nano <= time.time_ns()
    assert timing.trace_id == again.trace_id == trace_id("a").to_bytes(16, "big") != layout.trace_id == trace_id("b").to_bytes(16, "big")
    assert len({span.span_id for span in there.spans}) == 3 and all(len(span.span_id) == 8 for span in there.spans)
    assert there.services == {"megacontext-test"} and {h["x-scope"] for h in there.headers} == {"me"}
    assert there.paths == (["/v1/traces"] if protocol == "http" else [""]) * len(there.paths)
    assert (provider.sent, provider.dropped, provider.redacted) == (3, 0, 2)
    (line,) = said
    assert line == f"telemetry to {provider.collector.describe()}: 2 values were left out because the schema does not allow them"


@PROTOCOLS
def test_a_hung_collector_stops_nobody_and_a_full_queue_is_counted(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mc.telemetry.exporter, "SEND_SECONDS", HANG_SECONDS)
    said: list[str] = []
    with receiver(protocol) as there:
        there.hangs.set()
        provider = opened(find_collector(there.environment), said)
        provider.log_event(event())
        until(lambda: there.requests)  # a request is under way, and stays so
        for step in range(QUEUE + 7):
            provider.log_event(event(step))
        assert provider.dropped == 7
        close(provider)
    assert (provider.sent, provider.dropped) == (0, QUEUE + 8)
    (line,) = said
    assert f"{QUEUE + 8:,} of {QUEUE + 8:,} events were dropped (no answer)" in line


@PROTOCOLS
def test_what_waited_for_a_dead_collector_arrives_when_it_is_back(protocol: str) -> None:
    said: list[str] = []
    with receiver(protocol) as there:
        port, environment = there.port, there.environment
    provider = opened(find_collector(environment), said)
    for step in range(BATCH + 3):
        provider.log_event(event(step))
    until(lambda: provider._trouble)
    assert provider._trouble.startswith("no connection")
    with receiver(protocol, port) as there:
        there.until(BATCH + 3)
        until(lambda: provider.sent == BATCH + 3)
        close(provider)
    assert [span["step"] for span in there.named("mc_timing")] == list(range(BATCH + 3))
    assert provider.dropped == 0 and said == []


def test_a_dead_port_is_said_at_the_end_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATHER_SECONDS", "SEND_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(mc.telemetry.exporter, name, 2 * HANG_SECONDS)
    said: list[str] = []
    with receiver() as there:
        environment = there.environment
    provider = opened(find_collector(environment), said)
    provider.log_event(event())
    close(provider)
    assert "1 of 1 events were dropped (no connection: Connection refused)" in said[0] and provider.dropped == 1


@PROTOCOLS
def test_what_the_collector_refuses_is_not_sent_again(protocol: str) -> None:
    said: list[str] = []
    with receiver(protocol) as there:
        there.status = 401
        provider = opened(find_collector(there.environment), said)
        provider.log_event(event(1))
        until(lambda: provider.dropped == 1)
        there.status = 200
        provider.log_event(event(2))
        close(provider)
        assert len(there.requests) == 2
    reason = "refused with status 401 Unauthorized" if protocol == "http" else "refused with status UNAUTHENTICATED"
    assert f"1 of 2 events were dropped ({reason})" in said[0]
    assert there.named("mc_timing")[1] == {"step": 2, "dropped_events": 1, "redacted_values": 0}


@pytest.mark.parametrize(("status", "again"), [(500, False), (404, False), (302, False), (503, True), (429, True)])
def test_a_collector_that_cannot_just_now_is_asked_again(status: int, again: bool) -> None:
    said: list[str] = []
    with receiver() as there:
        there.status = status
        provider = opened(find_collector(there.environment), said)
        provider.log_event(event())
        until(lambda: provider._trouble)
        there.status = 200
        close(provider)
    assert (provider.sent, provider.dropped) == ((1, 0) if again else (0, 1))


@PROTOCOLS
def test_partial_success_counts(protocol: str) -> None:
    said: list[str] = []
    with receiver(protocol) as there:
        there.rejected = 2
        provider = opened(find_collector(there.environment), said)
        for step in range(3):
            provider.log_event(event(step))
        provider.close()
        assert len(there.requests) == 1
    assert (provider.sent, provider.dropped) == (1, 2)
    assert "2 of 3 events were dropped (the collector rejected 2 of the events)" in said[0]


def test_the_log_of_the_packages_is_not_printed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there:
        there.status = 503
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a s3cr3t that is no header")
        provider = opened(find_collector(there.environment), [])
        provider.log_event(event())
        until(lambda: provider._trouble)
        close(provider)
    assert provider.dropped == 1 and caplog.records == []


@PROTOCOLS
def test_compressed(protocol: str) -> None:
    with receiver(protocol) as there:
        for compression in ("gzip", "none"):
            provider = opened(find_collector(there.environment | {"OTEL_EXPORTER_OTLP_COMPRESSION": compression}), [])
            provider.log_event(event())
            close(provider)
    assert len(there.spans) == 2
    assert protocol == "grpc" or [headers.get("content-encoding") for headers in there.headers] == ["gzip", None]


def test_of_the_environment_of_requests_only_proxies_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login other password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with receiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        far = {"MC_OTEL_ENDPOINT": "http://collector.invalid:4318", "MC_OTEL_INSECURE": "1"}
        provider = opened(find_collector({**far, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20me"}), [])
        provider.log_event(event())
        close(provider)
    assert proxy.paths == ["http://collector.invalid:4318/v1/traces"] and proxy.headers[0]["authorization"] == "Bearer me"


def test_a_fork_sends_nothing_twice() -> None:
    with receiver() as there:
        provider = opened(find_collector(there.environment), [])
        for step in range(BATCH // 2):
            provider.log_event(event(step))
        if (child := os.fork()) == 0:
            time.sleep(0.2)
            os._exit(0)
        os.waitpid(child, 0)
        provider.log_event(event(BATCH // 2))
        close(provider)
    assert [span["step"] for span in there.named("mc_timing")] == list(range(BATCH // 2 + 1)) and provider.dropped == 0


def test_nothing_that_is_logged_before_closing_is_lost() -> None:
    with receiver() as there:
        for count in range(20):
            provider = opened(find_collector(there.environment), [])
            provider.log_event(event(count))
            close(provider)
            assert provider.sent == 1
        assert len(there.spans) == 20


def test_many_threads_may_log() -> None:
    with receiver() as there:
        provider = opened(find_collector(there.environment), [])
        threads = [threading.Thread(target=lambda n=n: [provider.log_event(event(n * 100 + i)) for i in range(100)]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        close(provider)
    assert sorted(span["step"] for span in there.named("mc_timing")) == list(range(800))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{file}.key", "-out", f"{file}.crt"]
    subprocess.run([*command.split(), *made], check=True, capture_output=True)
    file.write_bytes(Path(f"{file}.key").read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def sent(environment: dict[str, str]) -> Outcome:
    """The first outcome."""
    with closing(Sender(find_collector(environment), HANG_SECONDS, retries=False)) as sender:
        return sender.send([to_span(Resource({}), "a", "mc_preflight", 1, 1, {})])


@PROTOCOLS
def test_tls_that_fails_says_so(protocol: str, certificate: Path) -> None:
    with receiver(protocol) as there:  # speaks no TLS
        environment = there.environment | {"MC_OTEL_ENDPOINT": there.endpoint.replace("http://", "https://")}
        outcome = sent(environment)
    assert not outcome.accepted and outcome.reason.startswith("TLS failed") and not there.requests


def test_the_authority_of_the_certificate_can_be_given(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with receiver(tls=context) as there:
        environment = there.environment | {"MC_OTEL_ENDPOINT": there.endpoint.replace("http://", "https://")}
        assert sent(environment).reason == "TLS failed: self-signed certificate"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/none.pem")
        assert sent({**environment, "OTEL_EXPORTER_OTLP_CERTIFICATE": f"{certificate}.crt"}).accepted
    assert len(there.spans) == 1
    (certificate.parent / "none.pem").write_text("no certificate")
    wrong = {**environment, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.parent / "none.pem")}
    with pytest.raises(UserError, match="invalid files of OTEL_EXPORTER_OTLP_CERTIFICATE: expected certificates in PEM"):
        find_collector(wrong)


def test_what_is_no_collector() -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"SSH-2.0-OpenSSH\r\n", b""]
    for answer, reason in zip(
        answers,
        ["the answer is not that of an OTLP collector", "the connection ended without an answer", "the connection ended without an answer"],
        strict=True,
    ):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve(answer: bytes = answer, listening: socket.socket = listening) -> None:
                with suppress(OSError):
                    while True:  # what ends without an answer is asked for once more
                        connection, _ = listening.accept()
                        with connection:
                            connection.recv(65536)
                            connection.sendall(answer)
                            connection.shutdown(socket.SHUT_WR)
                            while connection.recv(65536):  # closing with unread bytes would reset the connection
                                pass

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            outcome = sent({"MC_OTEL_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"})
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(HANG_SECONDS)
        assert not outcome.accepted and outcome.reason == reason


def test_closing_leaves_time_to_spare() -> None:
    assert CLOSE_SECONDS < 2.0, "a run may be held up for 2 s at most"
