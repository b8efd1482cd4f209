"""Changes one operator, number or condition of a module at a time and sees whether a test fails.

    python tests/mutation/mutate.py [FILE ...] [--most 40] [--least 0.95] [--seed 0] [--seconds 120]

A mutant is written beside the tree and loaded in place of its module by an import hook, so that the compiled library
and the working tree stay as they are. Each runs in a fork of one process that has torch loaded, through the test files
that stand for its module, until one fails. Inside subprocesses that tests start the module is the unchanged one.
Messages, docstrings, annotations and decorators are left alone.

Prints each mutant that no test noticed and the share that was killed, by module; exit code 1 where that is less than
`--least` or a module's tests fail unchanged.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
#: What pytest is given for a module: the files that say what it promises.
TESTS = {
    "had_snn/geometry.py": ("tests/test_geometry.py",),
    "had_snn/tracking/window.py": ("tests/tracking/test_window_rule.py",),
    "had_snn/tracking/window_rule.py": ("tests/tracking/test_window_rule.py",),
    "had_snn/evaluate/metrics.py": ("tests/evaluate/test_metrics.py", "-k", "not thousand and not published"),
    "had_snn/tracking/follower.py": ("tests/tracking/test_follower.py", "tests/tracking/test_tracker.py"),
    "had_snn/distill/transport.py": ("tests/distill/test_transport.py",),
    "had_snn/profiling/synops.py": ("tests/profiling/test_synops.py",),
}
OTHERS: dict[type, tuple[type, ...]] = {
    **{ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)},
    **{ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,)},
    **{ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,)},
    **{ast.FloorDiv: (ast.Div,), ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.LShift: (ast.RShift,)},
    **{ast.RShift: (ast.LShift,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,)},
}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "ceil": "floor", "floor": "ceil"}
UNTOUCHED = ("annotation", "returns", "decorator_list")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of messages, annotations and decorators, in the order of the text."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in UNTOUCHED:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Raise)):
                yield from nodes(child)


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """What a node can be changed to: a field and its new value."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)):
        yield from (("op", other()) for other in OTHERS.get(type(node.op), ()))
    elif isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            for other in OTHERS.get(type(operator), ()):
                yield "ops", [*node.ops[:at], other(), *node.ops[at + 1 :]]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "op", ast.UAdd()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "operand", ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value = node.value
        yield "value", not value if isinstance(value, bool) else value + 1 if value in (0, 1, 2) else value * 2
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield "attr", NAMES[node.attr]


def mutants(source: str) -> Iterator[tuple[int, str, str, str]]:
    """Line, what stood there, what stands there now, and the whole changed source."""
    tree = ast.parse(source)
    for node in list(nodes(tree)):
        for name, new in changes(node):
            old, before = getattr(node, name), ast.unparse(node).splitlines()[0]
            setattr(node, name, new)
            after, changed = ast.unparse(node).splitlines()[0], ast.unparse(tree)
            setattr(node, name, old)
            if after != before:
                yield getattr(node, "lineno", 0), before, after, changed


class Instead:
    """Finds one module in another file."""

    def __init__(self, module: str, path: Path) -> None:
        self.module, self.path = module, path

    def find_spec(self, name: str, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path) if name == self.module else None


def survives(module: str, path: Path, tests: tuple[str, ...], seconds: int) -> bool:
    """Whether all tests pass with a module from another file; a run that lasts too long is a failure."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.meta_path.insert(0, Instead(module, path))
        options = [
            "-x",
            "-q",
            "--tb=no",
            "--assert=plain",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=mutation",
            "-m",
            "not slow",
        ]
        code = 1
        try:
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"the tests {' '.join(tests)} cannot be run: pytest ended with {code}")
    return code == 0


def main() -> int:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("files", nargs="*", default=list(TESTS), help="modules; all that are known when none is named")
    told.add_argument("--most", type=int, default=40, help="mutants of each module, drawn; 0 for all")
    told.add_argument("--least", type=float, default=0.95, help="share that must be killed")
    told.add_argument("--seed", type=int, default=0, help="of the draw")
    told.add_argument("--seconds", type=int, default=120, help="after which a run of tests counts as failed")
    asked = told.parse_args()
    os.chdir(ROOT)
    sys.dont_write_bytecode = True  # one of a mutant of the same length and second would be taken for the next
    torch.set_num_threads(1)
    hypothesis.settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, max_examples=30, phases=[hypothesis.Phase.generate]
    )
    if unknown := [file for file in asked.files if file not in TESTS]:
        told.error(f"{unknown[0]}: no tests are named for it; known are {', '.join(TESTS)}")
    enough = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.py"
        for file in asked.files:
            source, module = Path(file).read_text(), file.removesuffix(".py").replace("/", ".")
            path.write_text(source)
            if not survives(module, path, TESTS[file], asked.seconds):
                sys.exit(f"{file}: its tests fail unchanged, or last longer than {asked.seconds} s")
            every = list(mutants(source))
            drawn = every
            if 0 < asked.most < len(every):
                drawn = [every[at] for at in sorted(random.Random(asked.seed).sample(range(len(every)), asked.most))]
            killed = 0
            for line, before, after, changed in drawn:
                path.write_text(changed)
                if survives(module, path, TESTS[file], asked.seconds):
                    print(f"{file}:{line}: {before}  ->  {after}", flush=True)
                else:
                    killed += 1
            print(f"{file}: {killed} of {len(drawn)} killed ({len(every)} there are)", flush=True)
            enough = enough and killed >= asked.least * len(drawn)
    return int(not enough)


if __name__ == "__main__":
    sys.exit(main())
