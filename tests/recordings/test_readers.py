"""Reading by content: text, arrays, HDF5, MATLAB; what is detected, what can be stated, what is refused."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from had_snn.errors import FormatError, HadError, InputError
from had_snn.recordings.readers import detect_format, open_recording, read_events

RNG = np.random.default_rng(7)
N = 400
T = np.sort(RNG.integers(1_000, 900_000, N))
X = RNG.integers(0, 240, N)
Y = RNG.integers(0, 180, N)
P = RNG.integers(0, 2, N)
X[0], Y[0], X[1], Y[1] = 239, 179, 0, 0


def check(stream, *, sensor_hw=(180, 240), t=T):
    assert stream.sensor_hw == sensor_hw
    assert stream.t.tolist() == t.tolist()
    assert (stream.x.tolist(), stream.y.tolist(), stream.p.tolist()) == (X.tolist(), Y.tolist(), P.tolist())
    assert stream.t.dtype == np.int64


def columns_of(order: str, **changed) -> list[np.ndarray]:
    known = {"t": T, "x": X, "y": Y, "p": P, "_": np.full(N, 7), **changed}
    return [known[name] for name in order]


def write_text(path, columns, *, separator=" ", head="", form=str):
    rows = (separator.join(form(v) for v in row) for row in zip(*(c.tolist() for c in columns), strict=True))
    path.write_text(head + "\n".join(rows) + "\n")
    return path


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


def test_npy_structured_matrix_and_transposed(tmp_path):
    record = np.zeros(N, [("x", "<u2"), ("y", "<u2"), ("timestamp", "<i8"), ("polarity", "?")])
    record["x"], record["y"], record["timestamp"], record["polarity"] = X, Y, T, P
    np.save(tmp_path / "record.npy", record)
    check(read_events(tmp_path / "record.npy"))
    matrix = np.stack([X, Y, np.where(P, 1, -1), T], axis=1)
    np.save(tmp_path / "matrix.npy", matrix)
    check(read_events(tmp_path / "matrix.npy"))
    np.save(tmp_path / "wide.npy", np.ascontiguousarray(matrix.T))
    check(read_events(tmp_path / "wide.npy"))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(matrix.astype(np.float64)))
    check(read_events(tmp_path / "fortran.npy"))


@pytest.mark.parametrize("kind", ["npy", "npz", "hdf5"])
@pytest.mark.parametrize(("of", "says"), [((8,), "x holds 8 values for each event"), ((2, 3), "x holds 2x3 values")])
def test_a_table_with_several_values_in_a_cell_is_refused(tmp_path, kind, of, says):
    others = [("t", "<i8"), ("y", "<i4"), ("p", "u1"), ("more", "<f4", (3,))]  # what is not read may hold several

    def write(x_type):
        table = np.zeros(N, [*others, ("x", *x_type)])
        table["t"], table["y"], table["p"] = T, Y, P
        table["x"] = X.reshape(-1, *(1 for _ in table["x"].shape[1:]))
        path = tmp_path / f"e.{kind}"
        if kind == "hdf5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file["events"] = table
        else:
            np.save(path, table) if kind == "npy" else np.savez(path, events=table)
        return path

    check(read_events(write(("<i4",)), time_unit="us", sensor_hw=(180, 240)))
    with pytest.raises(FormatError, match=says):
        read_events(write(("<i4", of)), time_unit="us")


def test_npy_of_the_other_byte_order(tmp_path):
    """Fields of the events' own sizes and of others, all big-endian."""
    for kinds in ((">i8", ">i2", ">u2", ">i1"), (">i4", ">i4", ">u8", ">f4")):
        records = np.empty(len(T), dtype=list(zip("txyp", kinds, strict=True)))
        for name, column in zip("txyp", (T, X, Y, P), strict=True):
            records[name] = column
        np.save(tmp_path / "e.npy", records)
        check(read_events(tmp_path / "e.npy"))


def test_npy_cut(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, np.stack([T, X, Y, P], axis=1))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FormatError, match=r"bytes, \d+ are there"):
        read_events(path)
    assert len(read_events(path, repair=True)) == N - 2


def test_npz_columns_and_sensor(tmp_path):
    np.savez(tmp_path / "e.npz", x=X, y=Y, t=T / 1e6, p=P, sensor_hw=[260, 346])
    check(read_events(tmp_path / "e.npz"), sensor_hw=(260, 346))
    np.savez_compressed(tmp_path / "m.npz", events=np.stack([T, X, Y, P], axis=1), note=np.array(["text"]))
    check(read_events(tmp_path / "m.npz"))


def test_npy_with_objects_or_a_forged_shape_is_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="never loaded"):
        read_events(tmp_path / "o.npy")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9000000000000000, 4), }"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "f.npy").write_bytes(forged)
    with pytest.raises(FormatError, match="are there"):
        read_events(tmp_path / "f.npy")
    for shape in ("(0, 1099511627776, 1099511627776)", f"(4, {7 * 10**54})"):
        header = b"{'descr': '<i8', 'fortran_order': False, 'shape': %s, }" % shape.encode()
        (tmp_path / "f.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
        for repair in (False, True):
            with pytest.raises(FormatError, match="damaged NPY header: shape"):
                read_events(tmp_path / "f.npy", repair=repair)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("events.npy", forged)
    (tmp_path / "f.npz").write_bytes(buffer.getvalue())
    with pytest.raises(FormatError, match="announced"):
        read_events(tmp_path / "f.npz")


def test_hdf5_layouts(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "dsec.h5", "w") as file:
        for name, column in zip(
            "txyp", (T.astype(np.uint32), X.astype(np.uint16), Y.astype(np.uint16), P), strict=True
        ):
            file[f"events/{name}"] = column
        file["t_offset"] = 50_000_000_000
        file["ms_to_idx"] = np.searchsorted(T, np.arange(0, 901) * 1000)
    offset = T + 50_000_000_000
    check(read_events(tmp_path / "dsec.h5"), t=offset)
    window = (50_000_300_000, 50_000_400_000)
    inside = (offset >= window[0]) & (offset < window[1])
    assert read_events(tmp_path / "dsec.h5", window=window).t.tolist() == offset[inside].tolist()

    record = np.zeros(N, [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    record["x"], record["y"], record["p"], record["t"] = X, Y, P, T
    with h5py.File(tmp_path / "cd.h5", "w") as file:
        file["CD/events"] = record
        file["EXT_TRIGGER/events"] = np.zeros(3, [("p", "i2"), ("t", "i8"), ("id", "i2")])
        file.attrs["geometry"] = "640x480"
    check(read_events(tmp_path / "cd.h5"), sensor_hw=(480, 640))

    with h5py.File(tmp_path / "generic.h5", "w") as file:
        for name, column in zip(("xs", "ys", "ts", "ps"), (X, Y, T / 1e6, np.where(P, 1, -1)), strict=True):
            file[f"events/{name}"] = column
        file.attrs["sensor_resolution"] = (180, 240)
    check(read_events(tmp_path / "generic.h5"))

    with h5py.File(tmp_path / "root.h5", "w") as file:
        for name, column in zip("xytp", (X, Y, T, P), strict=True):
            file[name] = column
        file.attrs.update(sensor_resolution=(180, 240), time_unit="us")
    check(read_events(tmp_path / "root.h5"))
    check(read_events(tmp_path / "root.h5", stream="/"))

    with h5py.File(tmp_path / "stereo.h5", "w") as file:
        file["davis/left/events"] = np.stack([X, Y, T / 1e6, np.where(P, 1, -1)], axis=1)
        file["davis/right/events"] = np.stack([X, Y, T / 1e6, np.where(P, 1, -1)], axis=1)[:5]
    check(read_events(tmp_path / "stereo.h5"))
    assert len(read_events(tmp_path / "stereo.h5", stream="davis/right/events")) == 5
    with pytest.raises(FormatError, match="davis/left/events"):
        read_events(tmp_path / "stereo.h5", stream="none")


def test_hdf5_without_events_or_cut(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["images"] = np.zeros((4, 4))
    with pytest.raises(FormatError, match="no group holds events"):
        read_events(tmp_path / "e.h5")
    content = (tmp_path / "e.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="damaged HDF5"):
        read_events(tmp_path / "cut.h5")


def test_mat_struct_matrix_and_cut(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    struct = {"x": X[:, None] + 1, "y": Y[:, None] + 1, "ts": T[:, None], "p": P[:, None] + 1}
    scipy_io.savemat(tmp_path / "td.mat", {"TD": struct, "EM": {k: v[:3] for k, v in struct.items()}})
    recording = open_recording(tmp_path / "td.mat")
    check(recording.events)
    assert recording.info["polarity"] == "1/2"
    assert len(read_events(tmp_path / "td.mat", stream="EM", origin=1)) == 3
    scipy_io.savemat(tmp_path / "m.mat", {"events": np.stack([X, Y, np.where(P, 1, -1), T], axis=1)})
    check(read_events(tmp_path / "m.mat"))
    content = (tmp_path / "m.mat").read_bytes()
    sizes = 128 + 8 + 16  # behind the file's head, the matrix' tag and its flags: int32, 8 bytes
    assert content[sizes : sizes + 8] == np.array([5, 8], "<u4").tobytes()
    wrong = np.array([7, 8], "<u4").tobytes() + np.full(2, np.nan, "<f4").tobytes()
    (tmp_path / "nan.mat").write_bytes(content[:sizes] + wrong + content[sizes + 16 :])
    with pytest.raises(FormatError, match="damaged MATLAB file: flags, sizes or lengths as float32"):
        open_recording(tmp_path / "nan.mat")
    (tmp_path / "cut.mat").write_bytes(content[:-100])
    with pytest.raises(FormatError, match="damaged MATLAB"):
        read_events(tmp_path / "cut.mat")


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
