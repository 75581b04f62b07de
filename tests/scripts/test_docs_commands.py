"""Commands of README and vault exist with their flags, parse in the shell, and run if marked as tested."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_run import Home, new_home
from bench.warm_start import WarmStart
from mc.session.disk_tree import DiskTree
from mc.session.tree import TreeSpec
from nanochat.common import ROOT
from tests.helpers.docs_commands import command, faults, help_of, lines, runnable, unknown_modules
from tests.helpers.tiny_tree import DEEP, MANIFEST, SMALL, WIDE, world
from tests.helpers.vault import VAULT, Page, pages, read

SHELL_BLOCKS = [(page.name, block) for page in pages() for block in page.blocks if block.info.split(" ")[0] in ("bash", "sh")]
TESTED = [page for page in pages() if any("tested" in block.info.split() and block.info.startswith("bash") for block in page.blocks)]
# What makes a documented command one of seconds, on the corpus there is.
SMALL_SCALE = {
    "scripts.base_eval": ("--dataset={corpus}",),
    "scripts.mid_train": ("--compile=0", "--device-type=cpu", "--eval-every=-1"),
    "scripts.chat_sft": ("--compile=0", "--device-type=cpu", "--eval-every=-1"),
    "scripts.compare": ("--out={tmp}/compare.png",),
}
TINY = ("--max-seq-len=128", "--total-batch-size=512", "--num-iterations=6", "--eval-every=3", "--eval-tokens=512", "--save-every=-1")
MEMORY = ("--mc", "--device-batch-size=1", "--block-size=8", "--mc-num-random-variants=2")
GOLDEN = {"run10.sh --gpu cpu": "run10-cpu", "run10.sh --gpu 5090": "run10-5090", "run10.sh --gpu h100": "run10-h100"}
GOLDEN |= {"speedrun.sh": "speedrun-h100", "run1000.sh": "run1000-h100"}


def environment_of(line: str) -> dict[str, str]:
    """The variables that stand before a command."""
    first = re.match(r"(?:[A-Z][A-Z0-9_]*=\S* )*", line)
    return dict(word.split("=", 1) for word in first[0].split()) if first else {}


def test_commands_exist_with_their_flags() -> None:
    assert len(SHELL_BLOCKS) >= 10
    assert not [(name, fault) for name, block in SHELL_BLOCKS for words in lines(block.text) for fault in faults(words)]


def test_commands_in_the_text_exist_with_their_flags() -> None:
    for page in pages():
        code = [text for text in page.code if re.match(r"(\.venv/bin/)?python -m |bash |\./mc_setup|torchrun ", text) and "…" not in text]
        assert not [fault for text in code for words in lines(text) for fault in faults(words)], page.name
        assert not unknown_modules(page), page.name


def test_values_of_flags_are_taken() -> None:
    """As far as the command line tells: each command is parsed with --help behind it, which acts when all before it was read."""
    for name, block in SHELL_BLOCKS:
        for words in lines(block.text):
            found = command(words)
            if found is not None and runnable().get(found.module) and "--help" not in found.arguments:
                assert help_of(found.module, *found.arguments), f"{name}: {shlex.join(words)}"


def test_the_shell_reads_every_block() -> None:
    for name, block in SHELL_BLOCKS:
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize(
    "text",
    [
        "python -m scripts.no_such",
        "python -m scripts.base_train --no-such 1",
        "torchrun --standalone -m scripts.base_train -- --no_such=1",
        "bash run10.sh --no-such",
        "bash no_such.sh",
        "./mc_setup --no-such",
        "NAME=1 .venv/bin/python -m bench.loader --no-such | tee x",
    ],
)
def test_a_wrong_command_is_found(text: str) -> None:
    assert [fault for words in lines(text) for fault in faults(words)]


def test_a_right_command_is_none() -> None:
    text = "torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth 20 --total_batch_size=8\n"
    text += "bash run10.sh --mc --depth 6 # x\ncd x && ls -l"
    assert not [fault for words in lines(text) for fault in faults(words)]
    page = Page(VAULT / "x.md", "`python -m scripts.no_such` and `python -m scripts.base_train`")
    assert unknown_modules(page) == ["scripts.no_such"]


def test_recipes_are_those_of_the_runners() -> None:
    """The table of the operators' note against the commands that dry runs print."""
    text = read(VAULT / "Training and operations.md").prose
    for recipe, golden in GOLDEN.items():
        (train,) = [line for line in (ROOT / "tests" / "golden" / f"{golden}.txt").read_text().splitlines() if "scripts.base_train" in line]
        depth, batch, steps, rows = (
            int(re.search(rf"--{flag}[= ](\d+)", train)[1]) for flag in ("depth", "total-batch-size", "num-iterations", "device-batch-size")
        )
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `bash {recipe}` |")]
        assert f"| depth {depth}" in row and f"| {batch:,} × {steps:,} | {rows} |" in row, (row, train)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A base folder with a tiny baseline, d4, and the same with a memory, d4-mc."""
    home = new_home(tmp_path_factory.mktemp("docs") / "base", corpus, warm)
    for flags in (TINY, (*TINY, *MEMORY)):
        process = home.train(*flags, "--model-tag=d4")
        assert process.code == 0, process.stderr
    return home


@pytest.mark.parametrize("page", TESTED, ids=lambda page: page.name)
def test_what_is_marked_as_tested_runs(page: Page, trained: Home, tmp_path: Path) -> None:
    """Each line in a process of its own, as `python -m` would run it, in a base folder that has two models.

    Then there is what the page says lies in that folder's `report`, but for names with a placeholder.
    """
    for line in "".join(block.text for block in page.blocks if block.info == "bash tested").splitlines():
        (words,) = lines(line)
        found = command(words)
        assert found is not None, f"{page.name}: {line} is no command of ours; a block that is tested has only such"
        arguments = [str(tmp_path / "report.md") if word == "report/report.md" else word for word in found.arguments]
        arguments += [text.format(corpus=trained.corpus, tmp=tmp_path) for text in SMALL_SCALE.get(found.module, ())]
        process = trained.run(found.module, *arguments, environment=environment_of(line))
        assert process.code == 0, f"{line}\n{process.stdout}\n{process.stderr}"
    said = [text.partition("/")[2] for text in page.code if text.startswith("$NANOCHAT_BASE_DIR/report/") and "<" not in text]
    assert not [path for path in said if not (trained.base / path).exists()]


@pytest.mark.parametrize(("spec", "length"), [(SMALL, 203), (WIDE, 203), (DEEP, 40_001)], ids=["small", "wide", "deep"])
def test_a_session_is_read_as_the_note_says(spec: TreeSpec, length: int, tmp_path: Path) -> None:
    """By the reader in the note on storage, which shares no code with ours; a changed byte does not escape it."""
    (reader,) = [block.text for block in read(VAULT / "Storage format.md").blocks if block.info == "python tested"]
    names: dict[str, Any] = {}
    exec(compile(reader, "Storage format.md", "exec"), names)
    what = world(spec, length)
    tree = DiskTree.create(tmp_path / "session", MANIFEST, spec)
    tree.append(*what.piece(0, length))
    tree.close()
    tokens, blocks = names["read_session"](tmp_path / "session")
    assert tokens == what.tokens.tolist() and blocks == length // spec.geometry.block_size
    file = tmp_path / "session" / "lod1.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError, match="is damaged"):
        names["read_session"](tmp_path / "session")
