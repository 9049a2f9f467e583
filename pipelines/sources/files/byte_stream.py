"""Define the base class of streams that convert the bytes of a file while it is read."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import BinaryIO

_LEAST_BYTES = 1 << 16


class ByteStream(io.RawIOBase):
    """Base class of a stream that converts the bytes of a file; a subclass defines the conversion.

    The stream copies as few bytes as possible: `read` returns the converted bytes themselves if they fit.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Create a stream that converts the bytes of ``file`` from the file's current position on."""
        self._file = file
        self._ready = b""
        self._ended = False

    @abstractmethod
    def _convert(self, chunk: bytes) -> bytes:
        """Convert ``chunk``, the next bytes of the file, and return the converted bytes.

        An incomplete end of the chunk, such as half of a character or of a line, may be held back. It is
        converted in a later call, after the missing bytes or the end of the file is read.

        In the last call, at the end of the file, ``chunk`` is empty and `_ended` is True.
        """

    def readable(self) -> bool:
        """Return True: the stream can be read; see `io.RawIOBase`."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` of the next bytes; fewer than half of it only at the end of the stream."""
        if size < 0:
            return self.readall()
        pieces: list[bytes] = []
        missing = size
        while 2 * missing > size and self._fill(missing):
            pieces.append(self._ready[:missing])
            self._ready = self._ready[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Write the next bytes of the stream into a buffer, and return their number; see `io.RawIOBase`."""
        taken = self.read(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def peek(self, size: int = 0) -> bytes:
        """Return some of the next bytes and leave them unread.

        Without this method, `io.IOBase.readline` would read the bytes one by one.
        """
        self._fill(size)
        return self._ready

    def _fill(self, size: int) -> bool:
        """Convert chunks of the file until `_ready` holds bytes; return False if the file ends before that.

        A chunk has at most ``size`` bytes, or `_LEAST_BYTES` if that is more.
        """
        while not self._ready and not self._ended:
            chunk = self._file.read(max(size, _LEAST_BYTES))
            self._ended = not chunk
            self._ready = self._convert(chunk)
        return bool(self._ready)
