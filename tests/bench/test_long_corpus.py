"""Documents out of packages: in the order of imports, long, each text once, and none of what validation holds in training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bench.long_corpus import DOCUMENT_BYTES, SHORT_BYTES, collect, import_order, imported, write_corpus
from nanochat.common import UserError


def write_packages(root: Path, packages: int = 6, modules: int = 4, module_bytes: int = 6000) -> Path:
    """Packages of made-up modules, each of which imports the one after it."""
    rng = random.Random(0)
    names = [f"{a}_{b}" for a in ("read", "write", "count", "merge") for b in ("table", "node", "token", "state")]
    for p in range(packages):
        folder = root / f"package{p}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("from .module0 import run\n")
        for m in range(modules):
            text = f"from package{p} import module{m + 1}\n" if m + 1 < modules else ""
            while len(text) < module_bytes:
                name = f"{rng.choice(names)}_{rng.randrange(30)}"
                text += f"def {name}(value, size):\n    return {rng.choice(names)}(value + {rng.randrange(100)}) * size\n"
            (folder / f"module{m}.py").write_text(text)
    return root


def test_a_module_comes_behind_what_it_imports() -> None:
    sources = {
        "a/__init__.py": "from .core import run",
        "a/core.py": "from . import zeta, beta as b\nimport a.sub.deep, os",
        "a/beta.py": "from .sub import (\n    deep,\n    other,\n)\n",
        "a/zeta.py": "x = 1",
        "a/sub/__init__.py": "",
        "a/sub/deep.py": "from ..zeta import x",
        "a/sub/ring.py": "from a.sub import round",
        "a/sub/round.py": "from a.sub import ring  # a circle has no order",
    }
    order = import_order(sources)
    assert sorted(order) == sorted(sources)
    place = {path: i for i, path in enumerate(order)}
    for before, after in (("core", "__init__"), ("zeta", "core"), ("beta", "core"), ("sub/deep", "beta"), ("zeta", "sub/deep")):
        assert place[f"a/{before}.py"] < place[f"a/{after}.py"], (before, after)
    assert import_order(dict(reversed(sources.items()))) == order
    assert set(imported("a/sub/deep.py", "from .. import zeta as z\nfrom ..b.c import d")) == {"a", "a.zeta", "a.b.c", "a.b.c.d"}


def test_a_long_chain_of_imports_is_no_recursion() -> None:
    sources = {f"m{i:05d}.py": f"import m{i + 1:05d}" for i in range(5000)}
    assert import_order(sources) == sorted(sources, reverse=True)


def test_documents_are_long_name_their_files_and_hold_each_text_once(tmp_path: Path) -> None:
    root = write_packages(tmp_path / "root", packages=2)
    (root / "package0" / "_vendor").mkdir()
    (root / "package0" / "_vendor" / "stolen.py").write_text("stolen = True\n" * 3000)
    (root / "package0" / "latin.py").write_bytes(b"caf\xe9 = 1\n")
    (root / "package0" / "more.py").write_bytes((root / "package1" / "module2.py").read_bytes())
    (root / "small").mkdir()
    (root / "small" / "a.py").write_text("a = 1\n")
    (root / "large" / "inner").mkdir(parents=True)
    for i in range(8):
        (root / "large" / f"own{i}.py").write_text(f"own{i} = {i}\n" * (DOCUMENT_BYTES // 60))
        (root / "large" / "inner" / f"deep{i}.py").write_text(f"deep{i} = {i}\n" * 500)
    documents = {d.name: d for d in collect([root])}
    assert set(documents) == {"package0", "package1", "large:0", "large:1", "large.inner"}
    assert all(len(d.text) >= SHORT_BYTES for d in documents.values())
    everything = "".join(d.text for d in documents.values())
    assert "stolen" not in everything and "caf" not in everything
    shared = (root / "package1" / "module2.py").read_text()[:500]
    assert everything.count(shared) == 1 and shared in documents["package0"].text
    headers = [line for line in documents["package0"].text.splitlines() if line.startswith("# ====")]
    assert headers == [f"# ==== package0/{name}.py" for name in ("module3", "module2", "module1", "module0", "__init__", "more")]
    assert documents["large.inner"].package == documents["large:1"].package == "large"


def test_validation_is_whole_packages_and_what_is_written_stays(tmp_path: Path) -> None:
    root = write_packages(tmp_path / "root")
    figures = write_corpus(tmp_path / "corpus", [root])
    (held_out,) = figures["held_out_packages"]
    texts = {split: (tmp_path / "corpus" / f"{split}.jsonl").read_text() for split in ("train", "val")}
    assert f"# ==== {held_out}/" in texts["val"] and f"# ==== {held_out}/" not in texts["train"]
    assert [len(text.splitlines()) for text in texts.values()] == [5, 1] == [figures[s]["documents"] for s in texts]
    assert figures["train"]["bytes"] == sum(len(json.loads(line)["text"]) for line in texts["train"].splitlines())
    write_packages(tmp_path / "root" / "more")
    assert write_corpus(tmp_path / "corpus", [root]) == figures
    with pytest.raises(UserError, match="too few"):
        write_corpus(tmp_path / "other", [write_packages(tmp_path / "one", packages=1)])
