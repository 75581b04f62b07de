"""Brings the CORE bundle here: one zip archive, verified, unpacked with care, in place in one rename."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import urllib.parse
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat.common import UserError, base_dir, ensure_dir, fsync_dir
from nanochat.data.http_download import TransferConfig, fetch_file
from nanochat.eval.core_tasks import FOLDER, bundle_folder, bundle_is_here, read_tasks
from nanochat.flags import flag, part
from nanochat.progress import DownloadProgress

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
MOST_BYTES = 4 << 30  # unpacked; the bundle has a fraction of it


@dataclass
class CoreDownload:
    """Download the CORE bundle."""

    url: str = flag(URL, "address of the archive, for a mirror")
    transfer: TransferConfig = part(TransferConfig)

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"url must begin with http:// or https://, not be {self.url!r}")


def download(config: CoreDownload) -> None:
    """Downloads the archive, continuing an earlier attempt, and unpacks it, unless the bundle is here already.

    Raises `UserError` where it cannot be had, written, or is no bundle; nothing half-unpacked stays.
    """
    if bundle_is_here():
        print(f"the CORE bundle is in {bundle_folder()}")
        return
    archive = ensure_dir(base_dir()) / f"{FOLDER}.zip"
    with DownloadProgress(1, "archives") as progress:
        fetch_file(config.url, archive, config.transfer, progress, threading.Event(), check_archive)
    unpack(archive, bundle_folder())
    archive.unlink()
    print(f"{len(read_tasks(bundle_folder()))} CORE tasks are in {bundle_folder()}")


def check_archive(path: Path) -> None:
    """Raises `UserError` where `path` is no whole zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path.name}: no whole zip archive ({error})") from error
    if broken is not None:
        raise UserError(f"{path.name}: {broken} in it is damaged")


def unpack(path: Path, folder: Path) -> None:
    """Unpacks what the archive `path` has under `eval_bundle/` as `folder`, which must not exist.

    Raises `UserError` where a name leads out of the folder, an entry is no plain file, or the whole is no bundle.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(entry, _inner(entry, path)) for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry, _ in entries) > MOST_BYTES:
                raise UserError(f"{path}: more than {MOST_BYTES >> 30} GiB unpacked; this is not the CORE bundle")
            for entry, inner in entries:
                if inner is not None:
                    target = temporary / inner
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, open(target, "xb") as file:
                        shutil.copyfileobj(source, file)
        for task in read_tasks(temporary):
            task.examples()
        temporary.chmod(0o755)
        os.rename(temporary, folder)
        fsync_dir(folder.parent)
    except OSError as error:
        raise UserError(f"cannot unpack {path} to {folder}: {error.strerror}; put that right and run the same command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _inner(entry: zipfile.ZipInfo, archive: Path) -> Path | None:
    """Where the entry belongs in the folder; None where it is not part of the bundle."""
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or kind not in (0, stat.S_IFREG):
        raise UserError(f"{archive}: the entry {entry.filename!r} does not belong in an archive of plain files; it is not unpacked")
    return Path(*name.parts[1:]) if name.parts[0] == FOLDER and len(name.parts) > 1 else None
