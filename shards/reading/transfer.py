"""One object of a store elsewhere, brought to a local file: fsspec, bounded, tried again."""

from __future__ import annotations

import errno
import re
import time
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from ...contract import InputError, UsageError

SCHEMES = ("https", "http", "s3", "gs", "hf", "file")
ATTEMPTS = 5
PAUSE_S = 0.5  # before the second attempt, doubled before each further one
SILENCE_S = 60.0  # without a byte, after which a connection counts as dead
AGAIN = (408, 425, 429)  # HTTP states of the 400s that pass


class Undelivered(Exception):
    """An object that a store did not give: why, and whether the store answered at all."""

    def __init__(self, why: str, *, answered: bool) -> None:
        super().__init__(why)
        self.why, self.answered = why, answered


def is_address(text: str) -> bool:
    """Tell whether a text is an address, as https://…, and not a name."""
    return "://" in text


def check_address(text: str) -> str:
    """Return the address of a folder without its last slash.

    Raises UsageError for a scheme that is not known, and for an address that carries credentials,
    as it would stand in cards and logs.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise UsageError(
            f"no shards can be read from {scheme}://",
            todo=f"addresses begin with {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    if re.search(r"[?#\s]|::|^[^/]*@", rest) or not rest.strip("/"):
        raise UsageError(
            "an address of a shard set is that of its folder, without credentials or a query",
            todo="credentials belong to the environment of the store, such as AWS_PROFILE or "
            "~/.netrc",
        )
    return text.rstrip("/")


def fetch(address: str, path: Path, *, most: int) -> None:
    """Bring an object of at most `most` bytes to the file `path`, which may be there already.

    Raises Undelivered when the store refuses or, after ATTEMPTS, still does not deliver; InputError
    when the disk is full or the package that reads such a store is missing.
    """
    last = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            _get(address, path, most)
            return
        except Undelivered:
            raise
        except FileNotFoundError:
            raise Undelivered("is not there", answered=True) from None
        except ImportError as error:
            raise _package_missing(address, error) from None
        # every store raises what its own library knows
        except Exception as error:
            last = _kind(error)
            _raise_final(error, last)
    raise Undelivered(f"cannot be fetched in {ATTEMPTS} attempts ({last})", answered=False)


class _Bounded(Callback):  # type: ignore[misc]  # fsspec is not typed
    """Ends a download that is longer than it should be."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self.most:
            raise Undelivered(f"has more than {self.most} bytes", answered=True)


def _get(address: str, path: Path, most: int) -> None:
    store, place = url_to_fs(address, **_options(address))
    store.get_file(place, str(path), callback=_Bounded(most))


def _options(address: str) -> dict[str, Any]:
    if not address.startswith("http"):
        return {}
    import aiohttp

    # its own limit is five minutes for the whole body, too short for a slow network
    silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": silence, "trust_env": True}}


def _kind(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"HTTP {status}" if isinstance(status, int) else type(error).__name__


def _raise_final(error: Exception, kind: str) -> None:
    """Raise for an error that another attempt does not change."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in AGAIN:
        raise Undelivered(f"is refused ({kind})", answered=True) from None
    if isinstance(error, PermissionError):
        raise Undelivered("is refused (no permission)", answered=True) from None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise InputError(
            "the disk of the shard cache is full",
            todo="make room, or give the cache a limit: --cache-bytes N",
        ) from None


def _package_missing(address: str, error: ImportError) -> InputError:
    name = f": {error.name}" if error.name else ""
    return InputError(
        f"a package that {address.partition('://')[0]}:// needs is missing{name}",
        todo="pip install 'imitate-cxr[remote]'",
    )
