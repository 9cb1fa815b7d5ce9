"""Tissue: where it is on a slide, found on the thumbnail."""

from milpath.slides.tissue.segmentation import TissueMask, segment_tissue

__all__ = ["TissueMask", "segment_tissue"]
