"""Anatomy: positions of tissue, tumour and cells (no pixels yet)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = NDArray[np.float64]
"""(N, 2) positions (x, y) in µm from the slide's top-left corner."""


@dataclass(frozen=True)
class Frame:
    """The slide's pixel frame: `width` x `height` level-0 px at `mpp`, in cells of `cell_px`."""

    width: int
    height: int
    mpp: float
    cell_px: int

    @property
    def grid(self) -> tuple[int, int]:
        """Shape [row, col] of the truth grid; the last cells may reach beyond the slide."""
        return -(-self.height // self.cell_px), -(-self.width // self.cell_px)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape [row, col] of a level-0 pixel array."""
        return self.height, self.width

    def at(self, field: Field, points: Points) -> Field:
        """Return a truth-grid or level-0 pixel field under points in µm, shape (N,)."""
        step_um = self.mpp * (self.cell_px if field.shape == self.grid else 1)
        col = (points[:, 0] / step_um).astype(np.int64).clip(0, field.shape[1] - 1)
        row = (points[:, 1] / step_um).astype(np.int64).clip(0, field.shape[0] - 1)
        values: Field = field[row, col]
        return values

    def to_pixels(self, field: Field) -> Field:
        """Return a truth-grid field bicubically enlarged to level-0 pixels, centres aligned."""
        box = (0.0, 0.0, self.width / self.cell_px, self.height / self.cell_px)
        return enlarge(field, self.shape, box)


@dataclass(frozen=True)
class Anatomy:
    """Two fields on the truth grid [row, col]; a cell is tissue or tumour where its field > 0."""

    tissue: Field
    tumour: Field


@dataclass(frozen=True)
class Blobs:
    """N lobed ellipses: nuclei, glands or holes. Every array has shape (N,); lengths in µm.

    `angle` (radians) rotates the long semi-axis `a` from +x; the contour's radius oscillates by
    `lobe` three times per turn, from `phase` on; `ink` is the amount of stain inside.
    """

    x: Points
    y: Points
    a: Points
    b: Points
    angle: Points
    lobe: Points
    phase: Points
    ink: Points


def enlarge(
    field: Field, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Field:
    """Return `field` (its part in `box`: left, top, right, bottom) bicubically resized."""
    from PIL import Image

    image = Image.fromarray(field).resize(shape[::-1], Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> Field:
    """Return noise of mean 0 and deviation about 1 whose blobs are about `grain` elements wide."""
    coarse = (max(4, round(shape[0] / grain)), max(4, round(shape[1] / grain)))
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise -= noise.mean()
    # Enlarging smooths a fifth of the deviation away.
    return enlarge(noise * (np.float32(1.25) / noise.std()), shape)


def bare_anatomy(frame: Frame) -> Anatomy:
    """Return the anatomy of an empty slide."""
    nothing = np.full(frame.grid, -1, np.float32)
    return Anatomy(nothing, nothing)


def plan_anatomy(
    rng: np.random.Generator, frame: Frame, share: tuple[float, float], *, planted: bool
) -> Anatomy:
    """Return one to three pieces of tissue and, where `planted`, a tumour in them."""
    tissue = _tissue_field(rng, frame)
    # computed also if not planted: the same seed then gives the same cells elsewhere
    tumour = _tumour_field(rng, frame, tissue, rng.uniform(*share))
    return Anatomy(tissue, tumour if planted else np.full_like(tumour, -1))


def _axes(frame: Frame) -> tuple[Field, Field]:
    """Return x and y of the cell centres, in units of the slide's shorter side."""
    rows, cols = frame.grid
    short = np.float32(min(frame.width, frame.height) / frame.cell_px)
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32) + np.float32(0.5)
    return x / short, y / short


def _tissue_field(rng: np.random.Generator, frame: Frame) -> Field:
    x, y = _axes(frame)
    short_px = min(frame.width, frame.height)
    wide, high = frame.width / short_px, frame.height / short_px
    pieces = int(rng.integers(1, 4))
    field = np.full(frame.grid, -9, np.float32)
    for k in range(pieces):
        along = (k + 0.5) / pieces + rng.uniform(-0.04, 0.04)
        across = 0.5 + rng.uniform(-0.06, 0.06)
        cx, cy = (along * wide, across * high) if wide >= high else (across * wide, along * high)
        r_along = max(wide, high) * rng.uniform(0.37, 0.43) / pieces
        r_across = rng.uniform(0.31, 0.39)
        rx, ry = (r_along, r_across) if wide >= high else (r_across, r_along)
        field = np.maximum(field, 1 - np.hypot((x - cx) / rx, (y - cy) / ry))
    grain = short_px / frame.cell_px
    field += 0.13 * smooth_noise(rng, frame.grid, grain / 5)
    field += 0.06 * smooth_noise(rng, frame.grid, grain / 16)
    edge = np.minimum(np.minimum(x, wide - x), np.minimum(y, high - y))
    return _without_crumbs(np.minimum(field, (edge - 0.02) * 8).astype(np.float32), 0.08)


def _tumour_field(rng: np.random.Generator, frame: Frame, tissue: Field, share: float) -> Field:
    """Return a field that is positive on `share` of the tissue, in one or two compact regions."""
    x, y = _axes(frame)
    inside = tissue > 0
    core = np.flatnonzero(tissue >= np.quantile(tissue[inside], 0.55))
    distance = np.full(frame.grid, 9, np.float32)
    for k in rng.choice(core, size=int(rng.integers(1, 3))):
        reach = np.float32(rng.uniform(0.8, 1.2))
        distance = np.minimum(distance, np.hypot(x - x.flat[k], y - y.flat[k]) / reach)
    grain = min(frame.width, frame.height) / frame.cell_px
    score = 0.05 * smooth_noise(rng, frame.grid, grain / 8) - distance
    level = np.quantile(score[inside], 1 - share)
    return _without_crumbs(np.minimum(score - level, tissue).astype(np.float32), 0.05)


def _without_crumbs(field: Field, least: float) -> Field:
    """Return `field` made negative on islands smaller than `least` of the largest one."""
    from scipy import ndimage

    islands, _ = ndimage.label(field > 0)
    areas = np.bincount(islands.ravel())
    areas[0] = 0
    kept = (areas >= max(1.0, least * areas.max()))[islands]
    # Well below 0 away from what is kept, or enlarging would leave ghosts of the crumbs.
    far = ~ndimage.binary_dilation(kept, iterations=2)
    low = np.where(far, np.minimum(field, np.float32(-0.1)), -np.abs(field))
    return np.where(kept, field, low)


def scatter(rng: np.random.Generator, frame: Frame, pitch_um: float, jitter: float) -> Points:
    """Return a jittered hexagonal lattice over the whole slide: crowded, yet rarely overlapping."""
    cols = int(frame.width * frame.mpp / pitch_um) + 1
    rows = int(frame.height * frame.mpp / (pitch_um * 0.866)) + 1
    row, col = np.mgrid[0:rows, 0:cols].reshape(2, -1).astype(np.float64)
    lattice = np.stack([(col + 0.5 * (row % 2)) * pitch_um, row * 0.866 * pitch_um], axis=1)
    moved: Points = lattice + rng.normal(0, jitter * pitch_um, lattice.shape)
    return moved


def nuclei(
    rng: np.random.Generator,
    points: Points,
    *,
    diameter_um: float,
    spread: float,
    oval: float,
    lobe: float,
    ink: float,
) -> Blobs:
    """Return nuclei at `points`: `spread` is the deviation of log size, `oval` the mean b/a."""
    n = len(points)
    size = diameter_um / 2 * np.exp(rng.normal(0, spread, n).clip(-2 * spread, 2 * spread))
    aspect = rng.normal(oval, 0.08, n).clip(0.45, 1.0)
    return Blobs(
        x=points[:, 0],
        y=points[:, 1],
        a=size / np.sqrt(aspect),
        b=size * np.sqrt(aspect),
        angle=rng.uniform(0, np.pi, n),
        lobe=np.abs(rng.normal(0, lobe, n)).clip(0, 0.35),
        phase=rng.uniform(0, 2 * np.pi, n),
        ink=ink * np.exp(rng.normal(0, 0.15, n)),
    )


def glands_at(rng: np.random.Generator, points: Points) -> Blobs:
    """Return gland contours at `points`, 50 to 100 µm across."""
    n = len(points)
    a = rng.uniform(26, 48, n)
    return Blobs(
        x=points[:, 0],
        y=points[:, 1],
        a=a,
        b=a * rng.uniform(0.65, 1.0, n),
        angle=rng.uniform(0, np.pi, n),
        lobe=rng.uniform(0, 0.12, n),
        phase=rng.uniform(0, 2 * np.pi, n),
        ink=np.ones(n),
    )


def gland_nuclei(rng: np.random.Generator, glands: Blobs) -> Blobs:
    """Return the nuclei of the glands: a ring of ovals near the contour, pointing at the lumen."""
    count = np.maximum(8, np.round(np.pi * (glands.a + glands.b) / 7.0)).astype(np.int64)
    of = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    turn = 2 * np.pi * (rank + rng.normal(0, 0.12, len(of))) / count[of]
    reach = 0.84 * (1 + glands.lobe[of] * np.cos(3 * turn + glands.phase[of]))
    reach *= rng.normal(1, 0.035, len(of))
    u, v = glands.a[of] * reach * np.cos(turn), glands.b[of] * reach * np.sin(turn)
    cos, sin = np.cos(glands.angle[of]), np.sin(glands.angle[of])
    points = np.stack([glands.x[of] + u * cos - v * sin, glands.y[of] + u * sin + v * cos], axis=1)
    ring = nuclei(rng, points, diameter_um=6.6, spread=0.08, oval=0.68, lobe=0.02, ink=0.85)
    radial = np.arctan2(points[:, 1] - glands.y[of], points[:, 0] - glands.x[of])
    return Blobs(ring.x, ring.y, ring.a, ring.b, radial, ring.lobe, ring.phase, ring.ink)
