"""Options that a single job has, or that mean something else there, and the rule of any option of any job."""

from __future__ import annotations

from had_snn.commands.options import (
    BASELINES,
    COMMON,
    COUNT,
    COUNTS,
    FILE,
    FIT,
    FOLDER,
    MADE_FILE,
    MADE_FOLDER,
    NAMES,
    NUMBERS,
    PERIOD_US,
    POSITIVE,
    SEED,
    SEPARATE,
    SHARE,
    SIMULATORS,
    SOME,
    SPLIT,
    STUDENT,
    TEXTS,
    WEIGHTS,
    below,
)
from had_snn.commands.rules import Either, Fields, Flag, Many, Maybe, Number, Place, Rule, Text, Whole, Word
from had_snn.distill.levels import MODES

_NORMS = below("norms", {"statistics": COUNT, "iterations": SOME, "batch_size": COUNT, "learning_rate": POSITIVE})
_ABLATION: dict[str, Rule] = {
    **below("teacher", FIT),
    "sets": Many(
        Fields(
            {
                "labels": COMMON["labels"],
                "budget": Word(("time", "steps", "fixed")),
                "arms": Many(Word((*MODES, "shuffled")), 1),
                "seeds": Maybe(Many(SEED)),
            },
            needed=("labels", "budget", "arms"),
        ),
        1,
    ),
    "steps": COUNT,
}

#: What is otherwise, or is there alone, in one job.
OF_JOB: dict[str, dict[str, Rule]] = {
    "ablation": _ABLATION,
    "adaptation": {
        "adapt_options": TEXTS,
        "arms": Many(Word(("teacher", "events", "student", "truth")), 1),
        "train_split": Text(),
        "original_split": Maybe(Text()),
    },
    "adapt": {"data.root": Maybe(FOLDER), "period_us": Maybe(PERIOD_US)},
    "bench_evaluate": {"out": MADE_FILE, "sequences": COUNT, "frames": COUNT},
    "bench_export": {
        **below("cost", {"windows": COUNT, "shares": Many(SHARE, 1)}),
        **below("one_piece", {"dt_us": PERIOD_US, "simulator": Word(SIMULATORS), "limit": Maybe(COUNT)}),
        **below("stem", {"windows": COUNT, "dts_us": Many(PERIOD_US, 1)}),
        "formats": Many(Word(("int8", "rounded"))),
        "parts": Many(Word(("body", "stem", "cost", "int8", "one_piece")), 1),
        "verify_others": Many(Word((*SIMULATORS, *SEPARATE))),
    },
    "bench_kernels": {
        **below("main", {"T": COUNT, "neurons": COUNT}),
        **below("stem", dict.fromkeys(("events", "channels", "kernel", "stride", "T"), COUNT)),
        **below("stem_grid", dict.fromkeys(("events", "channels", "kernel", "stride", "T"), Many(COUNT))),
        "stem_grid.membranes": Many(Flag()),
        "convergence_us": Many(PERIOD_US),
        "neuron_steps": COUNTS,
        "out": Maybe(MADE_FILE),
        **{
            name: Many(Word(("had", "torch_compile", "torch_loop", *SIMULATORS)), 1)
            for name in ("rivals", "quick_rivals")
        },
    },
    "bench_profiling": {
        "batches": COUNTS,
        "checkpoint": Many(WEIGHTS, 1),
        "out": Maybe(MADE_FILE),
        "outputs": COUNT,
        "sequences": SOME,
    },
    "bench_readers": {
        "folder": MADE_FOLDER,
        "formats": NAMES,
        "order": NAMES,
        "out": Maybe(MADE_FILE),
        "sizes": COUNTS,
    },
    "bench_simulator": {"family": SPLIT["family"], "out": Maybe(MADE_FILE), "scenes": COUNT},
    "bench_soak": {
        "minutes": POSITIVE,
        "out": Maybe(MADE_FILE),
        "parts": Many(Word(("tracking", "training")), 1),
        "sequences": COUNT,
        "training": NAMES,
    },
    "bench_spiking_conv": {
        "out": MADE_FILE,
        "layers": NAMES,
        "shares": Many(SHARE, 1),
        "samples": Fields({"tiny": COUNT, "base": COUNT}),
        "rounds": COUNT,
        "threads": COUNT,
    },
    "bench_tracker": {
        **below("memory", {"rate": COUNT, "period_us": PERIOD_US, "minutes": POSITIVE}),
        **below("rivals", {"rate": COUNT, "period_us": PERIOD_US, "outputs": COUNT}),
        "live": Many(
            Fields({"rate": COUNT, "period_us": PERIOD_US, "seconds": POSITIVE, "carry": Flag()}, ("rate", "period_us"))
        ),
        "max_events": COUNT,
        "max_outputs": COUNT,
        "max_seconds": POSITIVE,
        "out": Maybe(MADE_FILE),
        "parts": Many(Word(("cost", "curve", "rates", "live", "rivals", "memory")), 1),
        "periods_us": Many(PERIOD_US, 1),
        "rates": COUNTS,
        "sequences": COUNT,
        "shifts": NUMBERS,
        "target_share": SHARE,
        "threads": Many(Whole(1, 1024), 1),
    },
    "bench_training": {
        **below("job", {"size": Word(("tiny", "base")), "n_steps": COUNT, "batch_size": COUNT, "windows": COUNT}),
        "job.sequences": COUNT,
        "at_most_seconds": POSITIVE,
        "carried_windows": Maybe(COUNT),
        "curve": Maybe(FILE),
        "out": MADE_FILE,
        "passes": COUNT,
        "table": Maybe(FILE),
    },
    "bench_training_profile": {"batch_size": COUNT, "out": MADE_FILE, "rounds": COUNT, "windows": COUNT},
    "check_data": {"example": Maybe(FOLDER), "out": Maybe(MADE_FILE)},
    "controls": {
        "stems": Many(STUDENT["stem"], 1),
        "student_steps": COUNT,
        "teacher_steps": COUNT,
        "teachers": Many(Word(("rgb+events", "events", "rgb"))),
    },
    "convert": {"cache": Maybe(FOLDER), "out": MADE_FILE},
    "demo": {
        **below("student", FIT),
        **below("teacher", FIT),
        **below("data.train", {"count": COUNT, "seconds": SPLIT["seconds"]}),
        **below("data.test", {"count": COUNT, "seconds": SPLIT["seconds"]}),
        "simulators": Many(Word(SIMULATORS), 1),
    },
    "distill_student": {"carry": Maybe(COUNT)},
    "evaluate": {
        "baselines": Either((Word(("all",)), COMMON["baselines"])),
        "carry": Either((Flag(), Word(("both",)))),
        "checkpoint": Maybe(WEIGHTS),
        "sequences": Maybe(FILE),
    },
    "event_statistics": {"out": Maybe(MADE_FILE)},
    "lag": {"limit": Maybe(SOME)},
    "prepare_data": {"splits": Maybe(Many(Text(), 1))},
    "profile_energy": {
        "checkpoint": Many(WEIGHTS, 1),
        "others": Maybe(FILE),
        "teachers": Many(Word(("tiny", "small", "base"))),
        "windows": Maybe(COUNT),
    },
    "replay": {"out": Place("file"), "recording": FILE, "speed": Number(), "step_us": PERIOD_US},
    "robustness": {"rates": Many(POSITIVE), "windows_ms": Many(Number(0, 1e4, above=True)), "steps": Many(COUNT)},
    "fast": {
        "rivals": Many(Word(BASELINES)),
        "windows_ms": Many(Number(0, 1e4, above=True), 1),
        "paces": Many(Number(0, 1e4, above=True)),
        "paced_limit": COUNT,
        **dict.fromkeys(("paced_split", "validation_split"), Text()),
    },
    "release_student": {
        **dict.fromkeys(("first_options", "test_options", "train_options"), TEXTS),
        **_NORMS,
        "fitted_steps": Many(COUNT),
    },
    "release_teacher": {"test_options": TEXTS, "train_options": TEXTS},
    "fit_steps": {**_NORMS, **dict.fromkeys(("steps", "score_steps"), COUNTS)},
    "label_curve": _ABLATION,
    "training_curve": {"beside": Maybe(FOLDER), "teacher_steps": Many(COUNT)},
}


def rule_of(job: str, path: str) -> Rule | None:
    """The rule of an option of a job, if it has one."""
    parts = path.split(".")
    patterns = [path, *(".".join([*parts[:k], "*", *parts[k + 1 :]]) for k in range(1, len(parts)))]
    tables = (OF_JOB.get(job, {}), COMMON)
    return next((table[pattern] for table in tables for pattern in patterns if pattern in table), None)
