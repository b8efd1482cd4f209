"""The jobs of `had-snn` and their names on the command line; nothing is loaded for it."""

from __future__ import annotations

#: What is typed, and the job's module, in the order in which they are met.
JOBS = {
    "sample": "sample",
    "track": "track",
    "convert": "convert",
    "check-data": "check_data",
    "simulate": "prepare_data",
    "replay": "replay",
    "train-teacher": "train_teacher",
    "distill": "distill_student",
    "adapt": "adapt",
    "evaluate": "evaluate",
    "profile": "profile_energy",
    "export": "export_nir",
    "demo": "demo",
}

SCREEN = """\
had-snn: a spiking event-camera tracker that reads raw microsecond timestamps.

  had-snn JOB [option=value ...]       had-snn JOB --help

Begin here, with a recording and the boxes of two targets in it:
  had-snn sample
  had-snn track sample/recording.aedat4 --box sample/boxes.csv --object fast

Recordings and data sets:
  sample          copy the recording that comes with the package into a folder
  track           follow a target through a recording or a live stream: boxes, a film, a summary
  convert         write a recording in another format
  check-data      say what a data set on disk lacks
  simulate        make the simulated data set, with frames and boxes
  replay          play a recording as a live stream

Training, in this order:
  train-teacher   an ANN on RGB and events
  distill         the spiking student, alone or under a teacher (init=tiny goes on from the shipped one)
  adapt           a trained student to recordings without labels, through a teacher
  evaluate        scores of trackers, baselines and result folders under named protocols

A trained student:
  profile         spikes, synaptic operations, energy
  export          a NIR file, verified spike for spike in simulators
  demo            all of this once, in minutes, on simulated data

had-snn --version
"""


def module_of(job: str) -> str:
    """Where a job's `main` is; studies and benchmarks are found in a checkout only."""
    if job in JOBS.values():
        return f"had_snn.commands.{job}"
    return f"experiments.bench.{job[6:]}" if job.startswith("bench_") else f"experiments.studies.{job}"


def command_of(job: str) -> str:
    """What starts a job: `had-snn track`, `python -m experiments.studies lag`."""
    typed = next((name for name, module in JOBS.items() if module == job), None)
    return f"had-snn {typed}" if typed is not None else "python -m " + " ".join(module_of(job).rsplit(".", 1))
