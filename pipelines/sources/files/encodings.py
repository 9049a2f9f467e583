"""Convert text files in other encodings to streams of UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO, cast

from pipelines.sources.files.byte_stream import ByteStream

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # UTF-32 comes first, because its little-endian mark begins with the mark of UTF-16.


def as_utf8(file: BinaryIO, encoding: str) -> BinaryIO:
    """Return a stream of a text file's bytes in UTF-8, converted if the file has another encoding.

    ``encoding`` is a name, or ``auto`` for UTF-8 unless the file begins with the byte order mark of UTF-16 or
    UTF-32, as text files of Excel do. The stream raises UnicodeDecodeError at bytes that are not valid.
    """
    if encoding == "auto":
        start = cast(io.BufferedReader, file).peek(4)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    if codecs.lookup(encoding).name == "utf-8":
        return file
    return _Recoded(file, encoding).buffered()


class _Recoded(ByteStream):
    """A stream that converts a file in another encoding to UTF-8."""

    _CHUNK = 1 << 16

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def _convert(self, chunk: bytes) -> bytes:
        return self._decoder.decode(chunk, final=self._ended).encode()

    def close(self) -> None:
        self._file.close()
        super().close()
