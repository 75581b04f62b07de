import hashlib
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nanochat import markdown
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import ROOT, UserError
from nanochat.report.__main__ import main
from nanochat.report.compose import compose, generate, write
from nanochat.report.figures import curves_png, memory_png
from nanochat.report.sections import RECIPE, collect, section
from nanochat.tracking.sinks import JsonlSink

NASTY = "``` `````\n# title | <script>alert(1)</script> <b>&amp; [a](b) *x* \x1b[31m\u202e\r\x00 \\ ⟶ é 日本"


STAGES = tuple(stage.name for stage in RECIPE if stage.required)


def html(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(text)


def stamp(base: Path, stage: str, seconds: int, finished: str, command: str = "python -m x") -> None:
    (base / "stages").mkdir(exist_ok=True)
    (base / "stages" / f"{stage}.json").write_text(
        json.dumps({"stage": stage, "command": command, "seconds": seconds, "finished": finished})
    )


def metrics_file(path: Path, steps: int = 60) -> Path:
    sink = JsonlSink(path)
    for step in range(steps):
        sink.log({"step": step, "total_tokens": step * 8192, "train/loss": 3 + math.exp(-step / 9)})
        if step % 20 == 0:
            sink.log({"step": step, "total_tokens": step * 8192, "val/bpb": 2 - step / 100 if step else math.nan})
    sink.close()
    return path


def fill(base: Path) -> None:
    """The sections of a whole run."""
    section("tokenizer_training", {"vocab_size": 8192, "seconds": 1.25})
    section("tokenizer_evaluation", {"bytes_per_token": {"english": {"ours": 3.91}, "code": {"ours": 3.5}}})
    section("base_training", {"metrics_file": str(metrics_file(base / "metrics.jsonl")), "config": {"depth": 4, "compile": True}})
    section(
        "base_evaluation", {"model": "d4, step 60", "val_bpb": 1.6123, "samples": [{"prompt": "The sky is", "text": "The sky is blue."}]}
    )
    for name in ("mid_training", "chat_sft"):
        section(name, {"model tag": "d4", "steps": 3})
    rows = [
        {"task": "sums", "problems": 200, "accuracy": 0.9, "low": 0.85, "high": 0.94, "chance": 0.0},
        {"task": "letters", "problems": 200, "accuracy": 0.5, "low": 0.43, "high": 0.57, "chance": 0.25},
    ]
    section("chat_evaluation", {"ChatCORE": 0.61667, "tasks": rows, "samples": [{"prompt": "1 + 1?", "text": "2"}]})


# --- sections ---


def test_a_section_is_json_with_a_stamp(base: Path) -> None:
    section("x", {"a": 1, "b": math.nan, "c": {"d": [math.inf, 2.0]}})
    record = json.loads((base / "report" / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["values"] == {"a": 1, "b": "nan", "c": {"d": ["inf", 2.0]}}
    assert record["timestamp"].endswith("Z") and 0 < record["process_seconds"] < 10_000
    section("x", {"a": 2})
    assert json.loads((base / "report" / "x.json").read_text())["values"] == {"a": 2}


def test_process_seconds_count_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.5); from nanochat.report.environment import process_seconds; print(process_seconds())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert 0.5 <= float(done.stdout) < 5


def test_secrets_stay_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    section("x", {"url": "https://h/?t=hf_secret_token", "config": {"nested": ["hf_secret_token"]}})
    assert "hf_secret_token" not in (base / "report" / "x.json").read_text()


@pytest.mark.parametrize("samples", [[{"prompt": "a"}], ["text"], [{"prompt": "a", "text": None}]])
def test_samples_of_another_form_are_refused(base: Path, samples) -> None:
    with pytest.raises(ValueError, match="invalid samples"):
        section("x", {"samples": samples})
    with pytest.raises(ValueError, match="invalid layouts"):
        section("x", {"layouts": samples})


# --- the report ---


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_whole_report(base: Path, tmp_path: Path) -> None:
    fill(base)
    for i, stage in enumerate(STAGES):
        stamp(base, stage, 60 * i + 5, f"2026-11-20T06:3{i}:00Z", command=f"python -m scripts.{stage}")
    out = tmp_path / "report" / "report.md"
    assert generate(out) == []
    text = out.read_text("utf-8")
    assert [line.removeprefix("## ") for line in lines(text, "## ")] == [
        "Summary", "Stages", "Training", "Evaluation", "Samples", "Alerts", "Check", "Environment", "Commands", "Checkpoints",
        "Data and runs", "Details",
    ]  # fmt: skip
    assert "| base\\_train | d4 | done | 2m05s | 2026-11-20 06:32:00 |" in text and "| total |  |  | 21m35s |  |" in text
    assert "python -m scripts.base_train\n" in text and "- No stage is missing.\n- No alerts.\n- Not checked yet" in text
    assert "| vocab size | 8,192 |" in text and "| english | 3.91 |" in text and "| compile | yes |" in text and "| torch |" in text
    assert "```text\nThe sky is ⟶ blue.\n```" in text
    assert "| validation bits per byte | 1.6123 |" in text and "| ChatCORE (0 guesses, 1 is perfect) | 0.617 ± 0.052 |" in text
    assert "| letters | 200 | 0.25 | 50.0 % (43.0–57.0) |" in text
    assert '<img src="base_training.png"' in html(text)
    for name in ("base_training", "chat_tasks"):
        assert (out.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_each_missing_stage_is_named(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section("base_training", {"steps": 3})
    stamp(base, "base_train", 5, "2026-11-20T06:30:00Z")
    out = tmp_path / "report.md"
    assert main(["generate", "--out", str(out)]) == 0
    missing = [stage for stage in STAGES if stage != "base_train"]
    assert capsys.readouterr().out == f"report: {out} and report.html (missing: {', '.join(missing)})\n"
    text = out.read_text("utf-8")
    assert f"- Stages missing: {', '.join(f'`{stage}`' for stage in missing)}." in text
    assert lines(text, "| base\\_train |")[0].split(" | ")[2] == "done"
    for stage in missing:
        assert [line.split(" | ")[2] for line in lines(text, f"| {markdown.escape(stage)} |")] == ["missing"]
    assert not lines(text, "| chat\\_rl |"), "RL is not asked for"


def test_a_report_of_nothing(base: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "report.md") == list(STAGES)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "No training stage has reported." in text and "No evaluation has left samples." in text
    assert "the newest of each stage.\n\nNone.\n" in text
    assert list(tmp_path.glob("*.png")) == [] and (tmp_path / "report.html").stat().st_size > 5_000


def test_how_a_stage_ended_is_told(base: Path, tmp_path: Path) -> None:
    fill(base)
    stamp(base, "base_train", 5, "2026-11-20T06:30:00Z")
    failed = {"command": "python", "seconds": 7, "finished": "2026-11-20T06:40:00Z"}
    for stage, code in (("base_train", 7), ("chat_sft", 130), ("chat_rl", 1)):
        (base / "stages" / f"{stage}.failed").write_text(json.dumps(failed | {"stage": stage, "code": code}))
    stamp(base, "tok_train", 5, "2026-11-20T06:30:00Z")
    (base / "stages" / "tok_train.failed").write_text(
        json.dumps(failed | {"stage": "tok_train", "code": 1, "finished": "2026-11-20T06:20:00Z"})
    )
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| base\\_train | d4 | failed, exit code 7 | 7s | 2026-11-20 06:40:00 |" in text
    assert "| chat\\_sft | d4 | stopped | 7s |" in text and "| chat\\_rl | d4 | failed, exit code 1 |" in text
    assert "| tok\\_train |  | done | 5s |" in text, "it has succeeded since"
    assert "- Stages that ended early: `base_train` (failed), `chat_sft` (stopped), `chat_rl` (failed)." in text


def test_a_stage_run_by_hand_and_sections_of_others_are_shown(base: Path, tmp_path: Path) -> None:
    section("tokenizer_training", {"a": 1})
    section("chat_sft", {"a": 1})
    curve = [{"label": "c", "points": [[1, 2.0], [2, 3.0]]}]
    chart = {"name": "stripes", "title": "t", "caption": "Stripes", "panels": [{"title": "p", "curves": curve}], "labels": ["c"]}
    section("zebra_crossing", {"a": 1, "samples": [{"prompt": "why", "text": "because"}], "charts": [chart]})
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    (row,) = lines(text, "| tok\\_train |")
    assert re.fullmatch(r".* \|  \| done \| (\d+m)?\d+s \| 20\d\d-.* \|", row)
    assert text.index("### Chat sft") < text.index("### Zebra crossing") < text.index("![Stripes](zebra_crossing_stripes.png)")
    assert "why ⟶ because" in text


def test_the_html_does_not_replace_the_markdown(base: Path, tmp_path: Path) -> None:
    page = compose(collect())
    with pytest.raises(UserError, match="expected a name that ends in .md"):
        write(page, tmp_path / "report.html")
    assert list(tmp_path.glob("report*")) == []
    assert write(page, tmp_path / "here" / "all.md") == tmp_path / "here" / "all.html"


def test_a_huge_sample_is_cut_and_says_so(base: Path, tmp_path: Path) -> None:
    section("base_evaluation", {"samples": [{"prompt": "p", "text": "ab" * 500_000}]})
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "p ⟶ abab" in text and "… [998,000 more characters]" in text and len(text) < 10_000


def test_alerts_and_a_folder_that_was_moved(base: Path, tmp_path: Path) -> None:
    """Paths of another machine: what they name lies in this folder now."""
    folder = base / "base_runs" / "d4"
    metrics_file(folder / "metrics.jsonl")
    alert = {"step": 30, "metric": "mc/residency", "value": 0.5, "band": "below 0.8", "message": "mc/residency is 0.5, below 0.8"}
    (folder / "alerts.jsonl").write_text(json.dumps(alert) + "\n" + '{"step": 3')
    section("base_training", {"model tag": "d4", "metrics_file": "/another/machine/base_runs/d4/metrics.jsonl"})
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| base\\_train, d4 | 30 | mc/residency | 0.5 | below 0.8 | mc/residency is 0.5, below 0.8 |" in text and "- 1 alert;" in text
    assert (tmp_path / "base_training.png").exists()


def test_checkpoints_with_their_hashes_data_and_wandb_runs(base: Path, tmp_path: Path) -> None:
    folder = base / "base_checkpoints" / "d4"
    meta = {"tokenizer": "7" * 16, "identity": {"data": "e" * 16}}
    for step in (3, 5):
        CheckpointStore(folder).save(step, {"model": {"w": torch.full((2,), step)}}, meta)
    run = base / "base_runs" / "d4"
    run.mkdir(parents=True)
    (run / "wandb_run_id").write_text("abc123\n")
    section("base_training", {"model tag": "d4", "W&B run": "first", "metrics_file": str(run / "metrics.jsonl")})
    section("data", {"dataset": "local", "fingerprint": "f" * 16})
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    digest = hashlib.sha256((folder / "step_0000005" / "model.safetensors").read_bytes()).hexdigest()
    assert f"| base\\_checkpoints/d4/step\\_0000005 | 5 | 0.0 | model.safetensors | {digest} |" in text and "step\\_0000003" not in text
    assert f"| hash of its files | {'f' * 16} |" in text
    assert f"| base\\_train | d4 | {'e' * 16} | {'7' * 16} | first (abc123) |" in text
    (folder / "step_0000005" / "manifest.json").write_text("{}")
    generate(tmp_path / "report.md")
    assert "manifest.json is not of format" in (tmp_path / "report.md").read_text("utf-8")


def test_a_metrics_file_that_is_gone_is_said(base: Path, tmp_path: Path) -> None:
    section("base_training", {"metrics_file": str(tmp_path / "gone.jsonl")})
    generate(tmp_path / "report.md")
    assert "gone.jsonl no longer exists" in (tmp_path / "report.md").read_text("utf-8")


def test_reset_removes_sections_and_leaves_stamps(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(base)
    stamp(base, "base_train", 5, "2026-11-20T06:30:00Z")
    assert main(["reset"]) == 0 and "7 sections removed" in capsys.readouterr().out
    assert list((base / "report").iterdir()) == [] and (base / "stages" / "base_train.json").exists()


def test_the_command(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "nanochat.report", *arguments], capture_output=True, text=True, cwd=ROOT)

    out = tmp_path / "deep" / "report.md"
    done = report("generate", f"--out={out}")
    assert done.returncode == 0 and out.exists() and done.stdout.startswith(f"report: {out} and report.html (missing: ")
    for arguments, code in (["compose"], 2), (["generate", "--oot", "x"], 2), (["generate", "--out", "/dev/null/report.md"], 1):
        done = report(*arguments)
        assert done.returncode == code and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp99")
    done = report("--out", str(out))
    assert done.returncode == 1 and done.stderr.startswith("error: NANOCHAT_DTYPE is 'fp99'") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"values": {}}'])
def test_a_broken_section_is_named(base: Path, tmp_path: Path, content: str) -> None:
    section("base_training", {})
    (base / "report" / "base_training.json").write_text(content)
    with pytest.raises(UserError, match=r"base_training\.json"):
        generate(tmp_path / "report.md")
    assert not (tmp_path / "report.md").exists()


def test_a_broken_stamp_is_named(base: Path, tmp_path: Path) -> None:
    stamp(base, "base_train", 5, "2026-11-20T06:30:00Z")
    (base / "stages" / "base_train.json").write_text('{"stage": "base_train"}')
    with pytest.raises(UserError, match="stages"):
        generate(tmp_path / "report.md")


# --- text that would be markup ---


@given(st.text(alphabet=st.sampled_from(NASTY + "ab \n"), max_size=40))
def test_any_text_stays_one_cell_and_opens_no_tag(text: str) -> None:
    out = html(markdown.table(("a", "b"), [(text, 1), ("after", 2)]))
    assert out.count("<tr>") == 3 and out.count("<td>") == 4
    assert "<script" not in out and "<b>" not in out and "<em>" not in out and "<a " not in out and "<code>" not in out
    assert "<td>after</td>" in out


@given(st.text(alphabet=st.sampled_from("`\n ~a"), max_size=30) | st.text(alphabet=st.sampled_from(NASTY), max_size=60))
@example("```\nout\n```")
@example(NASTY)
def test_any_text_stays_in_its_fence(text: str) -> None:
    out = html(markdown.fenced(text) + "\n\nafter\n")
    assert out.count("<pre>") == 1 and out.endswith("</code></pre>\n<p>after</p>\n") and "<script" not in out
    assert not set(out) & set("\x1b\x00\r\u202e")


def test_control_and_direction_characters_are_spelled() -> None:
    assert markdown.visible("a\x1b[31m\u202e\x00\u2028\tb\n") == "a\\x1b[31m\\u202e\\x00\\u2028\tb\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(8192, "8,192"), (True, "yes"), (None, "–"), (0.123456789, "0.123457"), (13901.7, "13,901.7"), (4.33e12, "4.33e+12")],
)
def test_numbers(value, text: str) -> None:
    assert markdown.number(value) == text


# --- figures ---


def test_curves_are_drawn_from_what_is_there(tmp_path: Path) -> None:
    losses = [{"step": s, "total_tokens": s * 10, "train/loss": 4.0 - s / 10} for s in range(5)]
    both = [*losses, {"step": 5, "total_tokens": 50, "train/loss": None, "val/bpb": 1.2}]

    def size(png: bytes | None) -> tuple[int, int]:
        assert png is not None
        return struct.unpack(">II", png[16:24])

    (one, height), (two, height_of_two) = size(curves_png(losses, "t")), size(curves_png(both, "t"))
    assert two == 2 * one and height == height_of_two
    assert curves_png([{"step": 1, "train/loss": 1.0}, {"step": 2, "total_tokens": 2, "train/loss": None}], "t") is None


def with_memory(base: Path, baseline: Path | None = None) -> list[dict]:
    """The section of a run with a memory, and its records: 60 steps that differ from the baseline's in two data hashes."""
    records = []
    for step in range(1, 61):
        common = {"step": step, "total_tokens": step * 8192, "train/data_hash": step if step > 2 else 0, "train/lrm": 1.0}
        records.append(common | {"train/loss": 4.0, "train/loss_lod0": 3 + math.exp(-step / 9), "train/tokens_per_step": 8192})
        records[-1] |= {"mc/lod_loss/0": 3.0, "mc/lod_loss/1": 3.5, "mc/lod_delta/1": 0.5, "mc/preference_corr_mean": -0.25}
        if step % 20 == 0:
            records.append({"step": step, "total_tokens": step * 8192, "val/bpb": 1.5})
            records.append({"step": step, "total_tokens": step * 8192, "mc/delta_nll@128": 0.0625, "mc/recovery@128": 0.75})
    path = base / "mc.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    values = {"steps": 60, "metrics_file": str(path)}
    section("base_training_mc", values | {"baseline_metrics_file": str(baseline or base / "none.jsonl")})
    section("base_evaluation_mc", {"val_bpb": 1.5})
    return records


def test_a_run_with_a_memory_is_shown_beside_its_baseline(base: Path, tmp_path: Path) -> None:
    fill(base)
    plain = base / "metrics.jsonl"
    records = [{"step": s, "total_tokens": s * 8192, "train/loss": 3.0, "train/data_hash": s, "train/lrm": 1.0} for s in range(1, 61)]
    plain.write_text("".join(json.dumps(r | ({"val/bpb": 1.25} if r["step"] == 60 else {})) + "\n" for r in records))
    with_memory(base, plain)
    memory = ("mid_train_mc", "chat_sft_mc", "chat_eval_mc")
    assert generate(tmp_path / "report.md") == list(memory)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text.index("### Base evaluation\n") < text.index("### Base evaluation with a MegaContext\n")
    assert "| validation bits per byte | 1.2500 | 1.5000 |" in text
    assert "not comparable: MegaContext with baseline: other tokens at 2 of 60 steps that both logged, first at step 1" in text
    assert "| horizon | delta nll | recovery |" in text and "| 128 | 0.0625 | 0.75 |" in text
    assert "| level | loss | delta |" in text and "| 1 | 3.5 | 0.5 |" in text and "| preference corr mean | -0.25 |" in text
    for name in ("base_training", "base_training_mc", "base_training_mc_memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") and f"({name}.png)" in text
    assert "metrics file" not in text


def test_a_run_with_a_memory_alone_misses_no_baseline_stage_but_says_that_there_is_none(base: Path, tmp_path: Path) -> None:
    section("tokenizer_training", {"a": 1})
    section("tokenizer_evaluation", {"a": 1})
    with_memory(base)
    stamp(base, "base_train_mc", 65, "2026-11-20T06:30:00Z")
    stamp(base, "report_mc", 5, "2026-11-20T06:31:00Z")
    assert generate(tmp_path / "report.md") == ["mid_train_mc", "chat_sft_mc", "chat_eval_mc"]
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "No baseline to compare with" in text and "| report" not in text
    assert "| base\\_train | MegaContext | done | 1m05s |" in text and "| base\\_eval | MegaContext | done |" in text, (
        "with and without a stamp"
    )


def test_only_a_memory_has_its_figure(base: Path) -> None:
    records = with_memory(base)
    baseline = [{"step": 1, "total_tokens": 8192, "train/loss": 3.0}, {"step": 60, "total_tokens": 60 * 8192, "train/loss": 3.001}]
    assert memory_png(records, "t") is not None and memory_png(baseline, "t") is None


def test_importing_the_report_draws_nothing() -> None:
    code = "import nanochat.report, sys; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


def test_a_recovery_is_given_only_where_it_means_something(base: Path, tmp_path: Path) -> None:
    with_memory(base)
    rows = [("window", 0.04, 0.004, -1e-9, 0.0), ("lens", 0.01, 0.002, 0.75, 0.05)]
    for errors, shown in ((1, ("0.0000", "0.7500 ± 0.0980")), (20, ("0.0000", "–"))):
        keys = ("layout", "delta_nll", "delta_nll_error", "recovery", "recovery_error")
        memory = [{"horizon": 128, **dict(zip(keys, (*row[:4], row[4] * errors), strict=True))} for row in rows]
        section("base_evaluation_mc", {"val_bpb": 1.5, "memory": memory})
        generate(tmp_path / "report.md")
        text = (tmp_path / "report.md").read_text("utf-8")
        for row, recovery in zip(("last tokens alone | 0.0400 ± 0.0078", "LensNet | 0.0100 ± 0.0039"), shown, strict=True):
            assert f"| 128 | {row} | {recovery} |" in text
        assert f"| recovery@128 | {shown[1]} |" in text
        assert ("No recovery is given" in text) == (errors > 1)
