"""The acceptance run: every part at toy size, and what becomes of parts that fail, die or hang."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_acceptance
from bench.acceptance import supervisor
from bench.acceptance.parts import PARTS, Part
from bench.acceptance.record import Check, Verdict
from bench.acceptance.results import PartResult
from nanochat.common import ROOT

PLANTED = "tests.helpers.planted_parts"


def planted(*names: str, limit: int = 60) -> tuple[Part, ...]:
    return tuple(Part(name, f"what {name}", limit, f"{PLANTED}:{name}") for name in names)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, base: Path):
    def put(*names: str, limit: int = 60, first: str = "") -> None:
        monkeypatch.setattr(gpu_acceptance, "PARTS", planted(*names, limit=limit))
        monkeypatch.setattr(gpu_acceptance, "FIRST", first)

    return put


def saved(out: Path) -> dict[str, dict]:
    return {part["name"]: part for part in json.loads((out / "results.json").read_text())["parts"]}


def test_every_part_runs_at_toy_size(base: Path) -> None:
    """In few processes: torch is imported by two."""
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    command = [sys.executable, "-m", "bench.gpu_acceptance", "--toy", f"--out={base}/out", "--time-limit=600"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["ok"] and verdict["passed"] == len(PARTS) and not verdict["failed"] + verdict["skipped"]
    parts = saved(base / "out")
    assert list(parts) == [part.name for part in PARTS]
    for name, part in parts.items():
        assert part["status"] == "passed" and part["seconds"] > 0 and part["source"]
        assert name == "machine" or any(check["verdict"] == "passed" and check["bound"] for check in part["checks"]), name
    names = {name: {check["name"] for check in part["checks"]} for name, part in parts.items()}
    assert {"graphs", "graph breaks", "compilation", "compilations after step 2"} <= names["compiled"]
    assert {"NCCL", "gloo"} & names["torchrun"] and "model.safetensors is bit-identical" in names["resume"]
    assert {"fast: rows of a step", "full: rows of a step"} <= names["mc"] and {"save", "load"} <= names["checkpoint"]
    assert len(parts["mfu"]["tables"][0]["rows"]) > 5
    markdown = (base / "out" / "results.md").read_text()
    assert all(f"| {name} | passed |" in markdown for name in parts) and "Slowest operators of a step" in markdown


@pytest.mark.parametrize("toy", [False, True])
def test_a_part_that_breaks_costs_no_other(plant, base: Path, capsys: pytest.CaptureFixture[str], toy: bool) -> None:
    plant("passes", "misses", "raises", "dies")
    assert gpu_acceptance.main([f"--out={base}/out", "--skip=passes", f"--toy={int(toy)}"]) == 1
    assert gpu_acceptance.main([f"--out={base}/out", "--resume", f"--toy={int(toy)}"]) == 1
    parts = saved(base / "out")
    reasons = {name: (part["status"], part["reason"]) for name, part in parts.items()}
    assert reasons["passes"] == ("passed", "")
    assert reasons["misses"] == ("failed", "failed: not a number")
    assert reasons["raises"] == ("failed", "its process ended with 1: RuntimeError: the kernel is broken")
    assert reasons["dies"][0] == "failed" and reasons["dies"][1].startswith("its process ended with -9")
    assert parts["raises"]["checks"][0]["name"] == "before"
    assert [check["verdict"] for check in parts["misses"]["checks"]] == ["passed", "failed", "skipped"]
    assert [check["value"] for check in parts["misses"]["checks"]] == [2.0, "nan", None]
    assert [check["bound"] for check in parts["passes"]["checks"]] == ["≤ 2", "a", ""]
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (verdict["ok"], verdict["passed"], verdict["failed"]) == (False, 1, ["misses", "raises", "dies"])
    assert "| a\\|b | 1 |" in (base / "out" / "results.md").read_text()


def test_a_part_that_has_ended_did_not_break_the_process(plant, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late one looks."""
    follow = supervisor.Supervisor._follow

    def late(self, worker, *rest):
        worker.wait()
        yield from follow(self, worker, *rest)

    monkeypatch.setattr(supervisor.Supervisor, "_follow", late)
    plant("passes", "raises", "misses")
    assert gpu_acceptance.main([f"--out={base}/out", "--toy"]) == 1
    reasons = {name: part["reason"] for name, part in saved(base / "out").items()}
    broken = "its process ended with 1: RuntimeError: the kernel is broken"
    assert reasons == {"passes": "", "raises": broken, "misses": "failed: not a number"}


@pytest.mark.parametrize("verdicts", [(), ("skipped", "skipped")])
def test_a_part_that_checks_nothing_has_not_passed(verdicts: tuple[Verdict, ...]) -> None:
    result = PartResult("attention", "", checks=[Check("fa3", None, "", verdict) for verdict in verdicts]).ended(1.0)
    assert (result.status, result.reason, result.broken) == ("failed", "it has checked nothing", False)


def test_a_resumed_run_leaves_out_what_passed(plant, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant("passes", "misses")
    assert gpu_acceptance.main([f"--out={base}/out", "--parts=passes"]) == 0
    before = saved(base / "out")["passes"]
    assert gpu_acceptance.main([f"--out={base}/out", "--resume"]) == 1
    assert saved(base / "out")["passes"] == before and "passes         passed earlier" in capsys.readouterr().out
    assert (base / "out" / "log.txt").read_text().count("== ") == 2
    with pytest.raises(Exception, match="another kind of run"):
        gpu_acceptance.main([f"--out={base}/out", "--resume", "--toy"])


def test_a_part_that_hangs_is_cut(plant, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    plant("hangs", "passes", limit=2)
    assert gpu_acceptance.main([f"--out={base}/out"]) == 1
    parts = saved(base / "out")
    assert parts["hangs"]["status"] == "failed" and parts["hangs"]["reason"].endswith("its limit")
    assert parts["passes"]["status"] == "passed"
    until(lambda: ended(parts["hangs"]["checks"][0]["value"]))


def test_the_time_limit_skips_what_is_left(plant, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    plant("passes", "hangs", "misses")
    assert gpu_acceptance.main([f"--out={base}/out", "--time-limit=3"]) == 1
    parts = saved(base / "out")
    assert parts["passes"]["status"] == "passed"
    assert parts["hangs"]["status"] == "failed" and parts["hangs"]["reason"].endswith("by --time-limit")
    assert (parts["misses"]["status"], parts["misses"]["reason"]) == ("skipped", "no time left; --resume runs it")


def test_a_killed_run_keeps_what_it_has_and_leaves_no_process(base: Path) -> None:
    program = f"""
from bench import gpu_acceptance
from bench.acceptance.parts import Part
gpu_acceptance.PARTS = tuple(Part(name, "", 60, f"{PLANTED}:{{name}}") for name in ("passes", "waits"))
gpu_acceptance.main(["--out={base}/out"])
"""
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as run:
        progress = base / "gpu_acceptance" / "work" / "progress.jsonl"
        worker = until(lambda: progress.exists() and re.search(r'"process", "value": (\d+)', progress.read_text()))
        run.kill()
    assert {name: part["status"] for name, part in saved(base / "out").items()} == {"passes": "passed"}
    until(lambda: ended(int(worker[1])))


def until(condition: Callable[[], Any]) -> Any:
    """Waits for `condition()`, and returns it."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def ended(pid: int) -> bool:
    """Whether a process is gone, or only its exit code is left."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_without_a_machine_nothing_else_runs(plant, base: Path) -> None:
    plant("raises", "passes", first="raises")
    assert gpu_acceptance.main([f"--out={base}/out"]) == 1
    assert (saved(base / "out")["passes"]["status"], saved(base / "out")["passes"]["reason"]) == ("skipped", "raises did not end")


@pytest.mark.parametrize(
    ("flag", "message"), [("--parts=mfu,nothing", "'nothing': there is no such part"), ("--skip=", ""), ("--time-limit=0", "time_limit")]
)
def test_flags_that_cannot_be(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [flag, "--parts=mfu", "--skip=mfu"] if not message else [flag]
    with pytest.raises(SystemExit) as end:
        gpu_acceptance.main(argv)
    assert end.value.code == 2
    assert (message or "nothing is left to run") in capsys.readouterr().err
