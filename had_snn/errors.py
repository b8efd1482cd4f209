"""Errors that a user can act on, and the one helper for optional dependencies.

Every error raised on purpose by the library derives from `HadError` and carries one line that names what was found,
what was expected, and the option or command that helps. Scripts in `experiments/` print that line and exit with code 2.
"""

from __future__ import annotations

import importlib
from os import PathLike
from types import ModuleType


class HadError(Exception):
    """Base of all errors that the library raises on purpose; its message is one line for the user."""


class InputError(HadError, ValueError):
    """An argument, box, tensor or option that the called function cannot accept."""


class FormatError(InputError):
    """A file whose content is not what its format promises.

    Args:
        path: The file.
        message: What was found and what was expected.
        offset: Byte offset of the first offending byte, when known.
        remedy: The option or command that helps, when there is one.
    """

    def __init__(
        self, path: str | PathLike[str], message: str, *, offset: int | None = None, remedy: str | None = None
    ) -> None:
        self.path = str(path)
        self.offset = offset
        self.remedy = remedy
        where = f" at byte {offset}" if offset is not None else ""
        hint = f" ({remedy})" if remedy else ""
        super().__init__(_in_one_line(f"{self.path}{where}: {message}{hint}"))

    def __reduce__(self) -> tuple[object, ...]:
        """Of itself an exception is made again from its message alone, where one comes from another process."""
        return FormatError.__new__, (type(self), *self.args), self.__dict__


class CheckpointError(HadError):
    """A checkpoint or weight file that is missing, damaged or made for another network."""


class ExportError(HadError):
    """A network, or a part of one, that the target format cannot express."""


class MissingExtraError(HadError, ImportError):
    """An optional dependency that is not installed."""


def _in_one_line(text: str) -> str:
    """Line breaks and control characters, which names inside a file may hold, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: Exception) -> str:
    """What another library says of an error, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def optional_import(name: str, *, extra: str) -> ModuleType:
    """Imports an optional dependency or says which extra brings it.

    Args:
        name: Module to import, e.g. `"h5py"`.
        extra: The extra of this package that installs it, e.g. `"data"`.

    Returns:
        The module.

    Raises:
        MissingExtraError: If the module, or something it needs, cannot be imported; the cause is chained.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = (
            f"{name} is needed here but cannot be imported ({error}); install it with: pip install 'had-snn[{extra}]'"
        )
        raise MissingExtraError(message) from error
