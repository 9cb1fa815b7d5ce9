"""Keras with the settings of milpath: every module of the networks imports it from here."""

from milpath.nn import import_keras

import_keras()

import keras  # noqa: E402
from keras import layers, ops  # noqa: E402
from keras.src.backend.common import global_state  # noqa: E402

__all__ = ["global_state", "keras", "layers", "ops"]
