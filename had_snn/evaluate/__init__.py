"""Evaluation: protocols and scores, one-pass runs, baselines, result folders of other trackers, the HTML report."""

from had_snn.evaluate.box_files import read_boxes, write_boxes
from had_snn.evaluate.metrics import SCORES, SequenceCurves, Summary, paired_difference, sequence_curves, summarise
from had_snn.evaluate.one_pass import evaluate_tracker, run_on_clock, run_one_pass
from had_snn.evaluate.protocols import PROTOCOLS
from had_snn.evaluate.results import (
    EvaluationResult,
    TrackResult,
    Truth,
    results_to_json,
    score_results,
    write_result_folder,
)

__all__ = [
    "PROTOCOLS",
    "SCORES",
    "EvaluationResult",
    "SequenceCurves",
    "Summary",
    "TrackResult",
    "Truth",
    "evaluate_tracker",
    "paired_difference",
    "read_boxes",
    "results_to_json",
    "run_on_clock",
    "run_one_pass",
    "score_results",
    "sequence_curves",
    "summarise",
    "write_boxes",
    "write_result_folder",
]
