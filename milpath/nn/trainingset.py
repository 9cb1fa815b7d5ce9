"""TrainingPlan: what will be trained on which slides of a labelled cohort, all checked.

Importing this module imports no Keras, so that wrong input is reported within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milpath.cohort.cohort import Cohort
from milpath.cohort.splits import Split, split_cohort
from milpath.errors import UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints
from milpath.nn.bags import TrainingSet
from milpath.nn.featureset import gather_features
from milpath.nn.pixelset import gather_bags
from milpath.params import TrainParams


@dataclass(frozen=True)
class TrainingPlan:
    """What will be trained on which bags.

    Attributes
    ----------
    cohort : all its slides
    folder : of the bags or features
    params : how to train
    data : the bags
    splits : one per fold, rows of `data`
    negative : index of the negative class, if there is one
    """

    cohort: Cohort
    folder: Path
    params: TrainParams
    data: TrainingSet
    splits: Sequence[Split]
    negative: int | None


def plan_training(
    cohort: Cohort,
    folder: Path,
    params: TrainParams,
    hints: FeatureHints | None = None,
    *,
    skip_missing: bool = False,
    verified_only: bool = False,
) -> TrainingPlan:
    """Check a cohort and its bags or features, and split them. Writes nothing.

    Parameters
    ----------
    cohort : with labels
    folder : holds a bag, or features, for each of its slides, as `params.mode` says
    params : how to train
    hints : what the files of features do not say
    skip_missing : leave out slides without a label, a bag or features
    verified_only : refuse features without checksums of milpath

    Raises
    ------
    UsageError : the cohort or its files do not allow it
    StoredFileError : a file is damaged
    """
    negative = find_negative(cohort, params.negative)
    if params.mode == "pixels":
        data = gather_bags(cohort, folder, skip_missing=skip_missing)
    else:
        found = detect_features(folder, verified_only=verified_only)
        folder = found.folder
        data = gather_features(cohort, found, hints, skip_missing=skip_missing)
    return TrainingPlan(cohort, folder, params, data, split_cohort(data.cohort, params), negative)


def find_negative(cohort: Cohort, name: str | None) -> int | None:
    """Return the index of the negative class; None if there is none.

    Raises
    ------
    UsageError : the cohort has no such class
    """
    if name is None:
        return None
    if name not in cohort.class_names:
        raise UsageError(
            f"--negative {name}: {cohort.name} has no such class; "
            f"it has {', '.join(cohort.class_names)}"
        )
    return cohort.class_names.index(name)
