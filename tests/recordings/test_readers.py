"""Reading by content: text, arrays, HDF5, MATLAB; what is detected, what can be stated, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from few_events import N, P, T, X, Y, check, columns_of, write_text

from had_snn.errors import FormatError, HadError, InputError
from had_snn.recordings.readers import detect_format, open_recording, read_events


@pytest.mark.parametrize("order", ["txyp", "xypt", "xytp", "ptxy", "tpxy", "pxyt"])
@pytest.mark.parametrize("separator", [" ", ",", "\t", "; "])
def test_text_in_any_order(tmp_path, order, separator):
    path = write_text(tmp_path / "e.txt", columns_of(order), separator=separator)
    recording = open_recording(path)
    check(recording.events)
    assert recording.info["columns"] == order
    assert recording.info["sensor"] == "inferred"
    assert recording.frames is None


def test_text_with_y_before_x_needs_a_stated_sensor_or_order(tmp_path, caplog):
    path = write_text(tmp_path / "e.txt", columns_of("tyxp"))
    check(read_events(path, sensor_hw=(180, 240)))
    check(read_events(path, columns="tyxp"))
    caplog.clear()
    assert read_events(path).x.tolist() == Y.tolist()
    assert "columns read as txyp; read as tyxp they would fit a 240x180 sensor (columns=" in caplog.text


@pytest.mark.parametrize(("off", "on"), [(0, 1), (-1, 1), (1, 2)])
def test_polarity_conventions(tmp_path, off, on):
    path = write_text(tmp_path / "e.txt", columns_of("txyp", p=np.where(P, on, off)))
    recording = open_recording(path)
    check(recording.events)
    assert recording.info["polarity"] == f"{off}/{on}"
    flipped = read_events(path, polarity=(on, off))
    assert flipped.p.tolist() == (1 - P).tolist()


def test_seconds_become_rounded_microseconds(tmp_path):
    path = write_text(
        tmp_path / "e.txt", [T / 1e6, X, Y, P], form=lambda v: f"{v:.9f}" if isinstance(v, float) else str(v)
    )
    check(read_events(path))
    exact = tmp_path / "exact.txt"
    exact.write_text("0.0000004 0 0 1\n0.0000005 1 1 0\n13.582596999000002 2 2 1\n")
    assert read_events(exact).t.tolist() == [0, 1, 13_582_597]
    exact.write_text("1663249605.7340204 3 3 1\n1663249605.7340205 3 3 1\n")
    assert read_events(exact).t.tolist() == [1_663_249_605_734_020, 1_663_249_605_734_021]


def test_exponents_comments_and_blank_lines(tmp_path):
    path = tmp_path / "e.txt"
    path.write_text("# a comment\n1e-06 3 4 1\n\n2.5e-06 5.0 6 0\n# more\n1.0 7 8 1\n")
    stream = read_events(path)
    assert stream.t.tolist() == [1, 3, 1_000_000]  # halves go up
    assert stream.x.tolist() == [3, 5, 7]


def test_files_of_one_and_two_events(tmp_path):
    path = tmp_path / "e.txt"
    for text, expected in (
        ("0.001000 3 4 1\n", [1_000]),
        ("0.001000 3 4 1\n0.002000 5 6 0\n", [1_000, 2_000]),
        ("1500 3 4 1\n", [1_500]),
        ("3 4 1 1500\n5 4 0 1501", [1_500, 1_501]),
    ):
        path.write_text(text)
        stream = read_events(path)
        assert stream.t.tolist() == expected
        assert (stream.x[0], stream.y[0], stream.p[0]) == (3, 4, 1)


def test_header_names_units_and_sensor(tmp_path):
    head = "# width=346 height=260\nPolarity,Timestamp [ns],Y,X\n"
    path = write_text(tmp_path / "e.csv", [P, T * 1000, Y, X], separator=",", head=head)
    recording = open_recording(path)
    check(recording.events, sensor_hw=(260, 346))
    assert recording.info["sensor"] == "file"
    assert recording.info["time_unit"] == "ns"


def test_first_line_of_width_and_height(tmp_path):
    check(read_events(write_text(tmp_path / "e.txt", columns_of("txyp"), head="346 260\n")), sensor_hw=(260, 346))


def test_stated_options_win(tmp_path):
    path = write_text(tmp_path / "e.txt", columns_of("xyt"))
    with pytest.raises(FormatError, match="columns="):
        read_events(path)
    stream = read_events(path, columns="xyt", time_unit="ms", sensor_hw=(480, 640))
    assert stream.t.tolist() == (T * 1000).tolist()
    assert stream.sensor_hw == (480, 640)
    assert stream.p.all()
    extra = write_text(tmp_path / "five.txt", columns_of("_txyp"))
    check(read_events(extra, columns="_txyp"))


def test_pixels_from_one(tmp_path):
    path = write_text(tmp_path / "e.txt", columns_of("txyp", x=X + 1, y=Y + 1))
    recording = open_recording(path)
    check(recording.events)
    assert recording.info["origin"] == 1
    kept = read_events(path, origin=0)
    assert kept.x.tolist() == (X + 1).tolist()


def test_microsecond_epoch_and_negative_times(tmp_path):
    epoch = T + 1_677_325_148_906_694
    check(read_events(write_text(tmp_path / "epoch.txt", [epoch, X, Y, P])), t=epoch)
    check(read_events(write_text(tmp_path / "negative.txt", [T - 500_000, X, Y, P])), t=T - 500_000)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    monkeypatch.setattr("had_snn.recordings.text.BLOCK", 97)
    seen = []
    check(read_events(path, columns="txyp", progress=lambda done, total: seen.append((done, total))))
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size


def test_unsorted_text_is_named_and_repaired(tmp_path, caplog):
    order = np.arange(N)
    order[[10, 11]] = [11, 10]
    assert T[10] != T[11]
    path = write_text(tmp_path / "e.txt", [c[order] for c in columns_of("txyp")])
    with pytest.raises(FormatError, match="event 11 is earlier"):
        read_events(path)
    recording = open_recording(path, repair=True)
    check(recording.events)
    assert recording.info["repairs"] == ["1 steps back in time: sorted"]
    assert "repaired" in caplog.text


def test_events_outside_a_stated_sensor(tmp_path):
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    with pytest.raises(FormatError, match="outside"):
        read_events(path, sensor_hw=(128, 128))
    kept = read_events(path, sensor_hw=(150, 220), origin=0, repair=True)
    assert len(kept) == ((X < 220) & (Y < 150)).sum()
    with pytest.raises(FormatError, match=r"would drop \d+ of 400 events"):
        read_events(path, sensor_hw=(128, 128), origin=0, repair=True)


def test_window(tmp_path):
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    assert read_events(path, window=(100_000, 200_000)).t.tolist() == T[(T >= 100_000) & (T < 200_000)].tolist()


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_cut_text_line(tmp_path, cut):
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    content = path.read_bytes()
    last_line = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[: last_line + cut])
    with pytest.raises(FormatError, match=rf"at byte {last_line}: expected 4 numbers"):
        read_events(path)
    assert len(read_events(path, repair=True)) == N - 1


@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 four", "1 2 3 4 5", "1 2 - 1", "1.2.3 2 3 1", "nan 2 3 1"])
def test_bad_line_in_the_middle(tmp_path, line):
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    lines = path.read_text().splitlines()
    lines[200] = line
    path.write_text("\n".join(lines))
    with pytest.raises(FormatError, match=r"e\.txt"):
        read_events(path, columns="txyp")


def test_content_decides_not_the_suffix(tmp_path):
    np.save(tmp_path / "e.npy", np.stack([T, X, Y, P], axis=1))
    (tmp_path / "e.npy").rename(tmp_path / "e.aedat4")
    assert detect_format(tmp_path / "e.aedat4") == "npy"
    check(read_events(tmp_path / "e.aedat4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (b"\x00\x01\x02\x03" * 9, "unknown format"),
        (b"no numbers at all\n", "unknown format|no line of numbers"),
        (b";;;\n7 8 9 6", "two values|told apart|no line"),
        (b"7 8 9 6\n" * 5, "two values|told apart"),
        (b"\x93NUMPY\x01\x00\x10\x00garbage garbage", "damaged NPY"),
        (b"PK\x03\x04 not a zip", "damaged NPZ"),
        (b"\x89HDF\r\n\x1a\n rest", "damaged HDF5"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "damaged MATLAB|no events"),
        (b"#!AER-DAT4.0\r\nxx", "damaged AEDAT4"),
    ],
)
def test_refusals_are_one_line(tmp_path, content, message):
    path = tmp_path / "file.dat"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_events(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_path_folder_and_unknown_options(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        read_events(tmp_path / "none" / "e.csv")
    with pytest.raises(HadError, match="a folder"):
        read_events(tmp_path)
    path = write_text(tmp_path / "e.txt", columns_of("txyp"))
    for options in ({"colums": "txyp"}, {"columns": "txy!"}, {"time_unit": "min"}, {"origin": 2}, {"format": "avi"}):
        with pytest.raises(InputError):
            read_events(path, **options)
