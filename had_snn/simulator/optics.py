"""A lens that is out of focus: every texture is smoothed by a Gaussian of the same width in sensor pixels.

Smoothing textures instead of images keeps the renderer as it is, and what passes in front of what stays sharp only in
that edges meet where they met before. A sprite's scale changes over time: the width is right at its median.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from had_snn.simulator.description import Scene, Sprite


def out_of_focus(scene: Scene, sigma_px: float) -> Scene:
    """A scene seen through a lens that spreads a point over a Gaussian.

    Args:
        scene: What moves; its truth stays that of the sharp outlines.
        sigma_px: Standard deviation of the Gaussian in sensor pixels; 0 leaves the scene as it is.
    """
    if sigma_px == 0:
        return scene
    texels = float(np.median(np.sqrt(np.abs(np.linalg.det(scene.plane_matrix)))))
    plane = smoothed(scene.plane, sigma_px * texels)
    sprites = [sprite if sprite.adds else _smoothed_sprite(sprite, sigma_px) for sprite in scene.sprites]
    return replace(scene, plane=plane, sprites=sprites)


def smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image `[h, w, C]` smoothed by a Gaussian of so many texels; it wraps around."""
    height, width = image.shape[:2]
    square = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * square)[..., None]
    spectrum = np.fft.rfft2(image, axes=(0, 1)) * gain
    return np.maximum(np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)), 0.0).astype(image.dtype)


def _smoothed_sprite(sprite: Sprite, sigma_px: float) -> Sprite:
    """Opacity is smoothed, and so is the light weighted with it: nothing of what lies behind the outline leaks out."""
    sigma = sigma_px / float(np.median(np.sqrt(np.abs(np.linalg.det(sprite.matrix)))))
    margin = int(np.ceil(3 * sigma)) + 1
    alpha = np.pad(sprite.alpha, margin)[..., None]
    rgb = np.pad(sprite.rgb, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    soft = smoothed(alpha, sigma)
    light = smoothed(rgb * alpha, sigma) / np.maximum(soft, 1e-6)
    opacity = np.minimum(soft[..., 0], 1.0)
    opacity[[0, -1]] = 0.0
    opacity[:, [0, -1]] = 0.0
    return replace(sprite, rgb=np.where(soft > 1e-3, light, rgb).astype(sprite.rgb.dtype), alpha=opacity)
