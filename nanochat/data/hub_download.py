"""Downloaded datasets: which there are, and bringing their shards here, several at a time."""

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
    """A shuffled dataset of numbered parquet shards. The last shard is for validation, by name."""

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
    dataset: Literal["climbmix", "fineweb-edu"] = flag("climbmix", "which dataset to download")
    num_shards: int = flag(
        8, "training shards to have, from the first; the validation shard always comes too", unit="shards", alias=("-n",)
    )
    num_workers: int = flag(4, "downloads at a time", alias=("-w",))
    base_url: str = flag("", "folder URL of the shards, for a mirror; else NANOCHAT_DATA_URL, else the hub")
    transfer: TransferConfig = part(TransferConfig)

    def __post_init__(self) -> None:
        most = HUB[self.dataset].val_shard
        if not 1 <= self.num_shards <= most:
            raise ValueError(f"num_shards (-n) must be 1 … {most} for {self.dataset}, not {self.num_shards}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers (-w) must be at least 1, not {self.num_workers}")
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"base_url must begin with http:// or https://, not be {self.url!r}")

    @property
    def url(self) -> str:
        """The folder that the shards are in, without a slash at its end."""
        return (self.base_url or os.environ.get("NANOCHAT_DATA_URL") or HUB[self.dataset].url).rstrip("/")


def download(config: DownloadConfig, folder: Path) -> int:
    """Brings the shards that are not in `folder` yet. Returns the exit code: 1 if any is missing at the end.

    Prints a progress bar on a terminal and plain lines elsewhere, and for each shard that failed one line that says why.
    """
    ensure_dir(folder)
    hub = HUB[config.dataset]
    names = [hub.shard_name(i) for i in (hub.val_shard, *range(config.num_shards))]
    missing = [name for name in names if not (folder / name).exists()]
    print(f"{config.dataset}: {len(names) - len(missing)} of {len(names)} shards are in {folder}", flush=True)
    failures = _bring(missing, config, folder) if missing else []
    for line in sorted(failures):
        print(f"error: {line}", file=sys.stderr)
    if failures:
        print(f"error: {len(failures)} of {len(names)} shards are missing; run the same command again to continue", file=sys.stderr)
    elif missing:
        print(f"{config.dataset}: all {len(names)} shards are in {folder}", flush=True)
    return 1 if failures else 0


def _bring(names: list[str], config: DownloadConfig, folder: Path) -> list[str]:
    """Downloads the shards `names`, several at a time. Returns a line for each that failed."""
    stop = threading.Event()
    failures: list[str] = []
    with DownloadProgress(len(names)) as progress, ThreadPoolExecutor(config.num_workers) as pool:

        def bring(name: str) -> None:
            try:
                fetch_file(f"{config.url}/{name}", folder / name, config.transfer, progress, stop)
                progress.done(name)
            except UserError as error:
                failures.append(f"{name}: {error}")

        try:
            for future in [pool.submit(bring, name) for name in names]:
                future.result()
        except BaseException:  # KeyboardInterrupt above all: the threads end at their next chunk and the `.tmp` files stay
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failures
