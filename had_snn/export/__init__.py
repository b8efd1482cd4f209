"""The student outside PyTorch: NIR files, simulators, chips."""

from had_snn.export.deployed import DeployedStudent
from had_snn.export.lowering import search_graph, template_kernel, to_graph
from had_snn.export.nir import graph_to_nir, read_nir, to_nir, write_nir
from had_snn.export.rounding import Rounding, round_graph
from had_snn.export.search_graph import SearchGraph, Trace, run_graph
from had_snn.export.verify import table, verify

__all__ = [
    "DeployedStudent",
    "Rounding",
    "SearchGraph",
    "Trace",
    "graph_to_nir",
    "read_nir",
    "round_graph",
    "run_graph",
    "search_graph",
    "table",
    "template_kernel",
    "to_graph",
    "to_nir",
    "verify",
    "write_nir",
]
