"""A window that shows pictures while a camera is followed."""

from __future__ import annotations

import time

import numpy as np

from had_snn.errors import InputError, optional_import

#: Matplotlib's drawing machines that write files and open no window.
WITHOUT_WINDOWS = ("agg", "pdf", "pgf", "ps", "svg", "cairo", "template")
_PERIOD_S = 0.04


def pyplot_with_a_display(instead: str):
    """Matplotlib's pyplot, where it can open windows.

    Args:
        instead: What helps where there is no display.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        InputError: If there is no display.
    """
    matplotlib = optional_import("matplotlib", extra="viz")
    pyplot = optional_import("matplotlib.pyplot", extra="viz")
    if matplotlib.get_backend().lower() in WITHOUT_WINDOWS:
        raise InputError(instead)
    return pyplot


class LiveWindow:
    """Shows the newest picture, at most 25 a second, until its user closes it; tracking goes on without it.

    Args:
        title: Of the window.

    Raises:
        MissingExtraError: If matplotlib is not installed (extra `viz`).
        InputError: If there is no display.
    """

    def __init__(self, title: str) -> None:
        self._pyplot = pyplot_with_a_display("no display for a window; window=false opens none")
        self._figure, self._axis = self._pyplot.subplots(num=title)
        self._axis.set_axis_off()
        self._image = None
        self._next = 0.0
        self._pyplot.show(block=False)

    def is_due(self) -> bool:
        """Whether the window is still there and its last picture is old enough for another one."""
        return time.monotonic() >= self._next and self._pyplot.fignum_exists(self._figure.number)

    def show(self, picture: np.ndarray) -> None:
        """Shows a picture, uint8 `[H, W, 3]`."""
        if self._image is None:
            self._image = self._axis.imshow(picture)
        else:
            self._image.set_data(picture)
        self._figure.canvas.draw_idle()
        self._figure.canvas.flush_events()
        self._next = time.monotonic() + _PERIOD_S

    def close(self) -> None:
        """Closes the window."""
        self._pyplot.close(self._figure)
