"""What every script in this folder shares: how it starts, how it fails, and what its run folder holds.

    @script("track")
    def main(cfg: DictConfig) -> None: ...

    if __name__ == "__main__":
        main()

All options pass one check (`had_snn.commands.check`) before a script does anything. An error that the library raises
on purpose, an option that is unknown, missing or of the wrong kind, and a disk that is full become one line on stderr
and exit code 2; anything else is a bug and keeps its traceback. A run folder is made by `open_run`, after inputs were
checked.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException
from torch import nn

from had_snn import __version__
from had_snn.commands.check import check_options, no_such_option, outputs
from had_snn.commands.start import (
    OF_THE_MACHINE,
    check_same,
    check_start,
    check_writable,
    lock_folder,
    note_made_with,
    own_output,
    release_folders,
)
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
                _prepare(config_name, cfg)
                return main(cfg)
            except MissingMandatoryValue as error:
                _stop(f"{config_name} needs {error.full_key}=... (options: python experiments/{config_name}.py --help)")
            except (HadError, OmegaConfBaseException) as error:
                _stop(str(error))
            except OSError as error:
                if error.errno not in OF_THE_MACHINE:
                    raise
                _stop(str(error))
            finally:
                release_folders()

        @functools.wraps(main)
        def run() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            if mistake := next((m for m in map(_mistake_in, sys.argv, sys.argv[1:]) if m), None):
                _stop(mistake)
            try:
                hydra.main(version_base="1.3", config_path=CONFIGS, config_name=config_name)(guarded)()
            except (HydraException, OmegaConfBaseException) as error:
                if unknown := re.match(r"Could not override '([^']+)'", str(error)):
                    _stop(no_such_option(config_name, unknown[1], _plain(_composed(config_name, []))))
                name = Path(sys.argv[0]).name
                _stop(f"{' '.join(str(error).split())} (options: python experiments/{name} --help)")
            except KeyboardInterrupt:
                _stop("interrupted", code=130)

        return run

    return decorate


def _stop(message: str, *, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _prepare(job: str, cfg: DictConfig) -> None:
    """Checks options and machine; a job of several that were started together gets an output of its own."""
    typed = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    _check(job, cfg, typed)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raw = str(cfg._get_node("out")._value()) if "out" in cfg else ""  # pyright: ignore
        for option, place, path in list(outputs(job, _plain(cfg))):
            if "hydra:job" not in raw and "hydra.job" not in raw and option == "out":
                cfg.out = own_output(path, HydraConfig.get().job.num, kind=place.kind)
    check_start(job, _plain(cfg))


def _check(job: str, cfg: DictConfig, typed: list[str]) -> None:
    """Checks all options and puts in place what is meant by them."""
    for name, value in check_options(job, _plain(cfg), typed).items():
        OmegaConf.update(cfg, name, value, merge=False)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain values; `???` where a value, or one that it refers to, has yet to be given."""
    found: dict[str, Any] = {}
    for name in cfg:
        try:
            value = "???" if OmegaConf.is_missing(cfg, name) else cfg[name]
        except InterpolationToMissingValueError:
            value = "???"
        if isinstance(value, DictConfig):
            value = _plain(value)
        found[str(name)] = OmegaConf.to_container(value, resolve=True) if isinstance(value, ListConfig) else value
    return found


_VALUED = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn")
_FLAGS = ("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info")


def _mistake_in(before: str, argument: str) -> str | None:
    """What is wrong with an argument (not a flag's value) that Hydra would refuse in words of its own, if anything."""
    if before in _VALUED:
        return None
    if argument.startswith("-"):
        name = argument.split("=")[0]
        if name.startswith("--") and name not in (*_FLAGS, "--shell-completion") and "config" not in name:
            return (
                f"{argument}: options have no dashes; write {argument.lstrip('-')}{'' if '=' in argument else '=...'}"
            )
        return None
    key, equals, value = argument.partition("=")
    if (not equals and not argument.startswith("~")) or key != key.strip() or value != value.lstrip():
        quoted = _quoted(key.strip(), value.strip()) if equals else _quoted("name", argument)
        return (
            f"{argument!r} is no option: options are name=value, without blanks around =; a value with blanks or "
            f"special signs is quoted twice, {quoted}"
        )
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        return (
            f"{argument}: a value with special signs is quoted twice, once for the shell: {_quoted(key, value)}; "
            "a list is [a,b]"
        )
    if parsed.is_sweep_override() and not {"-m", "--multirun"} & {*sys.argv}:
        return (
            f"{argument}: a comma divides the jobs of --multirun; a list is {key}=[{value}], a name with a comma "
            f"{_quoted(key, value)}"
        )
    return None


def _quoted(key: str, value: str) -> str:
    plain = value.strip("\"'")
    return f"""'{key}="{plain}"'"""


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
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    record = {"seed": cfg.get("seed"), "versions": versions()}
    if HydraConfig.initialized():
        record["overrides"] = list(HydraConfig.get().overrides.task)
    (folder / "versions.json").write_text(json.dumps(record, indent=2) + "\n")
    handler = logging.FileHandler(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("had_snn").addHandler(handler)
    if made_with is not None:
        note_made_with(folder, made_with, versions())
    return folder


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of another script, as its command line would compose it."""
    cfg = _composed(config_name, overrides)
    _check(config_name, cfg, overrides)
    return cfg


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        # Inside a running script: its config loader reads the same folder.
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration(config_name, overrides, RunMode.RUN, from_shell=False)
        with open_dict(cfg):
            del cfg["hydra"]
    else:
        with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = hydra.compose(config_name, overrides)
    return cfg
