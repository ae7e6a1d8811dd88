"""The decoding process: a file that hangs, crashes or swallows memory costs only itself.

    parent                              child: python -m imitate.prep.pixels.decoder
    {path, options}           ─────▶    RLIMIT_AS, alarm, signals of the terminal ignored
    {picture} + PNG, {reason} ◀─────    only cv2, numpy and pydicom

A message is two lengths (8 bytes), one JSON object, and bytes. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...contract import ImitateError, Reject, UsageError
from .glance import Glance, glance_at
from .mask import Frame, file_mask_png
from .png import Picture, PixelOptions

HEAD = struct.Struct(">II")  # bytes of the JSON, bytes after it
START_S = 120.0  # for the imports of the child on a busy machine
GRACE_S = 10  # seconds after its parent's limit at which a child ends itself
SMALLEST = 384 << 20  # bytes of address space that the libraries alone need


class Decoder:
    """Convert files in one child process with a memory cap and a time limit for each.

    The child starts with the first file, is used for all that follow, and is replaced after it
    was killed. It ends with its parent, even a killed one.
    """

    def __init__(self, *, timeout: float = 60.0, memory: int = 2 << 30) -> None:
        if timeout <= 0 or memory < SMALLEST:
            raise UsageError(
                "the decoder needs a positive time limit and at least 384 MiB of memory",
                where=f"timeout={timeout}, memory={memory}",
            )
        self.timeout, self.memory = timeout, memory
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def convert(self, path: Path, options: PixelOptions) -> Picture:
        """Return the picture of a file, as `picture.convert` does in this process.

        Raises Reject, with decoder_timeout, decoder_crashed or decoder_memory when the child did
        not survive the file or its cap.
        """
        facts, png = self._ask(path, {"options": dataclasses.asdict(options)})
        return Picture(png=png, **facts)

    def mask(self, path: Path, frame: Frame) -> bytes:
        """Return the mask that a picture file shows, as `mask.file_mask_png` does.

        Raises Reject mask_unreadable, its detail the reason.
        """
        try:
            _, png = self._ask(path, {"frame": dataclasses.asdict(frame)})
        except Reject as reject:
            known = reject.reason == "mask_unreadable"
            raise Reject("mask_unreadable", reject.detail if known else reject.reason) from None
        return png

    def glance(self, path: Path, *, side: int) -> Glance:
        """Return a file as it is stored, small, as `glance.glance_at` does; or raise Reject."""
        facts, jpeg = self._ask(path, {"side": side})
        return Glance(jpeg=jpeg, **facts)

    def _ask(self, path: Path, wish: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return the facts and the bytes that the child makes of a file; Reject when it refuses."""
        child = self._ready_child()
        try:
            _send(_writer(child), {"path": str(path.absolute()), **wish})
            answer, png = _receive(_reader(child), time.monotonic() + self.timeout)
        except TimeoutError:
            self.close()
            raise Reject("decoder_timeout", f"over {self.timeout:g} s") from None
        except (EOFError, OSError):
            self.close()
            raise Reject("decoder_crashed") from None
        except BaseException:
            self.close()  # an answer left in the pipe must not be taken for the next file's
            raise
        if "facts" in answer:
            return answer["facts"], png
        if answer["reason"] == "decoder_memory":
            self.close()
        raise Reject(answer["reason"], answer["detail"])

    def _ready_child(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        limits = [str(self.memory), str(int(self.timeout) + 1 + GRACE_S)]
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print header values there
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            _receive(_reader(self._child), time.monotonic() + START_S)
        except (TimeoutError, EOFError):
            self.close()
            raise ImitateError(
                "the decoding process does not start",
                todo="try `python -c 'import imitate.prep.pixels.picture'`",
            ) from None
        return self._child


def _writer(child: subprocess.Popen[bytes]) -> int:
    assert child.stdin is not None
    return child.stdin.fileno()


def _reader(child: subprocess.Popen[bytes]) -> int:
    assert child.stdout is not None
    return child.stdout.fileno()


def _send(pipe: int, message: dict[str, Any], body: bytes = b"") -> None:
    text = json.dumps(message).encode("ascii")
    data = memoryview(HEAD.pack(len(text), len(body)) + text + body)
    while data:
        data = data[os.write(pipe, data) :]


def _receive(pipe: int, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Return the next message; EOFError when the other side is gone, TimeoutError when late."""
    text_size, body_size = HEAD.unpack(_read(pipe, HEAD.size, deadline))
    message: dict[str, Any] = json.loads(_read(pipe, text_size, deadline))
    return message, _read(pipe, body_size, deadline)


def _read(pipe: int, size: int, deadline: float | None) -> bytes:
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(data) < size:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not selector.select(left):
                raise TimeoutError
            chunk = os.read(pipe, min(size - len(data), 1 << 20))
            if not chunk:
                raise EOFError
            data += chunk
    return bytes(data)


def serve(memory: int, alarm: int) -> None:
    """Answer requests on stdin until it closes: the child's whole life."""
    # the terminal's and the scheduler's signals are for the parent, which saves and ends us
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the picture
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not mix with answers
    import cv2

    from . import picture  # noqa: F401  (now, so that no file's time limit pays for it)

    cv2.setNumThreads(1)
    _send(answers, {})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request, _ = _receive(0)
            signal.alarm(alarm)  # ends a hanging child even when its parent is gone
            try:
                facts, png = _answer(request)
            except Reject as reject:
                _send(answers, {"reason": reject.reason, "detail": reject.detail})
            else:
                _send(answers, {"facts": facts}, png)
            signal.alarm(0)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return a file's picture, with a frame its mask, with a side a glance at it; or Reject."""
    from .picture import convert

    path = Path(request["path"])
    if "frame" in request:
        return {}, file_mask_png(path, Frame(**request["frame"]))
    if "side" in request:
        glance = glance_at(path, request["side"])
        return {"inverted": glance.inverted}, glance.jpeg
    picture = convert(path, PixelOptions(**request["options"]))
    return {k: v for k, v in vars(picture).items() if k != "png"}, picture.png


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
