"""How a job starts and how it fails, whatever starts it: `had-snn JOB`, `experiments/JOB.py`, a study, a benchmark.

    start("track")

What was typed becomes Hydra's (`command_line.py`), and all options pass one check (`check.py`) before a job, and with
it torch, is loaded. An error that the library raises on purpose, an option that is unknown, missing or of the wrong
kind, and a disk that is full become one line on stderr and exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from had_snn.commands.check import check_options, no_such_option, outputs
from had_snn.commands.command_line import overrides_of
from had_snn.commands.names import command_of, module_of
from had_snn.commands.places import user_cache
from had_snn.commands.start import OF_THE_MACHINE, check_start, own_output, release_folders
from had_snn.errors import HadError, InputError

OmegaConf.register_new_resolver("user_cache", lambda: str(user_cache()), replace=True)
_PACKAGE = Path(__file__).resolve().parents[1]
#: Those of the checkout, or those that came with the package.
CONFIGS = str(next(p for p in (_PACKAGE.parent / "configs", _PACKAGE / "configs") if (p / "base").is_dir()))


def start(job: str) -> None:
    """Runs a job with the arguments of this process.

    Args:
        job: Its name, which is that of its config in `configs/`; the `main` of its module takes the config.
    """
    script(job, lambda cfg: import_module(module_of(job)).main(cfg))


def script(job: str, main: Callable[[DictConfig], object]) -> None:
    """Runs a function as a job with the arguments of this process.

    Args:
        job: Name of its primary config in `configs/`.
        main: Takes the checked config.
    """

    def guarded(cfg: DictConfig) -> object:
        # Here and not around Hydra, which would print a line of its own about the failed job.
        try:
            _prepare(job, cfg)
            return main(cfg)
        except MissingMandatoryValue as error:
            _stop(f"{job} needs {error.full_key}=... (options: {command_of(job)} --help)")
        except (HadError, OmegaConfBaseException) as error:
            _stop(str(error))
        except OSError as error:
            if error.errno not in OF_THE_MACHINE and not _vanished(job, cfg, error):
                raise
            _stop(str(error))
        except MemoryError as error:
            _stop(f"out of memory{f' ({error})' if str(error) else ''}")
        except Exception as error:
            if not _ending:
                raise
            _stop(str(error))
        finally:
            release_folders(ended=_ending)

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    _end_on_sigterm()
    threading.excepthook = _of_a_thread
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.argv[1:] = overrides_of(job, sys.argv[1:], lambda: _plain(_composed(job, [])))
        hydra.main(version_base="1.3", config_path=CONFIGS, config_name=job)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        if unknown := re.match(r"Could not override '([^']+)'", str(error)):
            _stop(no_such_option(job, unknown[1], _plain(_composed(job, []))))
        _stop(f"{' '.join(str(error).split())} (options: {command_of(job)} --help)")
    except InputError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("interrupted", code=130)
    except _Terminated as error:
        _stop(str(error))


#: Whether SIGTERM has come. Code in C that it interrupts may make another error of it.
_ending = False


class _Terminated(BaseException):
    """The machine wants the job to end: what is half-written goes, what is finished stays."""


def _end_on_sigterm() -> None:
    """Ends the job as an error does where SIGTERM means nothing else yet; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    process = os.getpid()

    def end(*_: Any) -> None:
        global _ending
        _ending = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:  # a fork, which has nothing to say
            os.kill(os.getpid(), signal.SIGTERM)
        raise _Terminated

    signal.signal(signal.SIGTERM, end)


def _of_a_thread(found: threading.ExceptHookArgs) -> None:
    """A library's thread that meets a full disk (TensorBoard's writer) tells its caller, too: one line is enough."""
    if isinstance(found.exc_value, OSError) and found.exc_value.errno in OF_THE_MACHINE:
        logging.getLogger("had_snn").warning("%s", found.exc_value)
    else:
        threading.__excepthook__(found)


def _vanished(job: str, cfg: DictConfig, error: OSError) -> bool:
    """Whether an error says that something below the job's own outputs is gone."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR) or error.filename is None:
        return False
    places = [Path(path).resolve() for _, _, path in outputs(job, _plain(cfg))]
    gone = Path(os.fsdecode(error.filename)).resolve()
    return any(place == gone or place in gone.parents for place in places)


def _stop(message: str, *, code: int = 2) -> None:
    """Ends the process with one line: this one, or that SIGTERM came, whatever error it has turned into since."""
    if _ending:
        message, code = "terminated by SIGTERM", 128 + signal.SIGTERM
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
