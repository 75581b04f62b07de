import json
import math
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import ROOT, UserError
from nanochat.tracking.sinks import JsonlSink, MetricsLogger, TerminalSink, WandbSink, read_metrics, redact, show_seconds
from nanochat.train.state import DebiasedEMA

KEY = "0123456789abcdef0123456789abcdef01234567"


def record(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "total_tokens": step * 8192, "train/loss": 4.0 + 1 / (step + 1), **more}


def write(path: Path, first: int, last: int, resume_step: int | None = None) -> bytes:
    with MetricsLogger([JsonlSink(path, resume_step)]) as metrics:
        for step in range(first, last + 1):
            metrics.log(record(step))
    return path.read_bytes()


def in_python(code: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process, with `path`, the sinks and `run` at hand."""
    head = f"from pathlib import Path\nfrom nanochat.flags import run\nfrom nanochat.tracking.sinks import *\npath = Path({str(path)!r})\n"
    env = {name: value for name, value in (os.environ | variables).items() if value}
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60
    )


# --- the JSONL file ---


def test_one_json_line_per_record_readable_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    for step in range(3):
        sink.log(record(step))
        assert read_metrics(sink.path) == [record(s) for s in range(step + 1)]
    sink.close()
    assert all(json.loads(line) for line in sink.path.read_text().splitlines())


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 400), resume_step=st.integers(-1, 9))
def test_a_resumed_file_equals_an_uninterrupted_one(cut: int, resume_step: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("run")
    whole = write(folder / "whole.jsonl", 0, 9)
    path = folder / "metrics.jsonl"
    # The run logged at least what its checkpoint covers, and was cut anywhere after that.
    covered = len(write(path, 0, resume_step))
    path.write_bytes(whole[: max(covered, len(whole) - cut)])
    assert write(path, resume_step + 1, 9, resume_step) == whole


def test_a_record_without_its_line_feed_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = write(path, 0, 5)
    path.write_bytes(whole[:-1])
    assert [r["step"] for r in read_metrics(path)] == [0, 1, 2, 3, 4]
    assert write(path, 5, 5, resume_step=5) == whole


def test_a_killed_writer_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from nanochat.tracking.sinks import JsonlSink; sink = JsonlSink(Path(sys.argv[1]))\n"
        "for step in itertools.count():\n    sink.log({'step': step, 'text': 'x' * 5000})\n    print(step, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    said = [line for line in child.stdout.read().split("\n")[:-1] if line]
    child.wait()
    records = read_metrics(path)
    assert [r["step"] for r in records] == list(range(len(records)))
    assert len(records) > int(said[-1])


def test_a_new_run_keeps_the_file_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    before = write(path, 0, 3)
    assert write(path, 0, 1) == before[: len(path.read_bytes())]
    assert (tmp_path / "metrics.previous.jsonl").read_bytes() == before


def test_values_that_json_lacks_are_null_and_spelled_out(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.log({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": None, "f": True})
    text = sink.path.read_text()
    sink.close()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {
        "step": 1,
        **{"a": None, "a_nonfinite": "nan", "b": None, "b_nonfinite": "inf", "c": None, "c_nonfinite": "-inf"},
        **{"d": 1.5, "e": None, "f": True},
    }


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')
    for call in (lambda: read_metrics(path), lambda: JsonlSink(path, 3)):
        with pytest.raises(UserError, match="line 2 of .*metrics.jsonl"):
            call()
    assert path.read_bytes() == b'{"step": 1}\n{"step": \n{"step": 3}\n'


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_metrics(tmp_path / "absent.jsonl")


def test_a_file_that_may_not_grow_for_a_while_is_whole_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = write(path, 0, 9)
    code = """
        import resource
        sink, hard = JsonlSink(path), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for step in range(10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100 if 2 < step < 5 else hard, hard))
            sink.log({"step": step, "total_tokens": step * 8192, "train/loss": 4.0 + 1 / (step + 1)})
        sink.close()
    """
    done = in_python(code, path)
    assert done.returncode == 0 and path.read_bytes() == whole
    assert done.stderr == f"alert: cannot append to {path}: File too large; its records wait until there is room\n"


def test_a_file_that_may_not_grow_is_one_line_and_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = write(path, 0, 9)
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        sink = JsonlSink(path)
        for step in range(10):
            sink.log({"step": step, "total_tokens": step * 8192, "train/loss": 4.0 + 1 / (step + 1)})
        run(sink.close)
    """
    done = in_python(code, path)
    assert done.returncode == 1 and done.stderr.count("\n") == 2 and "\nerror: cannot append to" in done.stderr
    assert 0 < len(read_metrics(path)) < 9 and len(path.read_bytes()) == 300
    assert write(path, 3, 9, resume_step=2) == whole


# --- the logger ---


@pytest.mark.parametrize("bad", [{}, {"step": 1.0}, {"step": True}, {"step": 1, "a": [1]}, {"step": 1, "a": {"b": 1}}])
def test_records_are_flat_and_have_a_step(tmp_path: Path, bad) -> None:
    with MetricsLogger([JsonlSink(tmp_path / "metrics.jsonl")]) as metrics, pytest.raises(TypeError):
        metrics.log(bad)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_secrets_never_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    sinks = [
        JsonlSink(tmp_path / "metrics.jsonl"),
        TerminalSink(10),
        WandbSink("run", {"data": {"url": f"https://x/?token={KEY}"}, "list": ["hf_secret_token"]}, tmp_path),
    ]
    with MetricsLogger(sinks) as metrics:
        metrics.log({"step": 1, "note": f"key {KEY} and hf_secret_token", "train/loss": 1.0})
        metrics.say(f"using {KEY}")
    everything = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()] + [capsys.readouterr().out.encode()]
    assert b"using ***" in everything[-1] and b"key *** and ***" in (tmp_path / "metrics.jsonl").read_bytes()
    assert len(everything) > 5
    assert not any(secret in data for data in everything for secret in (KEY.encode(), b"hf_secret_token"))


def test_redact_without_secrets_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    assert redact("plain text") == "plain text"


# --- W&B ---


def test_wandb_works_offline_and_resumes_under_its_id(tmp_path: Path) -> None:
    for resume_step in (None, 5, None):
        with MetricsLogger([WandbSink("demo", {"depth": 4}, tmp_path, resume_step=resume_step)]) as metrics:
            metrics.log({"step": 6, "train/loss": 0.123456789, "val/bpb": math.nan})
        time.sleep(1.1)  # W&B names folders by the second
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_mtime)
    ids = [file.stem for file in files]
    assert len(ids) == 3 and ids[0] == ids[1] != ids[2]
    assert all(b"train/loss" in file.read_bytes() and b"0.123456789" in file.read_bytes() for file in files)


def test_wandb_goes_offline_by_itself_without_a_key(tmp_path: Path) -> None:
    done = in_python('WandbSink("demo", {}, path).close()', tmp_path, WANDB_MODE="", WANDB_API_KEY="", HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_wandb_refusing_the_key_is_one_line(tmp_path: Path) -> None:
    done = in_python('run(lambda: WandbSink("demo", {}, path))', tmp_path, WANDB_MODE="", WANDB_API_KEY="too-short-to-be-a-key")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("wandb:")]
    assert done.returncode == 1 and len(errors) == 1, done.stderr
    assert errors[0].startswith("error: cannot log to W&B: ") and "WANDB_MODE=offline" in errors[0]
    assert "too-short" not in done.stderr + done.stdout


# --- the terminal ---


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsLogger([TerminalSink(400)]) as metrics:
        metrics.log(record(100, **{"train/tok_per_sec": 13901.7, "train/peak_mem_mib": 1203.4}))
        metrics.log({"step": 100, "val/bpb": 1.23456})
        metrics.log({"step": 110, "mc/lens_loss": 1.0})
        metrics.say("[bold]saved[/bold]")
        metrics.log(record(120, **{"train/tok_per_sec": 13901.7}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 00100/00400 (25.0%) | loss 4.0099 | 13,902 tok/s | 1,203 MiB"
    assert lines[1:3] == ["step 00100/00400 (25.0%) | val bpb 1.2346", "[bold]saved[/bold]"]
    assert lines[3].startswith("step 00120/00400 (30.0%) | loss 4.0083 | 13,902 tok/s | eta ") and len(lines) == 4


def test_eta_is_what_is_left_at_the_pace_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    sink = TerminalSink(1000)
    sink.log(record(0))
    time.sleep(0.5)
    sink.log(record(10))
    eta = capsys.readouterr().out.splitlines()[1].rpartition("eta ")[2]
    assert eta in {f"{s}s" for s in range(49, 60)}


def test_a_terminal_gets_a_live_bar() -> None:
    code = (
        "from nanochat.tracking.sinks import *\nwith MetricsLogger([TerminalSink(400)]) as m:\n"
        "  m.log({'step': 100, 'train/loss': 4.5, 'train/tok_per_sec': 13902.0})\n  m.say('saved [x]')\n"
        "  m.log({'step': 200, 'train/loss': 3.25, 'train/tok_per_sec': 13902.0})"
    )
    leader, follower = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, cwd=ROOT, env=env)
    os.close(follower)
    out = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        out += piece
    assert child.wait(timeout=30) == 0
    os.close(leader)
    text = out.decode()
    assert "\x1b[" in text and "step 200/400" in text and "50%" in text
    assert "loss 3.2500 | 13,902 tok/s | eta " in text and "saved [x]" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (45.4, "45s"), (59.7, "1m00s"), (72, "1m12s"), (7380, "2h03m"), (360_000, "100h00m")]
)
def test_show_seconds(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


# --- averages and memory ---


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_debiased_ema_is_the_weighted_mean(values: list[float], beta: float) -> None:
    ema = DebiasedEMA(beta)
    for value in values:
        average = ema.update(value)
    assert average == ema.value
    weights = [beta**age for age in range(len(values))]
    expected = sum(w * v for w, v in zip(weights, reversed(values), strict=True)) / sum(weights)
    assert average == pytest.approx(expected, abs=1e-9)


def test_an_average_of_nothing_is_no_number() -> None:
    assert math.isnan(DebiasedEMA(0.9).value)


def test_ema_continues_bit_for_bit_after_a_trip_through_json() -> None:
    straight, first, second = DebiasedEMA(0.9), DebiasedEMA(0.9), DebiasedEMA(0.9)
    values = [math.sin(i) for i in range(20)]
    expected = [straight.update(v) for v in values]
    got = [first.update(v) for v in values[:11]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert got + [second.update(v) for v in values[11:]] == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ema_refuses_what_would_never_leave_it(bad: float) -> None:
    ema = DebiasedEMA(0.9)
    ema.update(1.0)
    with pytest.raises(ValueError, match="moving average"):
        ema.update(bad)
    assert ema.update(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_ema_needs_a_sensible_beta(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta is {beta}"):
        DebiasedEMA(beta)


def test_importing_metrics_stays_light() -> None:
    heavy = "import nanochat.tracking.sinks, sys; print([m for m in ('torch', 'wandb', 'rich', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"
