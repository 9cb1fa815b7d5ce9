"""PatchStream: the patches of a slide, read once for a network and stored nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from milpath.formats.bag import BagHeader, as_kept, bag_fingerprint
from milpath.formats.features import Tiling
from milpath.params import TileParams
from milpath.patches.artefacts import ArtefactFilter, measure_blur
from milpath.patches.reader import stream_patches
from milpath.patches.stain import write_normaliser
from milpath.slides.slide import Slide
from milpath.tile import Plan, fit_stain

log = logging.getLogger(__name__)

_REPORTED = 64  # patches after which the progress is logged


class PatchStream:
    """The patches of a slide as a network is to see them: as its bag would hold them.

    Parameters
    ----------
    slide : open
    plan : of the slide, by `plan_slide` with the same parameters
    params : how it is tiled; patches are encoded and decoded by its codec
    annotation : fingerprint of the annotation that the plan follows; None without one
    threads : that read the slide

    Raises
    ------
    UnsupportedSlideError : its stain cannot be normalised, but is to be
    SlideReadError : what the normaliser is fitted to cannot be read
    """

    def __init__(
        self,
        slide: Slide,
        plan: Plan,
        params: TileParams,
        annotation: str | None = None,
        threads: int = 1,
    ) -> None:
        self._slide = slide
        self._plan = plan
        self._params = params
        self._annotation = annotation
        self._threads = threads
        self._stain = fit_stain(slide, plan, params)
        self._artefacts = ArtefactFilter(params.artefacts, plan.fold, plan.pen)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Read the patches in order, each uint8 (P, P, 3); only once.

        Raises
        ------
        SlideReadError : too many patches are unreadable, see `stream_patches`
        """
        grid = self._plan.grid

        def process(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
            shown = pixels if self._stain is None else self._stain.apply(pixels)
            return as_kept(shown, self._params.pixels), measure_blur(pixels)

        read = stream_patches(self._slide, grid, process, self._threads)
        for number, (_, pixels) in enumerate(self._artefacts.keep(read), start=1):
            yield pixels
            if number % _REPORTED == 0:
                log.info("%s: %d of %d patches", self._slide.slide_id, number, len(grid))

    def summarize(self) -> Tiling:
        """Return what the patches are of, after all have been read."""
        plan, slide = self._plan, self._slide
        kept = plan.grid.select(self._artefacts.rows)
        blurred = self._artefacts.left_out
        header = BagHeader(
            status="ok" if len(kept) else "no_tissue",
            background=plan.tissue.background,
            unreadable=len(plan.grid) - len(kept) - blurred,
            fingerprint=bag_fingerprint(slide.facts, self._params, self._annotation),
            params=self._params,
            annotation=self._annotation,
            pen_mm2=plan.pen_mm2 if self._annotation is None else 0.0,
            grey=plan.tissue.is_grey,
            left_out=plan.left_out + blurred,
            stain=None if self._stain is None else write_normaliser(self._stain),
        )
        return Tiling(slide.facts, kept, header)
