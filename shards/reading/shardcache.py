"""Whole shards kept on the local disk: shared by processes, never more bytes than allowed.

    data/cache/<digest>/shards/<name>                   a whole shard
    data/cache/<digest>/shards/.partial-<bytes>-<name>  one being fetched; it counts as whole
    data/cache/<digest>/locks/<name>                    held by the process that fetches it
    data/cache/.room                                    held while room is made

A shard is in use while a shared lock is held on its file, so the shard that another process is
reading is never evicted. All locks end with their process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...contract import UsageError
from ...files import PARTIAL

WAIT_S = 0.02  # between two looks for room while every shard is in use


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, after waiting for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class ShardCache:
    """The shards of every remote set below one root, at most `limit` bytes of them together.

    The shard that was not read for the longest time makes room for a new one.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit

    def open(self, path: Path, size: int, bring: Callable[[Path], None]) -> int:
        """Return a descriptor of a shard that stays in use until it is closed.

        A shard that is not there is brought by `bring` to the file it is given, by one process
        while the others wait. Raises UsageError when a single shard is over the limit.
        """
        with contextlib.suppress(FileNotFoundError):
            return _in_use(path)
        with locked(_lock_of(path)):
            with contextlib.suppress(FileNotFoundError):
                return _in_use(path)
            partial = self._reserved(path, size)
            try:
                bring(partial)
                handle = _in_use(partial)  # before it has its name, so that none can evict it
                partial.replace(path)
                return handle
            finally:
                partial.unlink(missing_ok=True)

    def drop_unless(self, path: Path, whole: Callable[[Path], bool]) -> None:
        """Remove a shard that is no longer `whole`, so that it is brought anew."""
        with locked(_lock_of(path)), contextlib.suppress(FileNotFoundError):
            if not whole(path):
                path.unlink()

    def _reserved(self, path: Path, size: int) -> Path:
        """Return the file to bring a shard to, after making room for it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{PARTIAL}{size}-{path.name}")
        partial.unlink(missing_ok=True)  # of a killed process, as the lock is ours
        if self.limit is not None and size > self.limit:
            raise UsageError(
                f"--cache-bytes {self.limit} does not hold a shard of {size} bytes",
                where=path.name,
                todo="allow some times more than the largest shard",
            )
        while True:
            with locked(self.folder / ".room"):
                if self._has_room(size):
                    partial.touch()
                    return partial
            time.sleep(WAIT_S)

    def _has_room(self, size: int) -> bool:
        """Evict what was not read for the longest time until `size` more bytes are allowed."""
        if self.limit is None:
            return True
        kept = [kept for path in self.folder.glob("*/shards/*") for kept in _kept(path)]
        excess = sum(each.size for each in kept) + size - self.limit
        for each in sorted(kept, key=lambda each: each.read):
            if excess <= 0:
                break
            if each.evicted():
                excess -= each.size
        return excess <= 0


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A file of the cache: a whole shard, or one being fetched."""

    path: Path
    size: int
    read: int  # when, nanoseconds

    def evicted(self) -> bool:
        """Remove the file unless it is in use; tell whether it is gone."""
        partial = self.path.name.startswith(PARTIAL)
        name = self.path.name.removeprefix(PARTIAL).partition("-")[2]
        lock = _lock_of(self.path.with_name(name)) if partial else self.path
        with contextlib.suppress(FileNotFoundError), lock.open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # without locks nobody can tell whether another process needs it
                return not partial and self._gone()
            return self._gone()
        return True

    def _gone(self) -> bool:
        self.path.unlink(missing_ok=True)
        return True


def _kept(path: Path) -> Iterator[_Kept]:
    with contextlib.suppress(FileNotFoundError):
        facts = path.stat()
        size = facts.st_size
        if path.name.startswith(PARTIAL):
            size = int(path.name.removeprefix(PARTIAL).partition("-")[0])
        yield _Kept(path=path, size=size, read=facts.st_mtime_ns)


def _in_use(path: Path) -> int:
    """Open a shard for reading, note that it is read now, and share its lock."""
    handle = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
        os.utime(handle)
    return handle


def _lock_of(path: Path) -> Path:
    return path.parent.parent / "locks" / path.name
