"""Every knob of milpath, as frozen validated values. Defaults live here and nowhere else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MPP_RANGE = (0.05, 20.0)
"""µm per pixel that a scanned slide can have; anything outside is a wrong tag, not a slide."""

MPP_ANISOTROPY = 0.02
"""Largest relative difference of mpp-x and mpp-y that counts as square pixels."""

MPP_WARN_DIFFERENCE = 0.05
"""A given µm per pixel that differs more than this from the slide's own is worth a warning."""

MAX_UPSAMPLING = 1.25
"""A target finer than the slide by more than this factor would show invented detail."""

MAX_UNREADABLE = 0.01
"""Share of a slide's patches that may be unreadable before the slide counts as failed."""


class Params(BaseModel):
    """Base of all parameter values: immutable, finite, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def compare_params(one: Params, two: Params) -> list[tuple[str, Any, Any]]:
    """Where two values of a kind differ: (dotted name, of the one, of the other)."""
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
    """How tissue is told from glass; see `milpath.slides.tissue.segment_tissue`."""

    thumbnail_mpp: float = Field(8.0, gt=0, le=64)
    """Resolution of the thumbnail that is segmented, µm per pixel."""
    sensitivity: float = Field(1.0, ge=0.2, le=5)
    """Above 1 finds paler tissue (and more dirt), below 1 only denser tissue."""
    min_area_um2: float = Field(10_000.0, ge=0)
    """Smaller pieces are dropped as dirt; the default is 100 µm square, µm²."""
    max_hole_um2: float = Field(20_000.0, ge=0)
    """Smaller holes in tissue (fat, lumina) count as tissue, µm²."""
    exclude_pen: bool = True
    """Leave marker pen out; turn off for a green or pure blue stain that is taken for ink."""


class GridParams(Params):
    """Which patches are cut; see `milpath.patches.grid.plan_grid`."""

    mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Resolution of a patch, µm per pixel."""
    patch_px: int = Field(256, ge=16, le=4096)
    """Side of a patch, pixels at `mpp`."""
    overlap_px: int = Field(0, ge=0)
    """Overlap of neighbouring patches, pixels at `mpp`."""
    min_tissue: float = Field(0.25, gt=0, le=1)
    """Least share of a patch that must be tissue."""

    @model_validator(mode="after")
    def _overlap_leaves_a_stride(self) -> GridParams:
        if self.overlap_px > self.patch_px * 15 // 16:
            raise ValueError(
                f"overlap of {self.overlap_px} px leaves no stride for patches of "
                f"{self.patch_px} px; give at most {self.patch_px * 15 // 16}"
            )
        return self


class CodecParams(Params):
    """How a bag stores pixels; see `milpath.formats.bag`."""

    codec: Literal["jpeg", "raw"] = "jpeg"
    """`jpeg` (4:4:4) at about a seventh of the size, or `raw`, lossless."""
    quality: int = Field(90, ge=50, le=100)
    """JPEG quality; ignored by `raw`."""


class TileParams(Params):
    """All that decides the contents of a bag, and so its fingerprint."""

    tissue: TissueParams = TissueParams()
    grid: GridParams = GridParams()
    pixels: CodecParams = CodecParams()


class HeadParams(Params):
    """The gated-attention head; see `milpath.nn.mil.MILHead`."""

    projection_dim: int = Field(128, ge=1, le=8192)
    """Width of the dense layer between a frozen encoder's embeddings and the attention."""
    attention_dim: int = Field(64, ge=1, le=8192)
    """Rows of V and U, the paper's L."""
    gated: bool = True
    """Gated attention, tanh(Vh) ⊙ σ(Uh); else tanh(Vh) alone."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Dropout on the instances' embeddings while training."""


class TrainParams(Params):
    """How a model is trained; see `milpath.nn.fit` and `milpath.nn.train`."""

    mode: Literal["pixels", "features"] = "pixels"
    """`pixels`: a CNN and the head learn together. `features`: the head alone."""
    encoder: Literal["small", "centred"] = "small"
    """The CNN that learns from pixels: `small` for tissue, `centred` for patches that show one
    thing in their middle, such as a nucleus."""
    head: HeadParams = HeadParams()
    negative: str | None = None
    """The class whose slides show nothing of any other, such as normal tissue: all of their
    patches are then known to be of it, and learned as such."""
    instance_loss: float = Field(0.0, ge=0)
    """Weight of a second loss: each instance is to show its bag's class by itself, in the measure
    that attention rests on it."""
    members: int = Field(1, ge=1, le=50)
    """Ensemble members a fold, alike but for their seed."""
    folds: int = Field(0, ge=0, le=20)
    """Cross-validation folds; 0 for one train / validation / test split."""
    test_fraction: float = Field(0.2, gt=0, le=0.5)
    val_fraction: float = Field(0.2, gt=0, le=0.5)
    """Share of the cases held out for the report, and of the rest for stopping."""
    seed: int = Field(0, ge=0, lt=1 << 32)
    epochs: int = Field(60, ge=1)
    patience: int = Field(12, ge=1)
    """Epochs without a better validation loss before training stops."""
    bag_batch: int = Field(4, ge=1)
    """Bags in a training step."""
    patches_per_bag: int = Field(48, ge=1)
    """Patches drawn anew from every bag each epoch when training from pixels."""
    features_per_bag: int = Field(2048, ge=1)
    """Embeddings drawn anew from every bag each epoch when training the head alone."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    class_weight: Literal["balanced", "none"] = "balanced"
    stain_jitter: float = Field(0.2, ge=0, le=1)
    """Strength of the stain augmentation; 0 turns it off."""

    @model_validator(mode="after")
    def _pairs_can_be_made(self) -> TrainParams:
        if self.negative is not None and self.bag_batch < 2:
            raise ValueError(
                "a negative class is learned by joining bags: give --bag-batch 2 or more"
            )
        return self


class DigitBagParams(Params):
    """How bags of digits are drawn; see `milpath.nn.mnist.draw_bags`."""

    target: int = Field(9, ge=0, le=9)
    """The digit that makes a bag positive."""
    mean_size: float = Field(10.0, ge=1, le=1000)
    """Mean number of digits in a bag."""
    std_size: float = Field(2.0, ge=0, le=500)
    """Its standard deviation; 0 for bags of one size."""
    balanced: bool = True
    """Positive and negative bags in turn; else digits are drawn as they come."""


class MnistParams(Params):
    """The MNIST-bag benchmark; see `milpath.nn.mnist.run_trial`."""

    bags: DigitBagParams = DigitBagParams()
    train_bags: tuple[int, ...] = Field((50, 100, 150, 200, 300, 400, 500), min_length=1)
    """Numbers of training bags, a model (or ensemble) for each."""
    val_bags: int = Field(0, ge=0)
    """Bags that decide when to stop and which epoch is best; 0 trains all epochs."""
    test_bags: int = Field(1000, ge=2)
    seeds: int = Field(5, ge=1)
    """Draws of bags, and models, for each number of training bags."""
    seed: int = Field(0, ge=0, lt=1 << 32)
    """The first of them."""
    epochs: int | None = Field(None, ge=1)
    """None for as many as the number of training bags asks for, see `epochs_for`."""
    presence: bool = True
    """Learn from a bag being negative that each of its digits is."""
    warp: bool = True
    """Each digit a little warped, otherwise every time; see `milpath.nn.augment.warp_pictures`."""
    train: TrainParams = TrainParams(
        encoder="centred", bag_batch=4, patches_per_bag=2000, class_weight="none"
    )
    """The recipe; its seed and epochs are those of the trial."""

    @model_validator(mode="after")
    def _both_classes_are_there(self) -> MnistParams:
        if min(self.train_bags) < 2:
            raise ValueError(f"{min(self.train_bags)} training bag cannot hold both classes")
        return self

    def epochs_for(self, train_bags: int) -> int:
        """Fewer the more bags there are, but so that the steps still grow with their root."""
        return self.epochs or max(10, round(680 / train_bags**0.5))


MNIST_PRESETS = {
    "paper": MnistParams(),
    "keras": MnistParams(
        bags=DigitBagParams(target=1, mean_size=3, std_size=0, balanced=False),
        train_bags=(1000,),
        train=TrainParams(
            encoder="centred", bag_batch=16, patches_per_bag=2000, learning_rate=3e-3
        ),
    ),
}
"""`paper`: Ilse, Tomczak & Welling 2018, section 4.2. `keras`: the example on Keras' own pages, but
nothing decides when to stop: 300 bags are too few to tell one epoch from the next."""
