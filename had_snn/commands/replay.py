"""Plays a recording as a live stream on standard output, at its own speed or faster.

had-snn replay recording=recording.aedat4 | had-snn track --live box=[42,225,44,17]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from had_snn.errors import InputError
from had_snn.recordings.live import encode_events, encode_header, encode_time
from had_snn.recordings.readers import read_events


def main(cfg: DictConfig) -> None:
    events = read_events(cfg.recording)
    if len(events) == 0:
        raise InputError(f"{cfg.recording} holds no events")
    start = int(cfg.start_us) if cfg.start_us is not None else events.t_start
    end = int(cfg.end_us) if cfg.end_us is not None else events.t_end
    with sys.stdout.buffer if cfg.out == "-" else Path(cfg.out).open("wb") as file:
        file.write(encode_header(events.sensor_hw))
        began = time.monotonic()
        for t in range(start, end, cfg.step_us):
            if cfg.speed > 0:
                time.sleep(max(0.0, (t + cfg.step_us - start) * 1e-6 / cfg.speed - (time.monotonic() - began)))
            stop = min(t + cfg.step_us, end)
            file.write(encode_events(events.slice_time(t, stop)) + encode_time(stop))
            file.flush()
