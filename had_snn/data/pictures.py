"""Folders of numbered pictures, decoded one at a time when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError, optional_import

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")
_NUMBER = re.compile(r"(\d+)\D*$")


class Pictures:
    """Numbered pictures, in the order of their numbers.

    Args:
        paths: The files.
        numbers: Their numbers, increasing.
    """

    def __init__(self, paths: Sequence[Path], numbers: Sequence[int]) -> None:
        self.paths = list(paths)
        self.numbers = np.array(numbers, np.int64)

    @classmethod
    def in_folder(cls, folder: Path) -> Pictures:
        """The PNG, BMP and JPEG files of a folder; their number is the last one in their name.

        Raises:
            FormatError: If two files have the same number, e.g. a PNG and a BMP copy of one picture.
        """
        found: dict[int, Path] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            match = _NUMBER.search(path.stem)
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or match is None:
                continue
            number = int(match.group(1))
            if number in found:
                both = f"{found[number].name} and {path.name}"
                raise FormatError(folder, f"two pictures have number {number}: {both}", remedy="keep one of the kinds")
            found[number] = path
        numbers = sorted(found)
        return cls([found[n] for n in numbers], numbers)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """The picture at a position, uint8 `[H, W, 3]`; grey ones are repeated.

        Raises:
            FormatError: If the file cannot be decoded.
        """
        image = optional_import("PIL.Image", extra="data")
        path = self.paths[index]
        try:
            with image.open(path) as opened:
                return np.array(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise FormatError(path, f"not a picture that can be decoded ({error})") from error


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes a picture, uint8 `[H, W, 3]` or `[H, W]`; the suffix decides on the format."""
    optional_import("PIL.Image", extra="data").fromarray(image).save(path)
