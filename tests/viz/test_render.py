"""Pixels where they belong, and files that are whole or absent."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.viz.film import contact_sheet, encode_gif, encode_png, write_image, write_video
from had_snn.viz.render import PALETTES, as_rgb, draw_box, draw_text, event_image, overlay_frames, spike_strip

RED = (255, 0, 0)


def read_film(path):
    """The pictures of a file; ffmpeg is called by hand because imageio's reader leaves its pipes open."""
    if path.suffix != ".mp4":
        return pytest.importorskip("imageio.v3").imread(path)
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [ffmpeg, "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 22, 34, 3)


@pytest.fixture
def events():
    return EventStream.from_arrays([1, 2, 3], [0, 4, 4], [0, 2, 2], [1, 1, 0], (4, 6))


def blank(height=20, width=30):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("style", PALETTES)
def test_last_event_of_a_pixel_decides(events, style):
    image, colours = event_image(events, style=style), PALETTES[style]
    assert tuple(image[0, 0]) == colours.on
    assert tuple(image[2, 4]) == colours.off
    assert tuple(image[3, 5]) == colours.ground


def test_background_is_kept_and_not_changed(events):
    frame = np.full((4, 6), 77, np.uint8)
    image = event_image(events, background=frame)
    assert tuple(image[3, 3]) == (77, 77, 77)
    assert (frame == 77).all()
    with pytest.raises(InputError, match="background is 5x4, the sensor 6x4"):
        event_image(events, background=frame[:, :5])


def test_box_outline():
    image = blank()
    draw_box(image, [3.2, 4.4, 6.0, 5.0], colour=RED)
    lit = image[..., 0] > 0
    expected = np.zeros_like(lit)
    expected[4:9, 3:9] = True
    expected[5:8, 4:8] = False
    np.testing.assert_array_equal(lit, expected)


@pytest.mark.parametrize(
    ("box", "count"),
    [
        ([-5, -5, 10, 10], 9),
        ([25, 15, 100, 100], 9),
        ([-50, -50, 10, 10], 0),
        ([40, 40, 5, 5], 0),
        ([-10, 5, 100, 4], 60),
        ([np.nan, 0, 5, 5], 0),
        ([3, 3, 0, 5], 0),
        ([5, 5, 0.2, 0.2], 1),
        ([-1e30, -1e30, 2e30, 2e30], 0),
    ],
)
def test_box_is_cut_at_the_border(box, count):
    image = blank()
    draw_box(image, box, colour=RED)
    assert int((image[..., 0] > 0).sum()) == count


def test_dashes_and_thickness():
    full, dashed, thick = blank(), blank(), blank()
    draw_box(full, [2, 2, 24, 16], colour=RED)
    draw_box(dashed, [2, 2, 24, 16], colour=RED, dash=2)
    draw_box(thick, [2, 2, 24, 16], colour=RED, thickness=2)
    assert 0.4 < dashed.any(-1).sum() / full.any(-1).sum() < 0.6
    assert thick.any(-1).sum() == 24 * 16 - 20 * 12


@pytest.mark.parametrize("xy", [(2, 2), (-3, -4), (25, 15), (100, 100), (-100, -100)])
def test_text_anywhere(xy):
    image = blank()
    draw_text(image, "0.93", xy, colour=RED, size=10, ground=(1, 1, 1))
    assert image.shape == (20, 30, 3)
    assert (image[..., 0].max() > 128) == (xy in [(2, 2), (-3, -4), (25, 15)])


def test_strip_shows_the_newest_at_the_right():
    activity = np.zeros((3, 4))
    activity[2, 3] = 5.0
    strip = spike_strip(activity, width=20, height=8, steps=10)
    lit = (strip[1:] != np.array(PALETTES["dark"].ground)).any(-1)
    assert lit[5:, 18:].all()
    assert not lit[:, :18].any()
    assert not (spike_strip(np.zeros((2, 4)), width=20, height=8)[1:] != np.array(PALETTES["dark"].ground)).any()


def test_overlay_has_one_picture_per_box(events):
    times, boxes = [2, 4], np.array([[0, 0, 4, 3], [1, 1, 4, 3]])
    plain = list(overlay_frames(events, times, boxes, window_us=2))
    assert [f.shape for f in plain] == [(4, 6, 3)] * 2
    rich = list(
        overlay_frames(
            events,
            times,
            boxes,
            scores=np.array([1.0, np.nan]),
            truth_xywh=boxes + 0.5,
            spikes=np.ones((2, 3)),
            backgrounds=[None, np.full((4, 6, 3), 9, np.uint8)],
            labels=["", "lost"],
            scale=3,
            style="light",
        )
    )
    assert [f.shape for f in rich] == [(12 + 16, 18, 3)] * 2
    with pytest.raises(InputError, match="2 times but 1 scores"):
        next(overlay_frames(events, times, boxes, scores=np.ones(1)))


def test_overlay_shows_the_window_before_each_time(events):
    image = next(overlay_frames(events, [3], np.full((1, 4), np.nan), window_us=1, scale=8))
    assert tuple(image[2 * 8 + 7, 4 * 8 + 4]) == PALETTES["dark"].on  # the OFF event at t = 3 is not in [2, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_films_are_written_in_one_step(tmp_path, suffix):
    frames = [np.full((21, 33, 3), 60 * k, np.uint8) for k in range(1, 5)]
    path = write_video(tmp_path / "new" / f"film{suffix}", iter(frames), fps=20)
    assert [p.name for p in path.parent.iterdir()] == [f"film{suffix}"]
    read = read_film(path)
    if suffix == ".png":
        assert read.shape == (21, 4 * 33 + 3 * 4, 3)
        assert read[5, 5, 0] == 60
    else:
        assert len(read) == 4
        assert read[:, 5, 5, 0] == pytest.approx([60, 120, 180, 240], abs=6)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_nothing_is_left_when_drawing_fails(tmp_path, suffix, monkeypatch):
    def kill_and_wait(process, kill=subprocess.Popen.kill):  # ffmpeg is gone while a picture is still buffered
        kill(process)
        process.wait()

    monkeypatch.setattr(subprocess.Popen, "kill", kill_and_wait)

    def frames():
        yield blank()
        raise InputError("the recording ends here")

    with pytest.raises(InputError, match="ends here"):
        write_video(tmp_path / f"film{suffix}", frames())
    assert list(tmp_path.iterdir()) == []


def test_what_ffmpeg_says_is_passed_on(tmp_path):
    with pytest.raises(InputError, match="ffmpeg failed"):
        write_video(tmp_path / "film.mp4", [blank()], fps=-1)
    assert list(tmp_path.iterdir()) == []


def test_refuses_other_names_and_empty_films(tmp_path):
    with pytest.raises(InputError, match=r"\.mp4, \.gif or \.png"):
        write_video(tmp_path / "film.avi", [blank()])
    with pytest.raises(InputError, match="no pictures"):
        write_video(tmp_path / "film.gif", [])
    assert list(tmp_path.iterdir()) == []


def test_pictures_as_bytes(tmp_path):
    assert encode_png(blank()).startswith(b"\x89PNG")
    assert encode_gif([blank(), blank() + 9]).startswith(b"GIF8")
    assert write_image(tmp_path / "one.png", blank()).stat().st_size > 0


def test_contact_sheet_and_refusals():
    assert contact_sheet([blank()] * 5, columns=2, gap=1).shape == (62, 61, 3)
    for wrong in (np.zeros((3, 3, 2), np.uint8), np.zeros((3, 3, 3))):
        with pytest.raises(InputError, match="expected a uint8 picture"):
            as_rgb(wrong)
    with pytest.raises(InputError, match="unknown picture style 'neon'"):
        event_image(EventStream.empty((3, 3)), style="neon")
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([])
