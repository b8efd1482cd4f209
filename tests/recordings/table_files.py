"""Events as tables in every text and array format, the way numpy, pandas, tonic, DSEC or MATLAB users write them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

TEXT = ("csv", "tabs", "blanks", "semicolons", "commented", "quoted", "bracketed", "utf16", "bom_crlf", "returns")
TEXT = (*TEXT, "decimal_commas")
NAMED = (*TEXT, "npy_fields", "npz", "hdf5", "hdf5_fields", "mat_struct")
UNNAMED = (*TEXT, "npy", "npz_matrix", "hdf5_matrix", "mat_matrix")
WITH_FACTS = (*TEXT, "npz", "npz_matrix", "hdf5", "hdf5_fields", "hdf5_matrix", "mat_struct", "mat_matrix")
SEPARATORS = {"tabs": "\t", "blanks": " ", "semicolons": ";", "decimal_commas": ";"}


def make_columns(n: int = 600, sensor_hw: tuple[int, int] = (260, 346), span: int = 40_000, seed: int = 0) -> dict:
    """Columns of events that touch the first and the last pixel of a sensor."""
    rng = np.random.default_rng(seed)
    height, width = sensor_hw
    t = np.sort(rng.choice(span, n, replace=False)) + 1_000
    x, y, p = rng.integers(0, width, n), rng.integers(0, height, n), rng.integers(0, 2, n)
    x[:2], y[:2], p[:3] = (width - 1, 0), (height - 1, 0), (0, 1, 1)
    return {"t": t, "x": x, "y": y, "p": p}


def write_table(
    form: str, path: Path, columns: dict[str, np.ndarray], *, named: bool, facts: dict[str, Any] | None = None
) -> Path:
    """Writes columns in a format; `facts` go where the format's users put them."""
    facts = facts or {}
    if form in TEXT:
        return _write_text(form, path, columns, named=named, facts=facts)
    if form.startswith("hdf5"):
        return _write_hdf5(form, path, columns, facts)
    matrix = np.stack(list(columns.values()), axis=1)
    if form.startswith("mat"):
        import scipy.io

        events = {"TD": {k: v[:, None] for k, v in columns.items()}} if form == "mat_struct" else {"events": matrix}
        scipy.io.savemat(path, {**events, **facts}, appendmat=False)
    elif form.startswith("npz"):
        arrays = columns if form == "npz" else {"events": matrix}
        with path.open("wb") as file:
            np.savez_compressed(file, **{**arrays, **facts})
    else:
        with path.open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names that are not ASCII need format 3.0
            np.save(file, matrix if form == "npy" else records(columns))
    return path


def records(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Columns as one structured array."""
    array = np.empty(len(next(iter(columns.values()))), [(k, v.dtype) for k, v in columns.items()])
    for name, column in columns.items():
        array[name] = column
    return array


def _write_text(form: str, path: Path, columns: dict, *, named: bool, facts: dict) -> Path:
    separator = SEPARATORS.get(form, ",")
    rows = [[_cell(form, value) for value in row] for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    lines = [separator.join(row) for row in rows]
    if form == "bracketed":
        lines = [f"({line})" for line in lines]
    comments = [f"# {name}={value}" for name, value in facts.items()]
    if named:
        names = list(columns)
        header = '"' + '","'.join(names) + '"' if form == "quoted" else separator.join(names)
        comments.append(f"# {header}" if form == "commented" else header)
    end = {"bom_crlf": "\r\n", "returns": "\r"}.get(form, "\n")
    text = end.join([*comments, *lines]) + end
    encoding = {"utf16": "utf-16", "bom_crlf": "utf-8-sig"}.get(form, "utf-8")
    path.write_bytes(text.encode(encoding))
    return path


def _cell(form: str, value: Any) -> str:
    text = repr(value) if isinstance(value, float) else str(value)
    if form == "decimal_commas" and isinstance(value, float):
        return f"{value:.9f}".replace(".", ",")
    return f'"{text}"' if form == "quoted" else text


def _write_hdf5(form: str, path: Path, columns: dict, facts: dict) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        if form == "hdf5":
            for name, column in columns.items():
                file[f"events/{name}"] = column
        else:
            matrix = form == "hdf5_matrix"
            file["events"] = np.stack(list(columns.values()), axis=1) if matrix else records(columns)
        for name, value in facts.items():
            file.attrs[name] = value
    return path


def assert_reads_as(events: Any, columns: dict[str, np.ndarray]) -> None:
    """The stream holds exactly these events (p in 0 and 1)."""
    for name in "txyp":
        assert getattr(events, name).tolist() == np.asarray(columns[name]).astype(np.int64).tolist(), name
