"""Augmentation of patches: variations that do not change the label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed


def turn_patches(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rotate and mirror each patch (n, P, P, 3) at random, in all eight ways."""
    turned = np.empty_like(patches)
    for place, (quarter, mirror) in enumerate(
        zip(rng.integers(4, size=len(patches)), rng.integers(2, size=len(patches)), strict=True)
    ):
        patch = np.rot90(patches[place], quarter)
        turned[place] = patch[:, ::-1] if mirror else patch
    return turned


def jitter_stain(
    patches: NDArray[np.uint8], strength: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change the stain of all patches of a bag, as between labs.

    Haematoxylin, eosin and the residual are scaled and shifted in optical density (Tellez et al.
    2019, "Quantifying the effects of data augmentation and stain color normalization"), by the same
    amounts for the whole bag, because a slide is stained as a whole.

    Parameters
    ----------
    patches : (n, P, P, 3), 0..255
    strength : half-width of the uniform scale around 1; the shift has a fifth of it
    """
    scale = np.diag(rng.uniform(1 - strength, 1 + strength, 3))
    shift = rng.uniform(-strength, strength, 3) / 5 * np.array([0.5, 0.5, 0.1])
    matrix = (hed_from_rgb @ scale @ rgb_from_hed).astype(np.float32)
    offset = (shift @ rgb_from_hed).astype(np.float32)
    density = _DENSITY[patches] @ matrix + offset
    bright = np.exp2(density * np.float32(-1 / np.log(2)))  # exp2 is faster than exp
    return np.clip(bright * 256 - 1, 0, 255).round().astype(np.uint8)


def augment_tissue(
    patches: NDArray[np.uint8], rng: np.random.Generator, stain_jitter: float
) -> NDArray[np.uint8]:
    """Rotate, mirror and change the stain of the patches of one slide."""
    patches = turn_patches(patches, rng)
    return jitter_stain(patches, stain_jitter, rng) if stain_jitter else patches


_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
