"""What an option may be. A rule reads a value as a config holds it and gives the value that the job gets.

A command line has no types: `out=2024` arrives as a number and means a folder, `verify=norse` as a word and means a
list of one. A rule knows which is meant, and says what it expected where a value cannot be it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Rule(Protocol):
    """One kind of value."""

    @property
    def expected(self) -> str:
        """What a value must be, for the message."""
        ...

    def read(self, value: Any, text: str | None) -> Any:
        """The value that is meant.

        Args:
            value: As the config holds it.
            text: As it was typed, where it was.

        Raises:
            ValueError: If it is none of these.
        """
        ...


def _limits(low: float, high: float) -> str:
    return f"from {low:g}" if high >= 1e9 else f"from {low:g} to {high:g}"


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    low: int = 0
    high: int = 10**9

    @property
    def expected(self) -> str:
        return f"a whole number {_limits(self.low, self.high)}"

    def read(self, value: Any, text: str | None) -> int:
        del text
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise ValueError
        if not self.low <= value <= self.high:
            raise ValueError
        return int(value)


@dataclass(frozen=True)
class Number:
    """A finite number; above `low`, not at it, where `above`, and below `high` where `below`."""

    low: float = 0.0
    high: float = 1e9
    above: bool = False
    below: bool = False

    @property
    def expected(self) -> str:
        if self.above:
            return f"a number above {self.low:g}" + ("" if self.high >= 1e9 else f" and at most {self.high:g}")
        return f"a number {_limits(self.low, self.high)}" + (", that not included" if self.below else "")

    def read(self, value: Any, text: str | None) -> float | int:
        del text
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError
        within = self.low <= value <= self.high
        if not within or (self.above and value == self.low) or (self.below and value == self.high):
            raise ValueError
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    expected: str = "true or false"

    def read(self, value: Any, text: str | None) -> bool:
        del text
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    """Any text that is not empty; what looks like a number or a truth value is taken as it was typed."""

    expected: str = "a text"

    def read(self, value: Any, text: str | None) -> str:
        if isinstance(value, (bool, int, float)):
            value = str(value) if text is None else text
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return value


@dataclass(frozen=True)
class Word:
    """One of a few words."""

    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        return self.choices[0] if len(self.choices) == 1 else f"one of {', '.join(self.choices)}"

    def read(self, value: Any, text: str | None) -> str:
        word = Text().read(value, text)
        if word not in self.choices:
            raise ValueError
        return word


@dataclass(frozen=True)
class Place:
    """A file or folder; `written` if the job makes it, which is tried before any work.

    Attributes:
        kind: `file` or `folder`.
        written: Whether the job writes it.
    """

    kind: str
    written: bool = False

    @property
    def expected(self) -> str:
        return f"a {self.kind}"

    def read(self, value: Any, text: str | None) -> str:
        path = Text().read(value, text)
        # A shell leaves the ~ of `out=~/runs` alone.
        return str(Path(path).expanduser()) if path.startswith("~") else path


@dataclass(frozen=True)
class Maybe:
    """Nothing (`null`), or what a rule allows."""

    rule: Rule

    @property
    def expected(self) -> str:
        return f"{self.rule.expected}, or null"

    def read(self, value: Any, text: str | None) -> Any:
        return None if value is None else self.rule.read(value, text)


@dataclass(frozen=True)
class Many:
    """A list; a single value is a list of one."""

    rule: Rule
    least: int = 0
    most: int = 10**6
    name: str = ""

    @property
    def expected(self) -> str:
        if self.name:
            return self.name
        if self.least == self.most:
            return f"{self.least} values in brackets, each {self.rule.expected}"
        return f"a list of {self.rule.expected}" + (" (at least one)" if self.least else "")

    def read(self, value: Any, text: str | None) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            value, texts = [value], [text]
        else:
            texts = _texts_of(text, len(value))
        if not self.least <= len(value) <= self.most:
            raise ValueError
        return [self.rule.read(item, typed) for item, typed in zip(value, texts, strict=True)]


def _texts_of(text: str | None, count: int) -> list[str] | list[None]:
    """The items of a list as they were typed, where that is plain to see."""
    inside = (text or "").strip()
    if not inside.startswith("[") or not inside.endswith("]") or any(c in inside[1:-1] for c in "[]{}()\"'\\"):
        return [None] * count
    items = [item.strip() for item in inside[1:-1].split(",")]
    return items if len(items) == count else [None] * count


@dataclass(frozen=True)
class Either:
    """What the first rule that fits makes of it."""

    rules: tuple[Rule, ...]

    @property
    def expected(self) -> str:
        return ", or ".join(rule.expected for rule in self.rules)

    def read(self, value: Any, text: str | None) -> Any:
        for rule in self.rules:
            try:
                return rule.read(value, text)
            except ValueError:
                continue
        raise ValueError


@dataclass(frozen=True)
class Fields:
    """Named values, each with a rule of its own; those in `needed` must be there."""

    rules: Mapping[str, Rule]
    needed: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        return "{" + ", ".join(f"{name}: {rule.expected}" for name, rule in self.rules.items()) + "}"

    def read(self, value: Any, text: str | None) -> dict[str, Any]:
        del text
        if not isinstance(value, Mapping) or not {*self.needed} <= {*value} <= {*self.rules}:
            raise ValueError
        return {name: self.rules[name].read(item, None) for name, item in value.items()}


@dataclass(frozen=True)
class Anything:
    """Named values that another package reads."""

    expected: str = "named values, {name: value}"

    def read(self, value: Any, text: str | None) -> Any:
        del text
        if not isinstance(value, Mapping):
            raise ValueError
        return dict(value)
