"""Looks at a data set on disk and says what is missing, what does not match, and what to do.

had-snn check-data data=fe108 data.root=/data/FE108
had-snn check-data data=eventvot data.root=/data/EventVOT deep=true out=report.json
had-snn check-data data=coesot example=coesot_tiny
"""

from __future__ import annotations

import json
import sys

from omegaconf import DictConfig

from had_snn.commands.progress import progress
from had_snn.commands.sources import data_layout
from had_snn.data.folder_report import CheckReport
from had_snn.data.tiny_layouts import make_tiny
from had_snn.errors import InputError
from had_snn.files import atomic_file


def run(cfg: DictConfig) -> CheckReport:
    """Looks at the data set; writes the report if `out` names a file."""
    if cfg.data.get("layout") is None:
        raise InputError("simulated data needs no check; choose a data set on disk, e.g. data=fe108 data.root=FOLDER")
    if cfg.example is not None:
        make_tiny(cfg.data.layout, cfg.example)
        cfg.data.root = cfg.example
    layout = data_layout(cfg.data)
    with progress(f"check {layout.name}", unit="sequences") as bar:
        report = layout.check(deep=cfg.deep, progress=bar)
    if cfg.out is not None:
        with atomic_file(cfg.out) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    return report


def main(cfg: DictConfig) -> None:
    report = run(cfg)
    print(report.to_text(examples=cfg.examples))
    if not report.usable:
        sys.exit(1)
