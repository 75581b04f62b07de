import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.common import ROOT
from nanochat.flags import GIVEN, flag, parse, part, rest, to_argv


@dataclass
class ModelFlags:
    depth: int = flag(4, "number of layers", unit="layers")
    window_pattern: str = flag("L", "attention windows")

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"--depth is {self.depth}; it must be at least 1")


@dataclass
class Recipe:
    """Train a thing.

    Not part of the description.
    """

    model: ModelFlags = part(ModelFlags)
    matrix_lr: float = flag(0.02, "learning rate; 5 % of it at the end")
    warmdown_shape: Literal["linear", "cosine"] = flag("linear", "shape of the warm-down")
    mc_enabled: bool = flag(False, "train with memory", alias=("mc",))
    allocator_type: str = flag("greedy", "how to choose", alias=("--allocator",))
    target_flops: float | None = flag(None, "budget", unit="FLOPs")
    seed: int | None = flag(None, "seed")
    level: Literal[1, 2, 4] = flag(1, "level")
    pace: Literal["slow", "fast"] | None = flag("slow", "pace")
    keep: int | None = flag(2, "how many to keep")
    run: str = flag("", "W&B name")
    scratch: list[int] = field(default_factory=list)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `argv` ends with."""
    with pytest.raises(SystemExit) as caught:
        parse(Recipe, argv)
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_defaults_are_the_dataclasses() -> None:
    assert parse(Recipe, []) == Recipe()


@pytest.mark.parametrize(
    "argv", [["--matrix-lr", "0.5"], ["--matrix_lr", "0.5"], ["--matrix-lr=0.5"], ["--matrix_lr=0.5"], ["--", "--matrix-lr", "0.5"]]
)
def test_every_way_to_write_a_flag(argv: list[str]) -> None:
    assert parse(Recipe, argv).matrix_lr == 0.5


@pytest.mark.parametrize(
    ("argv", "expected"),
    [(["--mc"], True), (["--mc_enabled", "1"], True), (["--mc=0"], False), (["--mc-enabled=true"], True), (["--mc", "--depth", "2"], True)],
)
def test_booleans_alone_and_with_a_value(argv: list[str], expected: bool) -> None:
    assert parse(Recipe, argv).mc_enabled is expected


def test_nested_parts_aliases_and_optional_values() -> None:
    config = parse(
        Recipe, ["--depth=12", "--allocator", "stochastic", "--target_flops", "1e18", "--seed=1_000", "--level", "4", "--run", "a_b"]
    )
    assert config.model.depth == 12 and config.allocator_type == "stochastic" and config.level == 4
    assert config.target_flops == 1e18 and config.seed == 1000 and config.run == "a_b"


def test_values_keep_their_underscores_and_negative_numbers_are_values() -> None:
    config = parse(Recipe, ["--run=my_run--x_y", "--matrix-lr", "-1", "--window_pattern", "S_L"])
    assert config.run == "my_run--x_y" and config.matrix_lr == -1 and config.model.window_pattern == "S_L"


@pytest.mark.parametrize("text", ["-1e-05", "-.5", "-1_0.5", "-inf"])
def test_negative_numbers_of_every_form_are_values(text: str) -> None:
    assert parse(Recipe, ["--matrix-lr", text, "--depth", "2"]).matrix_lr == float(text.replace("_", ""))


def test_none_is_written_none_where_it_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Recipe, ["--keep", "none"]).keep is None and parse(Recipe, ["--pace=none"]).pace is None
    assert "invalid value 'none': expected an integer" in refused(["--depth", "none"], capsys)


def test_the_last_of_a_repeated_flag_counts() -> None:
    assert parse(Recipe, ["--depth", "2", "--depth", "3"]).model.depth == 3


def test_argv_is_the_processs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--depth", "7"])
    assert parse(Recipe).model.depth == 7


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=10)


@given(
    st.builds(
        Recipe,
        model=st.builds(ModelFlags, depth=st.integers(1, 100), window_pattern=TEXT),
        matrix_lr=st.floats(allow_nan=False),
        warmdown_shape=st.sampled_from(["linear", "cosine"]),
        mc_enabled=st.booleans(),
        allocator_type=TEXT,
        target_flops=st.none() | st.floats(allow_nan=False),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        level=st.sampled_from([1, 2, 4]),
        pace=st.sampled_from(["slow", "fast", None]),
        keep=st.none() | st.integers(-(2**63), 2**63 - 1),
        run=TEXT,
    )
)
def test_to_argv_is_the_inverse_of_parse(config: Recipe) -> None:
    assert parse(Recipe, to_argv(config)) == config


def test_to_argv_names_only_what_differs() -> None:
    assert to_argv(Recipe()) == []
    assert parse(Recipe, to_argv(Recipe(model=ModelFlags(depth=5), mc_enabled=True))) == Recipe(model=ModelFlags(depth=5), mc_enabled=True)


# --- presets ---


@dataclass
class Memory:
    size: int = flag(32, "size", unit="entries")
    kind: Literal["gist", "mean"] = flag("gist", "kind")


@dataclass
class Preset:
    """With presets."""

    preset: Literal["full", "fast"] = flag("full", "defaults", presets={"full": {}, "fast": {"size": 8, "kind": "mean", "on": True}})
    on: bool = flag(False, "whether")
    memory: Memory = part(Memory)


def test_a_preset_gives_defaults_and_flags_override_them_in_any_order() -> None:
    assert parse(Preset, ["--preset=fast"]) == Preset("fast", True, Memory(8, "mean"))
    assert parse(Preset, ["--size=32", "--preset=fast", "--on=0"]) == Preset("fast", False, Memory(32, "mean"))
    assert parse(Preset, ["--preset=full"]) == Preset() == parse(Preset, [])
    assert parse(Preset, ["--preset=fast", "--preset=full"]) == Preset(), "the last one counts"


@given(
    st.builds(
        Preset,
        st.sampled_from(["full", "fast"]),
        st.booleans(),
        st.builds(Memory, st.sampled_from([8, 32, 5]), st.sampled_from(["gist", "mean"])),
    )
)
def test_to_argv_is_the_inverse_of_parse_with_presets_too(config: Preset) -> None:
    assert parse(Preset, to_argv(config)) == config


def test_help_shows_what_a_preset_changes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Preset, ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "(default 32 entries; fast: 8)" in out and "(default gist; fast: mean)" in out and "(default 0; fast: 1)" in out


@dataclass
class Named:
    """With a preset for whatever name."""

    name: str | None = flag(None, "name", presets={GIVEN: {"kind": "mean"}, "x": {"size": 8}})
    memory: Memory = part(Memory)


def test_a_preset_of_any_value_counts_where_one_is_given_and_has_none_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Named, []) == parse(Named, ["--name=none"]) == Named()
    assert parse(Named, ["--name", "y"]) == Named("y", Memory(kind="mean"))
    assert parse(Named, ["--name=x"]) == Named("x", Memory(size=8))
    assert parse(Named, ["--kind=gist", "--name=y"]) == Named("y")
    for config in (Named("y"), Named("y", Memory(kind="mean")), Named(None, Memory(kind="mean"))):
        assert parse(Named, to_argv(config)) == config
    with pytest.raises(SystemExit):
        parse(Named, ["--help"])
    assert "(default gist; with --name: mean)" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_preset_is_one_line_and_one_of_unknown_flags_a_programming_error(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Wrong:
        """Wrong."""

        preset: str = flag("a", "defaults", presets={"a": {"no_such_flag": 1}})

    with pytest.raises(SystemExit):
        parse(Preset, ["--preset=slow"])
    assert "--preset" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="no_such_flag"):
        parse(Wrong, [])


# --- bad input: one line, exit code 2 ---


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--dephts", "4"], "did you mean --depth?"),
        (["--dep", "4"], "unknown flag or argument --dep"),
        (["--zzz=1"], "unknown flag or argument --zzz=1; --help lists the flags"),
        (["stray"], "unknown flag or argument stray"),
        (["--depth", "four"], "invalid value 'four': expected an integer"),
        (["--depth", "9" * 20], f"invalid value '{'9' * 20}': expected an integer of 64 bits"),
        (["--depth", "4.0"], "invalid value '4.0': expected an integer"),
        (["--depth"], "--depth"),
        (["--depth", "0"], "--depth is 0; it must be at least 1"),
        (["--matrix-lr", "fast"], "invalid value 'fast': expected a number"),
        (["--matrix-lr", "nan"], "invalid value 'nan': expected a number"),
        (["--matrix-lr", "-x"], "--matrix-lr"),
        (["-1"], "unknown flag or argument -1"),
        (["--pace", "medium"], "--pace"),
        (["--mc", "maybe"], "invalid value 'maybe': expected 0 or 1"),
        (["--warmdown-shape", "square"], "--warmdown-shape"),
        (["--level", "3"], "--level"),
        (["--scratch", "1"], "unknown flag"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in refused(argv, capsys)


def test_a_value_with_a_line_feed_is_still_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["--depth", "4\n5"], capsys)
    refused(["--no\nsuch", "4"], capsys)


def test_help_shows_description_default_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Recipe, ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and "Train a thing." in out and "Not part of" not in out
    for part_of_help in (
        "--depth INT number of layers (default 4 layers)",
        "5 % of it at the end (default 0.02)",
        "(default 0)",
        "--window-pattern",
        "(default '')",
        "(default None FLOPs)",
        "--warmdown-shape {linear,cosine}",
        "--pace {slow,fast,none}",
    ):
        assert part_of_help in out


# --- scripts ---


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("pass", 0, ""),
        ("raise UserError('disk full in /x; make room')", 1, "error: disk full in /x; make room\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_run_turns_the_end_of_main_into_an_exit_code(body: str, code: int, stderr: str) -> None:
    script = f"from nanochat.common import UserError\nfrom nanochat.flags import run\ndef main():\n{textwrap.indent(body, ' ')}\nrun(main)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_programming_error_keeps_its_traceback() -> None:
    script = "from nanochat.flags import run\nrun(lambda: 1 / 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


def test_the_same_flag_in_two_parts_is_a_programming_error() -> None:
    @dataclass
    class Twice:
        """Twice."""

        depth: int = flag(1, "depth")
        model: ModelFlags = part(ModelFlags)

    Twice.__annotations__["model"] = ModelFlags
    Twice.__annotations__["depth"] = int
    with pytest.raises(AssertionError, match="depth is a flag of both"):
        parse(Twice, [])


# --- what is given beside flags ---


@dataclass
class Beside:
    """Read files."""

    files: tuple[str, ...] = rest("files to read")
    size: int = flag(3, "a size")
    loud: bool = flag(False, "a switch")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], Beside()),
        (["a", "b"], Beside(("a", "b"))),
        (["a", "--size", "5", "b"], Beside(("a", "b"), 5)),
        (["--loud", "a", "b"], Beside(("a", "b"), loud=True)),
        (["a", "--loud"], Beside(("a",), loud=True)),
        (["a", "--loud", "0", "b"], Beside(("a", "b"))),
        (["--", "a", "--loud=1", "b"], Beside(("a", "b"), loud=True)),
    ],
)
def test_arguments_may_stand_anywhere_among_flags(argv: list[str], expected: Beside) -> None:
    assert parse(Beside, argv) == expected


def test_an_unknown_flag_is_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Beside, ["a", "--sise", "b"])
    assert ended.value.code == 2 and "unknown flag or argument --sise; did you mean --size?" in capsys.readouterr().err
