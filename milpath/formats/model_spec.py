"""What a model bundle says of itself in `model.json`, readable without the network's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from milpath import __version__
from milpath.errors import StoredFileError
from milpath.formats.layout import member_path, model_spec_path, shared_encoder_path
from milpath.params import HeadParams, Params, TileParams
from milpath.slides.names import is_printable
from milpath.store import SafeH5, open_h5

_MAX_BYTES = 1 << 20
_Record = TypeVar("_Record", bound=BaseModel)


class EncoderSpec(Params):
    """All that is needed to rebuild an encoder, but its weights."""

    name: str
    patch_px: int = Field(ge=1, le=4096)
    dim: int = Field(ge=1, le=1 << 16)
    weights: str
    """Where the weights came from: "trained", "imagenet", "random", or a file's name."""


class BundleSpec(Params):
    """`model.json`: what to build, and what slides it takes."""

    format: Literal[2] = 2
    milpath_version: str = __version__
    class_names: tuple[str, ...] = Field(min_length=2, max_length=1000)
    mode: Literal["pixels", "features"]
    """Whether the members' encoders were trained along, or all share a frozen one."""
    encoder: EncoderSpec
    head: HeadParams
    members: int = Field(ge=1, le=1000)
    tile: TileParams
    """How the slides were tiled, and every slide to be classified will be."""
    background: Literal["bright", "dark"]
    fingerprint: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Of the architecture and every weight; it is in the names of the weights files."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Record of how it came to be: parameters, counts, versions."""

    @field_validator("class_names")
    @classmethod
    def _names_can_be_told_apart(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or not all(name and is_printable(name) for name in names):
            raise ValueError("names must differ, be short, and hold no control characters")
        return names

    @model_validator(mode="after")
    def _patches_fit_the_encoder(self) -> BundleSpec:
        takes, gets = self.encoder.patch_px, self.tile.grid.patch_px
        if takes != gets:
            raise ValueError(
                f"the encoder takes patches of {takes} px, its slides are tiled to {gets}"
            )
        return self


class Measured(BaseModel):
    """A figure of `metrics.json`, with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class Metrics(BaseModel):
    """What `milpath info` reads of `metrics.json`."""

    model: str
    """Fingerprint of the model that was judged."""
    metrics: dict[str, Measured]


def read_bundle_spec(folder: Path) -> BundleSpec:
    """What a model bundle says of itself.

    Raises
    ------
    StoredFileError : no bundle, or not one this milpath reads
    """
    path = model_spec_path(folder)
    if not path.is_file():
        raise StoredFileError(
            f"{folder}: not a model folder (it has no model.json); train one with milpath train"
        )
    return read_record(BundleSpec, path)


def weights_paths(folder: Path, spec: BundleSpec) -> list[Path]:
    """All weights files of a bundle: the shared encoder's, if there is one, then the members'."""
    shared = [shared_encoder_path(folder, spec.fingerprint)] if spec.mode == "features" else []
    return shared + [member_path(folder, n, spec.fingerprint) for n in range(spec.members)]


def check_weights(folder: Path, spec: BundleSpec) -> None:
    """Raise `StoredFileError` unless all weights files of a bundle are there, and its own."""
    for path in weights_paths(folder, spec):
        with open_h5(path, "weights") as h5:
            require_model(path, h5, spec.fingerprint)


def require_model(path: Path, h5: SafeH5, model: str) -> None:
    """Raise `StoredFileError` unless a weights file is part of the model of this fingerprint."""
    if h5.attr("model") != model:
        raise StoredFileError(
            f"{path.name}: its weights are not of the model that model.json describes; copy the "
            "model again, or train it again"
        )


def read_record(kind: type[_Record], path: Path) -> _Record:
    """A JSON file as a checked value; raises `StoredFileError` when it is not one."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise StoredFileError(f"{path.name}: too large to be a record of a model")
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ascii(".".join(str(part) for part in first["loc"])[:80])[1:-1] or "the whole"
        raise StoredFileError(
            f"{path.parent.name}/{path.name}: {where}: {first['msg']}; not a model of this "
            "milpath: train it again"
        ) from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
