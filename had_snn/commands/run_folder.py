"""The folder of a run: what it was made with, and its log."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from had_snn import __version__
from had_snn.commands.start import check_same, check_writable, lock_folder, note_made_with
from had_snn.errors import InputError
from had_snn.files import atomic_file, clear_drafts, flush

if TYPE_CHECKING:
    from torch import nn

_PACKAGES = ("torch", "numpy", "hydra-core", "lightning-fabric", "POT", "nir", "snntorch", "norse", "spikingjelly")
ROOT = Path(__file__).resolve().parents[2]


def versions() -> dict[str, str]:
    """Versions of everything that can change a result, and the revision of a source checkout."""
    found = {"had_snn": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if (ROOT / "pyproject.toml").is_file():
        command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found["revision"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found


def machine(threads: int, device: str) -> dict[str, object]:
    """What the numbers were taken on; no names and no paths."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(), "threads": threads}
    found |= {"memory_gib": round(memory, 1), "versions": versions()}
    if device != "cuda":
        return found
    import torch

    return found | {"gpu": torch.cuda.get_device_name()}


def device_of(network: nn.Module) -> str:
    """Name of what a network was trained on, for its card: a GPU's model, or `cpu`."""
    import torch

    device = next(network.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_for(accelerator: str) -> str:
    """Device that Fabric takes for an accelerator (`cpu`, `cuda`, `auto`)."""
    import torch

    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


class _RunLog(logging.FileHandler):
    """A log that ends, with a word on standard error, where its disk takes no more; the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger("had_snn").removeHandler(self)
        print(f"{self.baseFilename} ends here ({sys.exc_info()[1]})", file=sys.stderr)


def open_run(
    cfg: DictConfig, *, made_with: dict[str, Any] | None = None, may_grow: tuple[str, ...] = (), needed: int = 1 << 20
) -> Path:
    """Makes the run folder `cfg.out` and writes what is needed to repeat the run; one that is refused changes nothing.

    Args:
        cfg: The script's config; needs `out` and `seed`.
        made_with: What the results depend on, where a run may be gone on with; a folder made with other values is
            refused, and so is every folder that another process runs in.
        may_grow: Names of those that may be larger than they were.
        needed: Bytes that must be free.

    Returns:
        The folder, holding `config.yaml` (resolved), `versions.json`, and `log.txt`, which log lines go to from now on.
    """
    folder = Path(cfg.out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        if not any(option.startswith("out=") for option in overrides):
            raise InputError("several processes must agree on a run folder: give out=FOLDER")
        if os.environ.get("RANK", "0") != "0":
            return folder
    check_writable(folder, needed=needed)
    if made_with is not None:
        check_same(folder, made_with, may_grow=may_grow)
    folder.mkdir(parents=True, exist_ok=True)
    lock_folder(folder)
    clear_drafts(folder)
    record = {"seed": cfg.get("seed"), "versions": versions()}
    if HydraConfig.initialized():
        record["overrides"] = list(HydraConfig.get().overrides.task)
    # All are written before the first takes its place.
    with contextlib.ExitStack() as stack:
        config, made_by = (stack.enter_context(atomic_file(folder / name)) for name in ("config.yaml", "versions.json"))
        config.write_text(OmegaConf.to_yaml(cfg, resolve=True))
        made_by.write_text(json.dumps(record, indent=2) + "\n")
        flush(config)
        flush(made_by)
        if made_with is not None:
            note_made_with(folder, made_with, versions())
    handler = _RunLog(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("had_snn").addHandler(handler)
    return folder
