"""A few hundred events and what a reader must make of them; helpers of several test files."""

from __future__ import annotations

import numpy as np

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
