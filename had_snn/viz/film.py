"""Pictures and films as files: mp4, gif and png. A file appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from had_snn.errors import InputError, optional_import
from had_snn.files import atomic_file
from had_snn.viz.render import as_rgb, palette


def contact_sheet(images: Sequence[np.ndarray], *, columns: int = 4, gap: int = 4, style: str = "dark") -> np.ndarray:
    """Pictures of equal size side by side in rows, as one picture."""
    if not images:
        raise InputError("a contact sheet needs at least one picture")
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet_hw = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = np.full((*sheet_hw, 3), palette(style).truth, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, fps: float = 25.0) -> Path:
    """Writes pictures as a film, or as a contact sheet when the name ends in `.png`.

    Args:
        path: Ends in `.mp4`, `.gif` or `.png`; folders are made, an existing file is replaced in one step.
        frames: uint8 `[H, W, 3]` pictures of equal size, at least one.
        fps: Pictures per second.

    Returns:
        The path.

    Raises:
        InputError: If the suffix is another one or there is no picture.
        MissingExtraError: If imageio is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif", ".png"):
        raise InputError(f"{path}: a film can be written as .mp4, .gif or .png (a contact sheet)")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: no pictures to write")
    frames = itertools.chain([first], frames)
    with atomic_file(path) as partial:
        if path.suffix.lower() == ".png":
            every = list(frames)
            chosen = np.unique(np.linspace(0, len(every) - 1, 12).round().astype(int))
            partial.write_bytes(encode_png(contact_sheet([every[i] for i in chosen])))
        elif path.suffix.lower() == ".gif":
            partial.write_bytes(encode_gif(frames, fps=fps))
        else:
            _write_mp4(partial, frames, fps)
    return path


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> Path:
    """Writes one picture as PNG, in one step."""
    return write_video(Path(path).with_suffix(".png"), [image])


def encode_png(image: np.ndarray) -> bytes:
    """A uint8 picture as the bytes of a PNG file."""
    picture = optional_import("PIL.Image", extra="viz").fromarray(np.ascontiguousarray(as_rgb(image)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)  # twice as fast as the default, hardly larger on event pictures
    return buffer.getvalue()


def encode_gif(frames: Iterable[np.ndarray], *, fps: float = 25.0) -> bytes:
    """Pictures as the bytes of a GIF file that plays for ever; the format knows steps of 10 ms."""
    buffer = io.BytesIO()
    imageio = optional_import("imageio.v2", extra="viz")
    with imageio.get_writer(buffer, format="GIF", mode="I", duration=max(20.0, 1000.0 / fps), loop=0) as writer:
        for frame in frames:
            writer.append_data(frame)
    return buffer.getvalue()


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Pipes pictures into the ffmpeg that imageio brings, and waits for its end, also when drawing fails."""
    ffmpeg = optional_import("imageio_ffmpeg", extra="viz").get_ffmpeg_exe()
    frames = iter(frames)
    first = next(frames)
    height, width = (side + side % 2 for side in first.shape[:2])  # the codec halves the colours: even sides only
    command = [
        ffmpeg,
        "-hide_banner",
        "-loglevel",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{fps:g}",
        "-i",
        "-",
        "-an",
        "-c:v",
        "libx264",
        "-crf",
        "18",
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
        str(path),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            for frame in itertools.chain([first], frames):
                padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
                process.stdin.write(np.pad(frame, padding, mode="edge").tobytes())
        except BrokenPipeError:
            pass  # ffmpeg has ended; its message follows
        except BaseException:
            process.kill()
            raise
        finally:
            # What is still buffered finds nobody to read it where ffmpeg has ended; that must not hide why it did.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise InputError(f"{path.name}: ffmpeg failed: {message.splitlines()[-1] if message else process.returncode}")
