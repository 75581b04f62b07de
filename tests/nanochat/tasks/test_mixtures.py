from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tasks.mixtures import Mixture, MixturePart
from nanochat.tasks.registry import open_task
from nanochat.tasks.task import Task, dialogue


class Numbers(Task):
    """`count` questions."""

    kind = "chat"

    def __init__(self, name: str, count: int, endless: bool = False) -> None:
        self.name, self.count, self.endless = name, count, endless

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self._check_index(index)
        return dialogue(f"{self.name}{index}", "")


def asked(conversations) -> list[str]:
    return [c["messages"][0]["content"] for c in conversations]


def mixture(seed: int = 0) -> Mixture:
    return Mixture(
        [MixturePart(Numbers("a", 5), repeats=3), MixturePart(Numbers("b", 100)), MixturePart(Numbers("c", 10, endless=True), count=25)],
        seed,
    )


def test_a_pass_has_of_each_part_what_was_asked() -> None:
    everything = mixture()
    counted = Counter(asked(everything))
    assert len(everything) == sum(counted.values()) == 140
    assert counted == {f"a{i}": 3 for i in range(5)} | {f"b{i}": 1 for i in range(100)} | {f"c{i}": 1 for i in range(25)}
    assert asked(everything[i] for i in range(140)) == asked(everything)


def test_the_order_looks_random_and_is_a_function_of_parts_seed_and_number() -> None:
    first = asked(mixture())
    assert first == asked(mixture()) != asked(mixture(1)) and sorted(first) == sorted(asked(mixture(1)))
    backwards = mixture()
    assert [backwards[i]["messages"][0]["content"] for i in reversed(range(140))] == first[::-1]
    for name in "abc":
        places = [i for i, question in enumerate(first) if question[0] == name]
        assert 0.3 < sum(places) / len(places) / 140 < 0.7


def test_a_later_pass_is_in_another_order_with_new_examples_of_what_is_made_by_rule() -> None:
    everything = mixture()
    second = asked(everything.at(i) for i in range(140, 280))
    assert [name for name in second if name[0] == "b"] != [name for name in asked(everything) if name[0] == "b"]
    assert Counter(name for name in second if name[0] != "c") == Counter(name for name in asked(everything) if name[0] != "c")
    assert {name for name in second if name[0] == "c"} == {f"c{i}" for i in range(25, 50)}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3), st.none() | st.integers(1, 20)), min_size=1, max_size=5), st.integers(0, 99)
)
def test_any_mixture_gives_each_example_as_often_as_it_should(parts: list[tuple[int, int, int | None]], seed: int) -> None:
    mixed = Mixture([MixturePart(Numbers(f"{n}.", size), repeats, count) for n, (size, repeats, count) in enumerate(parts)], seed)
    counted = Counter(asked(mixed))
    for n, (size, repeats, count) in enumerate(parts):
        total = repeats * size if count is None else count
        assert [counted[f"{n}.{i}"] for i in range(size)] == [total // size + (i < total % size) for i in range(size)]


def test_the_fingerprint_tells_mixtures_apart() -> None:
    parts = [MixturePart(open_task("lists", "train", 0), count=10), MixturePart(Numbers("a", 3))]
    others = [
        Mixture(parts, 1),
        Mixture(parts[::-1]),
        Mixture(parts[:1]),
        Mixture([MixturePart(open_task("lists", "train", 0), count=11), parts[1]]),
        Mixture([MixturePart(open_task("lists", "train", 1), count=10), parts[1]]),
        Mixture([MixturePart(open_task("lists:items=7", "train", 0), count=10), parts[1]]),
        Mixture([parts[0], MixturePart(Numbers("b", 3))]),
    ]
    assert len({Mixture(parts).fingerprint, *(m.fingerprint for m in others)}) == 8
    assert Mixture(parts).fingerprint == Mixture(list(parts), left_out={"x": "why"}).fingerprint


def test_it_says_what_it_is_made_of() -> None:
    described = Mixture([MixturePart(Numbers("a", 5), 3), MixturePart(Numbers("b", 5))], left_out={"x": "it is not here"}).describe()
    assert described == {
        "conversations": 20,
        "mixture": [{"task": "a", "conversations": 15, "share": 0.75}, {"task": "b", "conversations": 5, "share": 0.25}],
        "left_out": {"x": "it is not here"},
    }
    json.dumps(described)
    assert "left_out" not in mixture().describe()


def test_what_cannot_be_a_mixture() -> None:
    with pytest.raises(ValueError, match="at least one conversation"):
        Mixture([])
    with pytest.raises(ValueError, match="repeats of a is 0"):
        MixturePart(Numbers("a", 1), 0)
    with pytest.raises(ValueError, match="count of a is -1"):
        MixturePart(Numbers("a", 1), count=-1)
    for index in (-1, 140):
        with pytest.raises(IndexError, match="140 conversations"):
            mixture()[index]
