"""Sessions on disk: kills, locks, full disks. What a tree must do wherever it lies is in `test_tree`."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mc.layout.layout import Geometry
from mc.session.disk_tree import DiskTree
from mc.session.files import list_sessions
from mc.session.tree import TreeSpec
from nanochat.common import UserError
from tests.helpers.tiny_session import COMMITTED, DATA, LENGTH, WORLD, contents, refused, reopened, start
from tests.helpers.tiny_tree import MANIFEST, SMALL, world


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session that was closed."""
    start(tmp_path / "talk").close()
    return tmp_path / "talk"


def test_reopened_it_goes_on(session: Path) -> None:
    assert sorted(contents(session)) == ["blocks.bin", "lod1.bin", "lod2.bin", "lod3.bin", "manifest.json", "tail.bin", "tokens.bin"]
    assert reopened(session, LENGTH) == 0


APPEND_AND_WAIT = """
import sys
from pathlib import Path
from mc.session.disk_tree import DiskTree
from tests.helpers.tiny_tree import MANIFEST, SMALL, world
what = world(SMALL, 400)
tree = DiskTree.open(Path(sys.argv[1]), MANIFEST)
for end in (210, 213):
    tree.append(*what.piece(tree.length, end))
    if sys.argv[2] == "save" and end == 213:
        tree.save()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def in_another_process(root: Path, folder: Path, how: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", APPEND_AND_WAIT, str(folder), how]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.parametrize(("how", "length"), [("go", 212), ("save", 213)])
def test_another_process_has_it_and_is_killed(root: Path, session: Path, how: str, length: int) -> None:
    """No block is lost, and no token of the incomplete one that was saved; the old tail is not taken for that of now."""
    with in_another_process(root, session, how) as process:
        refused(session, f"in use by another process (pid {process.pid})", "close it there first")
        assert [info.name for info in list_sessions(session.parent)] == ["talk"]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert reopened(session, length) == 0


def test_open_twice_in_a_process(session: Path) -> None:
    tree = DiskTree.open(session, MANIFEST)
    refused(session, "already open in this process")
    tree.close()
    tree.close()
    for use in (lambda: tree.append(*WORLD.piece(LENGTH, 210)), lambda: tree.tokens(0, 5), tree.save, lambda: tree.fork(session / "b")):
        with pytest.raises(ValueError, match="session talk was closed"):
            use()
    reopened(session, LENGTH)


@pytest.mark.parametrize("stale", [False, True])
def test_what_was_half_written_is_cut(session: Path, stale: bool) -> None:
    if stale:  # a tail of before the last append
        tail = (session / "tail.bin").read_bytes()
        tree = DiskTree.open(session, MANIFEST)
        tree.append(*WORLD.piece(LENGTH, 230))
        tree.close()
        (session / "tail.bin").write_bytes(tail)
    for number, name in enumerate(DATA):
        with open(session / name, "ab") as file:
            file.write(b"\1" * (3 if name == "blocks.bin" else 9 + number))
    (session / ".tail.bin.77.1.tmp").write_bytes(b"half")
    before = (session / "tail.bin").read_bytes()
    tree = DiskTree.open(session, MANIFEST)
    assert tree.cut == 3 + 9 + 10 + 11 + 12
    assert ((session / "tail.bin").read_bytes() != before) == stale  # from here on it tells a truncated blocks.bin from a kill
    tree.close()
    assert reopened(session, 228 if stale else LENGTH) == 0
    assert len(contents(session)) == 7


def test_an_interrupted_append_has_happened_or_not(tmp_path: Path) -> None:
    """Ctrl-C at random moments: what the tree says it holds is what is read, goes on, and is reopened."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    what, interrupted, before = world(SMALL, 20_000), 0, signal.signal(signal.SIGALRM, interrupt)
    tree = DiskTree.create(tmp_path / "talk", MANIFEST, SMALL)
    try:
        for attempt in range(150):
            length = tree.length
            piece = what.piece(length, length + 101)
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + attempt * 6e-6)
                try:
                    tree.append(*piece)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert tree.length in (length, length + 101)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 5
    length = tree.length
    what.assert_holds(tree, length)
    tree.close()
    reopened(tmp_path / "talk", length, what)


def test_no_session_there(session: Path) -> None:
    root = session.parent
    refused(root / "nobody", "no session nobody", "(there: talk)", "start it")
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("mine")
    refused(root / "notes", "is not a session", "manifest.json", "give another name")
    assert [path.name for path in (root / "notes").iterdir()] == ["a.txt"]
    refused(session / "tokens.bin", "no session")


def created(folder: Path, manifest: dict | None = None) -> DiskTree:
    return DiskTree.create(folder, MANIFEST if manifest is None else manifest, SMALL)


def test_nothing_is_overwritten(session: Path) -> None:
    before, root = contents(session), session.parent
    (root / "notes").mkdir()
    (root / "notes" / "lock").write_text("mine")
    (root / "notes" / "a.txt").write_text("mine")
    (root / "file").write_text("mine")
    other = start(root / "other")
    for make in (created, other.fork):
        for name, words in (("talk", "session talk already exists"), ("notes", "holds a.txt"), ("file", "cannot make a session in")):
            with pytest.raises(UserError, match=words):
                make(root / name)
        for name in (".hidden", "with space", "ä", "x" * 65):
            with pytest.raises(ValueError, match="invalid session name"):
                make(root / name)
    other.close()
    assert contents(session) == before
    assert contents(root / "notes") == {"a.txt": b"mine"} and (root / "notes" / "lock").read_text() == "mine"
    assert sorted(path.name for path in root.iterdir()) == ["file", "notes", "other", "talk"]


def test_a_creation_that_was_killed_is_begun_again(session: Path) -> None:
    (session / "manifest.json").unlink()
    (session / ".tail.bin.77.1.tmp").write_bytes(b"half")
    tree = created(session)
    WORLD.assert_holds(tree, 0)
    tree.close()
    reopened(session, 0)


@pytest.mark.parametrize("manifest", [{"a": [1]}, {"a": {}}, {"a": float("nan")}, {1: "a"}, {"a": b"x"}])
def test_a_manifest_of_more_than_plain_values(tmp_path: Path, manifest: dict) -> None:
    with pytest.raises(ValueError, match="manifest"):
        created(tmp_path / "talk", manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_has_the_incomplete_block_too(tmp_path: Path) -> None:
    tree = start(tmp_path / "talk")
    fork = tree.fork(tmp_path / "deeper" / "fork")
    assert fork.manifest == MANIFEST and fork.cut == 0
    tree.close()
    fork.close()
    reopened(tmp_path / "deeper" / "fork", LENGTH)
    reopened(tmp_path / "talk", LENGTH)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writes go as far as that, then fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_hold_no_more_than(tree: DiskTree) -> bool:
    blocks = tree.length // 4
    sizes = {name: (tree.folder / name).stat().st_size for name in DATA}
    return sizes == {"tokens.bin": blocks * 8, "lod1.bin": blocks * 12, "lod2.bin": blocks // 4 * 12, "lod3.bin": blocks // 16 * 12} | {
        "blocks.bin": blocks * 4
    }


@pytest.mark.parametrize("size", [100, 203, 399, 401, 590, 601, 1000, 1100])
def test_a_disk_that_becomes_full(tmp_path: Path, size: int) -> None:
    """Whichever file cannot grow: nothing is added, and once there is room the same append works."""
    tree = start(tmp_path / "talk", length=COMMITTED + 3)
    with files_up_to(size):
        with pytest.raises(UserError, match="cannot add to session talk in .*: File too large; nothing was added; free some space"):
            tree.append(*WORLD.piece(LENGTH, 390))
        WORLD.assert_holds(tree, LENGTH)
        assert files_hold_no_more_than(tree)
    tree.append(*WORLD.piece(LENGTH, 390))
    tree.close()
    reopened(tmp_path / "talk", 390)


def test_a_full_disk_when_saving_forking_and_creating(tmp_path: Path) -> None:
    tree = start(tmp_path / "talk")
    with files_up_to(13):
        with pytest.raises(UserError, match=r"cannot write .*tail\.bin"):
            tree.save()
        for make in (tree.fork, created):
            with pytest.raises(UserError, match="File too large"):
                make(tmp_path / "fork")
            assert not (tmp_path / "fork").exists()
        with pytest.raises(UserError, match=r"cannot write .*tail\.bin"):
            tree.close()
    assert reopened(tmp_path / "talk", COMMITTED) == 0  # closed and unlocked all the same, and no block is lost


def test_a_folder_that_cannot_be_written(session: Path) -> None:
    """One line each; in a process without the rights of root, where we have them."""
    begin = session.parent
    before = contents(session)
    for path in (session, *session.parents):
        if path.stat().st_uid == os.getuid() and path != path.parent and str(path).startswith(str(begin)):
            path.chmod(0o555)
    for path in session.iterdir():
        path.chmod(0o444)
    cases = {
        "cannot write to session talk": lambda: DiskTree.open(session, MANIFEST),
        "cannot make a session in": lambda: created(begin / "new"),
    }
    reader, writer = os.pipe()
    opened = [parent for parent in begin.parents if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001]
    modes = [parent.stat().st_mode for parent in opened]
    for parent in opened:
        parent.chmod(parent.stat().st_mode | 0o055)
    pid = os.fork()
    if pid == 0:
        said = []
        try:
            if os.getuid() == 0:
                os.setuid(65_534)
            for words, use in cases.items():
                try:
                    use()
                except UserError as error:
                    said.append(words in str(error) and "Permission denied" in str(error))
        finally:
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        assert json.loads(answers.read()) == [True, True]
    os.waitpid(pid, 0)
    for parent, mode in zip(opened, modes, strict=True):
        parent.chmod(mode)
    for path in (begin, session):
        path.chmod(0o755)
    assert contents(session) == before


def test_the_budget_on_disk(tmp_path: Path) -> None:
    """All files of a session of D = 256 and K = 32 are within 2 % of its tokens and gists."""
    for slots in (1, 2):
        spec = TreeSpec(256, Geometry(32, slots), 4, torch.bfloat16, 512, 8192)
        what = world(spec, 100_000)
        tree = start(tmp_path / f"slots{slots}", what, 100_000)
        what.assert_holds(tree, 100_000)
        tree.close()
        size = sum(path.stat().st_size for path in tree.folder.iterdir())
        per_token = 2 + 256 * 2 * slots * sum(32.0**-level for level in range(1, 5))
        assert 0.99 * per_token * 100_000 < size <= 1.02 * per_token * 100_000


def test_appending_writes_what_is_new_and_no_more(tmp_path: Path) -> None:
    what = world(SMALL, 4_000)
    tree, written = start(tmp_path / "talk", what, 3_000), []
    for end in (3_000, 3_004, 3_008, 3_012, 3_016):
        tree.append(*what.piece(tree.length, end))
        written.append(process_wrote())
    added = {after - before for before, after in zip(written[1:-1], written[2:], strict=True)}
    assert added == {24, 24 + 2 * 12}  # a block; one that ends nodes of levels 2 and 3, too
    tree.close()


def process_wrote() -> int:
    """Bytes that this thread has handed to write calls."""
    lines = Path(f"/proc/self/task/{threading.get_native_id()}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))
