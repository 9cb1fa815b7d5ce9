"""Model description (`model.json`), readable without Keras or TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from milpath.errors import StoredFileError, UsageError
from milpath.formats.geometry import Known
from milpath.formats.layout import member_path, model_spec_path, shared_encoder_path, space_path
from milpath.params import HeadParams, Params, TileParams, describe_violation
from milpath.slides.names import is_printable
from milpath.store import SafeH5, fingerprint, open_h5
from milpath.version import __version__

if TYPE_CHECKING:
    from milpath.slides.slide import Slide

_MAX_BYTES = 1 << 20
_Record = TypeVar("_Record", bound=BaseModel)


class EncoderSpec(Params):
    """Which network made features, of what patches; all that is needed to know one from another."""

    name: str
    kind: Literal["keras", "published", "onnx", "plugin"] = "keras"
    """What it is: a network of milpath or `keras.applications`, whose weights are stored with
    features and models; else one that is referred to: of `milpath.registry`, an ONNX file, or of
    another package."""
    patch_px: int = Field(ge=1, le=4096)
    dim: int = Field(ge=1, le=1 << 16)
    weights: str = ""
    """Source of the weights: "trained", "imagenet", "random", or the name of a file."""
    mpp: float | None = Field(None, gt=0)
    """µm per pixel of the patches; None for one that is trained with its model."""
    variant: str | None = None
    """Which of several vectors that a network of this name gives."""
    revision: str | None = None
    """Of the weights, as their publisher counts."""
    digest: str | None = None
    """Of the weights: `fingerprint_weights` of a network of kind "keras", else 32 hexadecimal
    digits of the SHA-256 of their file."""
    compute: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the network's arithmetic."""
    mean: tuple[float, float, float] | None = None
    """Of R, G, B in 0..1, subtracted from patches; None for a network that scales them itself."""
    std: tuple[float, float, float] | None = None
    """By which R, G, B are divided after that."""
    precision: Literal["float16", "float32"] = "float32"
    """Of the numbers in the files that a head was trained on."""
    tool: str = "milpath"
    """Program that made the features."""

    @field_validator("name", "weights", "variant", "revision", "digest", "tool")
    @classmethod
    def _check_printable(cls, text: str | None) -> str | None:
        if text is not None and not is_printable(text):
            raise ValueError("holds control characters, or is too long")
        return text

    def compare(self, other: EncoderSpec) -> list[str]:
        """Describe each difference of two encoders' features, one phrase each.

        What one of them does not state is not compared, except the name.
        """
        found = []
        for name, word in _COMPARED.items():
            one, two = getattr(self, name), getattr(other, name)
            known = name == "name" or (one is not None and two is not None)
            if known and not _is_same(one, two):
                found.append(f"{word} {one} and {two}")
        return found


_COMPARED = {
    "name": "encoder",
    "variant": "variant",
    "revision": "revision",
    "digest": "weights",
    "dim": "dimension",
    "patch_px": "patch size",
    "mpp": "µm per pixel",
    "mean": "mean of colours",
    "std": "standard deviation of colours",
}
"""What tells one encoder's features from another's, and how messages name it."""
_SAME_MPP = 0.01  # µm per pixel are rounded where they are stated


def _is_same(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= _SAME_MPP * abs(one)
    return one == two


class BundleSpec(Params):
    """`model.json`: architecture of a model, and the slides it is for."""

    format: Literal[2, 3] = 3
    milpath_version: str = __version__
    class_names: tuple[str, ...] = Field(min_length=2, max_length=1000)
    mode: Literal["pixels", "features"]
    """"pixels" if each member has a trained encoder, "features" if all share a frozen one."""
    encoder: EncoderSpec
    has_encoder: bool = True
    """Whether it holds the network of its encoder; not if it refers to it, or if the features were
    made elsewhere."""
    head: HeadParams
    members: int = Field(ge=1, le=1000)
    tile: TileParams
    """Parameters of tiling, for the training slides and every slide to classify."""
    background: Literal["bright", "dark"] | None
    """Of the training slides; None if they are not known."""
    fingerprint: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Of the architecture and all weights; the names of the weights files contain it."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Record of the training: parameters, counts, versions."""
    has_space: bool = False
    """Whether it records where the training set lies among all features."""
    seen: tuple[str, ...] = ()
    """Marks of the slides of training and early stopping, see `mark_slide`; sorted."""

    def has_seen(self, slide: Known) -> bool:
        """Return whether the model was trained on a slide, or stopped early by it."""
        marks = {_mark(slide.quickhash, slide.content_hash), _mark(slide.quickhash, None)}
        return not marks.isdisjoint(self.seen)  # bags of earlier versions have no content hash

    @field_validator("class_names")
    @classmethod
    def _check_class_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or not all(name and is_printable(name) for name in names):
            raise ValueError("must be short, different names without control characters")
        return names

    @model_validator(mode="after")
    def _check_patch_size(self) -> BundleSpec:
        expected, tiled = self.encoder.patch_px, self.tile.grid.patch_px
        if expected != tiled:
            raise ValueError(
                f"the encoder expects patches of {expected} px, but slides are tiled to {tiled} px"
            )
        return self


def mark_slide(slide: Known) -> str:
    """Return 16 hexadecimal digits that identify a slide's contents, and nothing else of it."""
    return _mark(slide.quickhash, slide.content_hash)


def _mark(quickhash: str, content_hash: str | None) -> str:
    return fingerprint("slide", quickhash, content_hash)[:16]


class Measured(BaseModel):
    """A metric of `metrics.json` with its 95 % confidence interval."""

    value: float | None
    low: float | None
    high: float | None


class BaselineMetrics(BaseModel):
    """The baseline's part of `metrics.json`."""

    metrics: dict[str, Measured]


class Metrics(BaseModel):
    """The part of `metrics.json` that `milpath info` prints."""

    model: str
    """Fingerprint of the evaluated model."""
    metrics: dict[str, Measured]
    baseline: BaselineMetrics | None = None
    """Of a model trained on features."""


def read_bundle_spec(folder: Path) -> BundleSpec:
    """Read the description of a model.

    Parameters
    ----------
    folder : the model's folder

    Raises
    ------
    StoredFileError : not a model, or not one that this milpath version reads
    """
    path = model_spec_path(folder)
    if not path.is_file():
        raise StoredFileError(
            f"{folder}: not a model folder (it has no model.json); train one with milpath train"
        )
    return read_record(BundleSpec, path)


def weights_paths(folder: Path, spec: BundleSpec) -> list[Path]:
    """All weights files of a bundle: the shared encoder's, if there is one, then the members'."""
    stored = spec.mode == "features" and spec.has_encoder
    shared = [shared_encoder_path(folder, spec.fingerprint)] if stored else []
    return shared + [member_path(folder, n, spec.fingerprint) for n in range(spec.members)]


def space_paths(folder: Path, spec: BundleSpec) -> list[Path]:
    """The file of a bundle's feature space, if it has one."""
    return [space_path(folder, spec.fingerprint)] if spec.has_space else []


def check_weights(folder: Path, spec: BundleSpec) -> None:
    """Raise `StoredFileError` unless all HDF5 files of a model exist and belong to it."""
    kinds = {"weights": weights_paths(folder, spec), "space": space_paths(folder, spec)}
    for kind, paths in kinds.items():
        for path in paths:
            with open_h5(path, kind) as h5:
                require_model(path, h5, spec.fingerprint)


def require_model(path: Path, h5: SafeH5, model: str) -> None:
    """Raise `StoredFileError` unless a weights file belongs to the model with this fingerprint."""
    if h5.attr("model") != model:
        raise StoredFileError(
            f"{path.name}: its weights are not of the model that model.json describes; copy the "
            "model again, or train it again"
        )


def read_record(kind: type[_Record], path: Path) -> _Record:
    """Read and validate a JSON file; raises `StoredFileError`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise StoredFileError(f"{path.name}: too large for the description of a model")
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise StoredFileError(
            f"{path.parent.name}/{path.name}: {f'{name} {fact}'.strip()}; not a model of this "
            "milpath version; train it again"
        ) from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None


def check_resolution(slide: Slide, spec: BundleSpec) -> None:
    """Raise `ResolutionError` if a slide is too coarse for the patches of a model."""
    slide.level_for(
        spec.tile.grid.mpp,
        "which is the model's; classify a finer scan, or train a model with a larger tile --mpp",
    )


def require_encoder(spec: BundleSpec) -> None:
    """Raise `UsageError` unless a model has an encoder that slides are classified with."""
    if not spec.has_encoder and spec.encoder.kind == "keras":
        encoder = spec.encoder
        raise UsageError(
            f"the model was trained on features of {encoder.name} ({encoder.dim} numbers for "
            f"patches of {encoder.patch_px} px at {encoder.mpp:g} µm per pixel) and does not hold "
            "this encoder; compute such features of the slides, and give them with --features"
        )


def require_features_model(spec: BundleSpec) -> None:
    """Raise `UsageError` unless a model was trained on features."""
    if spec.mode != "features":
        raise UsageError(
            "--features: the model was trained on pixels; it classifies slides, not features"
        )
