"""What every script in this folder shares: how it starts, how it fails, and what its run folder holds.

    @script("track")
    def main(cfg: DictConfig) -> None: ...

    if __name__ == "__main__":
        main()

An error that the library raises on purpose, an unknown option or a missing one becomes one line on stderr and exit
code 2; anything else is a bug and keeps its traceback. A run folder is made by `open_run`, after inputs were checked.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from had_snn import __version__
from had_snn.errors import HadError, InputError

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")

_PACKAGES = ("torch", "numpy", "hydra-core", "lightning-fabric", "POT", "nir", "snntorch", "norse", "spikingjelly")


def script(config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Makes a function that takes a config into a command-line script.

    Args:
        config_name: Its primary config in `configs/`.

    Returns:
        A decorator; the decorated function parses the command line itself.
    """

    def decorate(main: Callable[[DictConfig], object]) -> Callable[[], None]:
        def guarded(cfg: DictConfig) -> object:
            # Here and not around Hydra, which would print a line of its own about the failed job.
            try:
                return main(cfg)
            except (HadError, OmegaConfBaseException) as error:
                _stop(str(error))

        @functools.wraps(main)
        def run() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            try:
                hydra.main(version_base="1.3", config_path=CONFIGS, config_name=config_name)(guarded)()
            except (HydraException, OmegaConfBaseException) as error:
                name = Path(sys.argv[0]).name
                _stop(f"{' '.join(str(error).split())} (options: python experiments/{name} --help)")
            except KeyboardInterrupt:
                _stop("interrupted", code=130)

        return run

    return decorate


def _stop(message: str, *, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def versions() -> dict[str, str]:
    """Versions of everything that can change a result, and the revision of a source checkout."""
    found = {"had_snn": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        root = Path(__file__).resolve().parents[1]
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        found["revision"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def device_of(network: nn.Module) -> str:
    """Name of what a network was trained on, for its card: a GPU's model, or `cpu`."""
    device = next(network.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_for(accelerator: str) -> str:
    """Device that Fabric takes for an accelerator (`cpu`, `cuda`, `auto`)."""
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def open_run(cfg: DictConfig) -> Path:
    """Makes the run folder `cfg.out` and writes what is needed to repeat the run.

    Args:
        cfg: The script's config; needs `out` and `seed`.

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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    record = {"seed": cfg.get("seed"), "versions": versions()}
    if HydraConfig.initialized():
        record["overrides"] = list(HydraConfig.get().overrides.task)
    (folder / "versions.json").write_text(json.dumps(record, indent=2) + "\n")
    handler = logging.FileHandler(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("had_snn").addHandler(handler)
    return folder


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of another script, as its command line would compose it."""
    if GlobalHydra.instance().is_initialized():
        # Inside a running script: its config loader reads the same folder.
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration(config_name, overrides, RunMode.RUN, from_shell=False)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        return hydra.compose(config_name, overrides)
