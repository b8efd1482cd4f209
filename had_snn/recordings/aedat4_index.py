"""The times in an AEDAT4 file without its events: when each frame was exposed, and when the first event came.

Labels of frame-based data sets are tied to frames. Their times are found by hopping from packet to packet and unpacking
only those that hold a frame, so a data set is opened long before any of its recordings has been decoded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.aedat4 import EVENT_DTYPE, MAGIC, Aedat4File, _frame
from had_snn.recordings.aedat4_packets import Broken, root_of_packet
from had_snn.recordings.frame_depth import depth_of, to_8_bits
from had_snn.recordings.recording import ReadOptions


@dataclass(frozen=True, eq=False)
class Aedat4Index:
    """When things happen in a recording.

    Attributes:
        start_us: int64 `[F]`, start of each exposure.
        end_us: int64 `[F]`, end of each exposure; frames are in this order.
        first_event_us: Time of the first event, or None if there is none.
        sensor_hw: Height and width, or None if the file does not say.
    """

    start_us: np.ndarray
    end_us: np.ndarray
    first_event_us: int | None
    sensor_hw: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.end_us)


def _open(path: str | os.PathLike[str], *, repair: bool) -> Aedat4File:
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FormatError(path, "not an AEDAT4 file; expected it to begin with #!AER-DAT4.0", offset=0)
        return Aedat4File(path, ReadOptions(repair=repair))
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error


def index_aedat4(path: str | os.PathLike[str], *, repair: bool = False) -> Aedat4Index:
    """Finds the frames' exposures and the first event of a recording.

    Args:
        path: The file.
        repair: Take what lies before a cut-off end, with a warning.

    Returns:
        The times; the frames are those of the first frame stream of the first event camera, as `open_recording` reads.

    Raises:
        FormatError: If the file is missing, damaged, or no AEDAT4 file.
    """
    file = _open(path, repair=repair)
    times, first = [], None
    for packet in file.packets({}):
        try:
            if file.pictures is not None and packet.stream == file.pictures["id"]:
                frame = _frame(file.path, file.raw(packet))
                times += [frame[1:3]] if frame is not None else []
            elif first is None and file.events is not None and packet.stream == file.events["id"]:
                packed = root_of_packet(file.raw(packet), b"EVTS").vector(0, EVENT_DTYPE.itemsize).view(EVENT_DTYPE)
                first = int(packed["t"][0]) if len(packed) else None
        except Broken as error:
            raise FormatError(file.path, f"damaged packet: {error}", offset=packet.start) from error
    spans = np.array(times, np.int64).reshape(-1, 2)
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    return Aedat4Index(spans[:, 0], spans[:, 1], first, file.sensor_hw)


def read_aedat4_frames(path: str | os.PathLike[str], wanted: Sequence[int]) -> list[np.ndarray]:
    """Some pictures of a recording.

    Args:
        path: The file.
        wanted: Their numbers in the order of the ends of the exposures, from 0.

    Returns:
        uint8 `[H, W, 3]` each, grey ones repeated.

    Raises:
        FormatError: If there is no such frame, or the file is damaged.
    """
    file = _open(path, repair=False)
    packets = [p for p in file.packets({}) if file.pictures is not None and p.stream == file.pictures["id"]]
    ends, places, highest = [], [], 0
    for packet in packets:
        frame = _frame(file.path, file.raw(packet))
        if frame is not None:
            ends.append(frame[2])
            places.append(packet)
            highest = max(highest, int(frame[0].max(initial=0))) if frame[0].dtype.itemsize == 2 else highest
    order, depth = np.argsort(ends, kind="stable"), depth_of([np.array(highest)])
    found = []
    for index in wanted:
        if not 0 <= index < len(places):
            raise FormatError(path, f"no frame {index}; the recording holds {len(places)}")
        frame = _frame(file.path, file.raw(places[int(order[index])]))
        assert frame is not None
        (image,) = to_8_bits(file.path, [frame[0]], depth=depth)
        found.append(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image))
    return found
