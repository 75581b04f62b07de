from __future__ import annotations

import pytest

from nanochat.tasks.task import Task, check_conversation, dialogue, reference, with_tool


class Letters(Task):
    """Two questions."""

    name, kind = "letters", "categorical"

    def __init__(self, answers: str = "AB") -> None:
        self.answers = answers

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> dict:
        self._check_index(index)
        return dialogue(f"q{index}", self.answers[index], letters=["A", "B", "C", "D"])


def test_a_task_is_a_sequence_of_conversations() -> None:
    task = Letters()
    assert [c["messages"][0]["content"] for c in task] == ["q0", "q1"]
    for index in (-1, 2):
        with pytest.raises(IndexError, match="letters has no example"):
            task[index]


def test_the_default_grade_is_equality_and_chance_one_letter() -> None:
    task = Letters()
    assert task.grade(task[0], " A\n") == 1 and task.grade(task[0], "B") == task.grade(task[0], "AB") == 0
    assert task.grade_all([task[0], task[1]], ["B", "B"]) == [0, 1]
    assert task.chance(task[0]) == 0.25
    task.kind = "generative"
    assert task.chance(task[0]) == 0
    task.kind = "chat"
    with pytest.raises(ValueError, match="letters cannot be graded"):
        task.grade(task[0], "A")


def test_the_fingerprint_changes_with_the_examples() -> None:
    fingerprints = {Letters(answers).fingerprint for answers in ("AB", "AC", "ABA", "BA")}
    assert len(fingerprints) == 4 and Letters().fingerprint == Letters().fingerprint in fingerprints


def test_the_reference_is_what_the_answer_says_beside_its_tool_calls() -> None:
    assert reference(dialogue("?", with_tool("1+1", "2", "It is 2."))) == "It is 2."
    assert reference(dialogue("?", "yes")) == "yes"


@pytest.mark.parametrize(
    ("conversation", "why"),
    [
        (None, "list of messages"),
        ({"messages": []}, "list of messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, "last message must be the assistant's"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "has the role 'assistant'; expected 'user'"),
        ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "a"}]}, "must be a string"),
        (dialogue("?", [{"type": "music", "text": "la"}]), "one of the types"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(conversation: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_conversation(conversation)
