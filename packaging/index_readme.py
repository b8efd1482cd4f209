"""The README as a package index shows it: there, a link into the repository would lead nowhere.

scikit-build-core asks for it when it builds a wheel (`[tool.scikit-build.metadata.readme]` in pyproject.toml). With
`home`, the address of the repository, links into it become absolute; without one they become plain text, and pictures
are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)]+)\)")
_COMMENT = re.compile(r"<!-- .*? -->\n")


def dynamic_metadata(field: str, settings: dict[str, Any] | None = None) -> dict[str, str]:
    """The field `readme` of the package's metadata.

    Args:
        field: Its name.
        settings: `home`, the address of the repository, or an empty one.

    Returns:
        The text and its type.
    """
    if field != "readme":
        raise ValueError(f"only the readme is made here, not {field!r}")
    home = (settings or {}).get("home", "").rstrip("/")

    def linked(found: re.Match[str]) -> str:
        picture, text, path = found.groups()
        if not home:
            return "" if picture else text
        return f"{picture}[{text}]({home}/{'raw' if picture else 'blob'}/main/{path})"

    text = _COMMENT.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    return {"content-type": "text/markdown", "text": _LINK.sub(linked, text)}
