"""`mc_setup`: the environment it makes and `.mc_env`, in a checkout of the test's own that has only what it reads."""

from __future__ import annotations

import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

SECRETS = {"WANDB_API_KEY": "w&b 'quoted' $HOME `id`", "HF_TOKEN": 'hf_"1"\\n#;', "MC_OTEL_ENDPOINT": "http://host:4318/a?b=c d"}


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "check out"
    (folder / "rustbpe").mkdir(parents=True)
    shutil.copy(root / "mc_setup", folder)
    shutil.copy(root / "pyproject.toml", folder)
    return folder


def set_up(folder: Path, *flags: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "mc_setup"), *flags]
    environment = os.environ | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def on_a_terminal(folder: Path, *flags: str, typed: list[str]) -> str:
    """Runs `mc_setup` on a pseudo-terminal, types a line at every question, and returns what the screen showed."""
    leader, follower = pty.openpty()
    with subprocess.Popen([folder / "mc_setup", *flags], stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        screen, lines = "", list(typed)
        while True:
            try:
                read = os.read(leader, 4096).decode()
            except OSError:  # Linux: the other side is closed
                read = ""
            if not read:
                break
            screen += read
            if lines and screen.endswith(": "):
                os.write(leader, lines.pop(0).encode() + b"\n")
                screen += "\n"
        assert process.wait() == 0, screen
    os.close(leader)
    assert not lines, f"not asked for: {lines}"
    return screen


def values(folder: Path) -> dict[str, str]:
    """What a shell gets from `.mc_env`: the variables that the questions are about, where they are set."""
    shell = '. ./.mc_env; for name in $*; do eval "printf \'%s=%s\\\\0\' \\$name \\"\\${$name-}\\""; done'
    command = ["sh", "-c", shell, "sh", *SECRETS, "MC_OTEL_INSECURE"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    pairs = (item.partition("=") for item in printed.rstrip("\0").split("\0"))
    return {name: value for name, _, value in pairs if value}


# --- .mc_env ---


def test_without_a_terminal_nothing_is_asked(checkout: Path) -> None:
    done = set_up(checkout, "--env")
    assert done.returncode == 0 and done.stderr == ""
    assert stat.S_IMODE((checkout / ".mc_env").stat().st_mode) == 0o600
    assert values(checkout) == {}


def test_yes_asks_nothing_on_a_terminal(checkout: Path) -> None:
    assert ": " not in on_a_terminal(checkout, "--env", "--yes", typed=[]).replace(".mc_env: ", "")
    assert values(checkout) == {}


def test_answers_are_kept_quoted_private_and_unseen(checkout: Path) -> None:
    screen = on_a_terminal(checkout, "--env", typed=[*SECRETS.values(), "1"])
    assert values(checkout) == SECRETS | {"MC_OTEL_INSECURE": "1"}
    assert stat.S_IMODE((checkout / ".mc_env").stat().st_mode) == 0o600
    assert SECRETS["WANDB_API_KEY"] not in screen and SECRETS["HF_TOKEN"] not in screen
    assert sorted(p.name for p in checkout.iterdir()) == [".mc_env", "mc_setup", "pyproject.toml", "rustbpe"], "nothing is left over"


def test_enter_keeps_what_is_set(checkout: Path) -> None:
    (checkout / ".mc_env").write_text("# mine\nHF_TOKEN=old\nexport WANDB_API_KEY='old'\nexport OTHER=kept\n")
    (checkout / ".mc_env").chmod(0o644)
    screen = on_a_terminal(checkout, "--env", typed=["new", "", "", ""])
    assert screen.count("[is set]") == 2 and "old" not in screen
    assert values(checkout) == {"WANDB_API_KEY": "new", "HF_TOKEN": "old"}
    assert (checkout / ".mc_env").read_text().splitlines() == [
        "# mine",
        "HF_TOKEN=old",
        "export OTHER=kept",
        "export WANDB_API_KEY='new'",
    ]
    assert stat.S_IMODE((checkout / ".mc_env").stat().st_mode) == 0o600


def test_the_runners_read_what_was_answered(root: Path, checkout: Path) -> None:
    on_a_terminal(checkout, "--env", typed=[*SECRETS.values(), ""])
    shell = f'. "{root}/runs/lib.sh"; load_env; "{sys.executable}" -c "import os; print(os.environ[\'HF_TOKEN\'])"'
    printed = subprocess.run(["bash", "-c", shell], cwd=checkout, capture_output=True, text=True).stdout
    assert printed == SECRETS["HF_TOKEN"] + "\n"


def test_mc_env_is_not_in_git(root: Path) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", ".mc_env"], cwd=root).returncode == 0


# --- environment ---


def test_a_second_run_changes_nothing_and_is_quick(root: Path, tmp_path: Path) -> None:
    if set_up(root, "--check").returncode:
        pytest.skip("the environment was not made by mc_setup")
    before = {p: p.stat().st_mtime_ns for p in (root / ".venv/mc_setup.stamp", root / ".venv/bin", root / "rustbpe/_native")}
    began = time.monotonic()
    done = set_up(root, "--yes", cwd=tmp_path)
    assert time.monotonic() - began < 2
    assert done.returncode == 0 and "up to date" in done.stdout and len(done.stdout.splitlines()) <= 15
    assert before == {p: p.stat().st_mtime_ns for p in before}


BACKEND = """
import pathlib, zipfile

METADATA = "Metadata-Version: 2.1\\nName: megacontext\\nVersion: 0.1.0\\nProvides-Extra: cpu\\nProvides-Extra: dev\\n"

def get_requires_for_build_editable(settings=None):
    return []

def build_editable(folder, settings=None, metadata=None):
    name, info = "megacontext-0.1.0-py3-none-any.whl", "megacontext-0.1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("megacontext.pth", f"{pathlib.Path.cwd()}\\n")
        wheel.writestr(f"{info}/METADATA", METADATA)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


@pytest.fixture
def quick_checkout(checkout: Path) -> Path:
    """A checkout that installs in seconds and without a network: it has no dependencies and builds itself."""
    (checkout / "pyproject.toml").write_text(
        '[project]\nname = "megacontext"\nversion = "0.1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "torch.py").write_text('__version__ = "2.13.0"\n')
    (checkout / "rustbpe/__init__.py").touch()
    (checkout / "rustbpe/Cargo.toml").write_text("[package]\n")
    return checkout


def test_an_environment_is_made_once_and_again_when_it_is_stale(quick_checkout: Path, tmp_path: Path) -> None:
    checkout = quick_checkout
    quiet = {"PATH": path_without("uv", "nvidia-smi", folder=tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert set_up(checkout, "--check", **quiet).returncode == 1
    done = set_up(checkout, "--yes", "--dev", cwd=tmp_path, **quiet)
    assert done.returncode == 0, done.stderr
    assert "torch 2.13.0, extras cpu,otel,dev" in done.stdout and len(done.stdout.splitlines()) <= 15
    for flags in ([], ["--dev"]):
        assert set_up(checkout, "--check", *flags, **quiet).returncode == 0

    def is_stale() -> bool:
        return set_up(checkout, "--check", **quiet).returncode == 1

    for name in ("pyproject.toml", "rustbpe/Cargo.toml", "rustbpe/__init__.py"):
        text = (checkout / name).read_text()
        (checkout / name).write_text("raise ImportError" if name.endswith(".py") else text + "#")
        assert is_stale(), name
        (checkout / name).write_text(text)
        assert not is_stale()
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert set_up(moved, "--check", **quiet).returncode == 1, "the environment points to where the checkout was"
    moved.rename(checkout)
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/python").symlink_to("/nowhere/python3")
    assert is_stale()
    assert set_up(checkout, "--yes", **quiet).returncode == 0, "a broken environment is mended"
    assert not is_stale()


def test_a_failed_installation_is_one_line_and_leaves_the_environment_stale(checkout: Path, tmp_path: Path) -> None:
    quiet = {"PATH": path_without("uv", folder=tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = set_up(checkout, "--yes", **quiet)
    assert done.returncode == 1
    assert re.fullmatch(r"error: pip cannot install the packages: .*maturin.*; see .*/mc_setup\.log\n", done.stderr)
    assert set_up(checkout, "--check", **quiet).returncode == 1


def test_bad_input(checkout: Path, tmp_path: Path) -> None:
    done = set_up(checkout, "--yess")
    assert (done.returncode, done.stderr) == (2, "error: unknown argument --yess; see --help\n")
    done = set_up(checkout, "--yes", PYTHON="/nowhere/python3")
    assert (done.returncode, done.stderr) == (1, "error: invalid PYTHON=/nowhere/python3; expected Python 3.11 or newer\n")
    path = path_without("cargo", "curl", "rustup", "apt-get", "dnf", "brew", folder=tmp_path)
    empty = {"PATH": path, "HOME": str(tmp_path), "CARGO_HOME": str(tmp_path)}
    done = set_up(checkout, "--yes", PYTHON=sys.executable, **empty)
    assert done.returncode == 1
    assert done.stderr == "error: cargo is missing and rustup cannot be downloaded; install Rust, then run ./mc_setup again\n"
    assert not (checkout / ".venv").exists() and not (checkout / ".mc_env").exists()


def path_without(*programs: str, folder: Path) -> str:
    """A folder with every program of the PATH but these."""
    only = folder / "-".join(("path-without", *programs))
    only.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if program.name not in programs and not (only / program.name).exists():
                (only / program.name).symlink_to(program)
    return str(only)
