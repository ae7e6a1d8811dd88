"""What all tests share: one thread for torch, and the real data beside the repository."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# two threads were measured 8x slower than one beside other work; children inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the repository; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not on this machine (../shared/data)")
    return folder


@pytest.fixture(autouse=True)
def keep_umask() -> Iterator[None]:
    """Credentialed sets narrow the umask of the process; the next test has the usual one."""
    before = os.umask(0o022)
    yield
    os.umask(before)
