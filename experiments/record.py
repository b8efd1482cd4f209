"""Results as JSON to read and to compare: lines are filled, and what fits into a line stands in one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from had_snn.files import atomic_file

WIDTH = 120
DIGITS = 5


def write_record(path: str | Path, record: Any) -> None:
    """Writes a record, numbers with `DIGITS` digits; the file appears whole."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(as_text(_rounded(record)) + "\n")


def as_text(value: Any, above: int = 0, behind: int = 0) -> str:
    """JSON in which lists and objects of single values fill lines, and others have a line for each item.

    Args:
        value: What `json` can write.
        above: Blanks before it.
        behind: Signs before it on its line.
    """
    text = json.dumps(value)
    if above + behind + len(text) < WIDTH or not isinstance(value, (dict, list)) or not value:
        return text
    items = list(value.values()) if isinstance(value, dict) else value
    names = [f"{json.dumps(str(name))}: " for name in value] if isinstance(value, dict) else [""] * len(items)
    inner = [name + as_text(item, above + 1, len(name)) for name, item in zip(names, items, strict=True)]
    lines = inner if any(isinstance(item, (dict, list)) for item in items) else _filled(inner, WIDTH - above - 2)
    begin, end = "{}" if isinstance(value, dict) else "[]"
    blanks = " " * (above + 1)
    return begin + "\n" + ",\n".join(blanks + line for line in lines) + "\n" + " " * above + end


def _filled(items: Sequence[str], width: int) -> list[str]:
    """As many items on each line as it holds."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += ", " + item
        else:
            lines.append(item)
    return lines


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
