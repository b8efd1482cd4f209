"""The picture of a graph: rows follow the edges, and a file appears whole or not at all."""

from __future__ import annotations

import pytest

from had_snn.errors import InputError
from had_snn.viz.layer_graph import Box, draw_graph, ranks

EDGES = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")]


def test_rows_follow_the_longest_way():
    assert ranks(["a", "b", "c", "d"], EDGES) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert ranks(["a", "b"], []) == {"a": 0, "b": 0}


def test_a_node_before_its_source_is_named(tmp_path):
    with pytest.raises(InputError, match="c stands before one of its sources"):
        draw_graph(tmp_path / "a.png", [Box(name, (), "host") for name in "acbd"], EDGES)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written(tmp_path, suffix):
    kinds = ("host", "synapses", "neurons", "host")
    boxes = [Box(name, ("first", "second"), kind) for name, kind in zip("abcd", kinds, strict=True)]
    path = tmp_path / f"graph.{suffix}"
    draw_graph(path, boxes, EDGES, title="a graph")
    head = path.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in head
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
