"""Pictures of events with boxes, scores and spikes.

Drawing is plain NumPy on uint8 RGB arrays `[H, W, 3]`; only letters come from Pillow. `film.py` writes files.

    frames = overlay_frames(events, times_us, boxes_xywh, scores=scores, truth_xywh=truth)
    write_video("track.mp4", frames, fps=25)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from had_snn.errors import InputError, optional_import
from had_snn.events.stream import EventStream

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Colours of a picture, RGB.

    Attributes:
        ground: Pixels without events.
        on: Pixels whose last event is ON.
        off: Pixels whose last event is OFF.
        box: The tracker's box.
        truth: The annotated box.
        ink: Text.
    """

    ground: Colour
    on: Colour
    off: Colour
    box: Colour
    truth: Colour
    ink: Colour


#: `light` draws as the EventVOT pictures do: white ground, ON red, OFF blue.
PALETTES = {
    "light": Palette((255, 255, 255), (214, 69, 65), (52, 108, 196), (0, 150, 90), (140, 140, 140), (30, 30, 30)),
    "dark": Palette((14, 17, 22), (255, 158, 94), (92, 150, 255), (92, 230, 150), (170, 170, 170), (235, 235, 235)),
}


def palette(style: str) -> Palette:
    """The colours of a style, or an error that names the styles."""
    if style not in PALETTES:
        raise InputError(f"unknown picture style {style!r}; expected one of {', '.join(PALETTES)}")
    return PALETTES[style]


def event_image(events: EventStream, *, style: str = "light", background: np.ndarray | None = None) -> np.ndarray:
    """Draws a window of events; the last event of a pixel decides its colour.

    Args:
        events: The window.
        style: `"light"` or `"dark"`.
        background: uint8 `[H, W, 3]` (a camera frame) to draw on instead of the plain ground; not changed.

    Returns:
        uint8 `[H, W, 3]`.
    """
    colours = palette(style)
    height, width = events.sensor_hw
    if background is None:
        image = np.full((height, width, 3), colours.ground, np.uint8)
    else:
        image = as_rgb(background).copy()
        if image.shape[:2] != (height, width):
            raise InputError(f"background is {image.shape[1]}x{image.shape[0]}, the sensor {width}x{height}")
    image[events.y, events.x] = np.array([colours.off, colours.on], np.uint8)[events.p]
    return image


def as_rgb(image: np.ndarray) -> np.ndarray:
    """A uint8 picture `[H, W]`, `[H, W, 1]` or `[H, W, 3]` as `[H, W, 3]`."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise InputError(f"expected a uint8 picture [H, W] or [H, W, 3]; found {image.dtype} {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel as `factor x factor` pixels."""
    return image if factor == 1 else image.repeat(factor, axis=0).repeat(factor, axis=1)


def draw_box(
    image: np.ndarray, box_xywh: np.ndarray | Sequence[float], *, colour: Colour, thickness: int = 1, dash: int = 0
) -> None:
    """Draws the outline of a box into a picture, in place; what lies outside is cut off.

    Args:
        image: uint8 `[H, W, 3]`.
        box_xywh: Box in pixels of the picture; one that is not finite or has no area is not drawn.
        colour: RGB.
        thickness: Width of the line in pixels, grown inwards.
        dash: Length of dashes and gaps in pixels; 0 for a full line.
    """
    box = np.asarray(box_xywh, np.float64)
    if not np.isfinite(box).all() or (box[2:] <= 0).any():
        return
    height, width = image.shape[:2]
    edges = np.round(np.clip([box[0], box[1], box[0] + box[2], box[1] + box[3]], -1e6, 1e6)).astype(int)
    left, top, right, bottom = (int(v) for v in edges)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    columns = np.arange(max(left, 0), max(min(right, width), 0))
    rows = np.arange(max(top, 0), max(min(bottom, height), 0))
    if dash:
        columns, rows = columns[(columns - left) // dash % 2 == 0], rows[(rows - top) // dash % 2 == 0]
    for line in range(thickness):
        for row in {top + line, bottom - 1 - line}:
            if 0 <= row < height:
                image[row, columns] = colour
        for column in {left + line, right - 1 - line}:
            if 0 <= column < width:
                image[rows, column] = colour


@lru_cache(maxsize=512)
def _letters(text: str, size: int) -> np.ndarray:
    """Opacity of a line of text, float32 `[h, w]` in 0..1."""
    font = optional_import("PIL.ImageFont", extra="viz").load_default(size)
    mask, (left, top) = font.getmask2(text, mode="L")
    opacity = np.array(mask, dtype=np.float32).reshape(mask.size[1], mask.size[0]) / 255.0
    return np.pad(opacity, ((max(top, 0), 0), (max(left, 0), 0)))


def draw_text(
    image: np.ndarray,
    text: str,
    xy: tuple[int, int],
    *,
    colour: Colour,
    size: int = 12,
    ground: Colour | None = None,
) -> None:
    """Writes one line of text into a picture, in place; what lies outside is cut off.

    Args:
        image: uint8 `[H, W, 3]`.
        text: The line.
        xy: Left and top of the line in pixels.
        colour: RGB.
        size: Height of the font in pixels.
        ground: Colour of a plate behind the line, for pictures full of dots; none when None.
    """
    if not text:
        return
    opacity = _letters(text, size)
    if ground is not None:
        bottom, right = xy[1] + opacity.shape[0] + 2, xy[0] + opacity.shape[1] + 3
        plate = image[max(xy[1] - 2, 0) : max(bottom, 0), max(xy[0] - 3, 0) : max(right, 0)]
        plate[...] = (0.2 * plate + 0.8 * np.array(ground, np.float32)).astype(np.uint8)
    height, width = image.shape[:2]
    left, top = max(xy[0], 0), max(xy[1], 0)
    opacity = opacity[top - xy[1] : height - xy[1], left - xy[0] : width - xy[0]]
    patch = image[top : top + opacity.shape[0], left : left + opacity.shape[1]]
    blend = patch + opacity[..., None] * (np.array(colour, np.float32) - patch)
    patch[...] = np.round(blend).astype(np.uint8)


def spike_strip(
    activity: np.ndarray, *, width: int, height: int, steps: int = 96, style: str = "dark", top: float | None = None
) -> np.ndarray:
    """A raster of the newest spikes, newest at the right.

    Args:
        activity: `[M, C]` spike counts or rates per step and channel, oldest first; only the last `steps` are drawn.
        width: Width of the strip in pixels.
        height: Height of the strip in pixels.
        steps: Steps that fit into the width.
        style: `"light"` or `"dark"`.
        top: Activity that is drawn at full strength; the 99th percentile of what is shown when None.

    Returns:
        uint8 `[height, width, 3]`.
    """
    colours = palette(style)
    recent = np.asarray(activity, np.float32)[-steps:]
    grid = np.zeros((steps, activity.shape[1]), np.float32)
    grid[steps - len(recent) :] = recent
    if top is None:
        shown = recent[recent > 0]
        top = float(np.percentile(shown, 99)) if len(shown) else 1.0
    strength = np.clip(grid.T / max(top, 1e-9), 0.0, 1.0) ** 0.7  # below 1: single spikes stay visible
    rows = np.arange(height) * strength.shape[0] // height
    columns = np.arange(width) * steps // width
    strength = strength[rows[:, None], columns][..., None]
    ground, ink = (np.array(c, np.float32) for c in (colours.ground, colours.box))
    strip = np.round(ground + strength * (ink - ground)).astype(np.uint8)
    strip[0] = np.round(0.8 * ground + 0.2 * np.array(colours.ink, np.float32)).astype(np.uint8)
    return strip


def overlay_frames(
    events: EventStream,
    times_us: Sequence[int] | np.ndarray,
    boxes_xywh: np.ndarray,
    *,
    scores: np.ndarray | None = None,
    truth_xywh: np.ndarray | None = None,
    spikes: np.ndarray | None = None,
    backgrounds: Sequence[np.ndarray | None] | None = None,
    labels: Sequence[str] | None = None,
    window_us: int = 20_000,
    scale: int = 1,
    style: str = "dark",
) -> Iterator[np.ndarray]:
    """Draws one picture per box, one at a time, so that a long film never sits in memory.

    Args:
        events: The recording.
        times_us: `[M]` times of the boxes; each picture shows the events of the `window_us` before.
        boxes_xywh: `[M, 4]` boxes in sensor pixels.
        scores: `[M]` confidences, written below the time.
        truth_xywh: `[M, 4]` annotated boxes, drawn dashed; rows of NaN or without area are left out.
        spikes: `[M, C]` activity per output and channel, drawn as a strip below the picture.
        backgrounds: `M` camera frames (or None) to draw the events on.
        labels: `M` extra words for the line of text.
        window_us: Length of the window that is drawn.
        scale: Whole-number enlargement.
        style: `"dark"` or `"light"`.

    Yields:
        uint8 pictures of equal size.
    """
    for name, given in (("boxes", boxes_xywh), ("scores", scores), ("truth", truth_xywh), ("spikes", spikes)):
        if given is not None and len(given) != len(times_us):
            raise InputError(f"{len(times_us)} times but {len(given)} {name}; expected one each")
    top = float(np.percentile(spikes[spikes > 0], 99)) if spikes is not None and (spikes > 0).any() else None
    for row, t_us in enumerate(times_us):
        yield overlay_frame(
            events,
            int(t_us),
            boxes_xywh[row],
            start_us=int(times_us[0]),
            score=float(scores[row]) if scores is not None else float("nan"),
            truth_xywh=truth_xywh[row] if truth_xywh is not None else None,
            spikes=spikes[: row + 1] if spikes is not None else None,
            strongest=top,
            background=backgrounds[row] if backgrounds is not None else None,
            label=labels[row] if labels is not None else "",
            window_us=window_us,
            scale=scale,
            style=style,
            strip_steps=int(np.clip(len(times_us), 24, 96)),
        )


def overlay_frame(
    events: EventStream,
    t_us: int,
    box_xywh: np.ndarray,
    *,
    start_us: int,
    score: float = float("nan"),
    truth_xywh: np.ndarray | None = None,
    spikes: np.ndarray | None = None,
    strongest: float | None = None,
    background: np.ndarray | None = None,
    label: str = "",
    window_us: int = 20_000,
    scale: int = 1,
    style: str = "dark",
    strip_steps: int = 96,
) -> np.ndarray:
    """One picture of `overlay_frames`, for films that are drawn while the events still come.

    Args:
        events: At least the events of the window before `t_us`.
        t_us: Time of the box.
        box_xywh: `[4]`, sensor pixels.
        start_us: Time that the film counts from.
        score: Confidence, NaN for none.
        truth_xywh: Annotated box `[4]`, or None.
        spikes: `[M, C]` activity up to now, drawn as a strip below; None for no strip.
        strongest: Activity that is drawn at full strength; see `spike_strip`.
        background: Camera frame to draw the events on, or None.
        label: Extra words for the line of text.
        window_us: Length of the window that is drawn.
        scale: Whole-number enlargement.
        style: `"dark"` or `"light"`.
        strip_steps: Outputs that fit into the strip.

    Returns:
        uint8 `[H, W, 3]`.
    """
    colours = palette(style)
    height, width = events.sensor_hw
    window = events.slice_time(t_us - window_us, t_us)
    image = np.ascontiguousarray(enlarge(event_image(window, style=style, background=background), scale))
    if truth_xywh is not None:
        draw_box(image, np.asarray(truth_xywh) * scale, colour=colours.truth, dash=3 * scale)
    draw_box(image, np.asarray(box_xywh) * scale, colour=colours.box, thickness=max(1, scale))
    size = int(np.clip(height * scale // 18, 9, 18))
    words = [f"{(t_us - start_us) / 1e6:.3f} s"]
    if np.isfinite(score):
        words.append(f"score {score:.2f}")
    if label:
        words.append(label)
    draw_text(image, "   ".join(words), (4, 3), colour=colours.ink, size=size, ground=colours.ground)
    if spikes is not None:
        strip = spike_strip(
            spikes,
            width=width * scale,
            height=max(16, height * scale // 6),
            steps=strip_steps,
            style=style,
            top=strongest,
        )
        words, ink = f"spikes of {spikes.shape[1]} channels, the newest at the right", colours.ink
        draw_text(strip, words, (4, 2), colour=ink, size=min(size, 12), ground=colours.ground)
        image = np.concatenate([image, strip])
    return image
