"""Clients that people use, as they come from PyPI and npm, against a real process: `pytest -m clients -s` prints what works with which.

They are installed in a virtual environment and a folder of their own, which stay in pytest's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from nanochat.common import ROOT

pytestmark = pytest.mark.clients

PROGRAMS = ROOT / "tests" / "helpers" / "clients"
NOTE = ROOT / "obsidian" / "Chat server.md"
# Name → program, and what is installed for it.
PYTHON = {
    "openai (Python)": ("openai_python", "openai"),
    "litellm": ("litellm_python", "litellm"),
    "langchain-openai": ("langchain_python", "langchain-openai"),
    "instructor": ("instructor_python", "instructor"),
    "pydantic-ai": ("pydantic_ai_python", "pydantic-ai-slim[openai]"),
    "llm": ("llm_python", "llm"),
    "ollama": ("ollama_python", "ollama"),
}
NODE = {"openai (npm)": ("openai_node", "openai"), "Vercel AI SDK": ("vercel_node", "ai")}
PACKAGES = [*(package for _, package in NODE.values()), "@ai-sdk/openai-compatible"]
FEATURES = ["models", "chat", "stream", "stop", "logprobs", "tools", "demanded call", "JSON schema", "JSON object", "text completion"]
AT_LEAST = 2  # features of each client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("models")
    save_chat_model(base, "sum")
    with running(warm, base, "-g", "sum", "-t=0") as started:
        yield started


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with the Python clients."""
    folder = request.config.cache.mkdir("clients") / "venv"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = [package for _, package in PYTHON.values()]
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
        (folder / "complete").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> Path:
    """A folder with the clients for Node and the programs."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = request.config.cache.mkdir("clients") / "node"
    folder.mkdir(exist_ok=True)
    if not (folder / "complete").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES], cwd=folder, check=True)
        (folder / "complete").touch()
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, folder)
    return folder


def features(server: Server, *command: str | Path) -> list[str]:
    """What works, by the program `command`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run([*command, server.url, "sft-sum"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = done.stdout.splitlines()
    assert len(found) >= AT_LEAST and set(found) <= set(FEATURES)
    return found


def test_what_works_is_what_the_note_says(server: Server, python: Path, node: Path) -> None:
    found = {name: features(server, python, PROGRAMS / f"{program}.py") for name, (program, _) in PYTHON.items()}
    found |= {name: features(server, "node", node / f"{program}.mjs") for name, (program, _) in NODE.items()}
    lines = [["feature", *found], ["---"] * (1 + len(found))]
    lines += [[feature, *("✓" if feature in theirs else "" for theirs in found.values())] for feature in FEATURES]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(f"\n{table}")
    assert table in NOTE.read_text(encoding="utf-8")
