"""From a `read` config (`configs/base/read.yaml`) to the options of `had_snn.read_events`."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


def read_options(read: DictConfig) -> dict[str, Any]:
    """The options that are stated; lists become tuples, as `ReadOptions` holds pairs."""
    plain = OmegaConf.to_container(read, resolve=True)
    assert isinstance(plain, dict)
    stated = {str(name): value for name, value in plain.items() if value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
