"""Runners for tests: copies of their shell files, without an environment or with one whose stages only leave their artefacts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

RUNNERS = ("run10.sh", "speedrun.sh", "run1000.sh")

# Stands for .venv/bin/python and torchrun: notes its command and leaves what the stage would leave.
INTERPRETER = """#!{python}
import os, sys
from pathlib import Path
words, base = sys.argv[1:], Path(os.environ["NANOCHAT_BASE_DIR"])
script = words[words.index("-m") + 1].removeprefix("scripts.")
if script == "memory_estimate":
    print("device memory: needs about 1.0 of 2.0 GiB")
    sys.exit()
given = dict(zip(words, words[1:]))
tag = given.get("--model-tag", "")
memory = "_mc" * tag.endswith("-mc")
sections = {{"tok_eval": "tokenizer_evaluation", "base_eval": "base_evaluation" + memory, "mid_train": "mid_training" + memory}}
sections |= {{"chat_sft": "chat_sft" + memory, "chat_rl": "chat_rl" + memory, "mc_eval": "long_context"}}
sections["chat_eval"] = "chat_evaluation" + "_rl" * (given.get("--source") == "rl") + memory
folders = {{"nanochat.dataset": "data/" + given.get("--dataset", ""), "tok_train": "tokenizer"}}
folders["base_train"] = "base_checkpoints/" + tag + "/step_" + given.get("--num-iterations", "").zfill(7)
with open("commands.txt", "a") as file:
    file.write(repr([".venv/bin/" + Path(sys.argv[0]).name, *words]) + "\\n")
if script in folders:
    (base / folders[script]).mkdir(parents=True, exist_ok=True)
elif script != "chat_cli":
    path = Path(given["--out"]) if script == "nanochat.report" else base / "report" / (sections[script] + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("made")
"""


def copy_checkout(root: Path, folder: Path, environment: bool = False) -> Path:
    """The runners in `folder`, without an environment or with one that only `INTERPRETER` is in."""
    folder.mkdir(parents=True)
    for name in (*RUNNERS, "mc_setup", "pyproject.toml"):
        shutil.copy(root / name, folder)
    shutil.copytree(root / "runs", folder / "runs")
    if environment:
        (folder / "mc_setup").write_text("#!/bin/sh\nexit 0\n")
        (folder / ".venv/bin").mkdir(parents=True)
        for name in ("python", "torchrun"):
            (folder / ".venv/bin" / name).write_text(INTERPRETER.format(python=sys.executable))
            (folder / ".venv/bin" / name).chmod(0o755)
    return folder


def run_runner(folder: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """A runner of the checkout in `folder`, started in `cwd` (default: there)."""
    name, *flags = arguments
    command = ["bash", str(folder / name), *flags]
    return subprocess.run(command, cwd=cwd or folder, env=os.environ | variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def dry_run(folder: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> list[str]:
    """The lines of a dry run but for its comments."""
    done = run_runner(folder, *arguments, "--dry-run", cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


def stage_commands(lines: list[str]) -> list[list[str]]:
    """The words of those lines of a dry run that are stages or downloads."""
    return [shlex.split(line.partition(" >")[0]) for line in lines if line.startswith(".venv/bin/")]


def fake_gpus(folder: Path, mib: int, count: int = 1) -> dict[str, str]:
    """The variables with which a runner finds `count` GPUs of `mib` MiB: an `nvidia-smi` in `folder` prints them as the real one does."""
    folder.mkdir(exist_ok=True)
    listing = "".join(f"echo 'GPU {i}: Some GPU (UUID: GPU-{i})'\n" for i in range(count))
    memory = f"echo {mib}\n" * count
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then\n{listing}else\n{memory}fi\n')
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def script(root: Path, text: str) -> list[str]:
    """The command of a runner of the test's own: `text` after what every runner does first. It works in the folder it is started in."""
    return ["bash", "-c", f'. {shlex.quote(str(root))}/runs/lib.sh; load_env; find_base_dir "$PWD"; start_log; {text}']


def run_script(root: Path, folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs such a runner in `folder`."""
    return subprocess.run(script(root, text), cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=60)
