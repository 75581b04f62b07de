"""Processes of scripts: Ctrl-C while modules load, broken output, and what is set before torch is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.common import ROOT
from nanochat.process import ALLOCATOR, SPIN_COUNT

PRINTS = "from nanochat.flags import run\nrun(lambda: print({text}))"


def script(body: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs `body` as a program of the checkout."""
    return subprocess.run([sys.executable, "-c", body], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_ctrl_c_while_modules_load_is_one_line(seconds: float) -> None:
    command = [sys.executable, "-m", "scripts.base_train", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("text", ["'reply'", "'reply', flush=True", "'reply' * 10**6"], ids=["at the end", "at once", "much"])
def test_output_on_a_full_disk_is_one_line(text: str) -> None:
    with open("/dev/full", "w") as full:
        done = script(PRINTS.format(text=text), stdout=full)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_output_whose_reader_has_ended_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = script(PRINTS.format(text="'reply'"), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty(closed: str) -> None:
    body = "import sys; from nanochat.flags import run; run(lambda: print('x', sys.stdin.read(), file=sys.stderr) or print('y'))"
    command = ["sh", "-c", f'exec "{sys.executable}" -c "$0" {closed}', body]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert done.stdout == ("" if " >" in f" {closed}" else "y\n") and done.stderr == ("" if "2>" in closed else "x \n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_characters_that_the_output_lacks_are_spelled(encoding: str) -> None:
    done = script(PRINTS.format(text=r"'2 × 3 caf\udce9'"), stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout == (r"2 \xd7 3 caf\udce9" if encoding == "ascii" else r"2 × 3 caf\udce9") + "\n"


def test_a_run_outlives_its_output(tmp_path: Path) -> None:
    """A reader that has ended, and a disk that is full for a while: its later lines are there."""
    body = (
        "import resource, signal, sys; from nanochat.process import outlive_readers; outlive_readers()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = resource.RLIMIT_FSIZE\n"
        "hard = resource.getrlimit(limit)[1]\n"
        "print('a', flush=True); resource.setrlimit(limit, (2, hard)); print('lost', flush=True)\n"
        "resource.setrlimit(limit, (hard, hard)); print('c', flush=True); print('whole', file=sys.stderr)"
    )
    with open(tmp_path / "log", "w") as log:
        done = script(body, stdout=log)
    assert (done.returncode, done.stderr, (tmp_path / "log").read_text()) == (0, "whole\n", "a\nc\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = script(body, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "whole\n")


# Loaded by the interpreter before anything else: ends the process where torch is first wanted, and shows what libgomp would read.
SITE = """
import os, sys

class AtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PYTORCH_ALLOC_CONF")
            print(*(os.environ.get(name) for name in names), flush=True)
            os._exit(7)

sys.meta_path.insert(0, AtTorch())
"""


def shown_at_torch(folder: Path, *arguments: str, **given: str) -> str:
    (folder / "sitecustomize.py").write_text(SITE)
    removed = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    clean = {name: value for name, value in os.environ.items() if name not in removed}
    environment = clean | {"PYTHONPATH": f"{folder}:{ROOT}"} | given
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["scripts.base_train", "scripts.chat_cli", "bench.mc_overhead"])
def test_a_script_is_prepared_however_it_is_started(tmp_path: Path, module: str) -> None:
    assert shown_at_torch(tmp_path, "-m", module) == f"{SPIN_COUNT} None {ALLOCATOR}\n"


def test_what_the_user_sets_stays(tmp_path: Path) -> None:
    assert shown_at_torch(tmp_path, "-m", "scripts.base_train", GOMP_SPINCOUNT="5") == f"5 None {ALLOCATOR}\n"
    assert shown_at_torch(tmp_path, "-m", "scripts.base_train", OMP_WAIT_POLICY="active") == f"None active {ALLOCATOR}\n"
    own = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    assert shown_at_torch(tmp_path, "-m", "scripts.base_train", **own) == f"{SPIN_COUNT} None None\n"


def test_importing_sets_nothing(tmp_path: Path) -> None:
    assert shown_at_torch(tmp_path, "-c", "import scripts.base_train") == "None None None\n"
