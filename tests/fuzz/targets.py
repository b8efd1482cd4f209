"""Files that others may hand us, by kind: small valid ones, and what a reader of each must do with any other.

A reader may refuse with `HadError` in one line. What it takes must be fit for use: it is used, and used again after
writing and reading.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from had_snn.checkpoint import load_student, save_weights
from had_snn.data.labels import read_columns, read_names
from had_snn.evaluate.box_files import read_boxes, write_boxes
from had_snn.evaluate.folders import read_annotations, score_folder
from had_snn.events.stream import EventStream
from had_snn.export.nir import load_nir, read_nir, stored_notes, write_nir
from had_snn.export.search_graph import INPUT, OUTPUT, Conv, Neurons, SearchGraph, run_graph
from had_snn.models import SpikingTracker, StudentConfig
from had_snn.tracking import OnlineTracker
from had_snn.train.config import FitConfig
from had_snn.train.loop import fit

#: As small as a student can be, so that a file of it is.
SMALL = StudentConfig(
    stem_channels=1, channels=(1, 1, 1), n_steps=1, template_size=24, search_size=32, match_kernel=1, blocks=0
)


class Target(NamedTuple):
    """A kind of files.

    Attributes:
        seeds: Contents of small valid files.
        read: Reads a file and uses what it gets; raises `HadError` where it refuses.
    """

    seeds: Callable[[], Iterator[bytes]]
    read: Callable[[Path], None]


def _stream(count: int = 60, *, from_us: int = 0) -> EventStream:
    rng = np.random.default_rng(0)
    t = from_us + np.sort(rng.integers(0, 60_000, count))
    columns = rng.integers(20, 44, count), rng.integers(12, 30, count), rng.integers(0, 2, count)
    return EventStream.from_arrays(t, *columns, (48, 64))


def _student() -> SpikingTracker:
    torch.manual_seed(0)
    return SpikingTracker(SMALL)


def _written(write: Callable[[Path], object], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def _graph() -> SearchGraph:
    conv = Conv(torch.ones(1, 1, 1, 1), torch.zeros(1))
    nodes = {"conv": conv, "lif": Neurons(0.5, (1, 2, 2)), "head": conv}
    edges = ((INPUT, "conv"), ("conv", "lif"), ("lif", "head"), ("head", OUTPUT))
    return SearchGraph(nodes, edges, (1, 2, 2), 2, 1000.0, {"lif": "lif"}, {"part": "body"})


def _nir_seeds() -> Iterator[bytes]:
    yield _written(lambda path: write_nir(path, _graph()), ".nir")


def _read_nir(path: Path) -> None:
    graph = read_nir(path)
    stored_notes(load_nir(path), path)
    channels, height, width = graph.input_shape
    if channels * height * width <= 4096:
        run_graph(graph, torch.ones(2, 1, channels, height, width))


def _weights_seeds() -> Iterator[bytes]:
    yield _written(lambda path: save_weights(path, _student(), half=True), ".safetensors")


def _read_weights(path: Path) -> None:
    student = load_student(path)
    if student.config == SMALL:
        tracker = OnlineTracker(student)
        tracker.init(_stream(), [24, 14, 12, 10], t_us=60_000)


def _state_seeds() -> Iterator[bytes]:
    for carry in (False, True):
        tracker = OnlineTracker(_student(), carry=carry)
        tracker.init(_stream(), [24, 14, 12, 10], t_us=60_000)
        tracker.update(_stream(20, from_us=60_000))
        yield _written(tracker.save, ".safetensors")


_TRACKERS: dict[bool, OnlineTracker] = {}


def _read_state(path: Path) -> None:
    from had_snn.errors import HadError

    for carry in (False, True):
        tracker = _TRACKERS.setdefault(carry, OnlineTracker(_student(), carry=carry))
        try:
            tracker.load(path)
        except HadError as error:
            refused = error
            continue
        state = tracker.state
        assert state is not None
        start = max(state.asked_us, state.buffer.last_t or 0)
        if abs(start) < 1 << 60:
            for estimate in tracker.update(_stream(20, from_us=start), at_us=[start + 40_000]):
                assert np.isfinite(estimate.box_xywh).all(), "a box that is no box"
                assert math.isfinite(estimate.score)
        return
    raise refused


class _Batch(NamedTuple):
    x: torch.Tensor

    def to(self, device: object) -> _Batch:
        return self


class _Clips:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index % 4))

    def collate(self, clips: list[torch.Tensor]) -> _Batch:
        return _Batch(torch.stack(clips))


class _Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, batch: _Batch) -> dict[str, torch.Tensor]:
        return {"total": self.net(batch.x).square().mean()}


_FIT = FitConfig(iterations=1, batch_size=2, checkpoint_every=1, loader_threads=1)


def _resume_seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        fit(_Task(), _Clips(), _FIT, run_dir=folder)
        yield (Path(folder) / "resume.pt").read_bytes()


def _read_resume(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        (Path(folder) / "resume.pt").write_bytes(path.read_bytes())
        fit(_Task(), _Clips(), _FIT, run_dir=folder)


def _box_seeds() -> Iterator[bytes]:
    yield from (
        b"1,2,3,4\n5,6,7,8\n",
        b"# x y w h\n1 2 3 4\nnan nan nan nan\n",
        b"frame;x1;y1;x2;y2\n0;1;2;3;4\n1;2;3;4;5\n",
        b"1\n1.5,2,3,4\n2\n0\n",
        b"t_us,x,y,w,h,score,lost\n1,2,3,4,5,0.5,0\n",
        _written(lambda path: write_boxes(path, np.arange(12.0).reshape(3, 4)), ".txt"),
    )


def _read_box_file(path: Path) -> None:
    boxes = read_boxes(path)
    assert boxes.ndim == 2
    assert boxes.shape[1] == 4
    assert not np.isinf(boxes).any()
    again = path.with_suffix(".again")
    write_boxes(again, boxes, decimals=17)
    np.testing.assert_allclose(read_boxes(again, frames=len(boxes)), boxes, rtol=1e-12, atol=1e-12)


def _read_results(path: Path) -> None:
    """As results, as annotations and as a list of names: no tracker gets a score that is no number."""
    folder = path.parent / "results"
    (folder / "results").mkdir(parents=True, exist_ok=True)
    (folder / "truth").mkdir(exist_ok=True)
    (folder / "truth" / "one.txt").write_text("1,2,3,4\n5,6,7,8\n")
    (folder / "results" / "one.txt").write_bytes(path.read_bytes())
    truths = read_annotations(folder / "truth", None, None)
    found = score_folder(folder / "results", truths, resamples=0)
    assert all(math.isnan(score) or 0 <= score <= 100 for score in found.scores.values())
    json.dumps(found.to_dict())


def _state_like(seeds: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
    """Seeds, and each cut in half."""

    def both() -> Iterator[bytes]:
        for seed in seeds():
            yield seed
            yield seed[: len(seed) // 2]

    return both


def _ignored(_: object) -> None:
    """What was read is of no further use."""


TARGETS = {
    "nir": Target(_state_like(_nir_seeds), _read_nir),
    "weights": Target(_state_like(_weights_seeds), _read_weights),
    "state": Target(_state_like(_state_seeds), _read_state),
    "resume": Target(_state_like(_resume_seeds), _read_resume),
    "boxes": Target(_box_seeds, _read_box_file),
    "labels": Target(_box_seeds, lambda path: _ignored(read_columns(path))),
    "names": Target(_box_seeds, lambda path: _ignored(read_names(path))),
    "results": Target(_box_seeds, _read_results),
}
