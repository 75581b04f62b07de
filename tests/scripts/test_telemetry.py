"""Real processes and a real receiver: what training and chatting with a memory send, and what they never do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.tiny_chat import save_chat_model
from bench.tiny_run import TAG, Home
from bench.warm_start import WarmStart
from mc.telemetry.schema import EVENTS
from tests.helpers.otlp_receiver import receiver

TRAIN = ("--max-seq-len=128", "--total-batch-size=512", "--warmup-steps=1", "--mc", "--block-size=8", "--mc-num-random-variants=2")
TUNE = ("--device-type=cpu", "--compile=0", "--log-every=1", "--eval-every=-1", "--mixture=spelling:words=simple@60,identity@60")
CHAT = ("--mc", "-t", "0", "--max-tokens", "27", "--device-type", "cpu", "--mc-session-lod", "3")


def test_a_training_run(home: Home) -> None:
    with receiver() as there:
        done = home.train(*TRAIN, "--num-iterations=6", "--save-every=3", environment=there.environment)
        assert done.code == 0, done.stderr
        assert there.services == {"megacontext-train"}
        (trace,) = {span.trace_id for span in there.spans}
        logged = [r for r in with_memory(home).metrics() if "train/loss" in r]
        assert len(logged) == 6
        for name in ("mc_timing", "mc_tree_snapshot", "working_context_snapshot", "focus_allocator"):
            assert [event["step"] for event in there.named(name)] == [record["step"] for record in logged]
        for event, record in zip(there.named("mc_timing"), logged, strict=True):
            for name, key in (("build_ms", "mc/build_ms"), ("lens_ms", "mc/lens_ms"), ("time_controller_ms", "mc/time_controller_ms")):
                assert event[name] == record[key] > 0
            assert event["lens_loss_ms"] == event["lens_ms"] > event["lens_forward_ms"] == record.get("train/time/lensnet", 0.0)
            assert event["tokens"] == record["total_tokens"] and event["step_ms"] == record["train/dt"] * 1e3
        layout, tree = there.named("working_context_snapshot")[-1], there.named("mc_tree_snapshot")[-1]
        assert layout["entries"] == sum(layout["layout_count"]) == logged[-1]["mc/variant_width"]
        assert tree["nodes"] == [14, 1] and tree["tokens"] == layout["tokens"] == 128
        assert all(event["dropped_events"] == event["redacted_values"] == 0 for span in EVENTS for event in there.named(span))
        assert "telemetry" not in done.stdout + done.stderr

        seen = len(there.spans)
        assert home.train(*TRAIN, "--num-iterations=6", "--resume=3", environment=there.environment).code == 0
        assert {span.trace_id for span in there.spans[seen:]} == {trace}, "a run that goes on does so in its trace"
        assert [event["step"] for event in there.named("mc_timing")] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]


def test_a_run_over_grpc_and_a_new_one(home: Home) -> None:
    with receiver("grpc") as there:
        for _ in range(2):
            assert home.train(*TRAIN, "--num-iterations=1", "--resume=never", environment=there.environment).code == 0
        assert len(there.named("mc_timing")) == len({span.trace_id for span in there.spans}) == 2


def with_memory(home: Home) -> Home:
    """The run beside the baseline of `home`."""
    return Home(home.base, home.corpus, home.warm, f"{TAG}-mc")


def test_when_nothing_is_sent_and_how_later_stages_send(home: Home) -> None:
    with receiver() as there:
        assert home.train(*TRAIN, "--num-iterations=1", "--mc-telemetry=off", environment=there.environment).code == 0
        assert home.train("--num-iterations=1", environment=there.environment).code == 0  # no memory, no telemetry
        assert not there.requests
        done = home.run("scripts.mid_train", *TUNE, "--num-iterations=2", "-g", f"{TAG}-mc", environment=there.environment)
        assert done.code == 0, done.stderr
        assert [event["step"] for event in there.named("mc_timing")] == [1, 2]


def test_a_collector_that_hangs_leaves_a_run_as_it_is(home: Home, tmp_path: Path) -> None:
    plain = home.copy(tmp_path / "plain")
    flags = (*TRAIN, "--num-iterations=4", "--mc-log-timers=0")
    with receiver() as there:
        there.hangs.set()
        hung = home.train(*flags, environment=there.environment)
        assert len(there.requests) == 1
    assert hung.code == 0 and "16 of 16 events were dropped (no answer)" in hung.stdout
    assert plain.train(*flags).code == 0
    with_memory(home).assert_same_training(with_memory(plain), 4)


@pytest.mark.parametrize(
    ("flags", "environment", "code", "said"),
    [
        ((*TRAIN, "--mc-telemetry=on"), {}, 2, "mc-telemetry"),
        ((*TRAIN, "--mc-telemetry=off", "--mc-telemetry-protocol=grpc"), {}, 2, "mc_telemetry_protocol has no effect with"),
        (("--mc-telemetry=otlp",), {}, 2, "mc_telemetry has no effect without --mc; add --mc or leave it out"),
        (TRAIN, {"MC_OTEL_ENDPOINT": "http://tempo:4318"}, 1, "MC_OTEL_ENDPOINT has no TLS, and tempo is another machine"),
        (TRAIN, {"MC_OTEL_ENDPOINT": "tempo"}, 1, "MC_OTEL_ENDPOINT must be http://host:port"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_one_line(
    home: Home, flags: tuple[str, ...], environment: dict[str, str], code: int, said: str
) -> None:
    before = home.contents()
    done = home.train(*flags, "--num-iterations=1", environment=environment)
    assert done.code == code and said in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert home.contents() == before


def test_a_chat(tmp_path: Path, warm: WarmStart) -> None:
    save_chat_model(tmp_path, "alphabet", certainty=30.0, context_tokens=128, memory=True)
    home = Home(tmp_path, tmp_path, warm)
    (tmp_path / "note.txt").write_text("word " * 300)
    with receiver() as there:
        for prompt in ("one", "two"):
            done = home.run(
                "scripts.chat_cli", *CHAT, "--session=a", f"--ingest={tmp_path / 'note.txt'}", "-p", prompt, environment=there.environment
            )
            assert done.code == 0 and done.stdout == "abcdefghijklmnopqrstuvwxyz \n", done.stderr
        assert there.services == {"megacontext-chat"} and len({span.trace_id for span in there.spans}) == 2
        document, turn, *_ = there.named("inference_update")
        assert document["reply_tokens"] == 0 and document["new_tokens"] > 300 and document["refocuses"] > 0
        assert turn["reply_tokens"] == 27 and turn["tokens"] == document["tokens"] + turn["new_tokens"]
        assert there.named("mc_tree_snapshot")[0]["tree"] == "disk"
        assert there.named("working_context_snapshot") and there.named("focus_allocator")
        assert home.run("scripts.chat_cli", "--mc-telemetry=otlp", "-p", "x").code == 2
        wrong = home.run("scripts.chat_cli", *CHAT, "-p", "x", environment={"MC_OTEL_ENDPOINT": "http://tempo:4318"})
        assert wrong.code == 1 and "has no TLS" in wrong.stderr


def test_without_the_packages_there_is_a_warning_and_no_telemetry(tmp_path: Path, root: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError('No module', name='opentelemetry')")
    code = "from mc.telemetry.provider import *; p = open_telemetry(TelemetryFlags('otlp'))\n"
    code += "p.log_event(None); p.close(); print(type(p).__name__)"
    hidden = {"PYTHONPATH": f"{tmp_path}:{root}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True, timeout=60)
    assert done.stdout == "NoOpTelemetryProvider\n" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: no telemetry is sent: Python package opentelemetry is missing; ./mc_setup installs it")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.mc_otel_preflight"], cwd=root, env=hidden, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "package opentelemetry is missing" in done.stderr
