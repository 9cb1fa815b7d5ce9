"""Which encoder made the features of a slide, and which features they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign.values import SlideFeatures
from milpath.formats.model_spec import EncoderSpec, mark_slide
from milpath.params import describe_violation
from milpath.store import fingerprint

_SAMPLED_ROWS = 8  # of the features that identify them


def identify_encoder(path: Path, slide: SlideFeatures) -> EncoderSpec:
    """Return the record of the encoder that made a slide's features.

    Parameters
    ----------
    path : of the features, for messages
    slide : open

    Raises
    ------
    UsageError : neither the files nor the user say the encoder, or the size or the resolution of
        its patches
    StoredFileError : what the files say cannot be
    """
    if slide.made is not None:
        return slide.made.encoder
    facts = slide.facts
    asked = {
        "the encoder (--encoder-name)": facts.encoder,
        "the edge of a patch in pixels (--patch-size)": facts.patch_px,
        "the µm per pixel of a patch (--mpp)": facts.mpp,
    }
    unknown = [what for what, value in asked.items() if value is None]
    if unknown:
        raise UsageError(
            f"{path.name}: this {facts.layout} file does not say {', nor '.join(unknown)}; give "
            "what you know of how the features were made"
        )
    values = {
        "name": facts.encoder,
        "patch_px": facts.patch_px,
        "dim": facts.dim,
        "mpp": facts.mpp,
        "variant": facts.variant,
        "revision": facts.revision,
        "digest": facts.digest,
        "tool": facts.tool,
    }
    try:
        return EncoderSpec.model_validate(values)
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise StoredFileError(f"{path.name}: {name} {fact}") from None


def mark_features(slide: SlideFeatures) -> str:
    """Return 16 hexadecimal digits that identify the slide, or else the features themselves.

    The features are identified by their number and by a sample of their rows.
    """
    if slide.made is not None:
        return mark_slide(slide.made.slide)
    count = len(slide)
    rows = np.unique(np.linspace(0, max(0, count - 1), _SAMPLED_ROWS).astype(np.int64))
    sample = slide.features[rows[:count]].astype(np.float32)
    return fingerprint("features", count, sample.shape[1], sample.tobytes().hex())[:16]
