"""Unfinished training: its finished members, kept until the model is complete."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from milpath.errors import StoredFileError
from milpath.formats.layout import unfinished_folder
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import build_member, load_weights, networks_of, save_weights
from milpath.nn.engine import keras
from milpath.nn.mil import Member
from milpath.nn.trainingset import TrainingPlan
from milpath.store import fingerprint, publish_json
from milpath.version import __version__

log = logging.getLogger(__name__)

History = dict[str, list[float]]
_DIGITS = 12


class Unfinished:
    """The finished members of one training, in its output folder.

    A member is reused only by a training with the same data, splits, parameters, seed and versions,
    which would train the same weights again.

    Parameters
    ----------
    out : output folder of the training
    plan : what is trained
    encoder : record of the encoder, frozen or to be trained
    """

    def __init__(self, out: Path, plan: TrainingPlan, encoder: EncoderSpec) -> None:
        self._folder = unfinished_folder(out)
        self._plan = plan
        self._encoder = encoder
        self._key = _fingerprint_training(plan, encoder)

    def load(self, place: int) -> tuple[Member, History] | None:
        """Load the member at a place in the ensemble, and its history; None if it is not there."""
        weights, record = self._paths(place)
        if not weights.exists():
            return None
        params = self._plan.params
        classes = len(self._plan.cohort.class_names)
        own = params.mode == "pixels"
        member = build_member(classes, params.head, self._encoder, own_encoder=own)
        try:
            load_weights(weights, networks_of(member), self._key)
            history = json.loads(record.read_text("utf-8"))
        except (StoredFileError, OSError, ValueError) as error:
            log.warning("a finished model cannot be reused and is trained again (%s)", error)
            return None
        log.warning("model %d was finished before an interruption and is reused", place + 1)
        return member, history

    def keep(self, place: int, member: Member, history: History) -> None:
        """Keep a member that has just been trained; raises `OutputError`."""
        weights, record = self._paths(place)
        self._folder.mkdir(parents=True, exist_ok=True)
        publish_json(record, history)
        save_weights(weights, networks_of(member), self._key)

    def discard(self) -> None:
        """Remove all of them, also those of other trainings."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self, place: int) -> tuple[Path, Path]:
        name = f"{self._key[:_DIGITS]}-{place}"
        return self._folder / f"{name}.h5", self._folder / f"{name}.json"


def _fingerprint_training(plan: TrainingPlan, encoder: EncoderSpec) -> str:
    bags = [
        (bag.slide_id, bag.case, bag.label, bag.size, bag.fingerprint, bag.mark)
        for bag in plan.data.bags
    ]
    splits: list[Any] = [(list(split.train), list(split.val)) for split in plan.splits]
    versions = __version__, keras.__version__, keras.backend.backend()
    source = encoder.model_dump(mode="json")
    return fingerprint(
        "training", versions, plan.params.model_dump(), plan.negative, source, bags, splits
    )
