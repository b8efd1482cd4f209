"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from had_snn.errors import HadError

#: In the names of what is not finished yet; a process that is killed leaves such files, `clear_drafts` removes them.
DRAFT = ".draft-"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an error.

    Args:
        path: The file to make or replace; its folder is made if needed.

    Yields:
        The temporary file's path, with the same suffix.

    Raises:
        OSError: If the disk refuses what was written, also where a library says so in an error of its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}{DRAFT}", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except (HadError, MemoryError):
            raise
        except Exception as error:
            if not (isinstance(error, OSError) and error.errno):
                _require_room(temporary, path, error)
            raise
        flush(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only the owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_room(temporary: Path, path: Path, error: Exception) -> None:
    """Raises the disk's own error if it takes no more; torch, safetensors and HDF5 have their own words for it."""
    try:
        with temporary.open("ab", buffering=0) as file:
            file.write(b"\0" * 4096)
    except OSError as refused:
        raise OSError(refused.errno, refused.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Has the disk hold a file, or every file of a folder; before a name says that it is whole."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error.

    Args:
        path: The folder to make; an older one is moved out of the way at the last moment.

    Yields:
        The temporary folder's path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{DRAFT}", dir=path.parent))
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o755)
        if path.exists():
            discarded = Path(tempfile.mkdtemp(prefix=f".{path.name}.old{DRAFT}", dir=path.parent))
            path.rename(discarded / "old")
            temporary.rename(path)
            shutil.rmtree(discarded, ignore_errors=True)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def written_together(folder: Path, seal: str, *, whole: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files take their places in `folder` when the block ends without an error.

    Until all of them are written nothing in `folder` changes. The seal says that the others are of one run: the old one
    goes before any of them is replaced, and the new one comes last.

    Args:
        folder: An existing folder; what else is in it stays.
        seal: Name of the file that says that all is there.
        whole: Names of folders that are replaced as a whole; what an earlier run left in them goes.

    Yields:
        The temporary folder's path, inside `folder`.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{seal}{DRAFT}", dir=folder))
    try:
        yield temporary
        flush(temporary)
        made = [path for path in temporary.rglob("*") if path.is_file()]
        for path in (p for p in made if p.relative_to(temporary).parts[0] not in whole):
            (folder / path.relative_to(temporary)).parent.mkdir(parents=True, exist_ok=True)
        (folder / seal).unlink(missing_ok=True)
        for name in whole:
            if (folder / name).exists():
                (folder / name).rename(temporary / f".{name}.old")
            if (temporary / name).exists():
                (temporary / name).rename(folder / name)
        made = [path for path in made if path.exists()]
        for path in sorted(made, key=lambda path: path == temporary / seal):
            path.replace(folder / path.relative_to(temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_drafts(folder: Path) -> None:
    """Removes what processes that were killed had begun in a folder; nobody may be writing there."""
    for draft in folder.glob(f".*{DRAFT}*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def append_whole(path: Path, text: str) -> None:
    """Appends a text to a file, or nothing of it.

    Raises:
        OSError: If it cannot be written, or the file is gone; what was in the file stays as it was.
    """
    with path.open("r+b", buffering=0) as file:
        end, left = file.seek(0, os.SEEK_END), text.encode()
        try:
            while left:
                left = left[file.write(left) or 0 :]
        except BaseException:
            file.truncate(end)
            raise
