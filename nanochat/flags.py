"""Command-line flags from dataclasses: each knob is a field of the part that owns it.

A recipe is a dataclass whose fields are knobs (`flag(...)`) or other such dataclasses; `parse` flattens
them into flags and builds the recipe, so a default is stated once and `__post_init__` checks it once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from nanochat.common import UserError

Recipe = TypeVar("Recipe")


def flag(default: Any, help: str, *, unit: str = "", alias: Sequence[str] = ()) -> Any:
    """A dataclass field that is also a flag. `help` is one sentence, `unit` what the number counts."""
    return dataclasses.field(default=default, metadata={"help": help, "unit": unit, "alias": tuple(alias)})


def part(config_class: type) -> Any:
    """A dataclass field that holds another part's configuration."""
    return dataclasses.field(default_factory=config_class)


def parse(recipe: type[Recipe], argv: Sequence[str] | None = None) -> Recipe:
    """Builds `recipe` from `argv` (default: the process's). The first line of its docstring is the description.

    Flags may be written with hyphens or underscores, as `--flag value` or `--flag=value`, and after a lone `--`.
    An unknown flag, a malformed value or a `ValueError` from a `__post_init__` prints one line and exits with 2.
    """
    parser = _Parser(prog=_program_name(recipe), description=(recipe.__doc__ or "").strip().splitlines()[0], allow_abbrev=False)
    owners: dict[str, type] = {}
    _add_flags(parser, recipe, owners)
    arguments = [_hyphens(a) for a in (sys.argv[1:] if argv is None else argv) if a != "--"]
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].split("=")[0]
        close = difflib.get_close_matches(name, parser._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
        parser.error(f"unknown flag or argument {unknown[0]}{hint}")
    try:
        return _build(recipe, vars(known))
    except ValueError as error:
        parser.error(str(error))


def to_argv(value: Any) -> list[str]:
    """The flags that differ from their defaults in `value`, as arguments: `parse(type(value), to_argv(value)) == value`."""
    out: list[str] = []
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if dataclasses.is_dataclass(current):
            out += to_argv(current)
        elif "help" in field.metadata and current != field.default:
            out += [f"--{field.name.replace('_', '-')}", str(int(current) if isinstance(current, bool) else current)]
    return out


def run(main: Callable[[], Any]) -> None:
    """Runs a script's `main`; a `UserError` becomes one line on stderr and exit code 1."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _program_name(recipe: type) -> str:
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    return f"python -m {spec.name}" if spec is not None and spec.name else recipe.__name__


def _hyphens(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _add_flags(parser: argparse.ArgumentParser, config_class: type, owners: dict[str, type]) -> None:
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            _add_flags(parser, kind, owners)
            continue
        if "help" not in field.metadata:
            continue
        assert field.name not in owners, f"{field.name} is a flag of both {owners[field.name]} and {config_class}"
        owners[field.name] = config_class
        unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
        names = [n if n.startswith("-") else f"--{n.replace('_', '-')}" for n in (*field.metadata["alias"], field.name)]
        options: dict[str, Any] = {"dest": field.name, "default": field.default}
        options["help"] = f"{field.metadata['help']} (default {_show(field.default)}{unit})".replace("%", "%%")
        if typing.get_origin(kind) is Literal:
            options["choices"] = typing.get_args(kind)
            options["type"] = type(typing.get_args(kind)[0])
        elif kind is bool:
            options.update(nargs="?", const=True, type=_boolean, metavar="0|1")
        else:
            kind = _without_none(kind)
            options.update(type=_number(kind) if kind in (int, float) else kind, metavar=kind.__name__.upper())
        parser.add_argument(*names, **options)


def _without_none(kind: Any) -> type:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
    return kind


def _show(default: Any) -> str:
    if isinstance(default, bool):
        return str(int(default))
    return repr(default) if default == "" else str(default)


def _boolean(text: str) -> bool:
    try:
        return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor 1") from None


def _number(kind: type) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole number' if kind is int else 'a number'}") from None

    return convert


def _build(config_class: type[Recipe], values: dict[str, Any]) -> Recipe:
    hints = typing.get_type_hints(config_class)
    arguments = {}
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _build(hints[field.name], values)
        elif "help" in field.metadata:
            arguments[field.name] = values[field.name]
    return config_class(**arguments)
