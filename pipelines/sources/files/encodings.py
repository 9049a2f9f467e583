"""Convert text files in other encodings to streams of UTF-8."""

from __future__ import annotations

import codecs
import io
import re
from typing import BinaryIO, cast

from pipelines.sources.files.byte_stream import ByteStream

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # UTF-32 is listed before UTF-16, because its little-endian mark begins with the mark of UTF-16.
_WINDOWS = "cp1252"  # also reads Latin-1: Windows-1252 includes the printable characters of Latin-1
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # control characters that text does not contain
_NEAR_BYTES = 1 << 16  # this many bytes from the deciding line on are searched for control characters
_LONGEST_BYTES = 8 << 20  # If the deciding line is longer, its encoding is detected before its end is read.


def as_utf8(file: BinaryIO, encoding: str) -> BinaryIO:
    """Return a stream of a text file's bytes in UTF-8, converted if the file has another encoding.

    ``encoding`` is the name of an encoding, or ``auto``. With ``auto``, the byte order mark of UTF-16 or
    UTF-32 decides, if the file begins with one, as text files of Excel do. Otherwise the first line with a
    character beyond ASCII decides. If that line is not UTF-8, and there is no control character near it, the
    file is read as Windows-1252. The stream raises UnicodeDecodeError at invalid bytes. It is not buffered:
    buffer it to read many lines.
    """
    if encoding == "auto":
        encoding = _marked(file)
        if not encoding:
            return cast(BinaryIO, _Detected(file))
    if codecs.lookup(encoding).name == "utf-8":
        return file
    return cast(BinaryIO, _Recoded(file, encoding))


def needs_windows(file: BinaryIO) -> bool:
    """Return whether `as_utf8` reads a file as Windows-1252; only the first megabyte is checked."""
    if _marked(file):
        return False
    detected = _Detected(file)
    detected.read(1 << 20)
    return detected.encoding == _WINDOWS


def _marked(file: BinaryIO) -> str:
    start = cast(io.BufferedReader, file).peek(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "")


class _Recoded(ByteStream):
    """A stream that reads a file in a given encoding, and converts its text to UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def _convert(self, chunk: bytes) -> bytes:
        return self._decoder.decode(chunk, final=self._ended).encode()

    def close(self) -> None:
        self._file.close()
        super().close()


class _Detected(ByteStream):
    """A stream that detects whether a file is in UTF-8 or Windows-1252, and returns its text in UTF-8.

    Attributes:
        encoding: the encoding; "" as long as all bytes were ASCII, which is the same in both encodings.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.encoding = ""
        self._rest = b""

    def _convert(self, chunk: bytes) -> bytes:
        if not self.encoding and not (self._rest or chunk).isascii():
            chunk = self._decide(self._rest + chunk)
        return chunk.decode(_WINDOWS).encode() if self.encoding == _WINDOWS else chunk

    def _decide(self, text: bytes) -> bytes:
        """Find the encoding from the first line that is not ASCII; return the bytes that can be converted.

        The line is held back in `_rest` until it is complete or has `_LONGEST_BYTES` bytes.
        """
        found = _BEYOND_ASCII.search(text)
        if found is None:
            return text
        start, end = text.rfind(b"\n", 0, found.start()) + 1, text.find(b"\n", found.start())
        if end < 0 and not self._ended and len(text) - start < _LONGEST_BYTES:
            self._rest = text[start:]
            return text[:start]
        self._rest = b""
        line = text[start:] if end < 0 else text[start:end]
        # Decode incrementally, so that a character that is cut off at the end of this chunk is accepted.
        try:
            codecs.getincrementaldecoder("utf-8")().decode(line, final=end >= 0 or self._ended)
            self.encoding = "utf-8"
        except UnicodeDecodeError:
            self.encoding = "utf-8" if _CONTROL.search(text, start, start + _NEAR_BYTES) else _WINDOWS
        return text

    def close(self) -> None:
        self._file.close()
        super().close()
