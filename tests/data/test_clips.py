"""Clips: what the network sees agrees with the geometry that the tracker uses."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from had_snn.data.clip_batch import ClipBatch, collate
from had_snn.data.clips import Augmentation, ClipGeometry, ClipSampler
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.events.stream import EventStream


def dot_sequence(*, labels: int = 12, spacing_us: int = 40_000, seed: int = 0) -> TrackingSequence:
    """A target whose events and pixels all lie at its box's centre, so crops can be checked by eye and by number."""
    rng = np.random.default_rng(seed)
    times = (np.arange(labels) + 1) * spacing_us
    centre = np.array([50.5, 40.5]) + np.cumsum(rng.integers(-3, 4, (labels, 2)), 0)
    boxes = np.concatenate([centre - 10, np.full((labels, 2), 20.0)], -1)
    t = np.sort(rng.integers(0, times[-1], labels * 200))
    which = np.minimum(np.searchsorted(times, t, side="right"), labels - 1)
    x, y = np.floor(centre[which]).T
    events = EventStream.from_arrays(t, x.astype(int), y.astype(int), rng.integers(0, 2, len(t)), (90, 120))
    frames = np.zeros((labels, 90, 120, 3), np.uint8)
    for k, (cx, cy) in enumerate(np.floor(centre).astype(int)):
        frames[k, cy, cx] = 255
    return TrackingSequence("dot", events, times, boxes, np.ones(labels, bool), frames, times.copy())


GEOMETRY = ClipGeometry(40_000, 72, 2.25, 128, 4.0)


def clips_of(*sequences: TrackingSequence, geometry: ClipGeometry = GEOMETRY, **options) -> ClipSampler:
    varied = {f.name: options.pop(f.name) for f in fields(Augmentation) if f.name in options}
    return ClipSampler(sequences or [dot_sequence()], geometry, augmentation=Augmentation(**varied), **options)


def test_box_events_and_image_agree_in_every_window():
    sampler = clips_of(*(dot_sequence(seed=s) for s in range(3)), windows=3, seed=1)
    for index in range(20):
        clip = sampler[index]
        for window in (clip.template, *clip.search):
            centre = window.box_cxcywh[:2]
            size = window.image.shape[-1]
            assert window.t1 - window.t0 == 40_000
            assert window.visible
            bright = np.argwhere(window.image[0] == window.image[0].max()).mean(0)[::-1]
            np.testing.assert_allclose((bright + 0.5) / size, centre, atol=1.5 / size)
            middle = np.array([window.events.x.mean(), window.events.y.mean()])
            np.testing.assert_allclose((middle + 0.5) / size, centre, atol=1.0 / size)
            assert window.events.t.min() >= window.t0
            assert window.events.t.max() < window.t1
        np.testing.assert_allclose(clip.template.box_cxcywh, [0.5, 0.5, 1 / 2.25, 1 / 2.25], atol=1e-5)
        assert [w.t1 - clip.search[0].t1 for w in clip.search] == [0, 40_000, 80_000]
        assert clip.template.t1 < clip.search[0].t1


def test_search_regions_are_jittered_around_the_box_before():
    still = dot_sequence()
    still = replace(still, boxes_xywh=np.tile(still.boxes_xywh[:1], (12, 1)))
    sampler = clips_of(still, windows=2, centre_jitter=0.5, scale_jitter=0.15, modalities=())
    boxes = np.stack([w.box_cxcywh for i in range(300) for w in sampler[i].search])
    offset = (boxes[:, :2] - 0.5) / boxes[:, 2:]  # in units of the jittered box, 1 / 4 of the region
    assert np.abs(boxes[:, 2:] - 0.25).max() < 0.25 * (np.exp(0.46) - 1)
    assert np.log(boxes[:, 2] * 4).std() == pytest.approx(0.15, rel=0.2)
    assert np.abs(offset).max() == pytest.approx(0.5, abs=0.02)
    assert offset.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.1)
    exact = clips_of(still, centre_jitter=0.0, scale_jitter=0.0, modalities=())[0].search[0]
    np.testing.assert_allclose(exact.box_cxcywh, [0.5, 0.5, 0.25, 0.25], atol=1e-6)


def test_batches_are_k_major_and_complete():
    sampler = clips_of(windows=3, geometry=replace(GEOMETRY, voxel_bins=4))
    clips = [sampler[i] for i in range(5)]
    batch = sampler.collate(clips)
    assert batch.boxes.shape == (3, 5, 4)
    assert batch.visible.shape == (3, 5)
    assert batch.template_box.shape == (5, 4)
    assert batch.search_image is not None
    assert batch.search_image.shape == (15, 3, 128, 128)
    assert batch.template_voxel is not None
    assert batch.template_voxel.shape == (5, 4, 72, 72)
    assert batch.search_events is not None
    assert len(batch.search_events) == 15
    for k in range(3):
        for b in range(5):
            window, sample = clips[b].search[k], k * 5 + b
            start, stop = batch.search_events.offsets[sample : sample + 2]
            assert batch.search_events.t[start:stop].tolist() == window.events.t.tolist()
            assert int(batch.search_events.t_end[sample]) == window.t1
            np.testing.assert_array_equal(batch.search_image[sample], window.image)
            np.testing.assert_array_equal(batch.boxes[k, b], window.box_cxcywh)
    moved = batch.to("cpu")
    assert isinstance(moved, ClipBatch)
    assert torch.equal(moved.boxes, batch.boxes)
    lean = collate([clips_of(modalities=("events",))[0]])
    assert lean.search_image is None
    assert lean.search_voxel is None
    assert clips_of(modalities=("rgb",)).collate([sampler[0]]).search_events is not None


def test_micro_steps_have_voxel_grids_of_whole_windows_that_end_with_them():
    sampler = clips_of(windows=2, micro_steps=4, flip=0.5, seed=2)
    for index in range(6):
        plain, clip = clips_of(windows=2, flip=0.5, seed=2)[index], sampler[index]
        for window, other in zip(clip.search, plain.search, strict=True):
            assert other.step_voxels is None
            assert window.step_voxels.shape == (4, *window.voxel.shape)
            np.testing.assert_array_equal(window.voxel, other.voxel)
            np.testing.assert_array_equal(window.step_voxels[-1], window.voxel)
    crop = GEOMETRY.search_crop(dot_sequence().boxes_xywh[5])
    window = GEOMETRY.window(dot_sequence(), 240_000, crop, ("voxel",), micro_steps=4)
    earlier = GEOMETRY.window(dot_sequence(), 210_000, crop, ("voxel",))
    np.testing.assert_array_equal(window.step_voxels[0], earlier.voxel)
    batch = sampler.collate([sampler[0], sampler[1], sampler[2]])
    assert batch.step_voxels.shape[:2] == (6, 4)
    assert torch.equal(batch.windows(1, 2).step_voxels, batch.step_voxels[3:])
    assert clips_of(windows=2, micro_steps=4, modalities=("events",))[0].search[0].step_voxels is None


def test_clips_depend_on_seed_and_index_alone():
    def boxes(sampler: ClipSampler, indices: range) -> np.ndarray:
        return np.stack([sampler[i].search[0].box_cxcywh for i in indices])

    first, second = (clips_of(seed=4, modalities=()) for _ in range(2))
    later = boxes(first, range(5, 8))
    np.testing.assert_array_equal(later, boxes(second, range(8))[5:])
    short = clips_of(seed=4, modalities=(), epoch_length=8)
    np.testing.assert_array_equal(later, boxes(short, range(5, 8)))
    assert (boxes(short, range(13, 16)) != later).any(), "the next epoch"
    assert (boxes(clips_of(seed=5, modalities=()), range(5, 8)) != later).any()


def test_hidden_targets_are_neither_template_nor_start_nor_label():
    sequence = dot_sequence(labels=20)
    visible = np.arange(20) % 5 != 3
    sequence = replace(sequence, visible=visible, boxes_xywh=np.where(visible[:, None], sequence.boxes_xywh, 0.0))
    sampler = clips_of(sequence, windows=3, modalities=())
    hidden = 0
    for index in range(100):
        clip = sampler[index]
        for k, window in enumerate((clip.template, *clip.search)):
            label = window.t1 // 40_000 - 1
            assert np.isfinite(window.box_cxcywh).all()
            if not visible[label]:
                hidden += 1
                assert k >= 2
                assert not window.visible
    assert hidden > 10


def test_dense_labels_are_skipped_so_that_windows_keep_their_pace():
    sequence = dot_sequence(labels=60, spacing_us=4_000)
    clip = clips_of(sequence, windows=2, modalities=("events",))[3]
    assert clip.search[1].t1 - clip.search[0].t1 == 40_000


def test_mirrored_clips_mirror_everything():
    plain = clips_of(seed=2)[7]
    mirrored = clips_of(seed=2, flip=1.0)[7]
    a, b = plain.search[0], mirrored.search[0]
    assert b.box_cxcywh[0] == pytest.approx(1 - a.box_cxcywh[0])
    np.testing.assert_array_equal(b.image, a.image[..., ::-1])
    np.testing.assert_array_equal(b.voxel, a.voxel[..., ::-1])
    np.testing.assert_array_equal(b.events.x, 127 - a.events.x)


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match="unknown modalities"):
        clips_of(modalities=("depth",))
    with pytest.raises(InputError, match="must be positive"):
        clips_of(windows=0)
    with pytest.raises(InputError, match="window_us=0 must be positive"):
        replace(GEOMETRY, window_us=0)
    with pytest.raises(InputError, match="none of 1 sequences holds a clip"):
        clips_of(dot_sequence(labels=2), windows=4)


def test_a_negative_pair_shows_another_target_and_nothing_to_find():
    both, shown = [dot_sequence(seed=seed) for seed in range(2)], {"modalities": ("events",), "seed": 3}
    plain, paired = clips_of(*both, **shown), clips_of(*both, negative_pairs=0.5, **shown)
    negative = 0
    for index in range(100):
        one, other = plain[index], paired[index]
        for a, b in zip(one.search, other.search, strict=True):
            np.testing.assert_array_equal(a.box_cxcywh, b.box_cxcywh)
        same = np.array_equal(one.template.events.t, other.template.events.t)
        assert [w.visible for w in other.search] == [w.visible and same for w in one.search]
        negative += not same
    assert 12 < negative < 38, "half of the clips draw again, and half of these the other sequence"
