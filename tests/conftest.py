"""Fixtures that every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run this are shared: a slow example is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
FIELD_DATA = REAL_DATA.parent / "field"
PROTOCOL_DATA = REAL_DATA.parent / "protocol"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings beside the repository; the test is skipped, visibly, where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real recordings not found at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def field_data() -> Path:
    """Folder of situations from the field beside the repository; skipped, visibly, where there is none."""
    if not FIELD_DATA.is_dir():
        pytest.skip(f"situations from the field not found at {FIELD_DATA}")
    return FIELD_DATA


@pytest.fixture(scope="session")
def protocol_data() -> Path:
    """Folder of published test annotations beside the repository; skipped, visibly, where there is none."""
    if not PROTOCOL_DATA.is_dir():
        pytest.skip(f"published annotations not found at {PROTOCOL_DATA}")
    return PROTOCOL_DATA
