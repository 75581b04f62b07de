"""CORE on a small bundle: prompts as they should read, scores as computed one option at a time, downloads that go wrong."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from nanochat import core_eval
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.core import evaluate_core, evaluate_task, score
from nanochat.eval.core_download import check_archive, unpack
from nanochat.eval.core_tasks import Option, bundle_folder, bundle_is_here, fewshot, options, read_tasks
from nanochat.model.gpt import GPT
from tests.helpers.core_bundle import EXAMPLES, write_bundle, zip_bundle
from tests.helpers.shard_server import ShardServer
from tests.helpers.tiny_model import full_logits, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return tiny_model(vocab_size=tokenizer.vocab_size, max_seq_len=400, window_pattern="SL")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def nats_and_greedy(model: GPT, tokens: list[int], start: int) -> tuple[float, bool]:
    """Mean loss of `tokens[start:]`, and whether each is the likeliest, from the plain forward of this row alone."""
    logits = full_logits(model, tokens)
    pairs = [(t, tokens[t]) for t in range(start, len(tokens))]
    losses = [-logits[t - 1].log_softmax(-1)[token].item() for t, token in pairs]
    return sum(losses) / len(losses), all(logits[t - 1].argmax().item() == token for t, token in pairs)


def test_prompts_read_as_published(folder: Path, tokenizer: Tokenizer) -> None:
    pick, who, copy = read_tasks(folder)
    examples = pick.examples()
    shuffled = list(EXAMPLES["small/pick.jsonl"])
    random.Random(1337).shuffle(shuffled)
    assert examples == shuffled
    rest = [i for i in range(len(examples)) if i != 3]
    shown = [examples[i] for i in random.Random(1234 + 3).sample(rest, 2)]
    before = "".join(f"{e['query']}\nAnswer: {e['choices'][e['gold']]}\n\n" for e in shown)
    texts = [tokenizer.decode(option.tokens[1:]) for option in options(pick, tokenizer, examples, 3)]
    assert texts == [f"{before}{examples[3]['query']}\nAnswer: {choice}" for choice in examples[3]["choices"]]

    examples = who.examples()
    texts = [tokenizer.decode(option.tokens[1:]) for option in options(who, tokenizer, examples, 0)]
    assert texts == [f"{context} was glad." for context in examples[0]["context_options"]]

    examples = copy.examples()
    (example,) = fewshot(examples, 2, 1)
    (option,) = options(copy, tokenizer, examples, 2)
    before = f"{example['context'].strip()} {example['continuation']}\n\n"
    assert tokenizer.decode(option.tokens[1:]) == f"{before}{examples[2]['context'].strip()} {examples[2]['continuation']}"
    assert tokenizer.decode(option.tokens[option.start :]) == f" {examples[2]['continuation']}"


def test_what_is_scored_is_what_the_options_do_not_share(folder: Path, tokenizer: Tokenizer) -> None:
    pick, who, _ = read_tasks(folder)
    several = options(pick, tokenizer, pick.examples(), 0)
    starts = {option.start for option in several}
    assert len(starts) == 1
    (start,) = starts
    assert len({tuple(option.tokens[:start]) for option in several}) == 1
    assert min(len(option.tokens) for option in several) == start + 1  # "a" begins the others: its last token is scored
    for option in options(who, tokenizer, who.examples(), 0):
        assert tokenizer.decode(option.tokens[option.start :]) == " was glad."


def test_fewshot_never_shows_the_example_itself() -> None:
    examples = [{"i": i} for i in range(6)]
    for index in range(6):
        shown = fewshot(examples, index, 5)
        assert sorted(e["i"] for e in shown) == [i for i in range(6) if i != index]


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
def test_core_is_what_counting_by_hand_gives(folder: Path, model: GPT, tokenizer: Tokenizer, batch_tokens: int) -> None:
    expected = {}
    for task in read_tasks(folder):
        examples, solved = task.examples(), 0
        for index, example in enumerate(examples):
            scores = [nats_and_greedy(model, option.tokens, option.start) for option in options(task, tokenizer, examples, index)]
            if task.kind == "language_modeling":
                solved += scores[0][1]
            else:
                losses = [loss for loss, _ in scores]
                solved += losses.index(min(losses)) == example["gold"]
        expected[task.label] = solved / len(examples)
    result = evaluate_core(model, tokenizer, batch_tokens, folder=folder, say=lambda _: None)
    assert result.accuracy == pytest.approx(expected)
    centered = {
        "pick": (expected["pick"] - 0.25) / 0.75,
        "who": (expected["who"] - 0.5) / 0.5,
        "copy": expected["copy"],
    }
    assert result.centered == pytest.approx(centered)
    assert result.core == pytest.approx(sum(centered.values()) / 3)


def test_scores_are_those_of_each_row_alone(model: GPT) -> None:
    generator = torch.Generator().manual_seed(0)
    several = []
    for length in (9, 40, 3, 17, 2):
        tokens = torch.randint(300, (length,), generator=generator).tolist()
        several.append(Option(tokens, max(1, length // 2)))
    # One whose every scored token is the likeliest.
    tokens = several[0].tokens
    several.append(Option([*tokens, full_logits(model, tokens)[-1].argmax().item()], len(tokens)))
    found = score(model, several, 64)
    for row, option in zip(found, several, strict=True):
        nats, greedy = nats_and_greedy(model, option.tokens, option.start)
        assert row[0].item() == pytest.approx(nats, abs=1e-5)
        assert bool(row[1]) == greedy
    assert found[-1, 1] == 1


def test_a_prompt_that_is_too_long_loses_its_beginning(tokenizer: Tokenizer) -> None:
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_seq_len=16)
    tokens = torch.randint(300, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    ((nats, _),) = score(model, [Option(tokens, 35)], 64).tolist()
    assert nats == pytest.approx(nats_and_greedy(model, tokens[-16:], 11)[0], abs=1e-5)


def test_compiled_models_are_not_compiled_for_each_shape(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    compiled = tiny_model(vocab_size=tokenizer.vocab_size, max_seq_len=400, window_pattern="SL").use_kernels(True, True)
    torch._dynamo.utils.counters.clear()
    first = evaluate_core(compiled, tokenizer, 300, folder=folder, say=lambda _: None)
    assert not torch._dynamo.utils.counters["frames"]
    assert first == evaluate_core(model, tokenizer, 300, folder=folder, say=lambda _: None)


def test_fewer_examples_and_stopping(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    pick = read_tasks(folder)[0]
    assert evaluate_task(model, tokenizer, pick, 300, 4) in (0.0, 0.25, 0.5, 0.75, 1.0)
    with pytest.raises(UserError, match="needs more than 2 examples for 2 shots"):
        pick.examples(2)
    assert evaluate_core(model, tokenizer, 300, folder=folder, say=lambda _: None, should_stop=lambda: True) is None


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("core.yaml", None, "run python -m nanochat.core_eval download"),
        ("core.yaml", b"icl_tasks: [", "core.yaml is not a list of tasks"),
        ("core.yaml", b"tasks: []", "core.yaml is not a list of tasks"),
        ("core.yaml", b"icl_tasks: []", "has no tasks"),
        ("core.yaml", b"icl_tasks:\n- {label: pick, dataset_uri: a, num_fewshot: [0], icl_task_type: essay}", "unknown task type 'essay'"),
        ("core.yaml", b"icl_tasks:\n- {label: x, dataset_uri: a, num_fewshot: [0], icl_task_type: schema}", "no random baseline for x"),
        ("core.yaml", b"icl_tasks:\n- {label: who, dataset_uri: ../../x, num_fewshot: [0], icl_task_type: schema}", "outside"),
        ("eval_meta_data.csv", None, "eval_meta_data.csv"),
        ("eval_meta_data.csv", b"Eval Task,Random baseline\npick,many\n", "not a table of random baselines"),
        ("eval_data/copy.jsonl", None, "copy.jsonl"),
        ("eval_data/copy.jsonl", b"\xff\xfe", "copy.jsonl"),
        ("eval_data/small/pick.jsonl", b'{"query": "q", "choices": ["a"], "gold": 0}\n{"query": "q", "choi', "line 2: not JSON"),
        ("eval_data/small/pick.jsonl", b'{"query": "q", "choices": ["a"], "gold": 1}\n', "line 1: invalid multiple_choice example"),
        ("eval_data/small/who.jsonl", b'{"continuation": "c", "gold": 0}\n', "line 1: invalid schema example"),
    ],
)
def test_a_bundle_that_is_not_whole_is_one_line(
    folder: Path, model: GPT, tokenizer: Tokenizer, file: str, content: bytes | None, says: str
) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        evaluate_core(model, tokenizer, 300, folder=folder, say=lambda _: None)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_download_survives_faults_and_puts_the_bundle_in_place(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ShardServer({"eval_bundle.zip": zip_bundle()}) as server:
        server.fail("eval_bundle.zip", "503", "drop", "flip", "short")
        command = ["download", "--url", f"{server.url}/eval_bundle.zip", "--retry-seconds", "0.01"]
        assert core_eval.main(command) == 0
        asked = len(server.requests)
        assert core_eval.main(command) == 0  # it is here: nothing is asked for
        assert len(server.requests) == asked
    assert [task.label for task in read_tasks(bundle_folder())] == ["pick", "who", "copy"]
    assert sorted(path.name for path in base.iterdir() if not path.name.endswith(".lock")) == ["eval_bundle"]
    assert not list(base.rglob("*MACOSX*"))
    assert "3 CORE tasks are in" in capsys.readouterr().out


def link_entry() -> bytes:
    buffer = io.BytesIO(zip_bundle())
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo("eval_bundle/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (zip_bundle({"eval_bundle/../../outside": b"x"}), "unsafe entry 'eval_bundle/../../outside'"),
        (zip_bundle({"/tmp/outside": b"x"}), "unsafe entry"),
        (zip_bundle({"eval_bundle\\..\\..\\outside": b"x"}), "unsafe entry"),
        (zip_bundle({"C:/outside": b"x"}), "unsafe entry"),
        (link_entry(), "unsafe entry 'eval_bundle/link'"),
        (zip_bundle(leave_out="core.yaml"), "no CORE bundle in"),
        (zip_bundle(leave_out="eval_data/copy.jsonl"), "copy.jsonl"),
    ],
    ids=["parent", "absolute", "backslash", "drive", "link", "no yaml", "no data"],
)
def test_an_archive_that_is_no_bundle_leaves_nothing(base: Path, archive: bytes, says: str) -> None:
    path = base / "eval_bundle.zip"
    path.write_bytes(archive)
    with pytest.raises(UserError, match=says.replace("\\", "\\\\")):
        unpack(path, bundle_folder())
    assert [p.name for p in base.iterdir()] == ["eval_bundle.zip"]
    assert not bundle_is_here() and not (base.parent / "outside").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.eval.core_download.MOST_BYTES", 1 << 20)
    path = base / "eval_bundle.zip"
    path.write_bytes(zip_bundle({"eval_bundle/zeros": bytes(2 << 20)}))
    with pytest.raises(UserError, match="this is not the CORE bundle"):
        unpack(path, bundle_folder())
    assert not bundle_is_here()


def test_a_damaged_archive_is_found(tmp_path: Path) -> None:
    whole = zip_bundle()
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    check_archive(path)
    spots = random.Random(0).sample(range(30, 400), 20)
    for data in (whole[:-30], b"<html>", b"", *(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :] for i in spots)):
        path.write_bytes(data)
        try:
            check_archive(path)
        except UserError:
            continue
        assert _same_files(whole, data)  # the flipped byte was one that says nothing


def _same_files(a: bytes, b: bytes) -> bool:
    first, second = zipfile.ZipFile(io.BytesIO(a)), zipfile.ZipFile(io.BytesIO(b))
    return {n: first.read(n) for n in first.namelist()} == {n: second.read(n) for n in second.namelist()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "download"), (["upload"], "upload is not a command"), (["download", "--url", "ftp://x/y.zip"], "must begin with http")],
)
def test_commands_that_are_none_are_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = core_eval.main(arguments)
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2 and says in error and error.count("\n") == 1


def test_a_server_that_has_no_bundle_is_one_line(base: Path) -> None:
    with ShardServer({}) as server, pytest.raises(UserError, match="404"):
        core_eval.main(["download", "--url", f"{server.url}/eval_bundle.zip"])
    assert [p.name for p in base.iterdir() if p.suffix != ".lock"] == []
