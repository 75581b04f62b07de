"""The format of sessions: as documented, bound to its model, and no damaged byte of it goes unnoticed."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mc.layout.layout import Geometry
from mc.session.disk_tree import DiskTree
from mc.session.files import valid_name
from mc.session.tree import TreeSpec
from nanochat.checkpoint.manifest import canonical
from tests.helpers.tiny_session import COMMITTED, DATA, LENGTH, WORLD, contents, refused, reopened, start
from tests.helpers.tiny_tree import MANIFEST, SMALL, WIDE, world


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session that was closed."""
    start(tmp_path / "talk").close()
    return tmp_path / "talk"


def test_the_format_is_as_documented(session: Path) -> None:
    """Read without our code: a format that changes unnoticed would strand sessions."""
    files = contents(session)
    assert files["tokens.bin"] == WORLD.tokens[:COMMITTED].numpy().astype("<u2").tobytes()
    for level, rows in enumerate(WORLD.gists, 1):
        assert files[f"lod{level}.bin"] == rows[: LENGTH // 4**level].view(torch.int16).numpy().tobytes()
    described = json.loads(files["manifest.json"])
    assert described["manifest"] == MANIFEST and described["format"] == "megacontext-session-1"
    shape = {"block_size": 4, "gist_slots": 2, "max_lod": 3, "width": 3}
    assert described["spec"] == {**shape, "dtype": "bf16", "vocab_size": 300, "value_width": 5}
    check, expected = described.pop("crc32"), b""
    assert check == zlib.crc32(canonical(described))
    for block in range(50):
        for name, every, size in (("tokens.bin", 1, 8), ("lod1.bin", 1, 12), ("lod2.bin", 4, 12), ("lod3.bin", 16, 12)):
            if (block + 1) % every == 0:
                at = ((block + 1) // every - 1) * size
                check = zlib.crc32(files[name][at : at + size], check)
        expected += check.to_bytes(4, "little")
    assert files["blocks.bin"] == expected
    head, tokens = (50).to_bytes(8, "little"), WORLD.tokens[COMMITTED:LENGTH].numpy().astype("<u2").tobytes()
    assert files["tail.bin"] == head + zlib.crc32(head + tokens, check).to_bytes(4, "little") + tokens


def brief(root: Path) -> Path:
    """A session so short that each of its bytes can be tried: 17 blocks, one node of level 3, an incomplete block."""
    start(root / "talk", length=70).close()
    return root / "talk"


def keeps(message: str) -> int:
    return int(message.split("keeps ")[1].split(" tokens")[0].replace(",", ""))


@pytest.mark.parametrize("name", [*DATA, "tail.bin", "manifest.json"])
def test_every_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    session = brief(tmp_path)
    whole = (session / name).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (session / name).write_bytes(damaged)
        message = refused(session)
        assert name in message
        if name in DATA:  # it says where, as far as a checksum can tell: by blocks
            every, size = {"tokens.bin": (1, 8), "lod1.bin": (1, 12), "lod2.bin": (4, 12), "lod3.bin": (16, 12), "blocks.bin": (1, 4)}[name]
            token = ((place // size + 1) * every - 1) * 4
            assert f"from token {token} on" in message and keeps(message) == token
    (session / name).write_bytes(whole)
    reopened(session, 70)


@pytest.mark.parametrize("name", [*DATA, "tail.bin", "manifest.json"])
def test_every_truncation_is_found(tmp_path: Path, name: str) -> None:
    session = brief(tmp_path)
    whole = (session / name).read_bytes()
    for length in range(len(whole)):
        (session / name).write_bytes(whole[:length])
        assert name in refused(session)
    (session / name).unlink()
    assert name in refused(session)
    (session / name).write_bytes(whole)
    reopened(session, 70)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_repair_keeps_all_before_the_damage(session: Path, name: str, cut: bool) -> None:
    whole = contents(session)
    for share in (0.0, 0.3, 0.6, 0.999):
        for file, data in whole.items():
            (session / file).write_bytes(data)
        damaged, place = bytearray(whole[name]), int(len(whole[name]) * share)
        damaged[place] ^= 64
        (session / name).write_bytes(damaged[:place] if cut else damaged)
        message = refused(session, "--session-repair", name)
        good = keeps(message)
        assert good <= COMMITTED - 4 and (share < 0.1 or good > 0)
        reopened(session, good, repair=True)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"\7", None])
def test_repair_of_the_tail_keeps_all_blocks(session: Path, damage: Callable[[bytes], bytes] | None) -> None:
    if damage:
        (session / "tail.bin").write_bytes(damage((session / "tail.bin").read_bytes()))
    else:
        (session / "tail.bin").unlink()
    assert keeps(refused(session, "tail.bin", "from token 200 on")) == COMMITTED
    reopened(session, COMMITTED, repair=True)


def test_repair_changes_nothing_where_nothing_is_wrong(session: Path) -> None:
    before = contents(session)
    DiskTree.open(session, MANIFEST, repair=True).close()
    assert contents(session) == before


def test_damage_of_stored_values_is_found(tmp_path: Path) -> None:
    what = world(WIDE, 70_100)
    start(tmp_path / "talk", what, 70_001).close()
    path = tmp_path / "talk" / "values5.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert keeps(refused(tmp_path / "talk", "values5.bin")) == 65_528
    reopened(tmp_path / "talk", 65_528, what, repair=True)


def test_damage_is_found_beyond_what_is_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.files.VERIFIED_AT_ONCE", 100)
    what = world(SMALL, 3000)
    start(tmp_path / "talk", what, 2900).close()
    data = bytearray((tmp_path / "talk" / "lod2.bin").read_bytes())
    data[12 * 150] ^= 1
    (tmp_path / "talk" / "lod2.bin").write_bytes(data)
    assert keeps(refused(tmp_path / "talk", "lod2.bin")) == 150 * 16 + 12
    reopened(tmp_path / "talk", 150 * 16 + 12, what, repair=True)


@pytest.mark.parametrize("name", [*DATA, "tail.bin"])
def test_a_file_of_another_session_does_not_fit(session: Path, name: str) -> None:
    start(session.parent / "other", world(SMALL, 400, seed=5)).close()
    shutil.copyfile(session.parent / "other" / name, session / name)
    refused(session, "is damaged", name)


def test_the_same_content_of_another_model_does_not_fit(session: Path) -> None:
    tree = DiskTree.create(session.parent / "other", {**MANIFEST, "model": "large"}, SMALL)
    tree.append(*WORLD.piece(0, LENGTH))
    tree.close()
    shutil.copyfile(session.parent / "other" / "manifest.json", session / "manifest.json")
    refused(session, "is damaged from token 0 on", manifest={**MANIFEST, "model": "large"})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "large"}, ["made with model 'tiny', not 'large'", "open it with that model or start another session"]),
        ({"digest": "ffff"}, ["made with digest '0f1e', not 'ffff'"]),
        ({"tokenizer": "words", "step": 8}, ["made with tokenizer 'bytes', not 'words'"]),
        ({"step": 8}, ["made with step 7, not 8"]),
        ({"kind": "new"}, ["made with kind none, not 'new'"]),
    ],
)
def test_a_session_of_another_model_is_refused_by_name(session: Path, changed: dict, words: list[str]) -> None:
    before = contents(session)
    refused(session, *words, manifest={**MANIFEST, **changed})
    refused(session, *words, manifest={**MANIFEST, **changed}, repair=True)
    assert contents(session) == before


def test_what_the_session_knows_must_be_known(session: Path) -> None:
    refused(session, "made with step 7, not none", manifest={key: value for key, value in MANIFEST.items() if key != "step"})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(SMALL, geometry=Geometry(8, 2)), "block_size 4, not 8"),
        (replace(SMALL, geometry=Geometry(4)), "gist_slots 2, not 1"),
        (replace(SMALL, max_lod=2), "max_lod 3, not 2"),
        (replace(SMALL, width=4), "width 3, not 4"),
        (replace(SMALL, dtype=torch.float32), "dtype 'bf16', not 'fp32'"),
        (replace(SMALL, vocab_size=301), "vocab_size 300, not 301"),
        (replace(SMALL, value_width=4), "value_width 5, not 4"),
    ],
)
def test_a_session_of_another_shape_is_refused_by_name(session: Path, spec: TreeSpec, words: str) -> None:
    refused(session, words, spec=spec)


def test_another_version(session: Path) -> None:
    described = json.loads((session / "manifest.json").read_bytes())
    (session / "manifest.json").write_bytes(canonical({"format": "megacontext-session-9", "spec": described["spec"]}))
    refused(session, "has format 'megacontext-session-9'", "the version that made it")


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{}", '{"format": 1}', "{\n}\n", "\0"])
def test_a_manifest_that_is_none(session: Path, text: str) -> None:
    (session / "manifest.json").write_text(text)
    refused(session)


@pytest.mark.parametrize("name", ["a", "-", "_x", "My.talk-2", "0" * 64])
def test_names_of_sessions(name: str) -> None:
    assert valid_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".git", "a/b", "../a", "a\\b", "a b", "a\n", "ä", "x" * 65, "a\0"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="invalid session name .*: use 1 to 64"):
        valid_name(name)
