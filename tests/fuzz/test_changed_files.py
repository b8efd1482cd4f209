"""Files with changed, missing and exchanged bytes: taken and fit for use, or refused in one line."""

from __future__ import annotations

import random
import warnings

import pytest

pytest.importorskip("nir")
pytest.importorskip("lightning_fabric")

from targets import TARGETS

from had_snn.errors import HadError


def changed(content: bytes, draw: random.Random) -> bytes:
    """A file with a few changes of the kinds that disks, people and attackers make."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, end = sorted(draw.choices(range(len(data) + 1), k=2))
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = draw.choice(b'\x00\xff019-.,eEnN[]{}"')
        elif kind == 2:
            del data[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = data[at:end][:64]
        elif kind == 4:
            data[at : at + 8] = draw.choice((0, 1, 1 << 31, (1 << 62) - 1)).to_bytes(8, "little")
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_changed_file_is_fit_for_use_or_refused_in_one_line(kind, tmp_path):
    seeds, draw, path = list(TARGETS[kind].seeds()), random.Random(kind), tmp_path / "file"
    refused = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range({"resume": 25, "state": 60}.get(kind, 120)):
            path.write_bytes(seeds[number] if number < len(seeds) else changed(draw.choice(seeds), draw))
            try:
                TARGETS[kind].read(path)
            except HadError as error:
                refused.append(str(error))
    assert [message for message in refused if "\n" in message] == []
    assert len(refused) > (10 if kind != "names" else 0)
