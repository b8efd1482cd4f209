"""How the text of a file is written: its encoding, and cells that are no plain numbers.

The compiled parser (`kernels/host/text.cpp`) reads UTF-8 lines of plain numbers. UTF-16, lines that end in a carriage
return, decimal commas, quoted or bracketed cells and words for polarities are brought into that form before it, a block
at a time; files that need none of it are not touched.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from had_snn.errors import FormatError

_WORDS = {
    b"true": b"1",
    b"false": b"0",
    b"on": b"1",
    b"off": b"0",
    b"pos": b"1",
    b"neg": b"0",
    b"positive": b"1",
    b"negative": b"0",
}
_WORD = re.compile(rb"(?<![\w.])[A-Za-z]+")
_QUOTES = b"\"'()[]{}"
_SPLIT = re.compile(rb"[\s,;]+")
_WITH_COMMA = re.compile(rb"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_MAYBE_COMMA = re.compile(rb"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_READ = 1 << 18


@dataclass(frozen=True)
class Cells:
    """What has to be changed in a block of lines before it is numbers.

    Attributes:
        commas: Numbers have decimal commas.
        quotes: Cells stand in quotes, or rows in brackets.
        words: Polarities are words.
    """

    commas: bool = False
    quotes: bool = False
    words: bool = False

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Cells | None:
        """The form of lines, or None if the first is no line of numbers in any form."""
        for quotes in (False, True):
            for words in (False, True):
                cells = cls(quotes=quotes, words=words)
                if _floats(_split(cells.plain(lines[0]))) is None:
                    continue
                plain = [cells.plain(line) for line in lines]
                return cls(_have_commas([line for line in plain if line.strip()]), quotes, words)
        return None

    @property
    def are_plain(self) -> bool:
        """True if nothing has to be changed."""
        return not (self.commas or self.quotes or self.words)

    def plain(self, block: bytes) -> bytes:
        """Whole lines as lines of plain numbers; what is no number stays, for the parser to name."""
        if self.quotes:
            block = block.translate(None, _QUOTES)
        if self.commas:
            block = block.replace(b",", b".")
        if self.words:
            block = _WORD.sub(lambda match: _WORDS.get(match[0].lower(), match[0]), block)
        return block

    def numbers(self, line: bytes) -> list[float] | None:
        """The numbers of a line, or None if it holds anything else."""
        return _floats(_split(self.plain(line)))


def _split(line: bytes) -> list[bytes]:
    return [token for token in _SPLIT.split(line.strip()) if token]


def _floats(tokens: list[bytes]) -> list[float] | None:
    try:
        return [float(token) for token in tokens] or None
    except ValueError:
        return None


def _have_commas(lines: Sequence[bytes]) -> bool:
    """True if commas stand inside of numbers: cells are apart by something else, and hold at most one comma each."""
    for separator in (b";", b"\t", b" "):
        if all(separator in line.strip() for line in lines):
            cells = [cell.strip() for line in lines for cell in line.split(separator) if cell.strip()]
            each = len(cells) >= 3 * len(lines) and all(_MAYBE_COMMA.fullmatch(cell) for cell in cells)
            return each and any(_WITH_COMMA.fullmatch(cell) for cell in cells)
    return False


def encoding_of(head: bytes) -> str | None:
    """The encoding of a text file's first bytes, or None if they are no text.

    Returns:
        `utf-8`, `latin-1` (a few letters of a header that are not UTF-8), `utf-16-le` or `utf-16-be`.
    """
    if head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return None
    if head[:2] in _UTF16:
        return _UTF16[head[:2]]
    if b"\0" not in head:
        odd = len(head.translate(None, bytes(range(0x20, 0x7F)) + b"\t\r\n\f"))
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
        except UnicodeDecodeError:
            return "latin-1" if odd <= len(head) // 20 else None
        return "utf-8"
    for name, zeros, letters in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if not zeros.strip(b"\0") and not letters.translate(None, bytes(range(0x20, 0x7F)) + b"\t\r\n\f"):
            return name
    return None


class _AsUtf8(io.RawIOBase):
    """A text file of another encoding, or with other line ends, read as UTF-8 lines that end in a line feed."""

    def __init__(self, path: Path, encoding: str, *, returns: bool) -> None:
        self._path, self._file = path, path.open("rb")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._returns, self._rest, self._ended = returns, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._rest and not self._ended:
            raw = self._file.read(_READ)
            self._ended = not raw
            try:
                text = self._decoder.decode(raw, self._ended)
            except UnicodeDecodeError as error:
                problem = f"not the {error.encoding} that it begins as: {error.reason}"
                raise FormatError(self._path, problem, offset=self._file.tell()) from error
            self._rest = (text.replace("\r", "\n") if self._returns else text).lstrip("\ufeff").encode()
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class Lines(NamedTuple):
    """A text file as bytes of UTF-8 lines.

    Attributes:
        file: Where they are read from.
        exact: They are the bytes of the file.
        scale: Bytes of the file for each of them, about.
    """

    file: io.RawIOBase
    exact: bool
    scale: int


def open_lines(path: Path) -> Lines:
    """Opens a text file of any encoding.

    Raises:
        FormatError: If it is no text.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    encoding = encoding_of(head)
    if encoding is None:
        utf32 = head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
        problem = "text in UTF-32" if utf32 else "not text: it holds bytes that no text has"
        raise FormatError(path, problem, offset=0, remedy="save it as UTF-8" if utf32 else None)
    returns = b"\r" in head and b"\n" not in head
    if not encoding.startswith("utf-16") and not returns:
        return Lines(path.open("rb", buffering=0), True, 1)
    return Lines(_AsUtf8(path, encoding, returns=returns), False, 2 if encoding.startswith("utf-16") else 1)
