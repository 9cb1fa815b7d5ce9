"""Layout: where every result lies in its folder.

::

    BAGS/       <slide_id>.h5   qc/<slide_id>.png   runlog/
    FEATURES/   <encoder>/{<slide_id>.h5, encoder/{encoder.json, encoder.h5}, runlog/}
    MODEL/      model.json   metrics.json   held_out.csv   training.png
                member-<n>-<model>.h5   encoder-<model>.h5   space-<model>.h5   runlog/
    RESULTS/    <slide_id>.prediction.h5   <slide_id>.png   predictions.csv   runlog/

`<model>` are the first digits of the model's fingerprint, so that the weights of two models never
take each other's place. Annotations are input: see `milpath.cohort.cohort.annotation_path`.
"""

from __future__ import annotations

from pathlib import Path

PREDICTION_SUFFIX = ".prediction.h5"
_MODEL_DIGITS = 8

# -- bags ----------------------------------------------------------------------------------------


def bag_path(bags: Path, slide_id: str) -> Path:
    """Bag of a slide."""
    return bags / f"{slide_id}.h5"


def qc_path(bags: Path, slide_id: str) -> Path:
    """Picture of a slide's tissue and patches."""
    return bags / "qc" / f"{slide_id}.png"


def list_bags(bags: Path) -> list[Path]:
    """All bags of a folder, sorted by name."""
    return sorted(bags.glob("*.h5"))


# -- features ------------------------------------------------------------------------------------


def features_path(folder: Path, slide_id: str) -> Path:
    """Features of a slide, in the folder of one encoder."""
    return folder / f"{slide_id}.h5"


def encoder_folder(folder: Path) -> Path:
    """Folder of the encoder that made the features of a folder."""
    return folder / "encoder"


def encoder_spec_path(folder: Path) -> Path:
    """Description of an encoder that is stored without a model."""
    return folder / "encoder.json"


def encoder_weights_path(folder: Path) -> Path:
    """Weights of an encoder that is stored without a model."""
    return folder / "encoder.h5"


# -- predictions ---------------------------------------------------------------------------------


def prediction_path(results: Path, slide_id: str) -> Path:
    """Prediction of a slide."""
    return results / f"{slide_id}{PREDICTION_SUFFIX}"


def find_predictions(results: Path) -> dict[str, Path]:
    """All predictions of a folder, sorted by slide_id."""
    found = results.glob(f"*{PREDICTION_SUFFIX}")
    return dict(sorted((path.name.removesuffix(PREDICTION_SUFFIX), path) for path in found))


def overlay_path(results: Path, slide_id: str) -> Path:
    """Picture of a slide beside its heatmap."""
    return results / f"{slide_id}.png"


def predictions_table_path(results: Path, shard: tuple[int, int] | None = None) -> Path:
    """Table of a model's predictions in a folder, or of one shard (number, count) of a run."""
    part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    return results / f"predictions{part}.csv"


# -- models --------------------------------------------------------------------------------------


def model_spec_path(model: Path) -> Path:
    """Description of a model; a folder with this file is a model."""
    return model / "model.json"


def member_path(model: Path, number: int, fingerprint: str) -> Path:
    """Weights of an ensemble member, numbered from 0, of the model with this fingerprint."""
    return model / f"member-{number}-{fingerprint[:_MODEL_DIGITS]}.h5"


def shared_encoder_path(model: Path, fingerprint: str) -> Path:
    """Weights of the encoder that all members of a model share."""
    return model / f"encoder-{fingerprint[:_MODEL_DIGITS]}.h5"


def space_path(model: Path, fingerprint: str) -> Path:
    """Where the training set lies among all features, of the model with this fingerprint."""
    return model / f"space-{fingerprint[:_MODEL_DIGITS]}.h5"


def list_weights(model: Path) -> list[Path]:
    """All weights files in a model's folder, also those of an earlier model."""
    kinds = ("member", "encoder", "space")
    return sorted(path for kind in kinds for path in model.glob(f"{kind}-*.h5"))


def unfinished_folder(model: Path) -> Path:
    """Folder of the members that an interrupted training finished; gone when the model is there."""
    return model / "unfinished"


def metrics_path(model: Path) -> Path:
    """Metrics of a model on held-out slides."""
    return model / "metrics.json"


def held_out_path(model: Path) -> Path:
    """Table of the model's predictions on held-out slides."""
    return model / "held_out.csv"


def curves_path(model: Path) -> Path:
    """Picture of the training curves."""
    return model / "training.png"


# -- any folder of results -----------------------------------------------------------------------


def runlog_folder(results: Path) -> Path:
    """Folder of the run logs, one file per run."""
    return results / "runlog"
