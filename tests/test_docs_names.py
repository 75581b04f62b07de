"""README and vault name only existing flags, metrics, files, modules, variables, functions, metric bounds and events."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from mc.eval.metric_bounds import MEMORY_BOUNDS
from mc.telemetry.schema import schema
from nanochat.common import ROOT
from nanochat.tracking.metric_bounds import RUN_BOUNDS
from tests.helpers.docs_commands import all_flags
from tests.helpers.vault import VAULT, Page, pages, read

FOLDERS = ("nanochat", "mc", "scripts")
METRIC = re.compile(r"(?:train|val|mc|rl)/[\w@/*…{},]+(?<!/)|core_metric")  # a name that ends in / is a folder
# Readers of metrics: a name that only they contain is not logged.
READERS = re.compile(r"^(nanochat/report|mc/telemetry)/|/(metric_bounds|report|figures|compare|wandb_dashboard|run_log|run_reader)\.py$")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(?!…)(?![\w-])")
FOREIGN_FLAGS = {"--standalone", "--nproc-per-node", "--shutdown-timeout"}  # torchrun's


def sources(*folders: str, suffix: str = ".py") -> list[Path]:
    """Our files, without build outputs."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}")) if "target" not in path.parts]


@cache
def metric_patterns() -> list[re.Pattern[str]]:
    """Patterns of the names that the code logs: its literals, and its f-strings with holes filled by words of the code or numbers."""
    trees = [ast.parse(path.read_text()) for path in sources(*FOLDERS) if not READERS.search(str(path.relative_to(ROOT)))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    literals = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    words = {word for word in literals if re.fullmatch(r"_?[a-z][a-z0-9_]*", word)}
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "spans"]
    spans = {node.args[0].value for node in calls if node.args and isinstance(node.args[0], ast.Constant)} | {"other"}
    patterns = [re.escape(name) for name in literals if METRIC.fullmatch(name)]
    for node in nodes:
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant) and METRIC.match(node.values[0].value + "x"):
            pattern = ""
            for part in node.values:
                if isinstance(part, ast.Constant):
                    pattern += re.escape(part.value)
                elif pattern.endswith(("@", "/")):
                    named = spans if pattern == "train/time/" else words
                    pattern += rf"(?:{'|'.join(sorted(named))}|\d+|[Hk])"
                else:
                    glued = re.search(r"\w$", pattern)  # then it is an ending, such as _random
                    pattern += rf"(?:{'|'.join(sorted(word for word in words if not glued or word.startswith('_')))}|)"
            patterns.append(pattern)
    return [re.compile(pattern) for pattern in patterns]


def is_logged(name: str) -> bool:
    """True if the code logs a metric of this name; `*` or `…` at its end matches anything."""
    if name.endswith(("*", "…")) or "…" in name:
        stem = re.split(r"[*…]", name)[0]
        return any(pattern.pattern.startswith(re.escape(stem)) for pattern in metric_patterns())
    return any(pattern.fullmatch(name) for pattern in metric_patterns())


@cache
def code_words() -> frozenset[str]:
    """Every word of the code."""
    files = [*sources(*FOLDERS, "bench", "rustbpe"), *sources("nanochat/serve/http", suffix=".js"), *sources("rustbpe/src", suffix=".rs")]
    return frozenset(word for path in files for word in re.findall(r"\w+", path.read_text()))


@cache
def variables_read() -> frozenset[str]:
    """Environment variables: words in quotes in Python, and names after $ or in lists of the shell scripts."""
    python = "\n".join(path.read_text() for path in sources(*FOLDERS))
    shell = "\n".join(
        path.read_text() for path in [*ROOT.glob("*.sh"), ROOT / "mc_setup", ROOT / "tests" / "run.sh", *(ROOT / "runs").glob("*.sh")]
    )
    return frozenset(re.findall(r"[\"']([A-Z][A-Z0-9_]+)[\"']", python)) | frozenset(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", shell))


@cache
def attributes_sent() -> frozenset[str]:
    """Attributes of telemetry, with their prefix."""
    return frozenset(attribute for attributes in schema().values() for attribute in attributes)


def unknown_flags(text: str) -> list[str]:
    """Flags in `text` that no command of ours has."""
    return [flag for flag in FLAG.findall(text) if flag.replace("_", "-") not in all_flags() | FOREIGN_FLAGS]


def unknown_metrics(code: list[str]) -> list[str]:
    """Metrics among `code` that are neither logged nor bounded: those of sessions are shown, not logged."""
    bounded = {bound.metric for bound in MEMORY_BOUNDS}
    return [text for text in code if METRIC.fullmatch(text) and not is_logged(text) and text not in bounded]


def missing_files(code: list[str]) -> list[str]:
    """Paths and modules among `code` that do not exist."""
    missing = []
    for text in code:
        path = re.fullmatch(r"(?:mc|nanochat|scripts|bench|runs|tests|dev|obsidian|rustbpe)/[\w./ -]*", text)
        module = re.fullmatch(r"(?:mc|nanochat|scripts|bench)(?:\.[a-z_]+)+", text)
        if METRIC.fullmatch(text) or text in attributes_sent():
            continue
        file = ROOT / text.replace(".", "/")
        is_there = (not path or (ROOT / text).exists()) and (not module or file.is_dir() or file.with_suffix(".py").exists())
        if not is_there:
            missing.append(text)
    return missing


def unread_variables(code: list[str]) -> list[str]:
    """Environment variables among `code` that nothing reads."""
    names = [name for text in code for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]+)|^([A-Z][A-Z0-9_]{4,})(?:=\S*)?$", text)]
    return [name for pair in names for name in pair if name and name not in variables_read()]


def unknown_names(code: list[str]) -> list[str]:
    """Classes and functions among `code` that the code does not have."""
    unknown = []
    for text in code:
        called = re.fullmatch(r"([A-Za-z_][\w.]*)\(.*\)", text)
        name = called[1] if called else text if re.fullmatch(r"(?=\w*[a-z])(?:[A-Z][a-z0-9]*){2,}(?:\.\w+)*", text) else ""
        if name and not set(name.split(".")) <= code_words():
            unknown.append(text)
    return unknown


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_names_what_there_is(page: Page) -> None:
    text = page.prose
    assert not unknown_flags(text)
    assert not unknown_metrics(page.code)
    assert not missing_files(page.code)
    assert not unread_variables(page.code)
    assert not unknown_names(page.code)


def test_what_there_is_not_is_found() -> None:
    assert unknown_flags("`--no-such-flag` and --mc_no_such and --depth, --total_batch_size, --max-…") == ["--no-such-flag", "--mc_no_such"]
    wrong = ["mc/no_such", "train/time/nothing", "mc/delta_nlls@H", "mc/lod_sum/1", "mc/no_such_*"]
    right = ["train/loss", "train/time/lens", "mc/lod_loss/1", "mc/delta_nll@H", "mc/delta_nll_random@32", "mc/build_ms", "train/time/*"]
    assert unknown_metrics(wrong + right) == wrong
    assert missing_files(
        ["mc/session/tree.py", "mc/no_such.py", "bench.loader", "nanochat.report", "bench.no_such", "tests/", "mc/lod_loss/k"]
    ) == [
        "mc/no_such.py",
        "bench.no_such",
    ]
    assert unread_variables(["NANOCHAT_BASE_DIR", "NO_SUCH_VARIABLE", "$HF_TOKEN/x", "$NO_SUCH", "MC_OTEL_INSECURE=1"]) == [
        "NO_SUCH_VARIABLE",
        "NO_SUCH",
    ]
    assert unknown_names(["MCSession", "NoSuchSession", "RowLoader.rows(a, b)", "RowLoader.columns_of(a)"]) == [
        "NoSuchSession",
        "RowLoader.columns_of(a)",
    ]


def test_bounds_are_those_of_the_code() -> None:
    """The table of metric bounds in the operator's guide, cell by cell."""
    text = read(VAULT / "Training and operations.md").prose
    for bound in (*RUN_BOUNDS, *MEMORY_BOUNDS):
        row = bound.row()
        assert f"| {row['aim']} | {row['alert']} |" in text, f"{bound.metric}: | {row['aim']} | {row['alert']} |"
        line = next(line for line in text.splitlines() if line.startswith((f"| `{bound.metric}` |", f"| {bound.metric} |")))
        assert f"| {row['aim']} | {row['alert']} |" in line


def test_events_are_those_of_the_code() -> None:
    """The note on telemetry names every event, and only attributes that are sent."""
    page = read(VAULT / "Telemetry.md")
    assert set(schema()) <= set(page.code)
    named = {text for text in page.code if text.startswith("mc.")}
    assert named and named <= attributes_sent()
