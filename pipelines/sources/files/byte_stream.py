"""A stream of bytes that is converted from another stream."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import BinaryIO, ClassVar, cast


class ByteStream(io.RawIOBase):
    """A stream whose bytes a subclass converts from the chunks of a file."""

    _CHUNK: ClassVar[int]
    """Number of bytes that are read from the file at once."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin with the next byte of ``file``."""
        self._file = file
        self._ready = b""
        self._ended = False

    @abstractmethod
    def _convert(self, chunk: bytes) -> bytes:
        """Return the bytes that follow from the next chunk; ``_ended`` is True if ``chunk`` is the last."""

    def readable(self) -> bool:
        """Return True: the stream can be read; see `io.RawIOBase`."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill a buffer with the next bytes, and return their number; see `io.RawIOBase`."""
        while not self._ready and not self._ended:
            chunk = self._file.read(self._CHUNK)
            self._ended = not chunk
            self._ready = self._convert(chunk)
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def buffered(self) -> BinaryIO:
        """Return the stream with a buffer, as readers of lines need it."""
        return cast(BinaryIO, io.BufferedReader(self, self._CHUNK))
