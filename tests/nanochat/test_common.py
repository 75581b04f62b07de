import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanochat import common
from nanochat.common import (
    ROOT,
    UserError,
    atomic_write,
    base_dir,
    batched_by_chars,
    ensure_dir,
    read_json,
    source_digest,
    typed_path,
    write_json,
)


def test_base_dir_is_the_variable_else_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/some/where")
    assert base_dir() == Path("/some/where")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/there")
    assert base_dir() == Path.home() / "there"
    for unset in (lambda: monkeypatch.setenv("NANOCHAT_BASE_DIR", ""), lambda: monkeypatch.delenv("NANOCHAT_BASE_DIR")):
        unset()
        assert base_dir() == Path.home() / ".cache" / "nanochat"


def test_a_base_folder_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", os.fsdecode(b"/some/caf\xe9"))
    with pytest.raises(UserError, match=r"invalid base folder b'/some/caf\\xe9': its name is not UTF-8; set NANOCHAT_BASE_DIR"):
        base_dir()


def test_without_a_home_folder_the_base_folder_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("~nobody of this name", "~nobody of this name/x"):
        monkeypatch.setenv("NANOCHAT_BASE_DIR", name)
        with pytest.raises(UserError, match=f"invalid base folder {name}: there is no such home folder; set NANOCHAT_BASE_DIR"):
            base_dir()
        with pytest.raises(UserError, match=f"cannot find {name}: there is no such home folder; write ./{name} for a file"):
            typed_path(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody of this name").touch()
    assert typed_path("~nobody of this name") == Path("~nobody of this name"), "which is a file of the working folder"
    assert typed_path("./~new") == Path("~new"), "which may be made there"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "./~new")
    assert base_dir() == Path("~new")
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without a home
    with pytest.raises(UserError, match="invalid base folder ~/.cache/nanochat"):
        base_dir()


def test_a_typed_path_may_be_too_long(tmp_path: Path) -> None:
    assert typed_path("~/a") == Path.home() / "a"
    for path in ("a" * 300, f"{tmp_path}/{'a/' * 4000}"):
        with pytest.raises(UserError, match="^cannot read .{,70}…: File name too long"):
            typed_path(path)


def test_ensure_dir_makes_parents_and_leaves_nothing_else(tmp_path: Path) -> None:
    assert ensure_dir(tmp_path / "a" / "b") == ensure_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("path", ["/proc/self/artefacts", "/dev/null/artefacts"])
def test_ensure_dir_says_what_to_do_where_it_cannot_write(path: str) -> None:
    with pytest.raises(UserError, match=f"cannot write to {path}: .*; set NANOCHAT_BASE_DIR") as caught:
        ensure_dir(Path(path))
    assert "\n" not in str(caught.value)


def test_atomic_write_takes_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    atomic_write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0" * 300_000)
    code = (
        "import sys; from pathlib import Path; from nanochat.common import atomic_write\n"
        "for i in range(10**6): atomic_write(Path(sys.argv[1]), str(i % 10) * 300_000); i == 0 and print(flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    child.stdout.readline()
    for _ in range(100):
        assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 300_000
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 300_000


def test_threads_of_one_process_may_write_the_same_file(tmp_path: Path) -> None:
    path, errors = tmp_path / "f", []

    def write(letter: str) -> None:
        try:
            for _ in range(30):
                atomic_write(path, letter * 10_000)
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(set(path.read_text())) == 1 and list(tmp_path.iterdir()) == [path]


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    code = (
        "import resource, sys; from pathlib import Path; from nanochat.common import atomic_write; from nanochat.flags import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); run(lambda: atomic_write(Path(sys.argv[1]), 'x' * 1000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr == f"error: cannot write {path}: File too large; the previous file is unchanged\n"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_into_no_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        atomic_write(tmp_path / "absent" / "f", "x")
    with pytest.raises(UserError, match="cannot write"):
        atomic_write(Path("/dev/null/f"), "x")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"ü": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(tmp_path / "f.json", value)
    assert read_json(tmp_path / "f.json") == value == json.loads((tmp_path / "f.json").read_text("utf-8"))


def test_names_that_are_not_utf8_survive_json(tmp_path: Path) -> None:
    value = {"folder": os.fsdecode(b"/caf\xe9/\xc3\xbc")}
    write_json(tmp_path / "f.json", value)
    assert read_json(tmp_path / "f.json") == value and "ü" in (tmp_path / "f.json").read_text("utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1', b"[" * 100_000])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(UserError, match=r"f\.json is not readable JSON") as caught:
        read_json(tmp_path / "f.json")
    assert "\n" not in str(caught.value)


def test_missing_json_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "f.json", tmp_path / "absent" / "f.json"):
        with pytest.raises(UserError, match=f"{path} is missing"):
            read_json(path)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "f.json", object())
    with pytest.raises(ValueError):
        write_json(tmp_path / "f.json", float("nan"))
    assert read_json(tmp_path / "f.json") == 1 and os.listdir(tmp_path) == ["f.json"]


def test_batches_hold_all_texts_in_order_and_end_where_they_are_full() -> None:
    assert list(batched_by_chars(["ab", "c", "", "defg", "h"], 3)) == [["ab", "c"], ["", "defg"], ["h"]]
    assert list(batched_by_chars([], 3)) == []


def test_the_digest_of_the_source_code_follows_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "ROOT", tmp_path)
    (tmp_path / "mc").mkdir()
    (tmp_path / "mc" / "a.py").write_text("x = 1\n")
    before = source_digest()
    (tmp_path / "mc" / "a.pyc").write_text("compiled")
    assert source_digest() == before
    (tmp_path / "mc" / "a.py").write_text("x = 2\n")
    changed = source_digest()
    (tmp_path / "mc" / "a.py").rename(tmp_path / "mc" / "b.py")
    assert len({before, changed, source_digest()}) == 3
