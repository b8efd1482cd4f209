"""One place for a user's data that can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from had_snn.commands.entry import compose
from had_snn.commands.places import user_cache


def test_the_users_wish_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("HAD_SNN_CACHE", str(tmp_path / "mine"))
    assert user_cache() == tmp_path / "mine"
    assert compose("evaluate", []).data.root == str(tmp_path / "mine" / "synthetic")
    monkeypatch.delenv("HAD_SNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "had-snn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "home" / ".cache" / "had-snn"


@pytest.mark.parametrize("home", ["/proc/nobody", None])
def test_a_user_without_a_home_has_a_place_too(monkeypatch, home):
    for name in ("HAD_SNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is None:

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
    else:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert user_cache() == Path(tempfile.gettempdir()) / f"had-snn-{os.getuid()}"
