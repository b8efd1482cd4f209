"""What has to hold before a job begins: a device that is there, outputs that can be written, a folder of its own."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from had_snn.commands.check import outputs
from had_snn.errors import InputError
from had_snn.files import atomic_file, clear_drafts

log = logging.getLogger("had_snn")

#: Errors of the machine, not of the program: they end in one line wherever they occur.
OF_THE_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPIPE),
)
LOCK = ".lock"
#: What the results in a run folder depend on.
MADE_WITH = "made_with.json"

_locks: dict[Path, int] = {}


def check_start(job: str, values: Mapping[str, Any]) -> None:
    """Checks what a job needs of the machine; changes nothing on it.

    Args:
        job: Its name.
        values: Its checked config.

    Raises:
        InputError: If there is no such device, or a file or folder that the job makes cannot be written.
    """
    for name in ("accelerator", "device"):
        if values.get(name) == "cuda":
            _check_gpu(name)
    precision = (values.get("fit") or {}).get("precision") if "accelerator" in values else None
    if precision == "16-mixed" and not _on_gpu(values["accelerator"]):
        raise InputError("fit.precision=16-mixed needs a GPU; on a CPU use 32-true or bf16-mixed")
    for option, place, path in outputs(job, values):
        check_writable(Path(path), kind=place.kind, option=option)


def _on_gpu(accelerator: str) -> bool:
    import torch

    return accelerator != "cpu" and torch.cuda.is_available()


def _check_gpu(option: str) -> None:
    import torch

    if torch.cuda.is_available():
        return
    why = "no GPU is visible" if torch.version.cuda else "this torch was built without CUDA"
    raise InputError(f"{option}=cuda, but {why}; use {option}=cpu, or see what nvidia-smi says")


def check_writable(path: Path, *, kind: str = "folder", option: str = "out", needed: int = 1 << 20) -> None:
    """Checks that a file or folder can be made, by writing beside where it will be; nothing stays there.

    Args:
        path: The file or folder; need not exist, nor what is above it.
        kind: `file` or `folder`.
        option: The option that named it, for the message.
        needed: Bytes that must be free.

    Raises:
        InputError: If it cannot be written; the message says why.
    """
    if kind == "file" and path.is_dir():
        raise InputError(f"{option}={path} is a folder; expected a file to write")
    if kind == "folder" and path.exists() and not path.is_dir():
        raise InputError(f"{option}={path} is a file; expected a folder to write into")
    place = path if path.is_dir() else path.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{option}={path}: {place} is a file, so nothing can be made below it")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise InputError(f"{option}={path} cannot be written ({error.strerror or error})") from None
    if free < needed:
        raise InputError(
            f"{option}={path}: {_megabytes(free)} MB are free there and about {_megabytes(needed)} MB are needed"
        )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f}" if size >= 2**20 else f"{size / 2**20:.1g}"


def lock_folder(folder: Path) -> None:
    """Keeps other processes from running into the same folder for as long as this process lives.

    The lock is the operating system's and goes with the process, however it ends.

    Args:
        folder: An existing folder.

    Raises:
        InputError: If another process runs there.
    """
    path = folder.resolve() / LOCK
    if path in _locks:
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with os.fdopen(handle) as file:
            owner = file.read(200).strip() or "unknown"
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            log.warning("%s: this file system keeps no locks (%s); start no other run there", folder, error.strerror)
            return
        raise InputError(
            f"another run is under way in {folder} ({owner}); wait for its end, or give another out= folder"
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _locks[path] = handle


def release_folders(*, ended: bool = False) -> None:
    """Lets other processes run into the folders that this one has locked.

    Args:
        ended: The job was ended from outside, perhaps between making a draft and what removes it: its drafts go.
    """
    while _locks:
        path, handle = _locks.popitem()
        if ended:
            clear_drafts(path.parent)
        os.close(handle)


def check_same(
    folder: Path, made_with: Mapping[str, Any], *, may_grow: tuple[str, ...] = (), later: tuple[str, ...] = ()
) -> None:
    """Refuses a run folder whose results were made with other options; changes nothing in it.

    Args:
        folder: The run folder; need not exist.
        made_with: Options that the results depend on, as plain values.
        may_grow: Names of those that may be larger than they were.
        later: Names of those that are not known yet, and not compared.

    Raises:
        InputError: If the folder notes other ones; the message says which, and the way out.
    """
    before = _noted(folder).get("options")
    if before is None:
        if (folder / "resume.pt").is_file():
            log.warning("%s does not note what its run was made with; it is gone on with as it is", folder)
        return
    now = json.loads(json.dumps(dict(made_with)))
    grown = {name: now[name] for name in may_grow if name in now and before.get(name, now[name]) <= now[name]}
    told = differences({name: value for name, value in {**before, **grown}.items() if name not in later}, now)
    if told:
        raise InputError(f"{folder} was made with {told}; give the same options, or another out= for a new run")


def note_made_with(folder: Path, made_with: Mapping[str, Any], versions: Mapping[str, Any]) -> None:
    """Notes what a folder's results are made with, and the versions that make them; other versions than before warn."""
    before = noted_versions(folder)
    taking_part = before if before and before[-1] == dict(versions) else [*before, dict(versions)]
    if before and taking_part is not before:
        log.warning("%s was begun with other versions: %s", folder, differences(before[-1], versions))
    with atomic_file(folder / MADE_WITH) as temporary:
        record = {"options": dict(made_with), "versions": taking_part}
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def noted_versions(folder: Path) -> list[dict[str, Any]]:
    """All versions that took part in what a run folder holds, in their order."""
    return _noted(folder).get("versions", [])


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / MADE_WITH
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {"options": dict(found["options"]), "versions": list(found["versions"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); give another out= folder, or remove it to go on") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two sets of options, in words; empty if nothing does."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name}={before.get(name)} (now {now.get(name)})" for name in names)


def own_output(path: str, number: int, *, kind: str) -> str:
    """The output of one of several jobs that were started together: folder `out/3`, file `out-3.json`."""
    at = Path(path)
    return str(at / str(number) if kind == "folder" else at.with_name(f"{at.stem}-{number}{at.suffix}"))
