"""Options that have one meaning in all jobs, with the rule of what each may be.

Names are those of the configs (`fit.iterations`); `*` stands for any name. What differs in one job stands in
`job_options.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from had_snn.commands.rules import Anything, Either, Fields, Flag, Many, Maybe, Number, Place, Rule, Text, Whole, Word
from had_snn.distill.levels import FORMS, LEVELS, MODES

SIMULATORS = ("norse", "snntorch", "spikingjelly", "sinabs")
SEPARATE = ("event_by_event", "brian2", "nengo", "rockpool", "nengo_own", "rockpool_own", "spyx")
BASELINES = ("static", "mean_shift", "csrt_events", "csrt_frames", "kcf_events", "kcf_frames")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LAYOUTS = ("fe108", "fe240hz", "visevent", "coesot", "eventvot", "esot500", "folder")

COUNT, SOME = Whole(1), Whole(0)
SHARE, POSITIVE = Number(0, 1), Number(above=True)
SEED = Whole(0, 2**32 - 1)
PERIOD_US = Whole(1, 10**10)
TIME_US = Maybe(Whole(-(2**62), 2**62))
SENSOR = Many(Whole(1, 65535), 2, 2, "height and width, [260,346]")
FILE, FOLDER = Place("file"), Place("folder")
MADE_FILE, MADE_FOLDER = Place("file", written=True), Place("folder", written=True)
TEXTS = Many(Text())
NAMES = Many(Text("a name"), 1)
COUNTS = Many(COUNT, 1)
NUMBERS = Many(Number(-1e9, 1e9), 1)
MODALITIES = Many(Word(("rgb", "events")), 1)
PROTOCOL = Word(("toolkit", "pytracking", "visible", "clock"))
WEIGHTS = Text("a released name (tiny) or a student.safetensors")
ACCELERATOR = Word(("cpu", "cuda", "auto"))
VALIDATION = Fields({"split": Maybe(Text()), "held_out": Maybe(Whole(2)), "limit": Maybe(COUNT)})
COLOURS = Many(Number(0, 10), 3, 3)

FIT: dict[str, Rule] = {
    "_target_": Word(("had_snn.train.loop.FitConfig",)),
    "iterations": COUNT,
    "batch_size": Whole(1, 65536),
    "accumulate": Whole(1, 10**4),
    "learning_rate": Number(0, 100, above=True),
    "weight_decay": Number(0, 100),
    "warmup": SOME,
    "gradient_clip": POSITIVE,
    "ema_decay": Number(0, 1, below=True),
    "precision": Word(PRECISIONS),
    "sync_norm": Flag(),
    "log_every": COUNT,
    "checkpoint_every": SOME,
    "validate_every": SOME,
    "patience": SOME,
    "loader_threads": Whole(1, 256),
    "loader_processes": Whole(0, 256),
}
_CROPS: dict[str, Rule] = {
    "window_us": Whole(1, 10**7),
    "template_size": Whole(8, 4096),
    "template_factor": Number(0, 100, above=True),
    "search_size": Whole(8, 4096),
    "search_factor": Number(0, 100, above=True),
    "match_kernel": Whole(1, 255),
}
STUDENT: dict[str, Rule] = {
    "_target_": Word(("had_snn.models.student_tiny", "had_snn.models.student_base")),
    "_convert_": Word(("all",)),
    "stem": Word(("events", "binned", "quantised")),
    "stem_channels": Whole(1, 65536),
    "stem_kernel": Whole(1, 64),
    "channels": Many(Whole(1, 65536), 3, 3),
    "blocks": Whole(0, 1000),
    "strides": Many(Whole(1, 16), 2, 2),
    "n_steps": Whole(1, 1024),
    "tau_us": POSITIVE,
    **_CROPS,
}
_TEACHER: dict[str, Rule] = {
    "_target_": Word(tuple(f"had_snn.models.teacher_{size}" for size in ("tiny", "small", "base"))),
    "dim": Whole(1, 65536),
    "depth": Whole(1, 1000),
    "heads": Whole(1, 1024),
    "mlp_ratio": Number(0, 100, above=True),
    "patch": Whole(1, 256),
    "voxel_bins": Whole(1, 256),
    "embed": Word(("patch", "convolutions")),
    "norm_epsilon": Number(0, 1, above=True),
    **_CROPS,
}
_CLIPS: dict[str, Rule] = {
    "timing": Word(("rule", "labels")),
    "windows": Whole(1, 1000),
    "length_jitter": Number(0, 3),
    "centre_jitter": Number(0, 10),
    "scale_jitter": Number(0, 10),
    "flip": SHARE,
    "negative_pairs": SHARE,
    "epoch_length": COUNT,
}
_DISTILL: dict[str, Rule] = {
    "mode": Word(tuple(MODES)),
    "weights": Maybe(Fields(dict.fromkeys((*LEVELS, *FORMS), Number(0, 1e6)))),
    "every": COUNT,
    "until": Maybe(SHARE),
    "pool": Maybe(COUNT),
}
_READ: dict[str, Rule] = {
    "format": Maybe(Text()),
    "sensor_hw": Maybe(SENSOR),
    "columns": Maybe(Text()),
    "time_unit": Maybe(Text()),
    "polarity": Maybe(Many(Either((Number(-(2.0**32), 2.0**32), Text())), 1, 3)),
    "origin": Maybe(Whole(0, 1)),
    "stream": Maybe(Either((SOME, Text()))),
    "repair": Maybe(Flag()),
}
SPLIT: dict[str, Rule] = {
    "count": COUNT,
    "seconds": Number(0, 1e5, above=True),
    "sensor_hw": SENSOR,
    "hardship": SHARE,
    "label_hz": Number(0, 1e6, above=True),
    "max_speed": Number(0, 1e6, above=True),
    "pace": Many(Number(0, 1e4, above=True), 2, 2, "the smallest and the largest factor, [4,64]"),
    "family": Word(("train", "val", "test", "shifted", "noisy")),
}
_SIMULATED: dict[str, Rule] = {
    "root": FOLDER,
    "train_split": NAMES,
    "seed": SEED,
    "workers": Whole(1, 1024),
    **{name: SPLIT[name] for name in ("sensor_hw", "hardship", "label_hz")},
}
_DATA: dict[str, Rule] = {
    **_SIMULATED,
    "layout": Word(LAYOUTS),
    "cache": Maybe(FOLDER),
    "skip_damaged": Flag(),
    "absent_value": Whole(0, 1),
    "length_tolerance": SOME,
}


def below(name: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {f"{name}.{key}": rule for key, rule in rules.items()}


#: Options by name, with the same meaning in all jobs.
COMMON: dict[str, Rule] = {
    **below("fit", FIT),
    **below("student", STUDENT),
    **below("teacher", _TEACHER),
    **below("clips", _CLIPS),
    **below("distill", _DISTILL),
    **below("data", _DATA),
    **below("data.read", _READ),
    **below("data.splits.*", SPLIT),
    **below("replay", _SIMULATED),
    **below("replay.splits.*", SPLIT),
    **below("read", _READ),
    **below("pretrained", {"weights": Maybe(Text()), "mean": COLOURS, "deviation": COLOURS}),
    **below("steady", {"speeds": Many(Number(0, 1e4)), "count": COUNT}),
    "rounding": Maybe(Fields(dict.fromkeys(("weight_bits", "decay_bits", "headroom_bits"), Whole(1, 32)))),
    "accelerator": ACCELERATOR,
    "baselines": Many(Word(BASELINES)),
    "box": Maybe(Either((Many(Number(-1e6, 1e6), 4, 4, "four numbers [x,y,w,h]"), Text("a file with boxes, or draw")))),
    "budget_us": Maybe(Number(0, 1e9)),
    "camera": Either((Flag(), Text("a model or a serial number"))),
    "carry": Flag(),
    "checkpoint": WEIGHTS,
    "checkpoints": Many(WEIGHTS, 1),
    "crops": Word(("tracker", "labels")),
    "device": Word(("cpu", "cuda")),
    "devices": Either((Whole(1, 4096), Word(("auto",)))),
    "gain": Either((Word(("template",)), POSITIVE)),
    "idle_s": POSITIVE,
    "in": FILE,
    "init": Maybe(WEIGHTS),
    "labels": Number(0, 1, above=True),
    "labels_from": Word(("teacher", "student", "truth")),
    "least_iou": SHARE,
    "latency_us": Maybe(Whole(0, 10**10)),
    "limit": Maybe(COUNT),
    "loggers": Fields({"wandb": Anything(), "mlflow": Anything()}),
    "modality_dropout": SHARE,
    "n_steps": Maybe(Whole(1, 1024)),
    "num_nodes": Whole(1, 10**5),
    "ones": Word(("auto", "visible", "absent")),
    "out": MADE_FOLDER,
    "part": Word(("body", "stem", "one_piece")),
    "protocol": PROTOCOL,
    "rate_range": Many(Number(0, 1e3), 2, 2),
    "rate_weight": Number(0, 1e6),
    "recordings": Many(FILE),
    "replay_share": Number(0, 1, below=True),
    "adapted_share": SHARE,
    "results": Maybe(Many(FOLDER)),
    "seconds": SPLIT["seconds"],
    "seed": SEED,
    "seeds": Many(SEED, 1),
    "sensor_hw": SENSOR,
    "skip_us": Whole(0, 10**10),
    "speeds": Many(Number(0, 1e9), 1),
    "splits": Many(Text()),
    "steps": COUNTS,
    "threads": Whole(1, 1024),
    "track_in": Many(Word(SIMULATORS)),
    "tracks": MADE_FOLDER,
    "validation": Maybe(VALIDATION),
    "verify": Many(Word((*SIMULATORS, *SEPARATE))),
    "window": Maybe(Flag()),
    "workers": Whole(1, 1024),
    **dict.fromkeys(("absent", "annotations", "attributes"), Maybe(FOLDER)),
    **dict.fromkeys(("recording", "teacher_checkpoint", "truth"), Maybe(FILE)),
    **dict.fromkeys(("report", "rerun", "video"), Maybe(MADE_FILE)),
    **dict.fromkeys(("late_ms", "moved_ms"), Many(Number(-1e6, 1e6))),
    **dict.fromkeys(("data_options", "limits", "student_options", "teacher_options"), TEXTS),
    **dict.fromkeys(("dt_us", "output_period_us", "period_us", "segment_us", "teacher_period_us"), PERIOD_US),
    **dict.fromkeys(("format", "note", "object"), Maybe(Text())),
    **dict.fromkeys(("length_tolerance", "report_sequences", "resamples", "sequence"), SOME),
    **dict.fromkeys(("repeats", "rounds", "track_windows", "windows"), COUNT),
    **dict.fromkeys(("end_us", "start_us"), TIME_US),
    **dict.fromkeys(("end_s", "start_s"), Maybe(Number(0, 1e9))),
    **dict.fromkeys(("attribute", "name", "split"), Text()),
    **dict.fromkeys(("modalities", "teacher_modalities"), MODALITIES),
    **dict.fromkeys(("video_period_us", "video_window_us"), PERIOD_US),
    **dict.fromkeys(("video_scale", "video_fps"), Whole(1, 1000)),
    **dict.fromkeys(("add", "deep", "frames", "half", "install", "keep", "live", "measure", "print_boxes"), Flag()),
    **dict.fromkeys(("quick", "test_teacher"), Flag()),
    **dict.fromkeys(("energy_sequences", "examples", "export_windows", "profile_windows", "speed_turns"), COUNT),
}
