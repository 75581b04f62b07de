"""Conversations with a session: every turn is in its history, whole, however it ended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from bench.tiny_chat import reciting_model, sum_with_a_tool
from mc.config import AllocatorConfig, SessionConfig
from mc.session.base_session import session_spec
from mc.session.conversation import SessionConversation, Turn, end_turns
from mc.session.disk_tree import DiskTree
from mc.session.session import MCSession
from mc.session.store import SessionStore
from mc.session.tree import RamTree
from mc.train.controller import MCController
from nanochat.common import UserError
from nanochat.data.chat_template import render_conversation
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece
from nanochat.infer.reply import joined as merged
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from tests.helpers.tiny_memory import SEQ_LEN, randomise, tiny_memory
from tests.helpers.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
WIDE = SessionConfig(mc_session_lod=3, allocator=AllocatorConfig(allocator_soft_max_length=400))
NARROW = SessionConfig(mc_session_lod=3, mc_infer_refocus_interval=8)
SPECIAL = TOKENIZER.special_tokens


def memory(silent: bool = False, model: GPT | None = None) -> MCController:
    """`silent`: it never ends a turn of itself, nor calls a tool."""
    controller = tiny_memory(model={"vocab_size": 300})
    if model is not None:
        controller = MCController(model, controller.config, SEQ_LEN)
        randomise(controller.focus, 1)
    controller.requires_grad_(False).eval()
    if silent:
        controller.model.lm_head.weight[list(SPECIAL.values())] = 0
    return controller


def session(controller: MCController, config: SessionConfig = NARROW) -> MCSession:
    return MCSession(controller, RamTree(session_spec(controller, config)), config)


def talk(s: MCSession, base: bool = False, **sampling) -> SessionConversation:
    return SessionConversation(s, TOKENIZER, Sampling(**({"temperature": 0, "max_tokens": 40} | sampling)), base)


def joined(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def history(s: MCSession) -> list[int]:
    return s.tree.tokens(0, s.tree.length).tolist()


def shown(s: MCSession) -> str:
    return TOKENIZER.decode(history(s))


def test_a_session_that_is_short_replies_as_a_model_without_one() -> None:
    controller = memory(silent=True)
    s, sampling = session(controller, WIDE), Sampling(temperature=1.0, seed=5, max_tokens=40)
    chat, before = SessionConversation(s, TOKENIZER, sampling, base=False), [TOKENIZER.bos_id]
    for text in ("Hello there", "And <|user_end|> now?", "東京"):
        ids = [SPECIAL["<|user_start|>"], *TOKENIZER.encode(text), SPECIAL["<|user_end|>"], SPECIAL["<|assistant_start|>"]]
        (completion,) = Engine(controller.model).generate([[*before, *ids]], sampling)
        before += [*ids, *completion.tokens, SPECIAL["<|assistant_end|>"]]
        assert joined(chat.say(text)) == TOKENIZER.decode(completion.tokens) and history(s) == before


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|user_start|>", "<|user_end|>"])
def test_a_stop_token_ends_the_turn_whichever_it_is(stop: str) -> None:
    recited = [SPECIAL["<|assistant_start|>"], *b"Yes.", SPECIAL[stop]]
    s = session(memory(model=reciting_model(TOKENIZER, recited, certainty=30.0, context_tokens=SEQ_LEN)))
    for _ in range(2):
        assert joined(talk(s).say("Go")) == "Yes."
    assert shown(s) == "<|bos|>" + 2 * "<|user_start|>Go<|user_end|><|assistant_start|>Yes.<|assistant_end|>"


@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_a_reply_that_nobody_waits_for_is_what_was_said(pieces: int) -> None:
    s = session(memory(silent=True))
    chat = talk(s, max_tokens=100)
    reply = chat.say("Count")
    said = "".join(next(reply).text for _ in range(pieces))
    reply.close()
    if pieces:
        assert said in shown(s) and shown(s).endswith("<|assistant_end|>") and s.length < 60
    else:
        assert s.length == 0  # it had not begun
    assert joined(chat.say("Go on")) and shown(s).count("<|assistant_start|>") == shown(s).count("<|assistant_end|>") == 1 + (pieces > 0)


@pytest.mark.parametrize(("method", "call"), [("extend", 1), ("note", 2), ("refocus", 1), ("refocus", 2)])
def test_a_turn_that_is_interrupted_anywhere_is_ended(method: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between what the tree is given and what is laid out of it."""
    s = session(memory(silent=True))
    calls, whole = [], getattr(MCSession, method)

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(MCSession, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(talk(s).say("What is it?"))
    monkeypatch.undo()
    assert shown(s).startswith("<|bos|><|user_start|>What is it?<|user_end|><|assistant_start|>")
    assert shown(s).endswith("<|assistant_end|>") and shown(s).count("<|assistant_end|>") == 1
    assert joined(talk(s).say("Again"))
    layout, *_ = s.read()
    assert int(layout.start[0, -1]) == s.length - 1


def test_a_reply_cut_inside_a_tool_call_is_closed() -> None:
    controller = memory()
    for inside, closed in (("<|python_start|>1+1", "<|python_end|>"), ("<|output_start|>2", "<|output_end|>"), ("<|python_end|>", "")):
        s = session(controller)
        turn = Turn(s, TOKENIZER, [TOKENIZER.bos_id, SPECIAL["<|user_start|>"], SPECIAL["<|user_end|>"], SPECIAL["<|assistant_start|>"]])
        name, _, text = inside.partition("|>")
        for token in (SPECIAL[f"{name}|>"], *TOKENIZER.encode(text)):
            turn.add(token)
        turn.close()
        assert shown(s).endswith(f"<|assistant_start|>{inside}{closed}<|assistant_end|>")


def test_tools_answer_and_their_words_are_history() -> None:
    recited = sum_with_a_tool(TOKENIZER)
    controller = memory(model=reciting_model(TOKENIZER, recited, certainty=30.0, context_tokens=SEQ_LEN))
    s = session(controller)
    chat = SessionConversation(s, TOKENIZER, Sampling(temperature=0, max_tokens=100), base=False, tools=Tools(TOKENIZER))
    for _ in range(5):
        calls = [("text", "Sum:"), ("python", "6*7"), ("python_output", "42"), ("text", "-done!")]
        assert [tuple(piece) for piece in merged(list(chat.say("?")))] == calls
    turn = "<|user_start|>?<|user_end|><|assistant_start|>Sum:<|python_start|>6*7<|python_end|>"
    turn += "<|output_start|>42<|output_end|>-done!<|assistant_end|>"
    assert shown(s) == "<|bos|>" + 5 * turn and s.figures.refocuses > 5


def test_a_base_model_continues_the_text_of_the_session() -> None:
    s = session(memory(silent=True))
    chat = talk(s, base=True)
    first, second = joined(chat.say("abc")), joined(chat.say(" def"))
    assert first.startswith("abc") and second.startswith(" def")
    assert shown(s) == f"<|bos|>{first}{second}"
    with pytest.raises(UserError, match="the prompt is empty"):
        list(chat.say(""))
    with pytest.raises(UserError, match="not UTF-8"):
        list(chat.say("\udcff"))


def test_what_a_killed_process_left_open_is_closed_first() -> None:
    whole, _ = render_conversation(TOKENIZER, {"messages": [{"role": "user", "content": "a " * 50}]}, 1000)
    controller = memory(silent=True)
    for cut in (1, 2, 3, 40, len(whole)):
        s = session(controller)
        s.append(torch.tensor(whole[:cut]))
        end_turns(s, TOKENIZER)
        expected = [] if cut == 1 else ["<|user_end|>"] * (cut < len(whole)) + ["<|assistant_start|>", "<|assistant_end|>"]
        assert history(s) == whole[:cut] + [SPECIAL[name] for name in expected]
        end_turns(s, TOKENIZER)
        assert s.length == cut + len(expected)
        list(talk(s, max_tokens=2).say("b"))
        assert history(s)[:cut] == whole[:cut] and shown(s).count("<|user_start|>") == shown(s).count("<|assistant_end|>")


def test_a_turn_that_the_session_has_no_room_for_is_not_begun() -> None:
    s = session(memory(silent=True), SessionConfig(mc_session_lod=2))
    s.append(torch.full((200,), 65))
    with pytest.raises(
        UserError, match=r"the session has 200 tokens and room for [0-9,]+, not for 9,005; start a new one with --mc-session-lod"
    ) as error:
        list(talk(s, max_tokens=9000).say("Go"))
    left = int(str(error.value).split("room for ")[1].split()[0].replace(",", ""))
    assert s.length == 200
    s.check_room(left)
    s.append(torch.full((left,), 66))  # and it does have that room
    assert s.length == 200 + left
    with pytest.raises(UserError, match="room for 0, not for 1"):
        s.append(torch.tensor([66]))
    assert s.length == 200 + left


def test_the_last_special_token_is_found_however_far_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.conversation.SCANNED_AT_ONCE", 7)
    s = session(memory())
    s.append(torch.tensor([TOKENIZER.bos_id, SPECIAL["<|user_start|>"], *b"x" * 100]))
    end_turns(s, TOKENIZER)
    assert shown(s).endswith("x<|user_end|><|assistant_start|><|assistant_end|>")


def test_turns_are_on_disk_when_they_end(tmp_path: Path) -> None:
    controller = memory(silent=True)
    stores = [SessionStore(controller, {"model": "x"}, SessionConfig("disk", 3, 8), tmp_path) for _ in range(2)]
    s = stores[0].open("a")
    reply = joined(talk(s).say("Remember this"))
    s.tree._resources.close()  # as if the process were killed: nothing is saved any more
    again = stores[1].open("a")
    assert reply in shown(again) and shown(again).endswith("<|assistant_end|>")
    stores[1].close_all()


def test_a_turn_that_the_disk_has_no_room_for_leaves_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SessionStore(memory(silent=True), {"model": "x"}, SessionConfig("disk", 3, 8), tmp_path)
    s = store.open("a")
    list(talk(s).say("One"))
    before, whole = history(s), DiskTree.append

    def full(self, tokens, *made) -> None:
        if self.length + len(tokens) > len(before) + 16:
            raise UserError("cannot add to session a: No space left on device")
        whole(self, tokens, *made)

    monkeypatch.setattr(DiskTree, "append", full)
    for _ in range(2):
        with pytest.raises(UserError, match="No space left"):
            list(talk(s).say("Two"))
    monkeypatch.undo()
    list(talk(s).say("Three"))
    assert history(s)[: len(before)] == before
    assert shown(s).count("<|user_start|>") == shown(s).count("<|assistant_end|>") and "<|user_start|>Three<|user_end|>" in shown(s)
    store.close_all()
