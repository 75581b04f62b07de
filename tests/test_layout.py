"""The shape of the repository: who may import whom, that importing does nothing, that nothing is untested."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.common import ROOT

# A package may import those after it, and itself. Nothing may import bench or tests.
ORDER = ("scripts", "mc", "nanochat", "rustbpe")
# The rooms of a package, top first. A room may import those in the lines below its own, and its own modules; rooms of one line know
# nothing of each other. A room is a folder with all its subfolders, or a module that lies in none.
FOLDER_ORDER = {
    "nanochat": (
        {"lab"},
        {"report"},
        {"core_eval"},
        {"eval", "export", "serve", "train"},
        {"tasks", "checkpoint", "runtime"},
        {"infer", "dataset"},
        {"data", "profiling"},
        {"model"},
        {"sandbox", "tracking"},
        {"flags"},
        {"common", "markdown", "redaction", "progress", "process"},
    ),
    "mc": (
        {"serve"},
        {"telemetry", "eval", "device_memory"},
        {"auto_batch"},
        {"train", "session"},
        {"loading"},
        {"memory_model"},
        {"row_plan"},
        {"config"},
        {"nets"},
        {"layout"},
    ),
}
MAX_LINES = 400
MAX_MODULES = 20


def python_files(*folders: str) -> list[Path]:
    """Our own: not what cargo and maturin generate, nor what is copied into exported models, which have it as a package of their own."""
    others = {"target", "_native", "model_files"}
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if not others & set(path.parts))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of what a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_at_the_top(tree: ast.Module) -> set[str]:
    """The modules that importing a file imports."""
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("package", ORDER)
def test_dependencies_point_one_way(package: str) -> None:
    allowed = ORDER[ORDER.index(package) :]
    forbidden = {*ORDER, "bench", "tests", "runs"} - set(allowed)
    for path in python_files(package):
        wrong = {name for name in imports(ast.parse(path.read_text())) if name.split(".")[0] in forbidden}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def imported_modules(path: Path) -> set[str]:
    """Our modules and packages that a file imports, each by its longest name that is one."""
    found = set()
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        while parts and not (is_ours := (ROOT / "/".join(parts)).with_suffix(".py").is_file() or (ROOT / "/".join(parts)).is_dir()):
            parts.pop()
        if parts and is_ours and parts[0] in ORDER:
            found.add(".".join(parts))
    return found - {module_name(path), module_name(path).rpartition(".")[0]}


def test_rooms_import_downwards() -> None:
    """`FOLDER_ORDER` names every room, and no import goes up or sideways."""
    for package, lines in FOLDER_ORDER.items():
        height = {room: number for number, line in enumerate(lines) for room in line}
        there = {path.relative_to(ROOT / package).parts[0].removesuffix(".py") for path in python_files(package)} - {"__init__"}
        assert there == height.keys(), f"{package}: {there ^ height.keys()} is in the order or in the folder, not in both"
        for path in python_files(package):
            room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
            for name in imported_modules(path):
                other = name.split(".")[1] if name.startswith(f"{package}.") else room
                assert other == room or room == "__init__" or height[other] > height[room], f"{path.relative_to(ROOT)} imports {name}"


def circles(uses: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other, directly or not, for type checking included."""

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        todo = [name]
        while todo:
            for used in uses.get(todo.pop(), set()) - seen:
                seen.add(used)
                todo.append(used)
        return seen

    reach = {name: reached(name) for name in uses}
    return [{name} | {other for other in reach[name] if name in reach.get(other, ())} for name in uses if name in reach[name]]


def test_no_modules_import_each_other() -> None:
    uses = {module_name(path): imported_modules(path) for path in python_files(*ORDER) if path.name != "__init__.py"}
    assert not circles(uses)


def test_the_checks_see_circles_and_wrong_ways(tmp_path: Path) -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}] * 3
    assert not circles({"a": {"b"}, "b": {"c"}, "c": set()})
    assert "nanochat.model.gpt" in imported_modules(ROOT / "nanochat" / "train" / "objective.py")


def test_folders_stay_readable() -> None:
    for package in ORDER:
        for folder in {path.parent for path in python_files(package)}:
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= MAX_MODULES, f"{folder.relative_to(ROOT)} has {len(modules)} modules: it is more than one room"


def test_the_check_sees_every_form_of_import() -> None:
    text = "import scripts.a\ndef f():\n    from mc import b\n    if x:\n        import nanochat.c as d"
    assert {name.split(".")[0] for name in imports(ast.parse(text))} == {"scripts", "mc", "nanochat"}


IMPORT_ALL = """
import importlib, json, os, signal, sys, threading, warnings
import numpy, torch, torch._dynamo  # the last one comes with the first use of torch.compiler

# Other people's modules first: what they do on import is not ours to answer for.
ours, theirs = map(json.loads, sys.argv[1:])
for name in theirs:
    importlib.import_module(name)

def state():
    return {
        "variables": dict(os.environ), "threads": threading.active_count(), "arguments": list(sys.argv), "folder": os.getcwd(),
        "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)], "filters": list(warnings.filters),
        "dtype": torch.get_default_dtype(), "random": torch.get_rng_state().tolist(), "numpy": numpy.random.get_state()[2],
        "precision": torch.get_float32_matmul_precision(), "torch threads": torch.get_num_threads(), "files": os.listdir(),
    }

for name in ours:
    before = state()
    importlib.import_module(name)
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    if changed:
        sys.exit(f"importing {name} changes {changed}")
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No file, output, thread, handler, seed, dtype or variable: a process that imports every module is as it was."""
    files = python_files("nanochat", "mc", "scripts", "bench")
    theirs = {
        name for path in files for name in imported_at_the_top(ast.parse(path.read_text())) if name.split(".")[0] not in {*ORDER, "bench"}
    }
    lists = [json.dumps([module_name(path) for path in files]), json.dumps(sorted(theirs - {"__future__"}))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "NANOCHAT_BASE_DIR": str(tmp_path / "base")}
    command = [sys.executable, "-c", IMPORT_ALL, *lists]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_test_folders_mirror_the_tree() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert all((ROOT / folder).is_dir() for folder in folders), folders


def test_every_module_is_tested() -> None:
    """By a test file of its name, by one that imports or runs it, or, for a part of another module, by that module's."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    files = {module_name(path): path for path in python_files("scripts", "mc", "nanochat") if path.name != "__init__.py"}
    uses = {name: imports(ast.parse(path.read_text())) for name, path in files.items()}

    def is_tested(name: str) -> bool:
        package, _, stem = name.rpartition(".")
        own = ROOT / "tests" / files[name].parent.relative_to(ROOT) / f"test_{stem}.py"
        return own.exists() or name in tests or f"from {package} import {stem}" in tests

    untested = [name for name in files if not is_tested(name) and not any(name in uses[user] and is_tested(user) for user in files)]
    assert not untested


def test_files_stay_readable() -> None:
    for path in python_files("nanochat", "mc", "scripts", "bench", "tests", "rustbpe"):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: it is more than one idea"


def test_nothing_reads_pickles() -> None:
    for path in python_files("nanochat", "mc", "scripts", "rustbpe"):
        tree = ast.parse(path.read_text())
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        unsafe = (imports(tree) | calls) & {"pickle", "dill", "cloudpickle", "joblib", "torch.load"}
        assert not unsafe, f"{path.relative_to(ROOT)} uses {sorted(unsafe)}: the formats here are safetensors, JSON and plain arrays"
