"""Downloads a file over HTTP: resumed, verified, renamed into place only when whole.

A file is written to `NAME.tmp` and continued there (`Range`) after any interruption. When all bytes have arrived, its size, its
SHA-256 if the server states one, and its contents (the parquet footer of a shard) are checked; then it is renamed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock

from nanochat.common import UserError, fsync_dir
from nanochat.data.text_files import open_parquet
from nanochat.flags import flag
from nanochat.progress import DownloadProgress

HUB_HOST = "huggingface.co"  # the only host that HF_TOKEN is sent to, and only over https
MAX_ATTEMPTS = 6  # consecutive ones that received less than `PROGRESS_BYTES`
PROGRESS_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
LONGEST_WAIT_SECONDS = 60.0
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass
class TransferConfig:
    timeout_seconds: float = flag(30.0, "timeout of a silent connection", unit="s")
    retry_seconds: float = flag(1.0, "wait after the first failed attempt; doubles with each further one", unit="s")

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"invalid timeout_seconds {self.timeout_seconds}: must be positive")
        if not self.retry_seconds >= 0:
            raise ValueError(f"invalid retry_seconds {self.retry_seconds}: must be at least 0")


class TransferError(Exception):
    """A failed attempt that is worth repeating. `wait_seconds`: the wait that the server asked for, or 0."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


def check_parquet(path: Path) -> None:
    """Raises `UserError` if `path` is not a whole parquet file with a column "text"."""
    open_parquet(path).close()


def fetch_file(
    url: str,
    path: Path,
    config: TransferConfig,
    progress: DownloadProgress,
    stop: threading.Event,
    check: Callable[[Path], None] = check_parquet,
) -> None:
    """Downloads `url` to `path`, continuing `path.tmp` if it exists. Several processes may do so for the same path.

    If `check` raises `UserError`, the contents are wrong and the file is downloaded anew. Raises `UserError` if the server
    refuses, the disk is full, `MAX_ATTEMPTS` consecutive attempts fail, or `stop` is set.
    """
    temporary = path.with_name(path.name + ".tmp")
    with FileLock(path.with_name(f".{path.name}.lock")):
        failed = 0
        while not path.exists():
            size_before = _size(temporary)
            try:
                headers = _transfer(url, temporary, config.timeout_seconds, progress, stop)
                if not stop.is_set():
                    _verify(temporary, headers, check)
                    _rename(temporary, path)
            except TransferError as error:
                failed = 1 if _size(temporary) >= size_before + PROGRESS_BYTES else failed + 1
                if failed >= MAX_ATTEMPTS:
                    raise UserError(f"gave up on {url} after {failed} attempts: {error}") from error
                wait = min(max(error.wait_seconds, config.retry_seconds * 2 ** (failed - 1)), LONGEST_WAIT_SECONDS)
                progress.say(f"{path.name}: {error}; trying again in {wait:.1f} s")
                stop.wait(wait)
            if stop.is_set():
                raise UserError("interrupted; run the same command again to continue")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the headers in which the hub describes the file before it redirects to a storage host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # the signature is urllib's
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            linked = {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-linked-")}
            self.parent.linked.update(linked)
            _authorize(new)
        return new


def _authorize(request: urllib.request.Request) -> None:
    token = os.environ.get("HF_TOKEN")
    if token and request.type == "https" and request.host == HUB_HOST:
        # Unredirected: the header is not sent to the host of a redirect.
        request.add_unredirected_header("Authorization", f"Bearer {token}")


def _transfer(url: str, temporary: Path, timeout: float, progress: DownloadProgress, stop: threading.Event) -> dict[str, str]:
    """Requests what `temporary` lacks. Returns the headers of the response and the hub's `x-linked-…`."""
    # The last byte is requested again, so that the range is valid even if none is missing.
    start = max(_size(temporary) - 1, 0)
    request = urllib.request.Request(url, headers={"User-Agent": "megacontext", **({"Range": f"bytes={start}-"} if start else {})})
    _authorize(request)
    opener = urllib.request.build_opener(_Redirects)
    opener.linked = {}
    try:
        with opener.open(request, timeout=timeout) as response:
            headers = {**{name.lower(): value for name, value in response.headers.items()}, **opener.linked}
            if response.status == 206 and not headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise TransferError(f"requested the bytes from {start} on, got {headers.get('content-range', 'others')}")
            _write(response, temporary, start if response.status == 206 else 0, progress, stop)
            return headers
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, url, temporary) from error
    except (OSError, http.client.HTTPException) as error:  # of the network: those of the disk are UserErrors by now
        raise TransferError(f"lost the connection ({getattr(error, 'reason', None) or error or type(error).__name__})") from error


def _refusal(error: urllib.error.HTTPError, url: str, temporary: Path) -> Exception:
    if error.code == 416:
        temporary.unlink(missing_ok=True)
        return TransferError("the partial download is longer than the file; starting over")
    if error.code in _RETRY_STATUS:
        wait = error.headers.get("Retry-After", "")
        return TransferError(f"the server answered {error.code} {error.reason}", float(wait) if wait.isdecimal() else 0.0)
    return UserError(f"{url}: the server answered {error.code} {error.reason}; check the address and HF_TOKEN")


def _write(response: IO[bytes], temporary: Path, start: int, progress: DownloadProgress, stop: threading.Event) -> None:
    def on_disk(action: Callable[..., T], *arguments: object) -> T:
        try:
            return action(*arguments)
        except OSError as error:
            raise UserError(f"cannot write {temporary}: {error.strerror}; fix that and run the same command again") from error

    with on_disk(open, temporary, "r+b" if start else "wb") as file:
        file.seek(start)
        while not stop.is_set() and (chunk := response.read1(CHUNK_BYTES)):
            on_disk(file.write, chunk)
            on_disk(file.flush)
            progress.advance(len(chunk))


def _verify(temporary: Path, headers: dict[str, str], check: Callable[[Path], None]) -> None:
    """Checks size, SHA-256 and contents. Raises `TransferError`; a file of wrong bytes is deleted."""
    total = headers.get("x-linked-size") or headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    size, stated = _size(temporary), int(total) if total.isdecimal() else None
    if stated is not None and size < stated:
        raise TransferError(f"the connection ended at {size:,} of {stated:,} bytes")
    fault = f"{size:,} bytes arrived instead of {stated:,}" if stated is not None and size > stated else None
    # The hub's own header: a storage host's ETag may be another hash of the same length.
    sha256 = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("x-linked-etag", ""))
    if fault is None and sha256 is not None:
        with open(temporary, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256[1]:
                fault = "the SHA-256 is not the one that the server states"
    if fault is None:
        try:
            check(temporary)
        except UserError as error:
            fault = str(error)
    if fault is not None:
        temporary.unlink()
        raise TransferError(f"{fault}; starting over")


def _rename(temporary: Path, path: Path) -> None:
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_dir(path.parent)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
