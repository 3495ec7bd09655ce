"""What makes a drawing look like an X-ray picture: bone texture, blur, noise and film response."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ai.phantom.truth import Image
from ai.phantom.view import Field


def trabecular_texture(random: np.random.Generator, shape: tuple[int, int], pitch: float) -> Field:
    """Return a net-like texture of about unit deviation, a mix of fine and coarse grain."""
    noise = random.standard_normal(shape, dtype=np.float32)
    fine = ndimage.gaussian_filter(noise, (0.42 / pitch, 0.30 / pitch))
    coarse_shape = (shape[0] // 4 + 2, shape[1] // 4 + 2)
    coarse = ndimage.gaussian_filter(
        random.standard_normal(coarse_shape, dtype=np.float32), 0.28 / pitch
    )
    coarse = coarse.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]]
    fine /= fine.std() + 1e-6
    coarse /= coarse.std() + 1e-6
    texture: Field = np.abs(fine) * 1.3 - 1.0 + 0.55 * coarse
    return texture


def expose(
    random: np.random.Generator, attenuation: Field, *, photons: float, blur: float
) -> Field:
    """Return the picture (dense is bright) in 0..1 of an attenuation map, with quantum noise."""
    signal = 1 - np.exp(-1.05 * np.maximum(attenuation, 0))
    signal = ndimage.gaussian_filter(signal, blur)
    # Gaussian stands in for Poisson: same deviation at these counts, four times as fast.
    noise = random.standard_normal(signal.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 0.5) * 1.7
    exposed: Field = signal + noise * np.sqrt(np.clip(1.02 - signal, 0.02, 1) / photons)
    return exposed


def digitize(picture: Field, bits: int, gamma: float) -> Image:
    """Stretch a picture between its percentiles to the full range of `bits` bits."""
    low, high = np.percentile(picture[::4, ::4], (0.5, 99.8))
    share = np.clip((picture - low) / max(float(high - low), 1e-6), 0, 1) ** gamma
    top = (1 << bits) - 1
    pixels: Image = (share * top + 0.5).astype(np.uint8 if bits <= 8 else np.uint16)
    return pixels
