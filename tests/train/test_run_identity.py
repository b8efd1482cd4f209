"""What a run folder says is what was trained: real trainings of a step or two, started, gone on with and refused."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from had_snn.checkpoint import load_student
from had_snn.commands import distill_student, entry, run_folder, train_teacher, training
from had_snn.commands.entry import compose
from had_snn.commands.start import release_folders
from had_snn.data.synthetic import load_split
from had_snn.errors import HadError, InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.tracking import OnlineTracker

ROOT = Path(__file__).resolve().parents[2]


STEP = ["fit.iterations=1", "fit.batch_size=2", "fit.warmup=1", "fit.log_every=1", "fit.checkpoint_every=1"]
SMALL = ["student.channels=[8,12,12]", "student.stem_channels=4", "student.search_size=64", "student.template_size=48"]
CROPS = ["teacher.search_size=64", "teacher.template_size=48", "teacher.dim=16", "teacher.depth=1", "teacher.heads=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Options of a small simulated data set, which is made once."""
    root = tmp_path_factory.mktemp("data")
    splits = ["data.splits.train.count=4", "data.splits.train.seconds=0.4"]
    return [f"data.root={root}", *splits, "data.splits.val.count=1", "data.splits.val.seconds=0.3"]


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    return train_teacher.run(compose("train_teacher", [*data, *STEP, *CROPS, f"out={out}"]))


@pytest.fixture(autouse=True)
def _no_locks():
    yield
    release_folders()


def student(data: list[str], out: Path, *more: str) -> Path:
    options = [*data, *STEP, *SMALL, "distill=none", f"out={out}", *more]
    return distill_student.run(compose("distill_student", options))


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(path: Path) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in load_student(path).state_dict().values()])


def test_every_job_of_a_multirun_trains_its_own_network(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    out = tmp_path / "both"
    arguments = [*data, *STEP, *SMALL, "distill=none", f"out={out}", "seed=0,1", "--multirun"]
    monkeypatch.setattr(sys, "argv", ["distill_student.py", *arguments])
    GlobalHydra.instance().clear()
    try:
        entry.start("distill_student")
    finally:
        GlobalHydra.instance().clear()
    assert sorted(path.name for path in out.iterdir()) == ["0", "1"]
    cards = [json.loads((out / name / "student.json").read_text()) for name in ("0", "1")]
    assert [card["seed"] for card in cards] == [card["config"]["seed"] for card in cards] == [0, 1]
    assert not torch.equal(*(weights(out / name / "student.safetensors") for name in ("0", "1")))
    alone = student(data, tmp_path / "alone", "seed=1")
    assert torch.equal(weights(alone), weights(out / "1" / "student.safetensors"))


OTHER = [
    "seed=1",
    "labels=0.5",
    "clips.flip=0",
    "clips.windows=3",
    "rate_weight=0.5",
    "rate_range=[0.02,0.4]",
    "fit.learning_rate=1e-4",
    "fit.batch_size=3",
    "fit.precision=bf16-mixed",
    "fit.ema_decay=0.5",
    "student.channels=[8,12,16]",
    "student.tau_us=10000",
    "data.seed=5",
    "data.hardship=0.5",
    "data.splits.train.count=3",
    "carry=2",
]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    student(data, out)
    return out


@pytest.mark.parametrize("other", OTHER)
def test_a_run_made_with_other_options_is_refused_and_its_folder_stays_as_it_is(data, finished, other, tmp_path):
    before = content(finished)
    root = [f"data.root={tmp_path}"] if other.startswith("data.") else []  # another data set, in a place of its own
    with pytest.raises(InputError, match=f"was made with .*{other.split('=')[0]}=.*now.*another out= for a new run"):
        student(data, finished, *root, other)
    assert content(finished) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["distill=full"], "distillation needs a teacher"),
        (["distill=full", "teacher_checkpoint=nothing.safetensors"], "no teacher 'nothing.safetensors'"),
        (["validation={split: nowhere}"], "no split 'nowhere'"),
    ],
)
def test_a_start_that_fails_changes_nothing(data, finished, options, says):
    before = content(finished)
    with pytest.raises(HadError, match=says):
        student(data, finished, *options)
    assert content(finished) == before


def test_the_same_options_go_on_and_more_iterations_are_fine(data, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="had_snn")
    out = tmp_path / "run"
    first = weights(student(data, out))
    assert torch.equal(first, weights(student(data, out))), "a finished run that is started again stays what it is"
    monkeypatch.setattr(run_folder, "versions", lambda: {"had_snn": "0", "revision": "another"})
    more = student(data, out, "fit.iterations=3", "fit.log_every=2")
    assert "was begun with other versions" in caplog.text
    assert "resuming at iteration 1" in caplog.text
    card = json.loads(more.with_suffix(".json").read_text())
    assert card["config"]["fit"]["iterations"] == card["made_with"]["fit.iterations"] == 3
    assert [found.get("revision") for found in card["trained_by"]][-1] == "another"
    assert len(card["trained_by"]) == 2
    assert not torch.equal(first, weights(more))
    with pytest.raises(InputError, match=r"fit\.iterations=3 \(now 2\)"):
        student(data, out, "fit.iterations=2")


def test_another_teacher_under_the_same_name_is_noticed(data, teacher, tmp_path):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(teacher.read_bytes())
    taught = ["distill=response", f"teacher_checkpoint={path}"]
    student(data, tmp_path / "run", *taught)
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(path.read_bytes())
    student(data, tmp_path / "run", "distill=response", f"teacher_checkpoint={moved}")
    options = [*data, *STEP, *CROPS, "seed=7", f"out={tmp_path / 'other'}"]
    path.write_bytes(train_teacher.run(compose("train_teacher", options)).read_bytes())
    with pytest.raises(InputError, match="teacher_checkpoint_sha256"):
        student(data, tmp_path / "run", *taught)


HOLD = """
import sys
from pathlib import Path
from had_snn.commands.start import lock_folder
lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_into_the_same_folder_is_refused(data, finished):
    release_folders()  # this process has just trained there
    command = [sys.executable, "-c", HOLD, str(finished)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = content(finished)
        with pytest.raises(InputError, match=f"another run is under way in .*process {other.pid}"):
            student(data, finished)
        assert content(finished) == before


def test_what_cannot_be_saved_fails_before_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *args, **options: pytest.fail("the training began"))
    cfg = compose("distill_student", [*data, *STEP, *SMALL, "distill=none", f"out={tmp_path / 'run'}"])
    cfg.student["_convert_"] = "none"  # so that the network's numbers are lists of Hydra's
    with pytest.raises(HadError, match="could not be written"):
        distill_student.run(cfg)
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_fit_together_fail_before_the_training(data, tmp_path):
    for options in (["student.match_kernel=31"], ["student.search_size=8", "student.template_size=8"]):
        with pytest.raises(InputError, match="do not fit together"):
            student(data, tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()


#: Together they change every option of network, clips, losses, distillation and data that a student depends on.
SETS = {
    "sizes": [
        *("student.channels=[8,8,12]", "student.blocks=2", "student.strides=[2,2]", "student.stem_kernel=5"),
        *("student.tau_us=15000", "student.match_kernel=3", "student.search_factor=3.5", "student.template_factor=2"),
        *("clips.centre_jitter=0.1", "clips.scale_jitter=0.05", "clips.flip=1", "clips.negative_pairs=0.5"),
        *(
            "clips.epoch_length=10",
            "clips.windows=3",
            "clips.timing=rule",
            "clips.length_jitter=0.2",
            "rate_weight=0.1",
            "rate_range=[0.1,0.2]",
            "seed=3",
        ),
        *("fit.accumulate=2", "fit.learning_rate=1e-2", "fit.weight_decay=0", "fit.gradient_clip=0.1"),
        *("fit.ema_decay=0", "fit.sync_norm=false", "fit.warmup=0", "fit.precision=bf16-mixed", "labels=0.5"),
    ],
    "binned": ["student.stem=binned", "student.n_steps=2", "student.window_us=20000", "student.stem_channels=6"],
    "quantised": ["student.stem=quantised", "student.search_size=96", "student.template_size=64"],
    "base": ["student=base", "student.channels=[8,12,12]", "student.stem_channels=4", "student.blocks=1"],
    "carried": ["carry=2", "clips.windows=3", "fit.loader_threads=2"],
    "validated": ["validation={split: val}", "fit.validate_every=1", "fit.patience=1"],
    "held_out": ["validation={held_out: 4}", "fit.loader_processes=1"],
    "full": ["distill=full", "distill.weights.rate=0.5", "distill.every=1", "distill.until=1", "distill.pool=2"],
    "membrane": ["distill=membrane"],
    "rate": ["distill=rate", "labels=0.5"],
    "response": ["distill=response", "labels=0.5"],
    "plain": ["distill=plain"],
    "public": ["distill=public"],
    "membranes of micro-steps": ["distill=membrane_steps"],
    "edges": ["distill=localisation"],
}
UNTRIED = {
    *(
        "data.root",
        "data.seed",
        "data.sensor_hw",
        "data.hardship",
        "data.label_hz",
        "data.workers",
        "data.train_split",
    ),  # see OTHER
    *("out", "teacher_checkpoint", "init", "tracks", "accelerator", "devices", "num_nodes", "loggers"),
    *("fit.iterations", "fit.batch_size", "fit.log_every", "fit.checkpoint_every", "student._target_"),
}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", SETS)
def test_every_option_leads_to_a_student_that_is_saved_loaded_and_tracks(name, data, teacher, tmp_path):
    options = [f"teacher_checkpoint={teacher}", *SETS[name]] if any("distill=" in o for o in SETS[name]) else SETS[name]
    crops = [] if name != "base" else ["student.search_size=128", "student.template_size=96"]
    path = student(data, tmp_path / "run", *options, *crops)
    card = json.loads(path.with_suffix(".json").read_text())
    loaded = load_student(path)
    assert list(loaded.config.channels) == card["config"]["student"]["channels"]
    assert loaded.config.window_us == card["config"]["student"]["window_us"]
    sequence = load_split(data[0].partition("=")[2], "train")[0]
    boxes = run_one_pass(OnlineTracker(loaded), sequence).boxes_xywh
    assert boxes.shape == (len(sequence), 4)


def test_the_sets_of_options_change_every_one_of_them():
    cfg = compose("distill_student", [])
    assert training._free("loggers.wandb.project")
    assert not training._free("fit.log_every_other")
    named = {o.partition("=")[0] for options in SETS.values() for o in options} | {"distill", "student", "validation"}
    listed = {name for name, _ in training._flat(entry._plain(cfg)) if not name.startswith("data.splits")}
    covered = {n for n in listed if n in named or n in UNTRIED or n.split(".")[0] in ("distill", "validation")}
    assert listed - covered - {"student._convert_", "fit._target_"} == set()


def test_a_student_goes_on_from_another(data, tmp_path):
    path = student(data, tmp_path / "first")
    first = weights(path)
    small = ["fit.learning_rate=1e-9", "fit.weight_decay=0"]
    gone_on = weights(student(data, tmp_path / "on", f"init={path}", *small))
    new = weights(student(data, tmp_path / "new", *small))
    assert (gone_on - first).abs().median() < 1e-3 * (new - first).abs().median()  # but for the means of batch norm
    path.write_bytes(student(data, tmp_path / "other", "seed=3").read_bytes())
    with pytest.raises(InputError, match=r"init_sha256=.*now"):
        student(data, tmp_path / "on", f"init={path}", *small)
    with pytest.raises(InputError, match=r"another network: .*channels=\[32, 48, 48\] \(now \[8, 12, 12\]\)"):
        student(data, tmp_path / "tiny", "init=tiny")
