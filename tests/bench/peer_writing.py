"""What writing costs a peer of bench_peers.py: CPU seconds a sample, start and reading left out.

Used by `peer_<name>.py` in the peer's own environment, so nothing of `imitate` is imported.
"""

import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

COPIES = 11  # how often the samples are written in the longer of two runs


def loose_samples(folder: str) -> Iterator[dict[str, bytes]]:
    """Yield JSON and PNG of every sample of a folder of loose files."""
    for path in sorted(Path(folder).glob("*.json")):
        yield {"json": path.read_bytes(), "png": path.with_suffix(".png").read_bytes()}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cost_of_writing(write: Callable[[list[str], str], None], loose: str) -> float:
    """Return what one more sample costs to write, beyond reading its two files.

    `write` puts the samples of some folders, one after the other, in its format into a folder.
    """
    taken = {}
    for copies in (1, COPIES):
        with tempfile.TemporaryDirectory() as folder:
            start = cpu_seconds()
            write([loose] * copies, folder)
            taken[copies] = cpu_seconds() - start
    start = cpu_seconds()
    count = sum(1 for _ in loose_samples(loose))
    read = cpu_seconds() - start
    return ((taken[COPIES] - taken[1]) / (COPIES - 1) - read) / count
