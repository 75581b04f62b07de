"""Downloads the CORE bundle: a zip archive that is verified, unpacked safely and put in place in one rename."""

from __future__ import annotations

import shutil
import stat
import threading
import urllib.parse
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat.common import UserError, base_dir
from nanochat.data.http_download import TransferConfig, fetch_file
from nanochat.data.make_once import make_once, new_folder
from nanochat.eval.core_tasks import FOLDER, bundle_folder, read_tasks
from nanochat.flags import flag, part
from nanochat.progress import DownloadProgress

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
MOST_BYTES = 4 << 30  # unpacked; the bundle is a fraction of it


@dataclass
class CoreDownload:
    """Download the CORE bundle."""

    url: str = flag(URL, "URL of the archive, for a mirror")
    transfer: TransferConfig = part(TransferConfig)

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"invalid url {self.url!r}: must begin with http:// or https://")


def download(config: CoreDownload) -> None:
    """Downloads the archive, continuing an earlier attempt, and unpacks it, unless the bundle exists already.

    Raises `UserError` if it cannot be downloaded or written, or is not a bundle; nothing half-unpacked stays.
    """
    archive = base_dir() / f"{FOLDER}.zip"

    def make() -> None:
        with DownloadProgress(1, "archives") as progress:
            fetch_file(config.url, archive, config.transfer, progress, threading.Event(), check_archive)
        unpack(archive, bundle_folder())
        archive.unlink()
        print(f"{len(read_tasks(bundle_folder()))} CORE tasks are in {bundle_folder()}")

    if not make_once(bundle_folder(), make, proof="core.yaml"):
        print(f"the CORE bundle is in {bundle_folder()}")


def check_archive(path: Path) -> None:
    """Raises `UserError` if `path` is not a whole zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path.name}: not a whole zip archive ({error})") from error
    if broken is not None:
        raise UserError(f"{path.name}: {broken} in it is damaged")


def unpack(path: Path, folder: Path) -> None:
    """Unpacks `eval_bundle/` of the archive `path` as `folder`.

    Raises `UserError` if a name leads out of the folder, an entry is not a plain file, or the result is not a bundle.
    """
    with new_folder(folder) as temporary:
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


def _inner(entry: zipfile.ZipInfo, archive: Path) -> Path | None:
    """Path of the entry in the folder; None if it is not part of the bundle."""
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or kind not in (0, stat.S_IFREG):
        raise UserError(f"{archive}: unsafe entry {entry.filename!r}; not unpacked")
    return Path(*name.parts[1:]) if name.parts[0] == FOLDER and len(name.parts) > 1 else None
