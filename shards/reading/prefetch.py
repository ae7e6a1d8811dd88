"""Shards fetched before they are read, in the order in which they will be read."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...contract import ImitateError

THREADS = 2
AHEAD = 8  # shards fetched and not yet read, at most


class Prefetch:
    """A few threads that fetch shards ahead of the reader, not further than the cache has room.

    At most half of `limit` bytes are taken by shards that nobody has read yet. An error is left to
    the reader, which meets it when it needs the shard.
    """

    def __init__(self, fetch: Callable[[str], None], *, largest: int, limit: int | None) -> None:
        self._fetch = fetch
        self._window = AHEAD if limit is None else min(AHEAD, limit // (2 * largest))
        self._wanted: dict[str, None] = {}  # in order
        self._ahead: set[str] = set()
        self._running = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="imitate-fetch")
        self.close = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def expect(self, names: Sequence[str]) -> None:
        """Take note of shards that will be read, in this order."""
        with self._lock:
            self._wanted |= {name: None for name in names if name not in self._ahead}
        self._start()

    def opened(self, name: str) -> None:
        """Take note that a shard is being read."""
        if name in self._ahead or name in self._wanted:
            with self._lock:
                self._ahead.discard(name)
                self._wanted.pop(name, None)
            self._start()

    def _start(self) -> None:
        """Begin as many downloads as there are threads, so that none waits when the run ends."""
        with self._lock:
            while self._wanted and self._running < THREADS and len(self._ahead) < self._window:
                name = next(iter(self._wanted))
                with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                    self._pool.submit(self._work, name)
                    self._running += 1
                    self._ahead.add(name)
                del self._wanted[name]

    def _work(self, name: str) -> None:
        try:
            self._fetch(name)
        except (ImitateError, OSError):
            with self._lock:
                self._ahead.discard(name)
        finally:
            with self._lock:
                self._running -= 1
            self._start()
