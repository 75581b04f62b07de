"""Command-line flags from dataclasses: each flag is a field of the part that owns it.

A config is a dataclass whose fields are flags (`flag(...)`) or other such dataclasses (`part(...)`); `parse` flattens them and
builds the config, so that a default is stated once and `__post_init__` checks it once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from nanochat import process
from nanochat.common import UserError
from nanochat.redaction import redact

Config = TypeVar("Config")
Presets = Mapping[str, Mapping[str, Any]]  # value of a flag → the defaults it gives other flags
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
GIVEN = "…"  # any value but None


def flag(default: Any, help: str, *, unit: str = "", alias: Sequence[str] = (), presets: Presets | None = None) -> Any:
    """A dataclass field that is also a flag. `help` is one phrase, `unit` the unit of its number.

    `presets`: {value: {field: default}} for a flag whose value changes the defaults of others on the command line; the value
    `GIVEN` means any but None.
    """
    metadata = {"help": help, "unit": unit, "alias": tuple(alias), "presets": presets or {}}
    return dataclasses.field(default=default, metadata=metadata)


def rest(help: str) -> Any:
    """A dataclass field for positional arguments: a tuple of strings, possibly empty. A config has at most one."""
    return dataclasses.field(default=(), metadata={"rest": help})


def part(config_class: type) -> Any:
    """A dataclass field that holds the config of another part."""
    return dataclasses.field(default_factory=config_class)


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Builds `config_class` from `argv` (default: the process's). The first line of its docstring is the description.

    Flags may be written with hyphens or underscores, as `--flag value` or `--flag=value`, and after a lone `--`.
    An unknown flag, a malformed value or a `ValueError` from a `__post_init__` prints one line and exits with 2.
    """
    parser = _Parser(prog=_program_name(config_class), description=(config_class.__doc__ or "").strip().splitlines()[0], allow_abbrev=False)
    owners: dict[str, type] = {}
    fields = list(_flag_fields(config_class))
    choosing = {field.name: field.metadata["presets"] for _, field, _ in fields if field.metadata["presets"]}
    for owner, field, hint in fields:
        assert field.name not in owners, f"{field.name} is a flag of both {owners[field.name]} and {owner}"
        owners[field.name] = owner
        _add_flag(parser, field, hint, choosing)
    positional = next((field for field in dataclasses.fields(config_class) if "rest" in field.metadata), None)
    if positional is not None:
        parser.add_argument(positional.name, nargs="*", help=positional.metadata["rest"])
    unknown_presets = {name for presets in choosing.values() for preset in presets.values() for name in preset} - owners.keys()
    assert not unknown_presets, f"presets of {config_class} name unknown flags: {sorted(unknown_presets)}"
    arguments = _normalised(sys.argv[1:] if argv is None else argv)
    read = parser.parse_known_args
    if positional is not None:
        arguments, read = _switched_on(arguments, config_class), parser.parse_known_intermixed_args
    known, unknown = read(arguments)
    if choosing:
        for name, presets in choosing.items():
            parser.set_defaults(**_preset(presets, getattr(known, name)))
        known, unknown = read(arguments)
    if unknown:
        name = unknown[0].split("=")[0]
        close = difflib.get_close_matches(name, parser._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
        parser.error(f"unknown flag or argument {unknown[0]}{hint}")
    try:
        return _build(config_class, vars(known))
    except ValueError as error:
        parser.error(str(error))


def to_argv(value: Any) -> list[str]:
    """The flags of `value` that differ from their defaults, as arguments: `parse(type(value), to_argv(value)) == value`."""
    chosen: dict[str, Any] = {}
    for field, current in _flag_values(value):
        chosen |= _preset(field.metadata["presets"], current)
    out: list[str] = []
    for field, current in _flag_values(value):
        if current != chosen.get(field.name, field.default):
            text = "none" if current is None else str(int(current) if isinstance(current, bool) else current)
            out.append(f"--{field.name.replace('_', '-')}={text}")
    return out


def flat_values(value: Any) -> dict[str, Any]:
    """The values of all flags of `value`, including those of parts, by name."""
    return {field.name: current for field, current in _flag_values(value)}


def check(config: Any, is_valid: Callable[[Any], bool], rule: str, *names: str) -> None:
    """Raises `ValueError` for the first of the fields `names` whose value is invalid; `rule` completes "it …"."""
    for name in names:
        if not is_valid(getattr(config, name)):
            raise ValueError(f"{name} is {getattr(config, name)}; it {rule}")


def check_choices(config: Any, *names: str) -> None:
    """Raises `ValueError` if a field has a value that its `Literal` does not name."""
    hints = typing.get_type_hints(type(config))
    for name in names:
        choices = typing.get_args(hints[name])
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(map(str, choices))}")


def run(main: Callable[[], Any]) -> None:
    """Runs a script's `main`; a `UserError` becomes one line on stderr and exit code 1. Output is that of `process.running`."""
    try:
        with process.running():
            code = main()
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        print(f"error: {_one_line(message)}", file=sys.stderr)
        sys.exit(2)


def _program_name(config_class: type) -> str:
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    return f"python -m {spec.name}" if spec is not None and spec.name else config_class.__name__


def _normalised(argv: Sequence[str]) -> list[str]:
    """Arguments for argparse: names with hyphens, a negative number joined to its flag, no lone `--`."""
    out: list[str] = []
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            if argument != "--":
                out.append(name.replace("_", "-") + equals + value)
        elif argument.startswith("-") and _is_number(argument) and out and out[-1].startswith("--") and "=" not in out[-1]:
            out[-1] += f"={argument}"
        else:
            out.append(argument)
    return out


def _switched_on(arguments: Sequence[str], config_class: type) -> list[str]:
    """Appends `=1` to each switch that has no value after it, as in `--json RUN`."""
    hints = typing.get_type_hints(config_class)
    switches = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(config_class) if hints[field.name] is bool}
    pairs = itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    return [f"{argument}=1" if argument in switches and after.lower() not in _BOOLEANS else argument for argument, after in pairs]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _one_line(message: str) -> str:
    return redact(message).replace("\n", "\\n")


def _preset(presets: Presets, value: Any) -> Mapping[str, Any]:
    """The defaults of other flags that a flag with this value sets."""
    return presets.get(value, {} if value is None else presets.get(GIVEN, {}))


def _flag_fields(config_class: type) -> Iterator[tuple[type, dataclasses.Field, Any]]:
    """(class, field, type) of the fields that are flags, including those of parts."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flag_fields(hints[field.name])
        elif "help" in field.metadata:
            yield config_class, field, hints[field.name]


def _flag_values(value: Any) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The fields that are flags with their values, including those of parts."""
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if dataclasses.is_dataclass(current):
            yield from _flag_values(current)
        elif "help" in field.metadata:
            yield field, current


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any, choosing: Mapping[str, Presets]) -> None:
    kind, optional = _without_none(hint)
    unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
    names = [n if n.startswith("-") else f"--{n.replace('_', '-')}" for n in (*field.metadata["alias"], field.name)]
    options: dict[str, Any] = {"dest": field.name, "default": field.default}
    changed = [
        f"; {f'with --{chooser}' if name == GIVEN else name}: {_show(preset[field.name])}"
        for chooser, presets in choosing.items()
        for name, preset in presets.items()
        if field.name in preset
    ]
    options["help"] = f"{field.metadata['help']} (default {_show(field.default)}{unit}{''.join(changed)})".replace("%", "%%")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        shown = [str(choice) for choice in choices] + ["none"] * optional
        options.update(choices=(*choices, None) if optional else choices, metavar=f"{{{','.join(shown)}}}")
        options["type"] = _value(type(choices[0]), optional)
    elif kind is bool:
        options.update(nargs="?", const=True, type=_boolean, metavar="0|1")
    else:
        options.update(type=_value(kind, optional), metavar=kind.__name__.upper())
    parser.add_argument(*names, **options)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """`X | None` as (X, True), anything else as (itself, False)."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (inner,) = [k for k in typing.get_args(kind) if k is not type(None)]
        return inner, True
    return kind, False


def _show(default: Any) -> str:
    if isinstance(default, bool):
        return str(int(default))
    return repr(default) if default == "" else str(default)


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected 0 or 1") from None


def _value(kind: type, optional: bool) -> Callable[[str], Any]:
    """Converter of text to `kind`; `none` is None if that is allowed.

    NaN would pass every range check and is refused; so are integers that no library takes.
    """

    def convert(text: str) -> Any:
        if optional and text == "none":
            return None
        try:
            value = kind(text.replace("_", "")) if kind in (int, float) else kind(text)
        except ValueError:
            value = None
        if kind is int and value is not None and not -(1 << 63) <= value < 1 << 63:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected an integer of 64 bits")
        if value is None or value != value:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected {'an integer' if kind is int else 'a number'}")
        return value

    return convert


def _build(config_class: type[Config], values: dict[str, Any]) -> Config:
    hints = typing.get_type_hints(config_class)
    arguments = {}
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _build(hints[field.name], values)
        elif "help" in field.metadata:
            arguments[field.name] = values[field.name]
        elif "rest" in field.metadata:
            arguments[field.name] = tuple(values[field.name])
    return config_class(**arguments)
