"""Define the base class of streams that convert the bytes of a file while it is read."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import BinaryIO, ClassVar, cast


class ByteStream(io.RawIOBase):
    """Base class of a stream that converts the bytes of a file; a subclass defines the conversion."""

    _CHUNK: ClassVar[int]
    """Number of bytes that are read from the file at once."""

    def __init__(self, file: BinaryIO) -> None:
        """Create a stream of the converted bytes of ``file``, from its current position on."""
        self._file = file
        self._ready = b""
        self._ended = False

    @abstractmethod
    def _convert(self, chunk: bytes) -> bytes:
        """Convert the next bytes of the file; at its end, ``chunk`` is empty and `_ended` is True."""

    def readable(self) -> bool:
        """Return True: the stream can be read; see `io.RawIOBase`."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Write the next bytes of the stream into a buffer, and return their number; see `io.RawIOBase`."""
        while not self._ready and not self._ended:
            chunk = self._file.read(self._CHUNK)
            self._ended = not chunk
            self._ready = self._convert(chunk)
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def buffered(self) -> BinaryIO:
        """Return a buffered reader of this stream, which code that reads single lines needs."""
        return cast(BinaryIO, io.BufferedReader(self, self._CHUNK))
