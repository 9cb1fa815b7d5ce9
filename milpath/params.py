"""Every parameter of milpath, as frozen validated values. All defaults are defined here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

MPP_RANGE = (0.05, 20.0)
"""µm per pixel that a scanned slide can have; anything outside is wrong metadata."""

MPP_ANISOTROPY = 0.02
"""Largest relative difference between mpp-x and mpp-y of square pixels."""

MPP_WARN_DIFFERENCE = 0.05
"""Relative difference between the given and the slide's own µm per pixel that is reported."""

MAX_UPSAMPLING = 1.25
"""Largest factor by which the target may be finer than the slide."""

LEVEL_TOLERANCE = 1.01
"""Factor by which a level may be coarser than the target: tags are rounded."""

MAX_UNREADABLE = 0.01
"""Fraction of a slide that may be unreadable before the slide has failed."""


class Params(BaseModel):
    """Base of all parameter values: immutable, finite, without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def compare_params(one: Params, two: Params) -> list[tuple[str, Any, Any]]:
    """List where two values of one class differ: (dotted name, first value, second value)."""
    found = []
    for name in type(one).model_fields:
        left, right = getattr(one, name), getattr(two, name)
        if isinstance(left, Params) and isinstance(right, Params):
            found += [
                (f"{name}.{inner}", *values) for inner, *values in compare_params(left, right)
            ]
        elif left != right:
            found.append((name, left, right))
    return found


_RULES = {
    "missing": "is missing",
    "extra_forbidden": "is not a known name",
    "frozen_instance": "cannot be changed",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_pattern_mismatch": "does not have the expected form",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a group of named values",
    "model_type": "must be a group of named values",
    "model_attributes_type": "must be a group of named values",
}
"""What each kind of pydantic's errors means, in our words."""

_WITHOUT_VALUE = {"missing", "extra_forbidden", "frozen_instance", "too_short", "too_long"}
_MAX_SHOWN = 50


def describe_violation(error: ValidationError) -> tuple[str, str]:
    """Say in one sentence what is wrong with a value that pydantic did not accept.

    Parameters
    ----------
    error : of the value; its first violation is described

    Returns
    -------
    The dotted name of the field, empty for the value as a whole, and what it must be:
    `("grid.patch_px", "must be at least 16, got 0")`. Both are short and printable.
    """
    first = error.errors(include_url=False)[0]
    name = _shorten(".".join(str(part) for part in first["loc"]))
    kind, context = first["type"], first.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return name, str(context["error"])
    if kind == "json_invalid":
        return name, f"is not valid JSON ({context['error']})"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "")
        head, _, last = choices.rpartition(" or ")
        context = {"expected": f"one of {head}, {last}" if head else choices}
    limits = {key: f"{x:g}" if isinstance(x, float) else x for key, x in context.items()}
    rule = _RULES.get(kind, "is not valid").format(**limits)
    if kind in _WITHOUT_VALUE or isinstance(first["input"], dict | BaseModel):
        return name, rule
    return name, f"{rule}, got {_shorten(first['input']) or 'nothing'}"


def _shorten(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**_MAX_SHOWN:  # Python refuses to print some
        return f"a number of more than {_MAX_SHOWN} digits"
    return ascii(str(value)[:_MAX_SHOWN])[1:-1]


class TissueParams(Params):
    """Tissue detection; see `milpath.slides.tissue.segment_tissue`."""

    thumbnail_mpp: float = Field(8.0, gt=0, le=64)
    """Resolution of the thumbnail in which tissue is detected, µm per pixel."""
    sensitivity: float = Field(1.0, ge=0.2, le=5)
    """Tissue detection sensitivity; >1 keeps paler tissue (and more dirt)."""
    min_area_um2: float = Field(10_000.0, ge=0)
    """Minimum area of a piece of tissue, µm²; the default is a square of 100 µm."""
    max_hole_um2: float = Field(20_000.0, ge=0)
    """Maximum area of a hole (fat, lumen) that counts as tissue, µm²."""
    exclude_pen: bool = True
    """Exclude marker-pen regions; turn off for green or pure blue stains."""


class GridParams(Params):
    """Patch grid; see `milpath.patches.grid.plan_grid`."""

    mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Target resolution, µm per pixel."""
    patch_px: int = Field(256, ge=16, le=4096)
    """Patch side length, in pixels at `mpp`."""
    overlap_px: int = Field(0, ge=0)
    """Overlap of neighbouring patches, in pixels at `mpp`."""
    min_tissue: float = Field(0.25, gt=0, le=1)
    """Minimum fraction of a patch that must be tissue."""

    @model_validator(mode="after")
    def _check_stride(self) -> GridParams:
        if self.overlap_px > self.patch_px * 15 // 16:
            raise ValueError(
                f"overlap of {self.overlap_px} px leaves no stride for patches of "
                f"{self.patch_px} px; give at most {self.patch_px * 15 // 16}"
            )
        return self


class ArtefactParams(Params):
    """Limits of a patch's artefacts, None for no limit; see `milpath.patches.artefacts`."""

    max_blur: float | None = Field(None, ge=0, le=1)
    """Leave out patches with more blur, 0 (sharp) to 1; sharp tissue has 0.2 to 0.4."""
    max_fold: float | None = Field(None, ge=0, le=1)
    """Leave out patches of which a larger fraction is folded tissue."""
    max_pen: float | None = Field(None, ge=0, le=1)
    """Leave out patches of which a larger fraction is marker pen."""


class CodecParams(Params):
    """Pixel storage; see `milpath.formats.bag`."""

    codec: Literal["jpeg", "raw", "none"] = "jpeg"
    """Pixel storage format: jpeg (4:4:4), raw (lossless, about seven times larger), or none (no
    pixels are stored; a bag then says only where the patches lie)."""
    quality: int = Field(90, ge=50, le=100)
    """JPEG quality, 50 to 100; ignored by raw."""


class StainParams(Params):
    """Stain normalisation; see `milpath.patches.stain`."""

    normalise: Literal["none", "macenko", "reinhard"] = "none"
    """Bring the colours of each H&E slide to those of one reference: macenko (two stains unmixed),
    reinhard (mean and spread of colour), or none."""


class TileParams(Params):
    """All parameters of a bag, or of features of a slide; they are part of their fingerprint."""

    tissue: TissueParams = TissueParams()
    grid: GridParams = GridParams()
    artefacts: ArtefactParams = ArtefactParams()
    stain: StainParams = StainParams()
    pixels: CodecParams = CodecParams()

    @model_serializer(mode="wrap")
    def _omit_default_stain(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write no default, so that fingerprints and files are those of earlier versions."""
        values: dict[str, Any] = serialise(self)
        if self.stain == StainParams():
            values.pop("stain", None)
        return values


class HeadParams(Params):
    """Gated-attention head; see `milpath.nn.mil.MILHead`."""

    projection_dim: int = Field(128, ge=1, le=8192)
    """Width of the dense layer between a frozen encoder's features and the attention."""
    attention_dim: int = Field(64, ge=1, le=8192)
    """Hidden units of the attention network (L in the paper)."""
    gated: bool = True
    """Use gated attention, tanh(Vh) ⊙ σ(Uh), instead of tanh(Vh)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the instances' features during training; None for 0.25 when training from
    pixels, 0.5 from features."""

    def dropout_of(self, *, projected: bool) -> float:
        """Return the dropout rate; `projected` for features of a frozen encoder."""
        if self.dropout is not None:
            return self.dropout
        return 0.5 if projected else 0.25


class TrainParams(Params):
    """Training; see `milpath.nn.fit` and `milpath.nn.train`."""

    mode: Literal["pixels", "features"] = "pixels"
    """What to train: pixels (a CNN together with the head) or features (the head only)."""
    encoder: Literal["small", "centred"] = "small"
    """CNN trained from pixels: small (for tissue), or centred (for patches with one object in the
    middle, such as a nucleus)."""
    head: HeadParams = HeadParams()
    negative: str | None = None
    """Name of the negative (e.g. normal) class; all its patches are assumed negative."""
    instance_loss: float = Field(0.0, ge=0)
    """Weight of an attention-weighted instance-level loss (0 = off)."""
    members: int = Field(1, ge=1, le=50)
    """Ensemble members per fold; they differ in their seed."""
    folds: int = Field(0, ge=0, le=20)
    """Number of cross-validation folds (0 = one train / validation / test split)."""
    test_fraction: float = Field(0.2, gt=0, le=0.5)
    """Fraction of the cases held out for testing."""
    val_fraction: float = Field(0.2, gt=0, le=0.5)
    """Fraction of the other cases used for early stopping."""
    seed: int = Field(0, ge=0, lt=1 << 32)
    """Random seed of splits, weights and sampling."""
    epochs: int = Field(60, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(12, ge=1)
    """Early-stopping patience: epochs without a lower validation loss."""
    bag_batch: int = Field(4, ge=1)
    """Bags per training step."""
    patches_per_bag: int = Field(48, ge=1)
    """Patches sampled from each bag per epoch when training from pixels."""
    features_per_bag: int = Field(2048, ge=1)
    """Instances sampled from each bag per epoch when training from features."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decoupled weight decay."""
    class_weight: Literal["balanced", "none"] = "balanced"
    """Weights of the classes in the loss: balanced (inverse to their frequency) or none."""
    stain_jitter: float = Field(0.2, ge=0, le=1)
    """Strength of the stain augmentation (0 = off)."""

    @property
    def starts(self) -> int:
        """How many times each member is trained; see `milpath.nn.fit.train_member`."""
        return 2 if self.mode == "features" else 1

    @model_validator(mode="after")
    def _check_pairs(self) -> TrainParams:
        if self.negative is not None and self.bag_batch < 2:
            raise ValueError(
                "a negative class needs pairs of bags in every step; give --bag-batch 2 or more"
            )
        return self


class MnistBagParams(Params):
    """MNIST bags; see `milpath.nn.mnist.draw_bags`."""

    target: int = Field(9, ge=0, le=9)
    """The digit that makes a bag positive."""
    mean_size: float = Field(10.0, ge=1, le=1000)
    """Mean number of digits in a bag."""
    std_size: float = Field(2.0, ge=0, le=500)
    """Standard deviation of the number of digits in a bag (0 = bags of equal size)."""
    balanced: bool = True
    """Alternate positive and negative bags; else draw digits at random."""


class MnistParams(Params):
    """MNIST-bag benchmark; see `milpath.nn.mnist.run_trial`."""

    bags: MnistBagParams = MnistBagParams()
    train_bags: tuple[int, ...] = Field((50, 100, 150, 200, 300, 400, 500), min_length=1)
    """Numbers of training bags; one model (or ensemble) is trained for each."""
    val_bags: int = Field(0, ge=0)
    """Validation bags, for early stopping and the best epoch (0 = train all epochs)."""
    test_bags: int = Field(1000, ge=2)
    """Test bags."""
    seeds: int = Field(5, ge=1)
    """Repetitions, with new bags and a new model, for each number of training bags."""
    seed: int = Field(0, ge=0, lt=1 << 32)
    """First random seed; each repetition adds 1."""
    epochs: int | None = Field(None, ge=1)
    """Number of epochs; None to choose it by the number of training bags, see `epochs_for`."""
    negative_class: bool = True
    """Learn from negative bags that all of their digits are negative."""
    warp: bool = True
    """Warp each digit randomly; see `milpath.nn.mnist.warp_pictures`."""
    train: TrainParams = TrainParams(
        encoder="centred", bag_batch=4, patches_per_bag=2000, class_weight="none"
    )
    """Training parameters; seed and epochs are replaced by those of the trial."""

    @model_validator(mode="after")
    def _check_both_classes(self) -> MnistParams:
        if min(self.train_bags) < 2:
            raise ValueError(f"{min(self.train_bags)} training bag cannot hold both classes")
        return self

    def epochs_for(self, train_bags: int) -> int:
        """Return the number of epochs: fewer for more bags, so that steps grow with their root."""
        return self.epochs or max(10, round(680 / train_bags**0.5))


MNIST_PRESETS = {
    "paper": MnistParams(),
    "keras": MnistParams(
        bags=MnistBagParams(target=1, mean_size=3, std_size=0, balanced=False),
        train_bags=(1000,),
        train=TrainParams(
            encoder="centred", bag_batch=16, patches_per_bag=2000, learning_rate=3e-3
        ),
    ),
}
"""`paper`: Ilse, Tomczak & Welling 2018, section 4.2. `keras`: the example on Keras' pages, but
without early stopping: 300 bags are too few to compare epochs."""
