"""Cells: glands, fat and nuclei, stamped onto a canvas of what lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from milpath.synthetic.anatomy import (
    Anatomy,
    Blobs,
    Field,
    Frame,
    enlarge,
    gland_nuclei,
    glands_at,
    nuclei,
    scatter,
    smooth_noise,
)

STAMP_ELEMENTS = 1_000_000
"""Array elements stamped at once; bounds the memory that nuclei take."""


@dataclass(frozen=True)
class Canvas:
    """What lies where, level-0 px arrays [row, col].

    `nucleus` is an amount of haematoxylin; the others run from 0 (absent) to 1.
    """

    tissue: Field
    tumour: Field
    gland: Field
    hole: Field
    nucleus: Field

    def rows(self, rows: slice) -> Canvas:
        """Return a view of some rows."""
        fields = (self.tissue, self.tumour, self.gland, self.hole, self.nucleus)
        return Canvas(*(field[rows] for field in fields))


def soft_step(field: Field, width: float) -> Field:
    """Return 0 to 1 as `field` rises through 0, over +-`width`."""
    step = field * np.float32(0.5 / width)
    step += np.float32(0.5)
    return np.clip(step, 0, 1, out=step)


def place_cells(rng: np.random.Generator, frame: Frame, anatomy: Anatomy) -> Canvas:
    """Return the canvas with tissue, tumour, glands, fat and every nucleus on it."""
    rough_shape = frame.grid[0] * 2, frame.grid[1] * 2
    rough = enlarge(rng.standard_normal(rough_shape, dtype=np.float32), frame.shape)
    canvas = Canvas(
        tissue=soft_step(frame.to_pixels(anatomy.tissue) + np.float32(0.005) * rough, 0.008),
        tumour=soft_step(frame.to_pixels(anatomy.tumour) + np.float32(0.002) * rough, 0.004),
        gland=np.zeros(frame.shape, np.float32),
        hole=np.zeros(frame.shape, np.float32),
        nucleus=np.zeros(frame.shape, np.float32),
    )
    if (anatomy.tissue > 0).any():
        _place_glands_and_fat(rng, frame, anatomy, canvas)
        _place_stroma_cells(rng, frame, anatomy, canvas)
        _place_tumour_cells(rng, frame, canvas)
    return canvas


def _place_glands_and_fat(
    rng: np.random.Generator, frame: Frame, anatomy: Anatomy, canvas: Canvas
) -> None:
    inside = anatomy.tissue > 0
    clear = 55 / (min(frame.width, frame.height) * frame.mpp)
    grain = 350 / (frame.cell_px * frame.mpp)

    def chosen(pitch: float, jitter: float, share: float) -> NDArray[np.float64]:
        zone = smooth_noise(rng, frame.grid, grain)
        zone = zone - np.float32(np.quantile(zone[inside], 1 - share))
        points = scatter(rng, frame, pitch, jitter)
        keep = (frame.at(zone, points) > 0) & (frame.at(anatomy.tissue, points) > 0.05)
        return points[keep & (frame.at(anatomy.tumour, points) < -clear)]

    glands = glands_at(rng, chosen(112, 0.06, rng.uniform(0.1, 0.5)))
    stamp(canvas.gland, frame, glands, _disc)
    stamp(canvas.hole, frame, glands, lambda r, px: 0.9 * _disc(r / 0.6, px))
    stamp(canvas.nucleus, frame, gland_nuclei(rng, glands), _plain)
    points = chosen(50, 0.07, rng.uniform(0.02, 0.12))
    points = points[frame.at(canvas.gland, points) < 0.5]
    fat = nuclei(rng, points, diameter_um=44, spread=0.12, oval=0.9, lobe=0.06, ink=1.0)
    stamp(canvas.hole, frame, replace(fat, ink=np.ones(len(points))), _disc)


def _place_stroma_cells(
    rng: np.random.Generator, frame: Frame, anatomy: Anatomy, canvas: Canvas
) -> None:
    density = smooth_noise(rng, frame.grid, 150 / (frame.cell_px * frame.mpp))
    points = scatter(rng, frame, 14, 0.2)
    keep = rng.random(len(points)) < rng.uniform(0.5, 1.0) + 0.2 * frame.at(density, points)
    points = points[keep & (frame.at(canvas.tumour, points) < 0.5)]
    points = _in_stroma(frame, canvas, points)
    spindle = rng.random(len(points)) < 0.45
    lymph = scatter(rng, frame, 6.2, 0.19)
    near = _clusters(rng, frame, anatomy, lymph) | (
        rng.random(len(lymph)) < rng.uniform(0.002, 0.02)
    )
    lymph = _in_stroma(frame, canvas, lymph[near])
    for kind in (
        nuclei(rng, points[~spindle], diameter_um=6.5, spread=0.1, oval=0.85, lobe=0.03, ink=0.92),
        nuclei(rng, points[spindle], diameter_um=5.6, spread=0.1, oval=0.5, lobe=0.02, ink=0.95),
        nuclei(rng, lymph, diameter_um=5.2, spread=0.06, oval=0.93, lobe=0.02, ink=1.25),
    ):
        stamp(canvas.nucleus, frame, kind, _plain)


def _in_stroma(frame: Frame, canvas: Canvas, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points on tissue that are neither in a gland nor in a hole."""
    taken = np.maximum(frame.at(canvas.gland, points), frame.at(canvas.hole, points))
    return points[(frame.at(canvas.tissue, points) > 0.5) & (taken < 0.5)]


def _clusters(
    rng: np.random.Generator, frame: Frame, anatomy: Anatomy, points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which points lie in one of a few lymphocyte clusters outside the tumour."""
    cell_um = frame.cell_px * frame.mpp
    cells = np.argwhere((anatomy.tissue > 0.08) & (anatomy.tumour < -0.04))
    if len(cells) == 0:
        return np.zeros(len(points), np.bool_)
    area_mm2 = len(cells) * cell_um**2 / 1e6
    near = np.zeros(len(points), np.bool_)
    ragged = 25 * frame.at(smooth_noise(rng, frame.grid, 40 / cell_um), points)
    count = 1 + rng.poisson(rng.uniform(0, 9) * area_mm2)
    for row, col in cells[rng.integers(len(cells), size=count)]:
        away = points - (np.array([col, row]) + 0.5) * cell_um
        near |= np.hypot(away[:, 0], away[:, 1]) + ragged < rng.uniform(35, 105)
    # A cluster may touch the tumour, but must not hide what the truth calls tumour.
    outside: NDArray[np.bool_] = near & (frame.at(anatomy.tumour, points) < 0)
    return outside


def _place_tumour_cells(rng: np.random.Generator, frame: Frame, canvas: Canvas) -> None:
    nests = smooth_noise(rng, frame.grid, 55 / (frame.cell_px * frame.mpp))
    points = scatter(rng, frame, 14, 0.16)
    inside = np.minimum(frame.at(canvas.tumour, points), frame.at(canvas.tissue, points)) > 0.5
    points = points[inside & (frame.at(nests, points) > -1.0)]
    cells = nuclei(rng, points, diameter_um=11.3, spread=0.2, oval=0.78, lobe=0.1, ink=0.78)
    stamp(canvas.nucleus, frame, cells, _vesicular)
    offset = rng.normal(0, 1.2, points.shape)
    dots = nuclei(rng, points + offset, diameter_um=2.6, spread=0.2, oval=0.9, lobe=0.0, ink=1.35)
    stamp(canvas.nucleus, frame, dots, _plain)
    # Between the nests lies stroma; it belongs to the tumour, but looks like stroma.
    canvas.tumour[:] *= soft_step(frame.to_pixels(nests) + 1.1, 0.4)


def stamp(
    canvas: Field, frame: Frame, blobs: Blobs, profile: Callable[[Field, Field], Field]
) -> None:
    """Lay `blobs` onto `canvas`, keeping the maximum where they overlap.

    `profile(r, px)` gives the ink at radius r (0 centre, 1 contour) of blobs whose mean radius is
    px pixels. Blobs of like size share one window, so that thousands of them are one array.
    """
    reach = np.ceil(blobs.a * 1.35 / frame.mpp + 1.5).astype(np.int64)
    order = np.argsort(reach, kind="stable")
    flat = canvas.reshape(-1)
    start = 0
    while start < len(order):
        # Windows grow along `order`: bound the chunk by a window a quarter wider than its first.
        widest = max(reach[order[start]] + 1, int(reach[order[start]] * 1.25))
        room = max(1, STAMP_ELEMENTS // (2 * widest + 1) ** 2)
        stop = min(start + room, int(np.searchsorted(reach[order], widest, side="right")))
        index, value = _window(canvas.shape, frame, blobs, order[start:stop], widest, profile)
        np.maximum.at(flat, index, value)
        start = stop


def _window(
    shape: tuple[int, ...],
    frame: Frame,
    blobs: Blobs,
    which: NDArray[np.int64],
    reach: int,
    profile: Callable[[Field, Field], Field],
) -> tuple[NDArray[np.int64], Field]:
    """Return flat canvas indices and the ink there, for windows of +-`reach` px around blobs."""

    def of(values: NDArray[np.float64]) -> Field:
        return values[which].astype(np.float32)[:, None, None]

    steps = np.arange(-reach, reach + 1)
    x, y = blobs.x[which] / frame.mpp, blobs.y[which] / frame.mpp
    col = np.floor(x).astype(np.int64)[:, None, None] + steps
    row = np.floor(y).astype(np.int64)[:, None, None] + steps[:, None]
    dx = (col + 0.5 - x[:, None, None]).astype(np.float32)
    dy = (row + 0.5 - y[:, None, None]).astype(np.float32)
    cos, sin = np.cos(of(blobs.angle)), np.sin(of(blobs.angle))
    a, b = of(blobs.a) / np.float32(frame.mpp), of(blobs.b) / np.float32(frame.mpp)
    u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
    r2 = u * u + v * v + np.float32(1e-6)
    r = np.sqrt(r2)
    # cos(3t + phase) = cos 3t cos phase - sin 3t sin phase, with no arctan2.
    cos3, sin3 = u * (u * u - 3 * v * v), v * (3 * u * u - v * v)
    lobes = (cos3 * np.cos(of(blobs.phase)) - sin3 * np.sin(of(blobs.phase))) / (r2 * r)
    value = of(blobs.ink) * profile(r / (1 + of(blobs.lobe) * lobes), np.sqrt(a * b))
    seen = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    index = row.clip(0, shape[0] - 1) * shape[1] + col.clip(0, shape[1] - 1)
    # Ink 0 changes no maximum, so what lies off the slide is laid down as 0 at its edge.
    return index.ravel(), np.where(seen, value, np.float32(0)).astype(np.float32).ravel()


def _disc(r: Field, px: Field) -> Field:
    """Return 1 inside, 0 outside, with an edge about a pixel wide."""
    return ((1 - r) * px * np.float32(0.8) + np.float32(0.5)).clip(0, 1)


def _plain(r: Field, px: Field) -> Field:
    """Return the profile of a small dense nucleus, a little paler towards its edge."""
    return _disc(r, px) * (np.float32(1.05) - np.float32(0.2) * r)


def _vesicular(r: Field, px: Field) -> Field:
    """Return the profile of a tumour nucleus: pale inside, with a dark membrane."""
    return _disc(r, px) * (np.float32(0.75) + np.float32(0.3) * r * r)
