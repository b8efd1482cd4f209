"""Depth-wise matching finds a planted pattern, sees only the target's box, and does not depend on loudness."""

from __future__ import annotations

import torch

from had_snn.models.matching import DepthwiseMatching, box_coverage


def test_coverage_adds_up_to_the_area_of_the_box():
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.31, 0.62, 0.11, 0.07]])
    cover = box_coverage(boxes, 9)
    torch.testing.assert_close(cover.sum(dim=(1, 2)) / 81, boxes[:, 2:].prod(dim=1))
    assert cover.max() <= 1 + 1e-5


def test_a_planted_pattern_peaks_where_it_was_planted():
    torch.manual_seed(0)
    matching = DepthwiseMatching(kernel=5)
    pattern = (torch.rand(1, 32, 5, 5) < 0.3).float()
    template = torch.zeros(1, 32, 9, 9)
    template[:, :, 2:7, 2:7] = pattern
    search = (torch.rand(1, 1, 32, 16, 16) < 0.05).float()
    search[0, :, :, 8:13, 3:8] = pattern
    kernel = matching.template_kernel(template, torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    summed = matching(search, kernel).sum(dim=2)[0, 0]
    assert divmod(int(summed.argmax()), 16) == (10, 5)


def test_background_outside_the_box_is_ignored_and_loudness_cancels():
    matching = DepthwiseMatching(kernel=5)
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    rates = torch.rand(1, 8, 9, 9)
    changed = rates.clone()
    changed[:, :, :2] = 5.0
    torch.testing.assert_close(matching.template_kernel(rates, box), matching.template_kernel(changed, box))
    louder = matching.template_kernel(rates * 3, box)
    torch.testing.assert_close(louder, matching.template_kernel(rates, box), rtol=1e-2, atol=1e-2)


def test_every_sample_is_matched_with_its_own_kernel():
    matching = DepthwiseMatching(kernel=3)
    search, kernels = torch.rand(2, 3, 4, 8, 8), torch.rand(3, 4, 3, 3)
    together = matching(search, kernels)
    for n in range(3):
        torch.testing.assert_close(together[:, n : n + 1], matching(search[:, n : n + 1], kernels[n : n + 1]))
