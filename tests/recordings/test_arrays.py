"""Array files: NPY, NPZ, HDF5 tables and MATLAB structs, whole, cut and forged."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from few_events import N, P, T, X, Y, check

from had_snn.errors import FormatError
from had_snn.recordings.readers import open_recording, read_events


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
