"""The walls of the house, read from the imports: who may know whom, and who alone may know a library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("had_snn/**/*.py"), *ROOT.glob("experiments/**/*.py")])

# Storeys, lowest first; a file may import lower storeys and its own folder.
STOREYS = [
    {"had_snn.errors", "had_snn.threads", "had_snn"},
    {"had_snn.geometry", "had_snn.native", "had_snn.files", "had_snn.processes"},
    {"had_snn.events", "had_snn.ops", "had_snn.distill"},
    {"had_snn.models", "had_snn.recordings", "had_snn.simulator", "had_snn.viz"},
    {"had_snn.data"},
    {"had_snn.interop", "had_snn.checkpoint", "had_snn.profiling", "had_snn.export", "had_snn.tracking"},
    {"had_snn.train"},
    {"had_snn.evaluate"},
    {"had_snn.commands"},
    {"had_snn.__main__"},
    {"experiments"},
]
# Neighbours on one storey that may look at each other, where the design says so.
NEIGHBOURS = {
    ("had_snn.export", "had_snn.interop"),
    ("had_snn.export", "had_snn.checkpoint"),
    ("had_snn.export", "had_snn.profiling"),
    ("had_snn.export", "had_snn.tracking"),
    ("had_snn.profiling", "had_snn.checkpoint"),
}
# A library and the only places that may import it.
KNOWS_ALONE = {
    "hydra": ["had_snn.commands", "experiments"],
    "omegaconf": ["had_snn.commands", "experiments"],
    "lightning_fabric": ["had_snn.train.loop", "experiments"],
    "rich": ["had_snn.commands"],
    "cupy": ["had_snn.ops.build"],
    "nir": ["had_snn.export", "had_snn.interop"],
    "nirtorch": ["had_snn.export", "had_snn.interop"],
    "norse": ["had_snn.export", "had_snn.interop", "experiments.bench.kernels"],
    "sinabs": ["had_snn.export", "had_snn.interop", "experiments.bench.kernels"],
    "snntorch": ["had_snn.export", "had_snn.interop", "experiments.bench.kernels", "experiments.bench.training"],
    "spikingjelly": ["had_snn.export", "had_snn.interop", "experiments.bench.kernels", "experiments.bench.training"],
    "brian2": ["had_snn.export.simulator_scripts"],
    "nengo": ["had_snn.export.simulator_scripts"],
    "rockpool": ["had_snn.export.simulator_scripts"],
    "spyx": ["had_snn.export.simulator_scripts"],
    "jax": ["had_snn.export.simulator_scripts"],
    "aedat": ["experiments.bench.readers"],
    "h5py": ["had_snn.recordings", "experiments.bench.readers"],
    "neuromorphic_drivers": ["had_snn.recordings.camera"],
    "rosbags": ["had_snn.recordings.ros", "experiments.bench.readers"],
    "matplotlib": ["had_snn.viz", "had_snn.evaluate.report", "experiments.bench", "experiments.studies"],
    "imageio": ["had_snn.viz", "had_snn.evaluate.report"],
    "rerun": ["had_snn.viz"],
    "jinja2": ["had_snn.evaluate.report"],
    "PIL": ["had_snn.data.pictures", "had_snn.viz"],
    "wandb": ["had_snn.train.logs"],
    "mlflow": ["had_snn.train.logs"],
    "huggingface_hub": ["had_snn.models.pretrained"],
    "torchvision": [],
    "timm": [],
}
FORBIDDEN = [
    ("had_snn.distill", "had_snn.models"),
    ("had_snn.data", "had_snn.models"),
    ("had_snn.tracking", "had_snn.data"),
    ("had_snn.tracking", "had_snn.train"),
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions and through `optional_import("name", ...)`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            if node.module == "had_snn":
                found |= {f"had_snn.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"optional_import", "import_module", "__import__"}:
                found.add(str(node.args[0].value))
    return found


def inside(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def storey(module: str) -> tuple[int, str] | None:
    best = None
    for level, rooms in enumerate(STOREYS):
        for room in rooms:
            if inside(module, room) and (best is None or len(room) > len(best[1])):
                best = (level, room)
    return best


@pytest.mark.parametrize("path", FILES, ids=lambda p: module_name(p))
def test_file_imports_only_lower_storeys_and_allowed_libraries(path: Path):
    module = module_name(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        for known, places in KNOWS_ALONE.items():
            if library == known:
                # "report" also covers report_sections, ...
                assert any(module.startswith(place) for place in places), f"{module} imports {name}"
        for low, high in FORBIDDEN:
            assert not (inside(module, low) and inside(name, high)), f"{module} imports {name}"
        here, there = storey(module), storey(name)
        if library != "had_snn" or here is None or there is None or here[1] == there[1] or module == "had_snn":
            continue
        allowed = there[0] < here[0] or (here[1], there[1]) in NEIGHBOURS
        assert allowed, f"{module} (storey {here[0]}) imports {name} (storey {there[0]})"


def test_walls_notice_a_breach(tmp_path: Path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    import hydra\n    x = optional_import('timm', extra='none')\n")
    assert imports_of(file) == {"hydra", "timm"}
