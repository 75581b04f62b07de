"""Checkpoint store: safetensors and JSON in a folder that appears in one rename, so that a checkpoint is whole or refused.

    <folder>/step_0000123/
        model.safetensors      one file per group of tensors; each of several processes writes what it owns,
        optimizer.safetensors  to model.rank00.safetensors, model.rank01.safetensors, …
        meta.json              whatever else a run needs to continue
        manifest.json          size and SHA-256 of each file above, written last

A save fills `.step_0000123.tmp`, syncs its files and the folder, renames it, syncs the parent, and only then
removes older checkpoints. Whatever kills the process, a reader finds the old state or the new one.
A load hashes every file that it reads and checks the sizes of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.checkpoint.manifest import (
    MANIFEST,
    META,
    InvalidError,
    canonical,
    check_digest,
    open_file,
    read_manifest,
    write_file,
    write_manifest,
)
from nanochat.checkpoint.open_file import OpenFile
from nanochat.checkpoint.processes import ALONE, OtherProcessError, Processes, shared_out, together
from nanochat.checkpoint.snapshot import Snapshot, Tensors, take
from nanochat.checkpoint.tensor_file import ReadTensors, SavedTensor, saved_tensors
from nanochat.common import UserError, fsync_dir

_STEP = re.compile(r"step_(\d{7,})")
_REPLACED = re.compile(r"\.step_(\d{7,})\.old")
_TENSOR_FILE = re.compile(r"([a-z][a-z0-9_]*)(?:\.rank(\d+))?\.safetensors")


class SaveError(UserError):
    """The disk did not take a checkpoint, or let go of an older one. The run that saved is as it was, and older checkpoints are intact."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: what is in its files by group and name, and the JSON saved next to it. `digest`: 16 hex digits that
    identify the tensors of the files."""

    step: int
    saved: dict[str, dict[str, SavedTensor]]
    meta: dict[str, Any]
    digest: str

    @property
    def tensors(self) -> dict[str, ReadTensors]:
        """CPU tensors by group and name, each read whenever it is asked for."""
        return {group: ReadTensors(named) for group, named in self.saved.items()}


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run, in `folder`; a save removes all but the newest `keep` valid ones (−1 = none).

    One run writes to a folder at a time. Reading changes nothing on disk.
    """

    folder: Path
    keep: int = 2
    _trusted: dict[Path, tuple[int, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)  # stamps of verified files

    def __post_init__(self) -> None:
        if self.keep != -1 and self.keep < 1:
            raise ValueError(f"invalid keep {self.keep}: must be at least 1, or -1 for all")

    def save(self, step: int, tensors: Tensors, meta: Mapping[str, Any], processes: Processes = ALONE) -> Path:
        """Writes step `step` and returns its folder once it is durable: `snapshot`, then `write`."""
        return self.write(self.snapshot(step, tensors, meta, processes), processes)

    def snapshot(self, step: int, tensors: Tensors, meta: Mapping[str, Any], processes: Processes = ALONE) -> Snapshot:
        """What `write` will write: a copy in host memory that later changes of `tensors` do not reach.

        `tensors` maps groups ("model", "optimizer") to tensors by name: any device, shape, stride and real dtype.
        Tensors that share memory are saved as independent copies. Equal state gives equal bytes. `meta` is JSON,
        with NaN and infinities as Python's `json` spells them: a run that met one must still be able to save.
        Of several processes, each calls this with the tensors it owns, no name twice; `meta` is taken from rank 0.

        If one process fails, all raise: that one its own error (`ValueError` or `TypeError` for what cannot be saved), the others
        `OtherProcessError`.
        """
        with together(processes, f"save step {step} in {self.folder}"):
            return take(step, tensors, meta, processes)

    def write(self, snapshot: Snapshot, processes: Processes = ALONE) -> Path:
        """Writes a snapshot, letting go of each file that is written, and returns the checkpoint's folder once it is durable.

        If one process fails, all raise: that one its own error, the others `OtherProcessError`. Raises `SaveError` if the disk is
        full or read-only. Earlier checkpoints are then intact and nothing half-written stays.
        """
        step, first = snapshot.step, processes.rank == 0
        temporary, what = self._temporary(step), f"save step {step} in {self.folder}"
        try:
            with together(processes, what):
                if first:
                    self._prepare(temporary)
            with together(processes, what):
                _write_part(temporary, snapshot, processes.rank)
            with together(processes, what):
                if first:
                    self._commit(step, temporary, processes.world_size)
        except OSError as error:
            raise SaveError(
                f"cannot {what}: {error.strerror}; make room there or set NANOCHAT_BASE_DIR to another folder "
                "(earlier checkpoints are intact)"
            ) from error
        finally:
            if first:  # a failed save left it
                shutil.rmtree(temporary, ignore_errors=True)
        with together(processes, what):
            if first:
                self._prune(step)
        return self._final(step)

    def check_room(self, tensors: Tensors, say: Callable[[str], None], processes: Processes = ALONE) -> None:
        """Checks that the disk has room for a checkpoint of `tensors`, and says if it has none for all that a run keeps at a time.

        A save needs room for one more than it keeps. Raises `UserError` if there is none for the next one, or its place is no folder.
        """
        own = [sum(tensor.nbytes for tensor in named.values()) for named in tensors.values()]
        size = sum(own) * processes.world_size  # too much for what only the first process has, which it alone checks
        with together(processes, f"save in {self.folder}"):
            if processes.rank > 0:
                return
            place = next(path for path in (self.folder, *self.folder.parents) if os.path.lexists(path))
            if not place.is_dir() or not os.access(place, os.W_OK):
                raise UserError(
                    f"cannot save in {self.folder}: {place} is not a folder that can be written; mend it or set NANOCHAT_BASE_DIR "
                    "to another folder"
                )
            free, kept = shutil.disk_usage(place).free, len(self.steps())
            if free < size:
                raise UserError(
                    f"{place} has {_size(free)} free, but a checkpoint takes {_size(size)}; make room there or set NANOCHAT_BASE_DIR "
                    "to another folder"
                )
            most = size * max(1, self.keep + 1 - kept) if self.keep > 0 else size
            if free < most:
                say(f"disk: {place} has {_size(free)} free, but the checkpoints of this run will take {_size(most)}; make room in time")

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, valid or not, ascending."""
        if not self.folder.is_dir():
            return []
        matches = [_STEP.fullmatch(p.name) or _REPLACED.fullmatch(p.name) for p in self.folder.iterdir() if p.is_dir()]
        return sorted({int(match[1]) for match in matches if match})

    def seal(self, step: int) -> str | None:
        """16 hex digits that identify the content that the checkpoint should have; None if there is no such checkpoint."""
        manifest = self._path(step) / MANIFEST
        return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.exists() else None

    def verify(self, step: int) -> str | None:
        """None if every byte of the checkpoint is what was written, else one line that says what is wrong."""
        path = self._path(step)
        try:
            for name, expected in read_manifest(path, step).items():
                check_digest(open_file(path / name, expected), expected)
        except InvalidError as why:
            return str(why)
        return None

    def load_newest(
        self, say: Callable[[str], None] = print, groups: Collection[str] | None = None, processes: Processes = ALONE
    ) -> Checkpoint | None:
        """The newest checkpoint that `load` accepts, or None. Says which it took and why newer ones were refused."""
        for step in reversed(processes.first(self.steps())):
            found = self._try(step, groups, processes)
            if isinstance(found, Checkpoint):
                say(f"checkpoint of step {step} in {self.folder} is valid")
                return found
            say(f"checkpoint of step {step} in {self.folder} is refused: {found}")
        return None

    def load(self, step: int, groups: Collection[str] | None = None, processes: Processes = ALONE) -> Checkpoint:
        """Opens step `step`, all groups of its tensors or only `groups`; verifies every byte of those, and the sizes of the other files.

        A process has what it saved itself and what rank 0 saved, if the checkpoint is of as many `processes`; else it has
        the parts of all. The processes of a machine share the work of verifying, and what one process refuses, all refuse.
        Raises `UserError` if the checkpoint is missing or not valid.
        """
        found = self._try(step, groups, processes)
        if isinstance(found, str):
            raise UserError(f"{self._path(step)} is not a valid checkpoint: {found}; delete it or resume from another step")
        return found

    def _try(self, step: int, groups: Collection[str] | None, processes: Processes) -> Checkpoint | str:
        """The checkpoint, or one line that says why this process or another refuses it."""
        what = f"read step {step} in {self.folder}"
        try:
            with together(processes, what):
                files = self._verified(step, groups, processes)
            with together(processes, what):  # now that all files are verified, whoever hashed them, their contents can be relied on
                return _opened(step, files)
        except InvalidError as why:
            return str(why)
        except OtherProcessError as error:
            return self.verify(step) or str(error)

    def _verified(self, step: int, groups: Collection[str] | None, processes: Processes) -> dict[str, tuple[OpenFile, str]]:
        """The files that this process reads, and their SHA-256, by name. Has hashed its share of what the processes of its machine read."""
        if step not in self.steps():
            have = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step}; it has: {have}")
        path = self._path(step)
        entries = read_manifest(path, step)
        owned = {name: (match[1], int(match[2] or 0)) for name in entries if (match := _TENSOR_FILE.fullmatch(name))}  # group, rank
        # Each process of a run has saved something, if only its random state.
        saved_by = 1 + max((rank for _, rank in owned.values()), default=0)

        def reads(name: str, rank: int) -> bool:
            """Whether process `rank` reads the file `name`."""
            group, owner = owned.get(name, (None, 0))
            if group is None:
                return name == META
            return (groups is None or group in groups) and (saved_by != processes.world_size or owner in (0, rank))

        # What the processes of a machine read is hashed by one of them; what one refuses, all refuse.
        hosts, rank = processes.hosts, processes.rank
        here = [other for other, host in enumerate(hosts) if host == hosts[rank]] or [rank]
        files: dict[str, OpenFile] = {}
        for name, expected in entries.items():
            file = open_file(path / name, expected)
            if any(reads(name, other) for other in here):  # the others are closed again: there may be more than a process may open
                files[name] = file
        for name, hasher in shared_out({name: file.bytes for name, file in files.items()}, here).items():
            if hasher == rank:
                check_digest(files[name], entries[name])
                self._trusted[path / name] = files[name].stamp
        return {name: (file, entries[name]["sha256"]) for name, file in files.items() if reads(name, rank)}

    def discard_after(self, step: int) -> list[int]:
        """Removes the checkpoints later than `step` and returns their steps.

        For a run that resumes from an earlier step on purpose: the abandoned checkpoints must not count as its newest.
        """
        later = [s for s in self.steps() if s > step]
        try:
            for abandoned in reversed(later):
                self._remove(abandoned)
        except OSError as error:
            raise UserError(f"a checkpoint later than step {step} in {self.folder} cannot be removed: {error.strerror}") from error
        return later

    def _final(self, step: int) -> Path:
        return self.folder / _name(step)

    def _temporary(self, step: int) -> Path:
        return self.folder / f".{_name(step)}.tmp"

    def _replaced(self, step: int) -> Path:
        return self.folder / f".{_name(step)}.old"

    def _path(self, step: int) -> Path:
        """Folder of step `step`. Only a crash between the two renames of `_commit` leaves it under the other name."""
        final, replaced = self._final(step), self._replaced(step)
        return replaced if replaced.is_dir() and not final.is_dir() else final

    def _prepare(self, temporary: Path) -> None:
        """Makes an empty temporary folder and removes those of dead runs."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            fsync_dir(self.folder.parent)
        for stale in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(stale)
        for replaced in self.folder.glob(".step_*.old"):
            if (self.folder / replaced.name[1:].removesuffix(".old")).is_dir():
                shutil.rmtree(replaced)
        temporary.mkdir()

    def _commit(self, step: int, temporary: Path, world_size: int) -> None:
        """Joins the parts' digests into the manifest, makes everything durable and gives the folder its name."""
        files: dict[str, Any] = {}
        names: set[str] = set()
        for rank in range(world_size):
            part = temporary / _part(rank)
            content = json.loads(part.read_bytes())
            if twice := names.intersection(content["names"]):
                raise ValueError(f"{min(twice)} is saved by rank {rank} and by a lower one; each tensor has one owner")
            names.update(content["names"])
            files |= content["files"]
            part.unlink()
        write_manifest(temporary, step, files)
        fsync_dir(temporary)
        final, replaced = self._final(step), self._replaced(step)
        if final.is_dir():
            os.rename(final, replaced)
        os.rename(temporary, final)
        fsync_dir(self.folder)
        for name in files:
            self._trusted[final / name] = OpenFile(final / name).stamp
        shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self, saved: int) -> None:
        """Removes all but the newest `keep` valid checkpoints up to `saved`; later steps are left alone."""
        if self.keep == -1:
            return
        valid = 0
        try:
            for step in reversed([s for s in self.steps() if s <= saved]):
                if valid == self.keep:
                    self._remove(step)
                elif step == saved or self._still_valid(step):
                    valid += 1
        except OSError as error:
            raise SaveError(
                f"step {saved} is saved, but an older checkpoint in {self.folder} cannot be removed: {error.strerror}"
            ) from error

    def _still_valid(self, step: int) -> bool:
        """Whether `verify` would say nothing; files are not hashed again that this process has written or verified, and nobody touched."""
        path = self._path(step)
        try:
            for name, expected in read_manifest(path, step).items():
                file = open_file(path / name, expected)
                if self._trusted.get(path / name) != file.stamp:
                    check_digest(file, expected)
                    self._trusted[path / name] = file.stamp
        except InvalidError:
            return False
        return True

    def _remove(self, step: int) -> None:
        """Renames before deleting, so that an interrupted delete leaves a temporary folder, not half a checkpoint."""
        condemned = self._temporary(step)
        for path in (self._replaced(step), self._final(step)):
            if path.is_dir():
                if condemned.is_dir():
                    shutil.rmtree(condemned)
                os.rename(path, condemned)
                shutil.rmtree(condemned)


def _name(step: int) -> str:
    return f"step_{step:07d}"


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


def _part(rank: int) -> str:
    return f"rank{rank:02d}.part"


def _opened(step: int, files: Mapping[str, tuple[OpenFile, str]]) -> Checkpoint:
    """The checkpoint in verified `files`, which are with their SHA-256."""
    saved: dict[str, dict[str, SavedTensor]] = {}
    digest = hashlib.sha256()
    for name, (file, sha256) in files.items():
        if match := _TENSOR_FILE.fullmatch(name):
            saved.setdefault(match[1], {}).update(saved_tensors(file))
            digest.update(sha256.encode())
    return Checkpoint(step, saved, json.loads(files[META][0].read()), digest.hexdigest()[:16])


def _write_part(temporary: Path, snapshot: Snapshot, rank: int) -> None:
    """Writes what this process owns, then the digests of it, for rank 0 to join."""
    files = {}
    for name in list(snapshot.files):
        files[name] = write_file(temporary / name, snapshot.files.pop(name))
    write_file(temporary / _part(rank), canonical({"files": files, "names": snapshot.names}))
