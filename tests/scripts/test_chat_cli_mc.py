"""chat_cli --mc as its user has it: real sessions of a tiny checkpoint that recites, also on a real terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from bench.tiny_chat import save_chat_model
from mc.loading import load_memory
from mc.session.files import list_sessions
from mc.session.ingest import ingest
from mc.session.store import SessionStore
from nanochat.common import UserError
from nanochat.flags import parse
from scripts.chat_cli import ChatCli, main
from tests.helpers.tiny_model import save_base, tiny_model, tiny_tokenizer
from tests.scripts.test_chat_cli import CTRL_C, Terminal

LETTERS = "abcdefghijklmnopqrstuvwxyz "
SAY = ["--mc", "-t", "0", "--max-tokens", "27", "--device-type", "cpu", "--mc-session-lod", "3"]


@pytest.fixture
def trained(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    save_chat_model(base, "alphabet", certainty=30.0, context_tokens=128, memory=True)
    return base


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Stands for a user behind a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))


def test_a_named_session_goes_on_in_the_next_process(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SAY, "--session", "a", "-p", "one"]) == 0
    out, err = capfd.readouterr()
    assert out == LETTERS + "\n" and "session a is new\n" in err
    assert main([*SAY, "--session", "a", "-p", "two"]) == 0
    assert "session a has 35 tokens" in capfd.readouterr().err
    (info,) = list_sessions(trained / "sessions")
    assert (info.name, info.tokens) == ("a", 69)
    assert main([*SAY, "-p", "three"]) == 0 and main([*SAY, "--mc-tree=ram", "--session", "b", "-p", "four"]) == 0
    assert "ends with this program" in capfd.readouterr().err
    assert [info.name for info in list_sessions(trained / "sessions")] == ["a"]


def test_what_a_user_can_do_with_sessions(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "note s.txt").write_text("word " * 500)
    type_lines(
        monkeypatch, "hi", f"/ingest {tmp_path / 'note s.txt'}", "/focus", "/fork b", "again", "/open a", "/sessions", "/open a", "/clear",
        "/clear", "/open ../x", "/fork a", "/fork", "/ingest", "/ingest /nowhere", "/sessions now", "/what is it?",
        "/Fokus now!", "/help"
    )  # fmt: skip
    assert main([*SAY, "--session", "a"]) == 0
    out, err = capfd.readouterr()
    said, again = (out.index(LETTERS), out.rindex(LETTERS))
    assert said == 0 and out.count(LETTERS) == 2 and "> " not in out
    focus, (listed, helped) = out[len(LETTERS) + 1 : again], out[again + len(LETTERS) + 1 :].split("Enter sends")
    assert "residency" in focus and "1 character = " in focus and "of LOD2" in focus
    assert "/fork NAME continues in a copy of this session" in helped
    rows = {row.split()[0].strip("*"): row for row in listed.splitlines()[1:3] for row in [row.replace("* ", "", 1).strip()]}
    notes = err.splitlines()[err.splitlines().index("session a is new") + 1 :]
    read, forked, opened, already, new, newer, bad, taken, nothing, no_file, nowhere, now, what, hello = notes
    assert read.startswith("[note s.txt was read: ") and "session a has " in read
    length = int(read.split("session a has ")[1].split()[0].replace(",", ""))
    assert forked == f"session b has {length:,} tokens" and opened == f"session a has {length:,} tokens"
    assert rows.keys() == {"a", "b"} and f"{length:,}" in rows["a"] and "sft alphabet, step 7" in rows["b"]
    assert [line for line in listed.splitlines() if line.startswith("* a")] and "sessions" in listed.splitlines()[-1]
    assert (already, new, newer) == ("session a is open already", "session a-2 is new", "session a-3 is new")
    assert "invalid session name" in bad and "session a already exists" in taken
    assert nothing == "error: /fork needs an argument: /fork NAME" and no_file == "error: /ingest needs an argument: /ingest FILE"
    assert nowhere.startswith("error: cannot read /nowhere: No such file")
    assert now.startswith("error: /sessions takes no argument")
    assert what.startswith("error: unknown command /what; /help lists the commands")
    assert hello.startswith("error: unknown command /Fokus; did you mean /focus? ")
    assert {info.name: info.tokens for info in list_sessions(trained / "sessions")} == {"a": length, "a-2": 0, "a-3": 0, "b": length + 36}


def test_a_document_is_read_before_the_first_prompt(trained: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 500)
    assert main([*SAY, "--session=a", "--ingest", str(tmp_path / "a.txt"), "-p", "Well?"]) == 0
    out, err = capfd.readouterr()
    assert out == LETTERS + "\n" and "[a.txt was read: " in err
    controller, tokenizer, _, identity = load_memory("sft", say=lambda _: None)
    session = SessionStore(controller, identity, parse(ChatCli, [*SAY, "--session=a"]).memory.config).open("a")
    shown = tokenizer.decode(session.tree.tokens(0, session.length).tolist())
    session.tree.close()
    answer = "<|user_end|><|assistant_start|>I have read a.txt.<|assistant_end|>"
    said = f"<|user_start|>Well?<|user_end|><|assistant_start|>{LETTERS}<|assistant_end|>"
    assert shown == f"<|bos|><|user_start|>a.txt\n{'word ' * 500}{answer}{said}"


def test_what_cannot_be_opened_is_one_line(trained: Path, tmp_path: Path) -> None:
    def refused(match: str, *flags: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            main([*SAY, "-p", "x", *flags])
        assert "\n" not in str(error.value)

    assert main([*SAY, "--session", "a", "-p", "x"]) == 0
    refused("cannot read .*none.txt", "--ingest", str(tmp_path / "none.txt"))
    refused("max_lod 3, not 2", "--session", "a", "--mc-session-lod", "2")
    refused("allocator_soft_max_length is 20", "--allocator-soft-max-length", "20")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_DTYPE", "bf16")
        assert main([*SAY, "--session", "a", "-p", "x"]) == 0  # layered gists are bf16, whatever the model computes in
    controller, tokenizer, _, identity = load_memory("sft", say=lambda _: None)
    config = parse(ChatCli, [*SAY, "--session=a"]).memory.config
    other = SessionStore(controller, identity, config)
    session = other.open("a")
    refused("session a is already open", "--session", "a")
    (tmp_path / "t.txt").write_text("word " * 100)
    list(ingest(session, tokenizer, tmp_path / "t.txt", chat=True))
    other.close_all()
    tokens = trained / "sessions" / "a" / "tokens.bin"
    data = bytearray(tokens.read_bytes())
    data[60] ^= 1
    tokens.write_bytes(data)
    refused("session a is damaged.*--session-repair", "--session", "a")
    assert main([*SAY, "--session", "a", "--session-repair", "-p", "y"]) == 0
    save_base(trained, tiny_model(vocab_size=300), tiny_tokenizer(), tag="plain")
    refused("was trained without a memory", "-i", "base")
    save_chat_model(trained, "sum", certainty=30.0, context_tokens=128, memory=True)
    refused("session a was made with model 'sft alphabet, step 7', not 'sft sum, step 7'", "--session", "a", "-g", "sum")
    refused("session a already exists", "--session", "a", "--regist", "a", "-g", "sum")
    assert main([*SAY, "--session", "of-a", "--regist", "a", "-g", "sum", "-p", "y"]) == 0
    lengths = {info.name: info.tokens for info in list_sessions(trained / "sessions")}
    assert lengths["of-a"] > lengths["a"] > 40


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--session", "a"], "session has no effect without --mc"),
        (["--ingest", "x"], "ingest has no effect without --mc"),
        (["--mc-tree=disk"], "mc_tree has no effect without --mc"),
        (["--mc", "--session", "../a"], "invalid session name '../a'"),
        (["--mc", "--ingest-quota", "0"], "ingest_quota is 0"),
        (["--mc", "--regist", "../a"], "invalid session name '../a'"),
        (["--mc", "--session", "b", "--regist", "a", "--session-repair"], "session_repair has no effect with regist"),
        (["--mc", "--session-repair"], "session_repair has no effect on sessions in RAM"),
        (["--mc", "--mc-session-lod", "0"], "mc_session_lod is 0"),
    ],
)
def test_a_wrong_flag_is_one_line(base: Path, wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and says in error and error.count("\n") == 1


def test_a_session_on_a_terminal(trained: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that are stopped, a document that is stopped, and what is left of both."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "long.txt").write_text("word " * 400_000)
    flags = [*SAY, "--session", "a", "--max-tokens=100000", "--mc-session-lod=4", "--allocator-soft-max-length=2000"]
    terminal = Terminal([sys.executable, "-m", "scripts.chat_cli", *flags], root)
    try:
        terminal.wait_for("/help shows this.")
        terminal.wait_for("> ")
        terminal.type("go\n")
        terminal.wait_for("go\r\n")
        terminal.read(100)
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped]")
        terminal.wait_for("> ")
        terminal.type(f"/ingest {tmp_path / 'long.txt'}\n")
        terminal.wait_for("tokens/s")
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped: the first ")
        terminal.wait_for("tokens of long.txt were read; session a has ")
        terminal.wait_for("> ")
        terminal.type("/focus\n")
        terminal.wait_for("session a: ")
        terminal.wait_for("residency")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()
    controller, tokenizer, _, identity = load_memory("sft", say=lambda _: None)
    session = SessionStore(controller, identity, parse(ChatCli, flags).memory.config).open("a")
    ids = session.tree.tokens(0, session.length)
    special = tokenizer.decode(ids[ids >= tokenizer.bos_id].tolist())
    assert special == "<|bos|>" + 2 * "<|user_start|><|user_end|><|assistant_start|><|assistant_end|>"
    assert tokenizer.decode(ids[-40:].tolist()).endswith("I have read the beginning of long.txt.<|assistant_end|>")
    session.tree.close()
