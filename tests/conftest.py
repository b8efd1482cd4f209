"""Fixtures that every test folder shares."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run this are shared: a slow example is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
FIELD_DATA = REAL_DATA.parent / "field"
PROTOCOL_DATA = REAL_DATA.parent / "protocol"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What jobs keep for their user goes into a folder of the tests."""
    os.environ["HAD_SNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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


@pytest.fixture
def start(monkeypatch, tmp_path, capfd) -> Callable[..., subprocess.CompletedProcess]:
    """Starts a job in this process, in an empty folder, as its command line would: the libraries are loaded once.

    `start("track", "box=[1,2,3,4]")` gives exit code, standard output and standard error; `data=` are the bytes on
    standard input, and `main=` is called with the checked config in place of what the script does.
    """
    pytest.importorskip("hydra")
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    monkeypatch.chdir(tmp_path)
    from had_snn.commands import entry

    def run(job: str, *arguments: object, main=None, data: bytes = b"") -> subprocess.CompletedProcess:
        argv = [job, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv.copy())
        GlobalHydra.instance().clear()
        capfd.readouterr()
        code = 0
        with tempfile.TemporaryFile() as given, _restored():
            given.write(data)
            given.seek(0)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
            try:
                if main is None:
                    entry.start(job)
                else:
                    entry.script(job, main)
            except SystemExit as error:
                code = error.code or 0
            finally:
                GlobalHydra.instance().clear()
                HydraConfig.instance().cfg = None
        return subprocess.CompletedProcess(argv, code, *capfd.readouterr())

    return run


@contextmanager
def _restored() -> Iterator[None]:
    """What a script changes for its whole process, as it was: log lines, the environment, what Ctrl-C does."""
    root, package, environ = logging.root, logging.getLogger("had_snn"), dict(os.environ)
    handlers, own, level, interrupt = root.handlers, package.handlers[:], root.level, signal.getsignal(signal.SIGINT)
    root.handlers = []  # log lines go to standard error, as they do where nobody captures them
    try:
        yield
    finally:
        for handler in {*package.handlers} - {*own}:
            handler.close()
        root.handlers, package.handlers = handlers, own
        root.setLevel(level)
        signal.signal(signal.SIGINT, interrupt)
        os.environ.clear()
        os.environ.update(environ)
