"""Commands in the documentation: parses shell blocks and checks that the modules and flags in them exist."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from nanochat.common import ROOT
from tests.helpers.vault import Page

PACKAGES = ("nanochat", "mc", "scripts", "bench")
RUNNERS = ("run10.sh", "speedrun.sh", "run1000.sh")
# Files whose text has their flags, in addition to those of base_train that they pass on.
SHELL = {
    **dict.fromkeys(RUNNERS, (*RUNNERS, "runs/options.sh", "runs/pipeline.sh")),
    **{name: (name,) for name in ("mc_setup", "runs/multinode.sh")},
}
_OPTION = re.compile(r"--[a-z][a-z0-9-]*")
# A module after `-m` of python or torchrun, in prose or in a block.
_MODULE = re.compile(r"(?:python3?|torchrun[^`\n|;&]*?) -m ((?:nanochat|mc|scripts|bench)\.\w+)")


class Command(NamedTuple):
    """`python -m module arguments`, started by python or torchrun."""

    module: str
    arguments: list[str]


@cache
def help_of(module: str, *arguments: str) -> str:
    """The output of `python -m module arguments… --help`; empty if a value before it is refused."""
    out = io.StringIO()
    package = (ROOT / module.replace(".", "/")).is_dir()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        importlib.import_module(f"{module}.__main__" if package else module).main([*arguments, "--help"])
    return out.getvalue()


@cache
def runnable() -> dict[str, bool]:
    """The modules and packages that are commands, and whether they take flags."""
    files = [path for package in PACKAGES for pattern in ("*.py", "*/__main__.py") for path in (ROOT / package).glob(pattern)]
    texts = {".".join(path.relative_to(ROOT).with_suffix("").parts[:2]): path.read_text() for path in files}
    main = re.compile(r"^def main\(argv", re.MULTILINE)
    return {name: main.search(text) is not None for name, text in texts.items() if 'if __name__ == "__main__"' in text}


@cache
def flags_of(module: str) -> frozenset[str]:
    """The flags of a command, with hyphens."""
    if not runnable()[module]:
        return frozenset()
    return frozenset(_OPTION.findall(help_of(module))) | frozenset(re.findall(r"(?<![\w-])-[a-z]\b", help_of(module)))


@cache
def flags_of_shell(script: str) -> frozenset[str]:
    """The flags of a shell script of ours; recipes also take those of base_train."""
    own = {flag for name in SHELL[script] if (ROOT / name).exists() for flag in _OPTION.findall((ROOT / name).read_text())}
    return frozenset(own) | (flags_of("scripts.base_train") if script != "mc_setup" else frozenset())


@cache
def all_flags() -> frozenset[str]:
    """Every flag of every command."""
    return frozenset().union(*map(flags_of, runnable()), *map(flags_of_shell, SHELL))


def lines(script: str) -> list[list[str]]:
    """The words of each command of a shell script, comments and continuations resolved, one list for each part of a pipe."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("|", "&&", ";", "||")), len(words))
            found.append([word for word in words[:end] if not re.fullmatch(r"\w+=\S*|&|\d?>&?\S*", word)])
            words = words[end + 1 :]
    return [words for words in found if words]


def command(words: list[str]) -> Command | None:
    """Module and arguments that a command runs; None if it runs no module."""
    if "-m" not in words or not re.fullmatch(r"(\S*/)?(python3?|torchrun)", words[0]):
        return None
    at = words.index("-m")
    arguments = words[at + 2 :]
    return Command(words[at + 1], arguments[1:] if arguments[:1] == ["--"] else arguments)


def faults(words: list[str]) -> Iterator[str]:
    """Faults of a command: a module or script that does not exist, a flag that it does not have."""
    found, name = command(words), words[1] if words[0] == "bash" and len(words) > 1 else words[0].removeprefix("./")
    if found is not None and found.module.split(".")[0] in PACKAGES:
        if found.module not in runnable():
            yield f"{found.module} is not a command"
            return
        known, arguments = flags_of(found.module), found.arguments
    elif name in SHELL:
        known, arguments = flags_of_shell(name), words[1:]
    else:
        if words[0] == "bash" and not (ROOT / name).exists():
            yield f"{name} does not exist"
        return
    for word in arguments:
        flag = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", flag) and flag.replace("_", "-") not in known and flag not in known:
            yield f"{' '.join(words)}: no flag {flag}"


def unknown_modules(page: Page) -> list[str]:
    """Modules after `-m` in a page that are not commands."""
    text = page.text
    return [module for module in _MODULE.findall(text) if module not in runnable()]
