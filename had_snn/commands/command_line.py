"""What is typed, as Hydra reads it: bare paths, `--box 42,225,44,17`, and names with any sign in them.

Hydra has a grammar of its own for values, in which `=`, blanks and brackets mean something. An option that takes a path
or a name takes it as it is; everything else stays as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from had_snn.commands.check import no_such_option
from had_snn.commands.job_options import rule_of
from had_snn.commands.rules import Either, Flag, Many, Maybe, Number, Place, Rule, Text
from had_snn.errors import InputError

#: What bare paths are, in their order.
BARE = {
    "track": ("recording",),
    "adapt": ("recording",),
    "export_nir": ("recording",),
    "replay": ("recording",),
    "convert": ("in", "out"),
    "check_data": ("data.root",),
    "evaluate": ("data.root",),
}
# Hydra's own flags: those that take the next argument, and those that stand alone.
_VALUED = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn")
_ALONE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
_LONG = (*(flag for flag in (*_VALUED, *_ALONE) if flag.startswith("--")), "--config-path", "--shell-completion")


def overrides_of(job: str, arguments: Sequence[str], config: Callable[[], Mapping[str, Any]]) -> list[str]:
    """A job's arguments as Hydra's.

    Args:
        job: The job's name.
        arguments: What was typed behind it.
        config: The job's config as plain values, for messages.

    Returns:
        Hydra's flags and `name=value`.

    Raises:
        InputError: If an argument is none of these; the message says how it is written.
    """
    several = bool({"-m", "--multirun"} & {*arguments})
    found: list[str] = []
    bare, rest = list(BARE.get(job, ())), list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in _VALUED:
            found += [argument, *rest[:1]]
            rest = rest[1:]
        elif argument in _ALONE or argument.split("=")[0] in _LONG:
            found.append(argument)
        elif argument.startswith("-") and len(argument) > 1:
            found.append(_with_dashes(job, argument, rest, config, several=several))
        elif bare and _is_bare(job, argument):
            found.append(f"{bare[0]}={_quoted(argument)}")
            bare.pop(0)
        else:
            found.append(_plain(job, argument, several=several))
    return found


def _with_dashes(
    job: str, argument: str, rest: list[str], config: Callable[[], Mapping[str, Any]], *, several: bool
) -> str:
    """`--name value`, `--name=value` and the flag `--name`, which may take a word; takes the value from the rest."""
    name, equals, value = argument.lstrip("-").partition("=")
    name = name.replace("-", "_")
    rule = rule_of(job, name)
    if rule is None:
        known = config()
        if name not in known and "." not in name:
            raise InputError(no_such_option(job, name, known))
    if not equals:
        word = rest[0] if rest else "-"
        may_stand_alone = isinstance(rule, Either) and isinstance(rule.rules[0], Flag)
        if (isinstance(rule, Flag) and word.lower() not in ("true", "false")) or (
            may_stand_alone and (word.startswith("-") or "=" in word)
        ):
            value = "true"
        elif not rest:
            raise InputError(f"--{name} needs a value: --{name} VALUE, or {name}=VALUE")
        else:
            value = rest.pop(0)
    return f"{name}={_value(rule, value, several=several)}"


def _is_bare(job: str, argument: str) -> bool:
    """Whether an argument is a path and no `name=value`; a file that is there may hold a `=`."""
    name, equals, _ = argument.partition("=")
    if not equals:
        return Path(argument).exists() or argument == "-" or bool(re.search(r"[./]", argument))
    return rule_of(job, name.lstrip("+~")) is None and Path(argument).exists()


def _plain(job: str, argument: str, *, several: bool) -> str:
    """`name=value` as Hydra reads it."""
    name, equals, value = argument.partition("=")
    if (not equals and not argument.startswith("~")) or name != name.strip() or value != value.lstrip():
        paths = f", and no such file is there: {argument}" if not equals and BARE.get(job) else ""
        raise InputError(f"{argument!r} is no option: options are name=value, without blanks around ={paths}")
    if argument.startswith("~") and not equals:
        return argument
    written = f"{name}={_value(rule_of(job, name.lstrip('+')), value, several=several)}"
    try:
        parsed = OverridesParser.create().parse_override(written)
    except HydraException:
        raise InputError(
            f"{argument}: a value with special signs is quoted twice, once for the shell: '{name}={_quoted(value)}'; "
            "a list is [a,b]"
        ) from None
    if parsed.is_sweep_override() and not several:
        raise InputError(
            f"{argument}: a comma divides the jobs of --multirun; a list is {name}=[{value}], a name with a comma "
            f"'{name}={_quoted(value)}'"
        )
    return written


def _value(rule: Rule | None, value: str, *, several: bool) -> str:
    """A value as Hydra reads it, by what its option may be."""
    rules = list(_inside(rule))
    if not value or value[0] in "'\"" or "${" in value or value == "null":
        return value
    if "," in value and not several:
        numbers = next((r for r in rules if isinstance(r, Many) and isinstance(r.rule, Number)), None)
        if numbers is not None and not value.startswith("[") and _are_numbers(value):
            return f"[{value}]"
    lists = any(isinstance(r, Many) for r in rules) and value.startswith("[")
    if any(isinstance(r, (Place, Text)) for r in rules) and not lists and not (several and "," in value):
        return value if re.fullmatch(r"[\w./-]+", value) else _quoted(value)
    return value


def _inside(rule: Rule | None) -> Iterator[Rule]:
    """A rule and those that it chooses from."""
    if isinstance(rule, Maybe):
        yield from _inside(rule.rule)
    elif isinstance(rule, Either):
        for one in rule.rules:
            yield from _inside(one)
    elif rule is not None:
        yield rule


def _are_numbers(value: str) -> bool:
    try:
        return bool([float(part) for part in value.split(",")])
    except ValueError:
        return False


def _quoted(value: str) -> str:
    """A value in quotes, in which Hydra leaves every sign alone."""
    plain = re.sub(r'(\\*)"', r'\1\1\\"', value)
    if plain.endswith("\\"):
        plain += "\\" * (len(plain) - len(plain.rstrip("\\")))
    return '"' + plain.replace("${", "\\${") + '"'
