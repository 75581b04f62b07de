"""Questions of a newcomer, the places that answer them, and the way from the README to each in two hops.

`python -m tests.newcomer` prints the table. Hop one: from README's table "Where to read on" to a row that shows a key word of the
question. Hop two: to the answer, which either lies in a folder of that row and shows a key word in its name or in the first line of its
docstring, or is named by a note that the row links, in a paragraph, list item or table row that shows a key word.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nanochat.common import ROOT
from tests.helpers.vault import README, Page, read

SECTION = "## Where to read on"


class Question(NamedTuple):
    """A question, its key words separated by commas, and its answer: `PATH` or `PATH::NAME`, where a name may be `Class.method`."""

    text: str
    keys: str
    answer: str


QUESTIONS = (
    # The twelve first guesses.
    Question("Where is the LR schedule?", "schedule", "nanochat/train/schedule.py::lr_multiplier"),
    Question("What happens when a gist is made at inference?", "gist,inference", "mc/session/layered_tree.py::append_read"),
    Question("What decides the variants?", "variant", "mc/train/variant_sampler.py::Sampler"),
    Question("How are documents packed into rows?", "pack", "nanochat/data/packing.py::plan_bestfit"),
    Question("How is an attention backend chosen?", "attention", "nanochat/model/attention.py::choose_backend"),
    Question("Which parameters does the optimizer train with Muon?", "optim,muon", "nanochat/train/optim.py::gpt_groups"),
    Question("What does saving a checkpoint write?", "saving,checkpoint", "nanochat/checkpoint/store.py::CheckpointStore.save"),
    Question("How is a model exported to Hugging Face?", "export", "nanochat/export/hf_model.py::export_model"),
    Question("Which code does an exported model run?", "model", "nanochat/export/model_files/modeling_megacontext.py::Attention"),
    Question("Which state must agree to resume a run?", "state,resume", "nanochat/train/state.py::check_identity"),
    Question("Which limits does code in the sandbox have?", "limits,sandbox", "nanochat/sandbox/run.py::Limits"),
    Question("Where are the routes of the HTTP API?", "HTTP,API,routes", "nanochat/serve/http/app.py::create_app"),
    Question("What does Ollama's API answer?", "Ollama,API", "nanochat/serve/http/api/ollama.py::add_ollama_routes"),
    Question("How is the next token sampled?", "sampl", "nanochat/infer/sampling.py::Sampling"),
    Question("How large is the KV cache?", "KV cache", "nanochat/infer/kv_cache.py::KVCache"),
    # Twelve more, and one for each room that has none yet.
    Question("Which tokenizer is used?", "tokenizer", "nanochat/data/tokenizer.py::Tokenizer"),
    Question("When is the token cache rebuilt?", "token cache", "nanochat/data/token_cache.py::open_tokens"),
    Question("How is CORE computed?", "CORE", "nanochat/eval/core.py::evaluate_core"),
    Question("How are bits per byte measured?", "bits per byte", "nanochat/eval/bits_per_byte.py::evaluate_bpb"),
    Question("What is in the report?", "report", "nanochat/report/compose.py::compose"),
    Question("Which gates must an idea pass in the lab?", "gates", "nanochat/lab/gates.py::PROMOTE"),
    Question("What does telemetry send?", "telemetry", "mc/telemetry/schema.py::schema"),
    Question("Which files does a session have?", "session,files", "mc/session/files.py"),
    Question("How does the Focus Allocator choose edits?", "allocator", "mc/session/allocator.py::FocusAllocator.plan"),
    Question("What teaches LensNet?", "LensNet", "mc/train/hit_objective.py::HitObjective"),
    Question("Which blocks does a session keep at hand?", "session", "mc/session/block_pool.py::BlockPool"),
    Question("What is rolling recovery?", "rolling", "mc/eval/rolling.py::RollingRows"),
    Question("Which position does a layer-0 gist have?", "position", "mc/layout/positions.py::PositionType"),
    Question("Which tasks are in the mixture of a stage?", "mixture", "nanochat/tasks/mixtures.py::Mixture"),
    Question("When does a metric raise an alert?", "metric,alert", "nanochat/tracking/metric_bounds.py::RUN_BOUNDS"),
    Question("How much device memory will a run need?", "device", "nanochat/profiling/device_memory.py::MemoryEstimate"),
    Question("How do signals stop a run?", "signals", "nanochat/runtime/signals.py::StopSignals"),
    Question("What is a layered gist?", "gist", "mc/nets/layered_gists.py::LayeredGistNet"),
    Question("What is a hit?", "hit", "mc/nets/hits.py::token_hits"),
    Question("How does LensNet score a block?", "LensNet", "mc/nets/layered_lens.py::LayeredLensNet"),
    Question("How does LensNet find a block that is far back?", "LensNet,far", "mc/nets/matches.py::MatchIndex.find"),
    Question("Which conditions is a memory compared under?", "conditions", "mc/eval/conditions.py"),
    Question("How does the chat server keep sessions?", "chat server", "mc/serve/web_sessions.py::WebSessions"),
    Question("How is a needle hidden in a long prompt?", "long", "nanochat/tasks/long/needles.py"),
    Question("What is small talk answered by?", "small talk", "nanochat/tasks/talk/small_talk.py::SmallTalk"),
    Question("What happens when a worker dies?", "worker", "nanochat/serve/workers.py"),
    Question("Which memory model do training, evaluation and sessions share?", "memory model", "mc/memory_model.py::MemoryModel"),
    Question("Which flags does the memory have?", "flags,memory", "mc/config.py::MCConfig"),
    Question("How is a command-line flag declared?", "command-line flag", "nanochat/flags.py::flag"),
    Question("Which stages does a recipe run?", "stages,recipe", "runs/pipeline.sh"),
    Question("Which bytes are on disk?", "disk", "obsidian/Storage format.md"),
)


@dataclass(frozen=True)
class Row:
    """A row of README's table: its text, its folders and the notes that it links."""

    text: str
    folders: tuple[str, ...]
    notes: tuple[Page, ...]


def table(readme: str) -> list[Row]:
    """The rows of the table "Where to read on"."""
    rows = []
    for line in readme.partition(SECTION)[2].splitlines():
        if line.startswith("| `"):
            folders = tuple(name.rstrip("/") for name in re.findall(r"`([\w/]+/)`", line))
            notes = tuple(read(link.file) for link in Page(README, line).links if link.file.suffix == ".md")
            rows.append(Row(re.sub(r"\]\([^)]*\)", "]", line), folders, notes))
    return rows


def shows(text: str, question: Question) -> bool:
    """True if a word of `text` begins with a key of the question."""
    return any(re.search(rf"\b{re.escape(key)}", text, re.IGNORECASE) for key in question.keys.split(","))


def sign(path: Path) -> str:
    """A file as a newcomer sees it in a listing: its name, and the first line of its docstring or, if it is no module, of its text."""
    text = path.read_text(encoding="utf-8")
    described = (ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else text
    return f"{path.stem.replace('_', ' ')}: {described.partition(chr(10))[0]}"


def defines(path: Path, name: str) -> bool:
    """True if the module defines the function, class or constant, or `Class.name` in a class of its own."""
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [node for node in body if part in _defined(node)]
        if not found:
            return False
        body = getattr(found[-1], "body", [])
    return True


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def names(note: Page, answer: str, question: Question) -> bool:
    """True if a paragraph, list item or table row of the note names the answer and shows a key word."""
    parts = re.split(r"\n(?=\s*(?:[-|#\n]|\d+\.))", note.prose)
    return any(f"`{answer}`" in part and shows(part, question) for part in parts)


def hops(question: Question, rows: list[Row]) -> list[str]:
    """The ways from the README to the answer: the folder of a row, or a note that it links."""
    answer = question.answer.partition("::")[0]
    path = ROOT / answer
    followed = [row for row in rows if shows(row.text, question)]
    folders = [f"{folder}/" for row in followed for folder in row.folders if path.parent == ROOT / folder and shows(sign(path), question)]
    return folders + [note.name for row in followed for note in row.notes if note.path == path or names(note, answer, question)]


def problem(question: Question, rows: list[Row]) -> str:
    """The reason why a question does not lead to its answer; empty if it does."""
    answer, _, name = question.answer.partition("::")
    if not all(shows(question.text, question._replace(keys=key)) for key in question.keys.split(",")):
        return "a key word is not in the question"
    if not (ROOT / answer).is_file():
        return f"{answer} does not exist"
    if name and not defines(ROOT / answer, name):
        return f"{answer} does not define {name}"
    return "" if hops(question, rows) else f"{answer} is not reached in two hops"


def main() -> None:
    """Prints question, first way and answer of each row."""
    rows = table(README.read_text(encoding="utf-8"))
    for question in QUESTIONS:
        way = problem(question, rows) or hops(question, rows)[0]
        print(f"{question.text:<52} README → {way:<38} → {question.answer}")


if __name__ == "__main__":
    main()
