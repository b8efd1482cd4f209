"""Every option of every job, in one process and without starting a job: what is not meant is refused by its name."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from had_snn.commands import options
from had_snn.commands.check import check_options, leaves
from had_snn.commands.job_options import OF_JOB
from had_snn.commands.options import COMMON
from had_snn.commands.rules import Either, Fields, Many, Maybe, Number, Place, Text, Whole, Word
from had_snn.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
#: Groups that bring options of their own.
GROUPS = {
    "distill_student": (["data=folder"], ["student=base"], ["distill=none"], ["validation={split: val}"]),
    "train_teacher": (["teacher=base"], ["data=fe108"]),
}


def plain(job: str, overrides: list[str]) -> dict[str, Any]:
    from had_snn.commands import entry

    return entry._plain(entry.compose(job, overrides))


@pytest.fixture(scope="module")
def configs() -> dict[str, list[dict[str, Any]]]:
    return {job: [plain(job, more) for more in ([], *GROUPS.get(job, ()))] for job in JOBS}


#: Numbers of a split that may be added by +.
ADDED = ("hardship", "label_hz", "max_speed", "family")


def test_every_job_has_a_config_and_every_option_a_rule(configs):
    assert {*OF_JOB} <= {*JOBS}
    used: set[str] = set()
    for job, variants in configs.items():
        for values in variants:
            for path, _, rule in leaves(job, values):
                assert rule is not None, f"{job}: {path}"
                used |= {path, ".".join([*path.split(".")[:2], "*", *path.split(".")[3:]])}
            assert check_options(job, values) == {}, f"{job}: the defaults are not what they mean"
    missing = {name for name in COMMON if name not in used} - {
        *(f"{data}.splits.*.{name}" for data in ("data", "replay") for name in ADDED),
        *(name for name in COMMON if name.startswith("data.read.")),  # `format` and `stream`, too
    }
    assert not missing, "rules of options that no job has"


def with_value(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *above, last = path.split(".")
    place = changed
    for name in above:
        place = place[name]
    place[last] = value
    return changed


def takes_text(rule: Any) -> bool:
    if isinstance(rule, Either):
        return any(map(takes_text, rule.rules))
    return takes_text(rule.rule) if isinstance(rule, (Maybe, Many)) else isinstance(rule, (Text, Place))


@pytest.mark.parametrize("job", JOBS)
def test_wrong_types_empty_values_and_absurd_numbers_are_refused_by_name(job, configs):
    tried = 0
    for values in configs[job]:
        for path, _, rule in leaves(job, values):
            for value in ({"a": 1}, "", "  ", [{"a": 1}], [[]]):
                with pytest.raises(InputError, match=path.replace(".", r"\.")):
                    check_options(job, with_value(values, path, value))
            for value in (1e300, -1e300, math.nan, math.inf, 10**40, -(10**40)):
                if takes_text(rule):  # a name, a file or a folder may be called so
                    (found,) = check_options(job, with_value(values, path, value)).values()
                    assert str(value) in (found if isinstance(found, list) else [found])
                    continue
                with pytest.raises(InputError, match=path.replace(".", r"\.")):
                    check_options(job, with_value(values, path, value))
            tried += 1
    assert tried


@pytest.mark.parametrize("job", JOBS)
def test_words_for_numbers_and_numbers_for_flags(job, configs):
    for path, value, _ in leaves(job, configs[job][0]):
        if isinstance(value, (bool, int, float)) and (job, path) not in {("evaluate", "carry"), ("track", "camera")}:
            for wrong in ("abc", "yes", [1, 2, 3, 4, 5]):
                if path == "gain" and wrong == "template":
                    continue
                with pytest.raises(InputError, match=path.replace(".", r"\.")):
                    check_options(job, with_value(configs[job][0], path, wrong))


@pytest.mark.parametrize(
    ("job", "typed", "value", "meant"),
    [
        ("distill_student", "out=2024", 2024, "2024"),
        ("distill_student", "out=2024.10", 2024.1, "2024.10"),
        ("distill_student", "out=1e3", 1000.0, "1e3"),
        ("distill_student", "out=true", True, "true"),
        ("evaluate", "results=2024", 2024, ["2024"]),
        ("evaluate", "results=[2024.10,2025.10]", [2024.1, 2025.1], ["2024.10", "2025.10"]),
        ("export_nir", "verify=norse", "norse", ["norse"]),
        ("export_nir", "checkpoint=1", 1, "1"),
        ("profile_energy", "checkpoint=tiny", "tiny", ["tiny"]),
        ("event_statistics", "recordings=a.npy", "a.npy", ["a.npy"]),
        ("track", "recording=20240131", 20240131, "20240131"),
        ("track", "box=2024", 2024, "2024"),
        ("robustness", "rates=2", 2, [2]),
        ("train_teacher", "modalities=events", "events", ["events"]),
        ("evaluate", "split=7", 7, "7"),
        ("distill_student", "fit.iterations=1e3", 1000.0, 1000),
    ],
)
def test_values_are_taken_as_they_are_meant(job, typed, value, meant, configs):
    path = typed.partition("=")[0]
    assert check_options(job, with_value(configs[job][0], path, value), [typed]) == {path: meant}


def test_a_home_folder_is_found(configs, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = check_options("demo", with_value(configs["demo"][0], "out", "~/runs"), ["out=~/runs"])
    assert found == {"out": str(tmp_path / "runs")}


@pytest.mark.parametrize(
    ("job", "path", "value", "says"),
    [
        ("distill_student", "fit.iterations", "abc", "fit.iterations expects a whole number from 1; found"),
        ("distill_student", "fit.iterations", 0, "found fit.iterations=0"),
        ("distill_student", "fit.iterations", -5, "found fit.iterations=-5"),
        ("distill_student", "fit.iterations", 2.5, "found fit.iterations=2.5"),
        ("distill_student", "fit.batch_size", 0, "fit.batch_size expects a whole number from 1 to 65536"),
        ("distill_student", "fit.precision", "fp8", "one of 32-true, bf16-mixed, 16-mixed"),
        ("distill_student", "labels", 2, "labels expects a number above 0 and at most 1"),
        ("distill_student", "accelerator", "gpus", "accelerator expects one of cpu, cuda, auto"),
        ("distill_student", "student.channels", [48, 80], "3 values in brackets"),
        ("track", "box", [1, 2, 3], r"four numbers \[x,y,w,h\], or a file"),
        ("evaluate", "protocol", "lasot", "one of toolkit, pytracking, visible, clock"),
        ("evaluate", "limit", "", "limit expects a whole number from 1, or null; found nothing"),
        ("distill_student", "student.chanels", 3, "no such option; did you mean student.channels"),
    ],
)
def test_messages_name_the_option_what_was_expected_and_found(job, path, value, says, configs):
    with pytest.raises(InputError, match=says):
        check_options(job, with_value(configs[job][0], path, value))


def test_choices_are_those_of_the_library():
    from had_snn.data.layouts import LAYOUTS
    from had_snn.evaluate.folders import ONES
    from had_snn.evaluate.protocols import PROTOCOLS
    from had_snn.models.student import STEMS
    from had_snn.simulator.scene import FAMILIES

    assert {*options.LAYOUTS} == {*LAYOUTS}
    assert COMMON["protocol"] == Word(PROTOCOLS)
    assert COMMON["ones"] == Word(ONES)
    assert {*COMMON["student.stem"].choices} == {*STEMS}
    assert {*COMMON["data.splits.*.family"].choices} == {*FAMILIES}
    verify = pytest.importorskip("had_snn.export.verify")
    adapters, external = pytest.importorskip("had_snn.export.adapters"), pytest.importorskip("had_snn.export.external")
    assert {*options.SIMULATORS} == {*adapters.OPENERS}
    assert {*options.SEPARATE} == {verify.EVENTS, *external.EXTERNAL}


def test_numbers_of_a_network_are_those_that_it_has():
    import dataclasses

    from had_snn.models import StudentConfig, TeacherConfig
    from had_snn.train.config import FitConfig

    for group, config in (("student", StudentConfig), ("teacher", TeacherConfig), ("fit", FitConfig)):
        ruled = {name.split(".")[1] for name in COMMON if name.startswith(f"{group}.") and "._" not in name}
        assert ruled == {field.name for field in dataclasses.fields(config)} - {"seed"}


@pytest.mark.parametrize(
    ("rule", "value", "read"),
    [
        (Maybe(Whole()), None, None),
        (Either((Whole(), Text())), "a", "a"),
        (Many(Text()), "a b", ["a b"]),
        (Many(Number(), 2, 2), (1, 2.5), [1, 2.5]),
        (Fields({"a": Many(Whole())}), {"a": 3}, {"a": [3]}),
        (Place("file"), "x y", "x y"),
        (Number(above=True), 1e-30, 1e-30),
    ],
)
def test_rules_read(rule, value, read):
    assert rule.read(value, None) == read


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (Whole(), True),
        (Whole(), "3"),
        (Number(), True),
        (Number(above=True), 0),
        (Number(0, 1, below=True), 1),
        (Many(Text(), 1), []),
        (Fields({"a": Whole()}, needed=("a",)), {}),
        (Text(), None),
        (Either((Whole(), Word(("a",)))), "b"),
    ],
)
def test_rules_refuse(rule, value):
    with pytest.raises(ValueError):
        rule.read(value, None)
    assert rule.expected
