"""A box drawn with the mouse."""

from __future__ import annotations

from typing import Any

import numpy as np

from had_snn.errors import InputError, optional_import
from had_snn.events.stream import EventStream
from had_snn.viz.live_window import pyplot_with_a_display
from had_snn.viz.render import event_image


def draw_box_by_hand(events: EventStream, window_us: int) -> np.ndarray:
    """Shows the newest events in a window and waits for a box that is drawn with the mouse.

    Args:
        events: The events up to the time of the box.
        window_us: How many microseconds of them are shown.

    Returns:
        Four numbers.
    """
    pyplot = pyplot_with_a_display("box=draw needs a display; give box=[x,y,w,h] or box=FILE here")
    selector = optional_import("matplotlib.widgets", extra="viz").RectangleSelector
    figure, axis = pyplot.subplots(num="draw the first box, then close the window")
    axis.imshow(event_image(events.slice_time(events.t_end - window_us, events.t_end), style="dark"))
    drawn: list[np.ndarray] = []

    def done(press: Any, release: Any) -> None:
        x, y = sorted((press.xdata, release.xdata)), sorted((press.ydata, release.ydata))
        drawn.append(np.array([x[0] + 0.5, y[0] + 0.5, x[1] - x[0], y[1] - y[0]]))

    handle = selector(axis, done, interactive=True)
    pyplot.show(block=True)
    del handle
    pyplot.close(figure)
    if not drawn:
        raise InputError("no box was drawn; give box=[x,y,w,h] or draw one before the window is closed")
    return drawn[-1]
