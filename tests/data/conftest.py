"""Tiny data sets, made once for all tests of this folder that look at them; tests that damage one take a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from had_snn.data.layout_base import Layout
from had_snn.data.layouts import open_layout
from had_snn.data.tiny_layouts import Takes, Truth, make_tiny


@dataclass(frozen=True)
class TinySet:
    """A tiny data set on disk, its truth and a cache that its tests share."""

    name: str
    root: Path
    truths: list[Truth]
    cache: Path

    def open(self, root: Path | None = None, **options) -> Layout:
        """The layout on the data set or on a copy of it."""
        return open_layout(self.name.removesuffix("_h"), root or self.root, cache_dir=str(self.cache), **options)

    def copy(self, folder: Path) -> Path:
        """A copy that may be damaged."""
        return Path(shutil.copytree(self.root, folder / self.name))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], TinySet]:
    """Gives a tiny data set by name; the scenes behind all of them are simulated once."""
    takes, made = Takes(), {}

    def get(name: str) -> TinySet:
        if name not in made:
            root = tmp_path_factory.mktemp("tiny") / name
            made[name] = TinySet(name, root, make_tiny(name, root, takes=takes), root.parent / "cache")
        return made[name]

    return get
