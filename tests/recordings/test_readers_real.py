"""Every recording in the folder of real data opens with the counts that an independent decoder found, or is refused."""

from __future__ import annotations

import importlib.util
import json
import logging

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.recordings.readers import open_recording

RECORDINGS = (".aedat4", ".aedat", ".dat", ".raw", ".es", ".bin", ".hdf5", ".mat", ".db3")
REFUSED = {
    "flow.npy": "no events",
    "calib.txt": "told apart",
    "motion.txt": "3 columns",
    "000000000.png": "PNG picture",
    "dynamic_translation_": "no column holds two values",
    "README.md": "no line of numbers",
    "metadata.yaml": "no line of numbers",
    ".xml": "markup document",
    "_boxes.csv": "no line of numbers|not an event file",
}


def entries(real_data):
    return json.loads((real_data / "manifest.json").read_text())


def test_every_file_opens_with_its_counts_or_is_refused_by_name(real_data, caplog):
    caplog.set_level(logging.CRITICAL, logger="had_snn")
    opened = refused = 0
    for entry in entries(real_data):
        path = real_data / entry["file"]
        reasons = [reason for name, reason in REFUSED.items() if name in path.name]
        if reasons:
            with pytest.raises(FormatError, match=reasons[0]):
                open_recording(path)
            refused += 1
            continue
        if path.suffix == ".db3" and importlib.util.find_spec("rosbags") is None:
            continue
        recording = open_recording(path)
        events, expected, origin = recording.events, entry.get("check", {}), recording.info["origin"]
        found = {"n": len(events), "frames": len(recording.frames) if recording.frames is not None else 0}
        if len(events):
            found |= {
                "dur_s": round((events.t[-1] - events.t[0]) / 1e6, 3),
                "xmin": int(events.x.min()) + origin,
                "xmax": int(events.x.max()) + origin,
                "ymin": int(events.y.min()) + origin,
                "ymax": int(events.y.max()) + origin,
                "pos": round(float(events.p.mean()), 3),
            }
            assert (np.diff(events.t) >= 0).all(), path
            assert events.x.max() < events.sensor_hw[1], path
        if path.name == "evt3_sample.raw":
            # The manifest's 0.054 s comes from a decoder that adds 4096 us at each wrap of the lower part of time. The
            # file's own upper time words, one every 16 us, run from 2861 to 2863 (x 4096 us).
            expected = {**expected, "dur_s": 0.009}
        wrong = {k: (found.get(k), v) for k, v in expected.items() if k in found and abs(found[k] - v) > 0.0011}
        assert not wrong, f"{path}: (found, expected) {wrong}"
        opened += 1
    assert opened >= 30
    assert refused >= 20


def test_evt3_events_are_those_of_another_decoder_but_for_its_time(real_data):
    ours = open_recording(real_data / "expelliarmus/tests/sample-files/evt3_sample.raw").events
    theirs = np.load(real_data / "expelliarmus/tests/sample-files/evt3_sample.npy")
    assert (ours.x == theirs["x"]).all()
    assert (ours.y == theirs["y"]).all()
    assert (ours.p == theirs["p"]).all()
    assert (ours.t % 4096 == theirs["t"] % 4096).all()


def test_rows_of_event_stream_files_count_from_the_top(real_data):
    """The file begins with a picture scanned row by row from the top, which it numbers 239."""
    events = open_recording(real_data / "faery/tests/data/dvs.es").events
    assert (events.x[:300] == np.arange(300)).all()
    assert (events.y[:300] == 0).all()


def test_frames_come_with_times_in_the_events_time_base(real_data):
    recording = open_recording(real_data / "event-vision-library/artifacts/sample_data/sample.aedat4")
    frames, events = recording.frames, recording.events
    assert frames is not None
    assert frames.images.shape == (4, 260, 346)
    assert (frames.end_us > frames.start_us).all()
    assert (frames.end_us >= events.t_start - 100_000).all()
    assert (frames.start_us <= events.t_end + 100_000).all()


def test_frames_without_events(real_data):
    recording = open_recording(real_data / "dv-processing-tests/tests/data/test_files/test-frame.aedat4")
    assert len(recording.events) == 0
    assert recording.frames is not None
    assert len(recording.frames) == 20


def test_aedat_package_agrees(real_data):
    aedat = pytest.importorskip("aedat")
    path = real_data / "event-vision-library/artifacts/sample_data/sample.aedat4"
    recording = open_recording(path)
    packets = list(aedat.Decoder(path))
    theirs = np.concatenate([p["events"] for p in packets if "events" in p])
    assert (theirs["t"] == recording.events.t).all()
    assert (theirs["x"] == recording.events.x).all()
    assert (theirs["y"] == recording.events.y).all()
    assert (theirs["on"] == recording.events.p).all()
    pictures = [p["frame"] for p in packets if "frame" in p]
    assert recording.frames is not None
    assert (pictures[0]["pixels"] == recording.frames.images[0]).all()
    assert pictures[0]["exposure_end_t"] == recording.frames.end_us[0]
