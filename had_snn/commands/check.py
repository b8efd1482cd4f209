"""The one check that all options of all jobs go through before a job does anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from had_snn.commands.job_options import rule_of
from had_snn.commands.rules import Maybe, Place, Rule
from had_snn.errors import InputError


def leaves(job: str, values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Rule | None]]:
    """All options of a job with their values and rules; a group of options has none of its own."""
    for name, value in values.items():
        path = f"{above}{name}"
        rule = rule_of(job, path)
        if isinstance(value, Mapping) and (rule is None or any(rule_of(job, f"{path}.{key}") for key in value)):
            yield from leaves(job, value, f"{path}.")
        else:
            yield path, value, rule


def check_options(job: str, values: Mapping[str, Any], typed: Sequence[str] = ()) -> dict[str, Any]:
    """Checks all options of a job.

    Args:
        job: Its name.
        values: Its config as plain values; `???` is a value that has yet to be given.
        typed: The options as they were typed, `name=value`.

    Returns:
        By name, the values that are meant where they are others than those given.

    Raises:
        InputError: If one is unknown or is not what its rule says.
    """
    texts = {name.lstrip("+"): value for name, _, value in (option.partition("=") for option in typed)}
    meant = {}
    for path, value, rule in leaves(job, values):
        if rule is None:
            raise InputError(no_such_option(job, path, values))
        if value == "???":
            continue
        try:
            read = rule.read(value, texts.get(path))
        except ValueError:
            shown = texts.get(path) or ("" if value == "" else value)
            found = "nothing" if value == "" else f"{path}={shown}"
            raise InputError(f"{path} expects {rule.expected}; found {found}") from None
        if read != value or type(read) is not type(value):
            meant[path] = read
    return meant


def no_such_option(job: str, name: str, values: Mapping[str, Any]) -> str:
    """What to tell who gave an option that a job does not have.

    Args:
        job: The job's name.
        name: The option.
        values: The job's config as plain values.
    """
    known = [path for path, _, rule in leaves(job, values) if rule is not None]
    near = get_close_matches(name, [*known, *dict.fromkeys(path.split(".")[0] for path in known)], 1)
    return (
        f"{name}: {job} has no such option" + (f"; did you mean {near[0]}" if near else "") + " (all of them: --help)"
    )


def outputs(job: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Place, str]]:
    """The files and folders that a job writes: option, rule and path."""
    for path, value, rule in leaves(job, values):
        while isinstance(rule, Maybe):
            rule = rule.rule
        # Names inside the run folder, such as a report's, are the job's own business.
        if isinstance(rule, Place) and rule.written and isinstance(value, str) and path in ("out", "folder"):
            yield path, rule, value
