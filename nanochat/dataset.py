"""Where text comes from: the local corpus, files of the user's, or downloaded shards, each split into train and val.

`python -m nanochat.dataset -n N` downloads N shards and, always, the validation shard.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.data.hub_download import DownloadConfig, download
from nanochat.data.sources import shard_folder
from nanochat.flags import parse, part, run


@dataclass
class Download:
    """Download training shards and the validation shard."""

    config: DownloadConfig = part(DownloadConfig)


def main(argv: list[str] | None = None) -> int:
    config = parse(Download, argv).config
    return download(config, shard_folder(config.dataset))


if __name__ == "__main__":
    run(main)
