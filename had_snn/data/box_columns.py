"""Names of box columns as tools write them, and the boxes that columns of such names hold.

Every axis of a box needs two columns that fix it: its low edge and its size, its low and its high edge, or its centre
and its size. Any order and any further columns (frame, time, score) will do; names that do not make a box are refused,
because a column of another meaning read as `x, y, w, h` gives plausible boxes that are false.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

#: For each axis the names of low edge, high edge, size and centre, as they are after `plain_name`.
_NAMES = {
    "x": {
        "low": "x xmin minx x0 x1 left tlx xtl xleft",
        "high": "xmax maxx x2 right brx xbr xright",
        "size": "w width",
        "centre": "cx xc xcenter xcentre centerx centrex xctr ctrx xmid",
    },
    "y": {
        "low": "y ymin miny y0 y1 top tly ytl ytop",
        "high": "ymax maxy y2 bottom bry ybr ybottom",
        "size": "h height",
        "centre": "cy yc ycenter ycentre centery centrey yctr ctry ymid",
    },
}
_ROLES = {
    name: (axis, role) for axis, roles in _NAMES.items() for role, names in roles.items() for name in names.split()
}
_PREFIXES = ("bbox", "bb", "box", "rect", "pred", "target")
#: Names of columns that count the rows; the empty one is that of a table's own index.
COUNTING = frozenset(("", "frame", "frameid", "framenumber", "frameno", "frameindex", "frameidx", "index", "idx"))
EXPECTED = "x,y,w,h, corners (x1,y1,x2,y2 or xmin,ymin,xmax,ymax) or centres (cx,cy,w,h), in any order"


def plain_name(name: str) -> str:
    """A column's name without case, unit, punctuation and a prefix such as `bbox_`."""
    name = re.sub(r"[(\[].*?[)\]]", "", name.lower())
    words = [word for word in re.split(r"[^a-z0-9]+", name) if word and word not in ("px", "pixel", "pixels")]
    if len(words) > 1 and words[0] in _PREFIXES:
        words = words[1:]
    return "".join(words)


def _roles_of(header: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    plain = [plain_name(name) for name in header]
    found: dict[tuple[str, str], list[int]] = {}
    for at, name in enumerate(plain):
        if name not in _ROLES:
            continue
        axis, role = _ROLES[name]
        # Corners are numbered from 0 or from 1: beside x0, x1 is the high edge.
        if name == f"{axis}1" and f"{axis}0" in plain:
            role = "high"
        found.setdefault((axis, role), []).append(at)
    return found


def names_boxes(header: Sequence[str]) -> int:
    """How many of the four numbers of a box a header's names could give, 0 to 4; enough to know a header by."""
    return min(4, len(_roles_of(header)))


class BoxColumns:
    """Where the boxes stand in the rows below a header.

    Args:
        header: Names of the columns.

    Raises:
        ValueError: If the names do not make a box, or in more than one way; the message names them.
    """

    def __init__(self, header: Sequence[str]) -> None:
        self.width = len(header)
        roles = _roles_of(header)
        twice = [header[at] for places in roles.values() if len(places) > 1 for at in places]
        if twice:
            raise ValueError(f"names {', '.join(map(repr, twice))} for one side of the box; expected {EXPECTED}")
        self._axes = []
        for axis in "xy":
            have = {role: places[0] for (of, role), places in roles.items() if of == axis}
            pair = next((p for p in (("low", "size"), ("low", "high"), ("centre", "size")) if {*p} <= {*have}), None)
            if pair is None:
                raise ValueError(f"names the columns {','.join(header)[:80]}; expected {EXPECTED}")
            self._axes.append((pair, have[pair[0]], have[pair[1]]))
        plain = [plain_name(name) for name in header]
        self.counting = next((at for at, name in enumerate(plain) if name in COUNTING), None)

    @property
    def used(self) -> list[int]:
        """The columns that make the box."""
        return [at for _, *places in self._axes for at in places]

    def boxes(self, values: np.ndarray) -> np.ndarray:
        """Boxes float64 `[N, 4]` as x, y, w, h from the columns `used`, `[N, 4]` in that order."""
        sides = []
        for k, (pair, *_) in enumerate(self._axes):
            first, second = values[:, 2 * k], values[:, 2 * k + 1]
            if pair == ("low", "high"):
                second = second - first
            elif pair == ("centre", "size"):
                first = first - second / 2
            sides.append((first, second))
        (x, w), (y, h) = sides
        return np.stack([x, y, w, h], axis=1)
