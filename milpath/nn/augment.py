"""Augmentation of patches: what changes between labs, slides or hands, but not the answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb_from_hed


def turn_patches(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each patch (n, P, P, 3) turned and mirrored at random, all eight ways: tissue has no up."""
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
    """All patches of a bag as if stained in another lab.

    Haematoxylin, eosin and the residual are scaled and shifted in optical density (Tellez et al.
    2019, "Quantifying the effects of data augmentation and stain color normalization"), by the same
    amounts for the whole bag: a slide is stained as a whole.

    Parameters
    ----------
    patches : (n, P, P, 3), 0..255
    strength : half-width of the uniform scale about 1; the shift has a fifth of it
    """
    scale = np.diag(rng.uniform(1 - strength, 1 + strength, 3))
    shift = rng.uniform(-strength, strength, 3) / 5 * np.array([0.5, 0.5, 0.1])
    matrix = (hed_from_rgb @ scale @ rgb_from_hed).astype(np.float32)
    offset = (shift @ rgb_from_hed).astype(np.float32)
    density = _DENSITY[patches] @ matrix + offset
    bright = np.exp2(density * np.float32(-1 / np.log(2)))  # exp2 is the faster
    return np.clip(bright * 256 - 1, 0, 255).round().astype(np.uint8)


def augment_tissue(
    patches: NDArray[np.uint8], rng: np.random.Generator, stain_jitter: float
) -> NDArray[np.uint8]:
    """Patches of one slide turned, mirrored and stained anew; see the functions it calls."""
    patches = turn_patches(patches, rng)
    return jitter_stain(patches, stain_jitter, rng) if stain_jitter else patches


def warp_pictures(
    pictures: NDArray[np.uint8], rng: np.random.Generator, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Each picture (n, P, P, 1) as if written again by the same hand: for things that have an up.

    A random affine map (rotation, zoom of each axis, shear, shift) and a smooth random
    displacement (Simard et al. 2003, "Best practices for convolutional neural networks applied to
    visual document analysis"), each picture its own. What comes in from outside is black.

    Parameters
    ----------
    pictures : (n, P, P, 1), 0..255
    strength : scales all of them; at 1 they reach 12 degrees, 12 %, 0.12 and 7 % of the side, and
        the displacement has a standard deviation of 2.5 % of the side at its nodes
    """
    count, side = pictures.shape[:2]
    if count == 0:
        return pictures
    angle, shear = rng.uniform(-1, 1, (2, count)) * [[np.deg2rad(12)], [0.12]] * strength
    zoom = 1 / (1 + rng.uniform(-0.12, 0.12, (2, count)) * strength)
    shift = rng.uniform(-0.07, 0.07, (count, 2, 1)) * strength * side
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos * zoom[0], (shear - sin) * zoom[0]], [sin * zoom[1], cos * zoom[1]]])
    middle = (side - 1) / 2
    places = np.indices((side, side)).reshape(2, -1) - middle
    sources = np.moveaxis(matrix, -1, 0) @ places + middle + shift
    nodes = rng.normal(0, 0.025 * strength * side, (count, 2, _NODES, _NODES))
    spread = ndimage.zoom(np.eye(_NODES), (side / _NODES, 1), order=3)  # nodes to places, smoothly
    sources += (spread @ nodes @ spread.T).reshape(count, 2, -1)
    which = np.broadcast_to(np.arange(count)[:, None], (count, side * side))
    coordinates = np.stack([which, sources[:, 0], sources[:, 1]])
    warped = ndimage.map_coordinates(pictures[..., 0], coordinates, order=1)
    return warped.reshape(pictures.shape)


_NODES = 5  # of the displacement, along each side

_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
