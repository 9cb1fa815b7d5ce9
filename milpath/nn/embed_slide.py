"""Embed slides: from a slide's file to a file of features, in one pass and without a bag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from milpath.cohort.cohort import SlideEntry
from milpath.formats.bag import BagHeader, Origin
from milpath.formats.existing import Existing
from milpath.formats.features import Tiling, find_features, write_features
from milpath.formats.layout import features_path
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.embed import EmbedFacts, describe_features
from milpath.nn.encoders.encoder import BATCH, Encoder
from milpath.nn.scoring import regroup
from milpath.params import TileParams
from milpath.patchstream import PatchStream
from milpath.runs import Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.tile import describe_unreadable, plan_slide

if TYPE_CHECKING:
    from milpath.slides.slide import Slide


class SlideEmbedder:
    """The job that embeds a slide, with an encoder that is loaded already.

    Parameters
    ----------
    encoder : of the patches
    out : folder of the features
    params : how slides are tiled, to patches that the encoder takes; no pixels are stored
    threads : that read the slide while the network computes
    dry_run : say what would be done, and write nothing

    Raises
    ------
    ValueError : the parameters are not those of the encoder's patches
    """

    def __init__(
        self,
        encoder: Encoder,
        out: Path,
        params: TileParams,
        threads: int = 2,
        *,
        dry_run: bool = False,
    ) -> None:
        spec, grid = encoder.spec, params.grid
        if (grid.patch_px, grid.mpp) != (spec.patch_px, spec.mpp):
            raise ValueError(
                f"tiling to {grid.patch_px} px at {grid.mpp} µm per pixel, but {spec.name} is for "
                f"{spec.patch_px} px at {spec.mpp}"
            )
        self.encoder = encoder
        self.out = out
        self.params = params
        self.threads = threads
        self.dry_run = dry_run

    def __call__(self, entry: SlideEntry) -> Outcome:
        """Write the features of a slide, unless they are there already.

        Raises
        ------
        SlideError : the slide cannot be tiled
        StoredFileError : the encoder gives features that are of no use
        OutputError : the features cannot be written
        """
        spec, path = self.encoder.spec, features_path(self.out, entry.slide_id)
        with entry.open() as slide:
            annotation = entry.read_annotation(slide.bounds_l0)
            drawn = annotation.fingerprint if annotation else None
            found = find_slide_features(path, slide, self.params, drawn, spec)
            if found.value is not None:
                patches, header = len(found.value.grid), found.value.header
                message = f"{patches} patches, already done with this encoder"
                facts = self._facts(patches, header)
                return skipped_outcome(entry, message, facts, dry_run=self.dry_run)
            plan = plan_slide(slide, self.params, annotation)
            if self.dry_run:
                count = len(plan.grid)
                facts = EmbedFacts(count, spec.dim, spec.name)
                return planned_outcome(entry, "embedded", found, f"{count} patches", facts)
            stream = PatchStream(slide, plan, self.params, drawn, self.threads)
            batches = regroup((pixels[None] for pixels in stream), BATCH)
            features = [self.encoder.embed(patches[:count]) for patches, count in batches]
            tiling = stream.summarize()
        write_features(path, tiling, features, spec)
        patches, header = len(tiling.grid), tiling.header
        said = [describe_features(header, patches, spec), describe_redo("embedded", found)]
        facts = self._facts(patches, header)
        return Outcome(entry.slide_id, header.status, ", ".join(filter(None, said)), facts)

    def _facts(self, patches: int, header: BagHeader) -> EmbedFacts:
        spec = self.encoder.spec
        return EmbedFacts(patches, spec.dim, spec.name, header.unreadable, header.left_out)


def find_slide_features(
    path: Path, slide: Slide, params: TileParams, annotation: str | None, encoder: EncoderSpec
) -> Existing[Tiling]:
    """Find the features of a slide at a path; those that lack unreadable patches are made again."""
    found = find_features(path, Origin.of_slide(slide.facts, params, annotation), encoder)
    if found.value is not None and found.value.header.unreadable:
        return Existing.stale(describe_unreadable(found.value.header))
    return found
