"""Command of the CORE bundle: `python -m nanochat.core_eval download`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nanochat.eval.core_download import CoreDownload, download
from nanochat.flags import parse, run


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    config = parse(CoreDownload, arguments)
    if command != "download":
        print(f"error: {command or 'nothing'} is not a command; expected download", file=sys.stderr)
        return 2
    download(config)
    return 0


if __name__ == "__main__":
    run(main)
