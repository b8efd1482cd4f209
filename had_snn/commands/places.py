"""Where data that can be made again are kept: one place for a user, whatever folder a job is started in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_cache() -> Path:
    """The folder that `${user_cache:}` in a config stands for.

    Returns:
        `$HAD_SNN_CACHE` if it is set; else `had-snn` below `$XDG_CACHE_HOME` or `~/.cache`; for a user without a home
        that can be written, a folder of that user's among the temporary ones.
    """
    if own := os.environ.get("HAD_SNN_CACHE"):
        return Path(own).expanduser()
    try:
        above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody knows this user
        above = None
    if above is not None and _can_be_made(above):
        return above / "had-snn"
    return Path(tempfile.gettempdir()) / f"had-snn-{os.getuid()}"


def _can_be_made(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
