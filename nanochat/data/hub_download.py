"""Downloads shards of the datasets on the hub, several at a time."""

from __future__ import annotations

import os
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common import UserError, ensure_dir
from nanochat.data.http_download import HUB_HOST, TransferConfig, fetch_file
from nanochat.flags import flag, part
from nanochat.progress import DownloadProgress


@dataclass(frozen=True)
class HubDataset:
    """A shuffled dataset of numbered parquet shards. `val_shard`, the last one, is for validation."""

    repository: str
    val_shard: int

    def shard_name(self, index: int) -> str:
        return f"shard_{index:05d}.parquet"

    @property
    def url(self) -> str:
        return f"https://{HUB_HOST}/datasets/{self.repository}/resolve/main"


HUB = {
    "climbmix": HubDataset("karpathy/climbmix-400b-shuffle", val_shard=6542),
    "fineweb-edu": HubDataset("karpathy/fineweb-edu-100b-shuffle", val_shard=1822),
}


@dataclass
class DownloadConfig:
    """Download training shards and the validation shard."""

    dataset: Literal["climbmix", "fineweb-edu"] = flag("climbmix", "dataset to download")
    num_shards: int = flag(8, "first N training shards; the validation shard is always added", unit="shards", alias=("-n",))
    num_workers: int = flag(4, "concurrent downloads", alias=("-w",))
    base_url: str = flag("", "folder URL of the shards, for a mirror; empty = NANOCHAT_DATA_URL if set, else the hub")
    transfer: TransferConfig = part(TransferConfig)

    def __post_init__(self) -> None:
        most = HUB[self.dataset].val_shard
        if not 1 <= self.num_shards <= most:
            raise ValueError(f"invalid num_shards (-n) {self.num_shards}: must be 1 … {most} for {self.dataset}")
        if self.num_workers < 1:
            raise ValueError(f"invalid num_workers (-w) {self.num_workers}: must be at least 1")
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"invalid base_url {self.url!r}: must begin with http:// or https://")

    @property
    def url(self) -> str:
        """URL of the folder of the shards, without a trailing slash."""
        return (self.base_url or os.environ.get("NANOCHAT_DATA_URL") or HUB[self.dataset].url).rstrip("/")


def download(config: DownloadConfig, folder: Path) -> int:
    """Downloads the shards that are not in `folder` yet. Returns the exit code: 1 if any is missing at the end.

    Prints a progress bar on a terminal, plain lines elsewhere, and one line with the reason for each shard that failed.
    """
    ensure_dir(folder)
    hub = HUB[config.dataset]
    names = [hub.shard_name(i) for i in (hub.val_shard, *range(config.num_shards))]
    missing = [name for name in names if not (folder / name).exists()]
    print(f"{config.dataset}: {len(names) - len(missing)} of {len(names)} shards are in {folder}", flush=True)
    failures = _download(missing, config, folder) if missing else []
    for line in sorted(failures):
        print(f"error: {line}", file=sys.stderr)
    if failures:
        print(f"error: {len(failures)} of {len(names)} shards are missing; run the same command again to continue", file=sys.stderr)
    elif missing:
        print(f"{config.dataset}: all {len(names)} shards are in {folder}", flush=True)
    return 1 if failures else 0


def _download(names: list[str], config: DownloadConfig, folder: Path) -> list[str]:
    """Downloads the shards `names`. Returns a line for each that failed."""
    stop = threading.Event()
    failures: list[str] = []
    with DownloadProgress(len(names)) as progress, ThreadPoolExecutor(config.num_workers) as pool:

        def fetch(name: str) -> None:
            try:
                fetch_file(f"{config.url}/{name}", folder / name, config.transfer, progress, stop)
                progress.done(name)
            except UserError as error:
                failures.append(f"{name}: {error}")

        try:
            for future in [pool.submit(fetch, name) for name in names]:
                future.result()
        except BaseException:  # KeyboardInterrupt above all: the threads end at their next chunk and the `.tmp` files stay
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failures
