"""Command that downloads a dataset: `python -m nanochat.dataset -n N` gets N training shards and the validation shard."""

from __future__ import annotations

from nanochat.data.hub_download import DownloadConfig, download
from nanochat.data.sources import shard_folder
from nanochat.flags import parse, run


def main(argv: list[str] | None = None) -> int:
    config = parse(DownloadConfig, argv)
    return download(config, shard_folder(config.dataset))


if __name__ == "__main__":
    run(main)
