"""Tracks for the Rerun viewer (https://rerun.io): pictures of events, the box and its score on one time line."""

from __future__ import annotations

import os

import numpy as np

from had_snn.errors import optional_import


class RerunLog:
    """Writes an `.rrd` file, picture by picture.

    Args:
        path: The file; open it with `rerun FILE`.

    Raises:
        MissingExtraError: If rerun-sdk is not installed (extra `rerun`).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._rerun = optional_import("rerun", extra="rerun")
        self._stream = self._rerun.RecordingStream("had_snn")
        self._stream.save(os.fspath(path))

    def add(self, t_us: int, picture: np.ndarray, box_xywh: np.ndarray, score: float, *, lost: bool = False) -> None:
        """Adds one box.

        Args:
            t_us: Time of the box in microseconds.
            picture: uint8 `[H, W, 3]` in sensor pixels.
            box_xywh: `[4]`, sensor pixels.
            score: Confidence.
            lost: Whether the target counts as lost.
        """
        rerun = self._rerun
        self._stream.set_time("time", duration=t_us * 1e-6)
        self._stream.log("sensor/events", rerun.Image(picture))
        label = f"{score:.2f}" + (" lost" if lost else "")
        box = rerun.Boxes2D(array=[list(box_xywh)], array_format=rerun.Box2DFormat.XYWH, labels=[label])
        self._stream.log("sensor/box", box)
        self._stream.log("score", rerun.Scalars(float(score)))

    def close(self) -> None:
        """Writes what is still in memory."""
        self._stream.flush()
        self._stream.disconnect()
