"""Data set folders as their authors publish them, each opened by one line.

    layout = open_layout("fe108", "/data/FE108")
    print(layout.check().to_text())
    for sequence in layout.sequences("test"):
        ...

Nothing has to be prepared: no list files, no event images, no voxel files. What each tree looks like, where the labels'
times come from and what is done about known faults of the public data is in `docs/datasets.md`.
"""

from __future__ import annotations

import os
from typing import Any

from had_snn.data.layout_base import Layout
from had_snn.data.layout_davis import COESOT, VisEvent
from had_snn.data.layout_esot500 import ESOT500
from had_snn.data.layout_eventvot import EventVOT
from had_snn.data.layout_fe108 import FE108, FE240hz
from had_snn.data.layout_folder import Folder
from had_snn.data.layout_plan import LayoutOptions
from had_snn.errors import InputError

LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout for layout in (FE108, FE240hz, VisEvent, COESOT, EventVOT, ESOT500, Folder)
}


def open_layout(name: str, root: str | os.PathLike[str], **options: Any) -> Layout:
    """Opens a data set.

    Args:
        name: One of `LAYOUTS`.
        root: Its folder.
        **options: Fields of `LayoutOptions`.

    Returns:
        The layout; no event file has been read yet.

    Raises:
        FormatError: If there is no such folder.
        InputError: If the name or an option is unknown.
    """
    if name not in LAYOUTS:
        raise InputError(f"no data set layout {name!r}; there are {', '.join(LAYOUTS)}")
    unknown = set(options) - set(LayoutOptions.__dataclass_fields__)
    if unknown:
        known = ", ".join(LayoutOptions.__dataclass_fields__)
        raise InputError(f"unknown options {', '.join(sorted(unknown))}; a layout takes {known}")
    return LAYOUTS[name](root, LayoutOptions(**options))
