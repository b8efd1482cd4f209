"""The whole chain on simulated data, end to end, in minutes.

    had-snn demo seed=0

Each stage is one of the other scripts, called with the options that its command line would take.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from had_snn.commands import (
    demo_report,
    distill_student,
    evaluate,
    export_nir,
    prepare_data,
    profile_energy,
    track,
    train_teacher,
)
from had_snn.commands.entry import compose
from had_snn.commands.run_folder import open_run, versions
from had_snn.commands.sources import sequences
from had_snn.data.sample import sample_recording
from had_snn.files import atomic_file
from had_snn.threads import available


class Chain:
    """Runs stages one after another and keeps the seconds that each took."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.seconds: dict[str, float] = {}
        data = cfg.data
        self.data = [
            f"data.root={data.root}",
            f"data.seed={cfg.seed}",
            f"data.hardship={data.hardship}",
            f"data.splits={{train:{{count:{data.train.count},seconds:{data.train.seconds}}},"
            f"test:{{count:{data.test.count},seconds:{data.test.seconds}}}}}",
        ]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        Console(stderr=True).rule(f"[bold]{len(self.seconds) + 1}  {name}", align="left")
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 2)

    def options(self, script_name: str, *overrides: str, data: bool = True) -> DictConfig:
        """Config of a stage: its own defaults, the demo's data and seed, and a folder of its own."""
        common = [f"seed={self.cfg.seed}", f"out={self.folder / script_name}"]
        return compose(script_name, [*(self.data if data else []), *common, *overrides])


def run_chain(chain: Chain) -> dict[str, Any]:
    """All stages; returns what the report needs."""
    cfg, found = chain.cfg, {}
    clips = [f"clips.{key}={value}" for key, value in cfg.clips.items()]
    with chain.stage("simulate"):
        prepare_data.run(compose("prepare_data", ["splits=[train,test]", *chain.data]))
    with chain.stage("train_teacher"):
        teacher = train_teacher.run(
            chain.options("train_teacher", *clips, *(f"fit.{key}={value}" for key, value in cfg.teacher.items()))
        )
    with chain.stage("distill_student"):
        student = distill_student.run(
            chain.options(
                "distill_student",
                "distill=full",
                f"teacher_checkpoint={teacher}",
                f"distill.every={cfg.distill.every}",
                *clips,
                *(f"fit.{key}={value}" for key, value in cfg.student.items()),
            )
        )
    with chain.stage("evaluate"):
        found["evaluation"] = evaluate.run(
            chain.options(
                "evaluate",
                f"checkpoint={student}",
                f"teacher_checkpoint={teacher}",
                "baselines=[mean_shift,static]",
                f"workers={available()}",
                "report=null",
            )
        )
    with chain.stage("profile_energy"):
        found["profile"] = profile_energy.run(
            chain.options(
                "profile_energy",
                f"checkpoint={student}",
                f"teacher_checkpoint={teacher}",
                f"windows={cfg.profile_windows}",
                "measure=false",
            )
        )
    found["sequences"] = sequences(compose("prepare_data", chain.data).data, "test")
    with chain.stage("export_nir"):
        found["export"] = export_nir.run(
            chain.options(
                "export_nir",
                f"checkpoint={student}",
                f"windows={cfg.export_windows}",
                f"verify=[{','.join(cfg.simulators)}]",
            )
        )
    with chain.stage("track"):
        sample = sample_recording()
        found["track"] = track.run(
            chain.options(
                "track",
                f"recording={sample.path}",
                f"box={sample.boxes_path}",
                f"truth={sample.boxes_path}",
                "object=slow",
                f"checkpoint={student}",
                data=False,
            )
        )
    return found


def metrics(chain: Chain, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run as plain numbers."""
    record: dict[str, Any] = {
        result.tracker: {key: round(result.scores[key], 3) for key in ("SR", "PR", "NPR", "OP50", "OP75")}
        for result in found["evaluation"]
    }
    record["protocol"] = found["evaluation"][0].protocol
    record["energy_mj_per_output"] = {name: rules["exact"] for name, rules in found["profile"].items()}
    record["energy_mj_per_output_by_rules"] = found["profile"]
    record["export"] = found["export"]
    record["seconds"] = {**chain.seconds, "total": round(sum(chain.seconds.values()), 2)}
    record["seed"] = chain.cfg.seed
    record["versions"] = versions()
    return record


def show(record: dict[str, Any], folder: Path) -> None:
    """The final table: what was made, how good it is, and where it lies."""
    table = Table(title=f"HAD-SNN demo, seed {record['seed']} (protocol {record['protocol']})", title_justify="left")
    for column in ("tracker", "SR", "PR", "NPR"):
        table.add_column(column, justify="left" if column == "tracker" else "right")
    for name in ("student", "teacher", "mean_shift", "static"):
        table.add_row(name, *(f"{record[name][key]:.1f}" for key in ("SR", "PR", "NPR")))
    made = Table(title="what was made", title_justify="left", show_header=False)
    made.add_row("report", str(folder / "report.html"))
    made.add_row("figures", str(folder / "metrics.json"))
    made.add_row("teacher", str(folder / "train_teacher" / "teacher.safetensors"))
    made.add_row("student", str(folder / "distill_student" / "student.safetensors"))
    made.add_row("NIR graph", str(folder / "export_nir"))
    made.add_row("video", str(folder / "track"))
    made.add_row("seconds", ", ".join(f"{key} {value:.0f}" for key, value in record["seconds"].items()))
    console = Console()
    console.print(table, made)


def main(cfg: DictConfig) -> None:
    folder = open_run(cfg)
    chain = Chain(cfg, folder)
    found = run_chain(chain)
    with chain.stage("report"):
        demo_report.write(folder, metrics(chain, found), found, found["sequences"])
    record = metrics(chain, found)
    with atomic_file(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    show(record, folder)
