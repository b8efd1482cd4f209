"""Situations of the field in every text and array format: read right, asked about, or refused by name; never else."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from table_files import NAMED, TEXT, UNNAMED, WITH_FACTS, assert_reads_as, make_columns, write_table

from had_snn.errors import FormatError
from had_snn.recordings.cache import open_cached
from had_snn.recordings.readers import open_recording, read_events

pytest.importorskip("h5py")
pytest.importorskip("scipy.io")


@pytest.fixture
def warned(caplog):
    """What was warned about since the last call."""
    caplog.set_level(logging.WARNING, logger="had_snn")

    def messages() -> str:
        text = "\n".join(record.getMessage() for record in caplog.records)
        caplog.clear()
        return text

    return messages


POLARITIES = ((-1, 1), (1, 2), (0, 255), (255, 1), (4294967295, 1), (False, True), (1, 0), (3, 7))


def reorder(columns, order):
    return {name: columns[name] for name in order}


@pytest.mark.parametrize("order", ["txyp", "xypt", "ptxy"])
@pytest.mark.parametrize("form", UNNAMED)
def test_x_comes_first_in_a_tall_region(tmp_path, form, order, warned):
    columns = reorder(make_columns(sensor_hw=(331, 251)), order)
    path = write_table(form, tmp_path / "e", columns, named=False)
    events = read_events(path, sensor_hw=(480, 640))
    assert_reads_as(events, columns)
    assert events.sensor_hw == (480, 640)
    assert warned() == ""
    assert_reads_as(read_events(path), columns)
    assert "columns=" in warned()  # it would fit a smaller sensor the other way round


@pytest.mark.parametrize("form", sorted(set(UNNAMED) & set(WITH_FACTS)))
def test_a_sensor_that_the_file_states_binds(tmp_path, form, warned):
    columns = make_columns(sensor_hw=(331, 251))
    path = write_table(form, tmp_path / "e", columns, named=False, facts={"width": 640, "height": 480})
    recording = open_recording(path)
    assert_reads_as(recording.events, columns)
    assert recording.events.sensor_hw == (480, 640)
    assert recording.info["sensor"] == "file"
    assert read_events(path, sensor_hw=(720, 1280)).sensor_hw == (720, 1280)
    assert "the file states a sensor of 640x480" in warned()


@pytest.mark.parametrize("form", UNNAMED)
def test_rows_first_is_what_the_stated_sensor_allows(tmp_path, form, warned):
    columns = make_columns()
    path = write_table(form, tmp_path / "e", reorder(columns, "tyxp"), named=False)
    for options in ({}, {"window": (1_000, 60_000)}):
        recording = open_recording(path, sensor_hw=(260, 346), **options)
        assert_reads_as(recording.events, columns)
        assert recording.info["columns"] == "tyxp"
        assert "columns=" in warned()
    cached = open_cached(path, tmp_path / "cache", sensor_hw=(260, 346))
    assert_reads_as(cached.events, columns)
    assert "columns=" in warned()
    assert_reads_as(read_events(path, columns="tyxp"), columns)
    assert warned() == ""


@pytest.mark.parametrize("form", UNNAMED)
@pytest.mark.parametrize("order", ["xypt", "yxpt"])
def test_the_order_is_checked_on_all_events(tmp_path, form, order, monkeypatch, warned):
    """The first events lie in a corner, where either order fits."""
    monkeypatch.setattr("had_snn.recordings.text.SAMPLE_LINES", 50)
    for name in ("arrays", "hdf5"):
        monkeypatch.setattr(f"had_snn.recordings.{name}.SAMPLE", 50)
    monkeypatch.setattr("had_snn.recordings.columns.CHUNK", 64)
    columns = make_columns(sensor_hw=(720, 1280))
    columns["x"][:300] %= 100
    columns["y"][:300] %= 100
    path = write_table(form, tmp_path / "e", reorder(columns, order), named=False)
    recording = open_recording(path, sensor_hw=(720, 1280), repair=True)
    assert_reads_as(recording.events, columns)
    assert recording.info["columns"] == order
    corner = (int(columns["t"][0]), int(columns["t"][200]))  # read the same in a window that shows only the corner
    part = {name: column[:200] for name, column in columns.items()}
    assert_reads_as(read_events(path, sensor_hw=(720, 1280), window=corner), part)


@pytest.mark.parametrize("form", UNNAMED)
def test_a_stray_event_does_not_turn_the_order(tmp_path, form, warned):
    columns = make_columns(n=2_000, sensor_hw=(200, 240))
    columns["y"][1_000] = 300
    path = write_table(form, tmp_path / "e", columns, named=False)
    with pytest.raises(FormatError, match=r"1 of 2000 events .*repair=True drops"):
        read_events(path, sensor_hw=(260, 346))
    kept = np.arange(2_000) != 1_000
    events = read_events(path, sensor_hw=(260, 346), repair=True)
    assert_reads_as(events, {name: column[kept] for name, column in columns.items()})


UNIT_NAMES = {
    -3: ("timestamp[ns]", "t_ns", "time (nanoseconds)", "ts{ns}", "t [10^-9 s]"),
    0: ("t [\u00b5s]", "t [\u03bcs]", "time_us", "timestampUs", "t (1e-6 s)", "time in microseconds"),
    3: ("t_ms", "time [ms]", "timestamp<msec>", "t / ms"),
    2: ("t [0.1 ms]",),
}


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize(("exponent", "name"), [(e, n) for e, names in UNIT_NAMES.items() for n in names])
def test_units_in_names(tmp_path, form, exponent, name):
    if form == "mat_struct" and not name.isidentifier():
        pytest.skip("MATLAB's names hold letters, digits and underscores")
    if form.startswith("hdf5") and "/" in name:
        pytest.skip("a slash separates groups in HDF5")
    if form in ("blanks", "commented") and " " in name and not name.rstrip().endswith((")", "]")):
        pytest.skip("blanks separate the names")
    columns = make_columns()
    columns["t"] = columns["t"] // 1000 * 1000 + np.arange(len(columns["t"])) * 1000
    if exponent >= 0:
        t = columns["t"] // 10**exponent
    else:
        t = columns["t"] * 10**-exponent + 400  # rounded away
    if form == "decimal_commas":
        t = t.astype(float)
    path = write_table(form, tmp_path / "e", {name: t, **reorder(columns, "xyp")}, named=True)
    assert_reads_as(read_events(path), columns)


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("unit", ["ticks", "25 ns", "frames", "min"])
def test_a_unit_that_is_not_understood_is_refused(tmp_path, form, unit):
    columns = make_columns()
    if form in WITH_FACTS and form != "mat_struct":
        path = write_table(form, tmp_path / "e", columns, named=True, facts={"time_unit": unit})
        with pytest.raises(FormatError, match=r"unit of time.*time_unit="):
            read_events(path)
        assert_reads_as(read_events(path, time_unit="us"), columns)
    if form != "mat_struct":
        columns = {f"t [{unit}]": columns["t"], **reorder(columns, "xyp")}
        path = write_table(form, tmp_path / "f", columns, named=True)
        with pytest.raises(FormatError, match=r"not understood.*time_unit="):
            read_events(path)


@pytest.mark.parametrize("form", WITH_FACTS)
def test_units_and_offsets_stated_as_facts(tmp_path, form):
    columns = make_columns()
    named = form in NAMED
    ns = {**columns, "t": columns["t"] * 1000}
    assert_reads_as(read_events(write_table(form, tmp_path / "a", ns, named=named, facts={"time_unit": "ns"})), columns)
    if form not in TEXT:
        path = write_table(form, tmp_path / "b", columns, named=named, facts={"t_offset": np.float64(4.9599300523e10)})
        assert_reads_as(read_events(path), {**columns, "t": columns["t"] + 49_599_300_523})


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
def test_without_a_unit_only_one_plausible_reading_is_taken(tmp_path, form, warned):
    named = form in NAMED
    columns = make_columns(n=2_000, span=2_000_000)
    times = {"ns": columns["t"] * 1000, "us": columns["t"], "s": columns["t"] / 1e6}
    for unit, t in times.items():
        path = write_table(form, tmp_path / unit, {**columns, "t": t}, named=named)
        assert_reads_as(read_events(path), columns)
        assert ("time_unit=" in warned()) == (unit == "ns")
    ticks = {**columns, "t": np.arange(2_000) * 2}  # 4 s in milliseconds, or 4 ms in microseconds
    path = write_table(form, tmp_path / "ms", ticks, named=named)
    with pytest.raises(FormatError, match=r"states no unit of time.*in ms 4 s .*in us 0\.004 s .*time_unit="):
        read_events(path)
    assert_reads_as(read_events(path, time_unit="ms"), {**ticks, "t": ticks["t"] * 1000})


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
@pytest.mark.parametrize(
    "values", [(-1, 1), (1, 2), (0, 255), (255, 1), (4294967295, 1), (False, True), (1, 0), (3, 7)]
)
def test_polarities(tmp_path, form, values):
    columns = make_columns()
    off, on = values
    p = np.where(columns["p"], on, off)
    path = write_table(form, tmp_path / "e", {**columns, "p": p}, named=form in NAMED)
    if values not in ((1, 0), (3, 7)):
        assert_reads_as(read_events(path), columns)
    assert_reads_as(read_events(path, polarity=values), columns)
    assert_reads_as(read_events(path, polarity=(on, off)), {**columns, "p": 1 - columns["p"]})
    assert_reads_as(open_cached(path, tmp_path / "cache", polarity=values).events, columns)
    if values == (3, 7):
        with pytest.raises(FormatError, match="polarity="):
            read_events(path)


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
def test_three_polarities(tmp_path, form, warned):
    columns = make_columns()
    p = columns["p"] * 2 - 1
    p[100:120] = 0
    path = write_table(form, tmp_path / "e", {**columns, "p": p}, named=form in NAMED)
    expected = {**columns, "p": p > 0}
    assert_reads_as(read_events(path), expected)
    assert "polarity=" in warned()
    assert_reads_as(read_events(path, polarity=(-1, 1)), expected)
    assert "20 events have another polarity" in warned()
    assert_reads_as(read_events(path, polarity=(1, 0)), {**columns, "p": p == 0})


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
def test_polarities_with_fractions_are_refused(tmp_path, form):
    columns = make_columns()
    path = write_table(form, tmp_path / "e", {**columns, "p": columns["p"] - 0.25}, named=form in NAMED)
    with pytest.raises(FormatError, match="polarity="):
        read_events(path)


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
@pytest.mark.parametrize("signed", [True, False])
def test_a_clock_of_32_bits_is_unwrapped(tmp_path, form, signed):
    columns = make_columns()
    start = (2**31 if signed else 2**32) - 20_000
    t = columns["t"] + start
    raw = t.astype(np.uint32).view(np.int32) if signed else t.astype(np.uint32)
    path = write_table(form, tmp_path / "e", {**columns, "t": raw.astype(np.int64)}, named=form in NAMED)
    with pytest.raises(FormatError, match=r"32-bit clock.*repair=True unwraps"):
        read_events(path)
    recording = open_recording(path, repair=True)
    assert_reads_as(recording.events, {**columns, "t": t})
    assert "1 wraps of a 32-bit clock: unwrapped" in recording.info["repairs"]


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
@pytest.mark.parametrize("stated", [None, (260, 346)])
def test_a_pixel_at_the_width_is_dropped_by_repair(tmp_path, form, stated, warned):
    columns = make_columns()
    columns["x"][77] = 346
    path = write_table(form, tmp_path / "e", columns, named=form in NAMED)
    kept = {name: column[np.arange(600) != 77] for name, column in columns.items()}
    events = read_events(path, sensor_hw=stated, repair=True)
    assert events.sensor_hw == (260, 346)
    assert_reads_as(events, kept)
    assert "1 events outside the sensor: dropped" in warned()
    cached = open_cached(path, tmp_path / "cache", sensor_hw=stated, repair=True)
    assert_reads_as(cached.events, kept)
    warned()
    if stated is None:
        assert read_events(path).sensor_hw == (480, 640)
        assert "repair=True drops" in warned()
    else:
        with pytest.raises(FormatError, match="repair=True drops"):
            read_events(path, sensor_hw=stated)


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED}))
def test_repair_does_not_drop_most_events_nor_mix_recordings(tmp_path, form):
    columns = make_columns(sensor_hw=(480, 640))
    path = write_table(form, tmp_path / "e", columns, named=form in NAMED)
    with pytest.raises(FormatError, match=r"would drop \d+ of 600 events"):
        read_events(path, sensor_hw=(128, 128), repair=True)
    with pytest.raises(FormatError) as caught:
        read_events(path, sensor_hw=(128, 128))
    assert "repair=" not in str(caught.value)
    twice = {name: np.concatenate([column, column]) for name, column in columns.items()}
    path = write_table(form, tmp_path / "twice", twice, named=form in NAMED)
    with pytest.raises(FormatError, match="recordings one after another"):
        read_events(path, repair=True)


@pytest.mark.parametrize("form", sorted({*NAMED, *UNNAMED} - set(TEXT)))
def test_float32_times_that_have_lost_their_digits(tmp_path, form):
    columns = make_columns()
    seconds = (columns["t"] / 1e6 + 1.7e9).astype(np.float32)
    columns = {name: column.astype(np.float32) for name, column in {**columns, "t": seconds}.items()}
    path = write_table(form, tmp_path / "e", columns, named=form in NAMED)
    for options in ({}, {"time_unit": "s"}):
        with pytest.raises(FormatError, match="lost their digits"):
            read_events(path, columns=None if form in NAMED else "txyp", **options)
