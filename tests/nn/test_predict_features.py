"""Features give the prediction that the slide gives, or it is told why they cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import (
    HEAD,
    features_spec,
    make_bundle,
    make_features,
    make_member,
    read_stored,
)
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.cohort.cohort import SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.numpy import NumpyLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.formats.prediction import Prediction, read_prediction, write_prediction
from milpath.nn.bundle import Bundle, assemble_bundle, load_bundle, save_bundle
from milpath.nn.classify_features import FeatureItem, classify_features
from milpath.nn.embed import Embedder
from milpath.nn.embed_slide import SlideEmbedder
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.predict import predict_bag, predict_slide, prepare_model
from milpath.nn.predict_features import predict_features, prepare_for_features
from milpath.params import CodecParams, GridParams, StainParams, TileParams
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide
from milpath.tile import tile_slide

TILE = TileParams(grid=GridParams(mpp=2.0, patch_px=32), pixels=CodecParams(quality=80))
NET = EncoderSpec(name="net", patch_px=64, dim=6, mpp=1.0, tool="NumPy")
HINTS = FeatureHints(encoder="net", mpp=1.0, patch_px=64)


def make_model(folder: Path, encoder: EncoderSpec, *, tile: TileParams | None = None) -> Bundle:
    """Return a model with random weights for features of an encoder that it does not hold."""
    keras.utils.set_random_seed(0)
    tile = tile or TileParams(grid=GridParams(mpp=encoder.mpp or 1, patch_px=encoder.patch_px))
    bundle = assemble_bundle(
        {
            "class_names": ("normal", "tumour"),
            "mode": "features",
            "encoder": encoder,
            "has_encoder": False,
            "head": HEAD,
            "tile": tile,
            "background": None,
        },
        [make_member(2, None, encoder.dim) for _ in range(2)],
        None,
    )
    save_bundle(folder, bundle)
    return load_bundle(folder)


def write_numpy(
    folder: Path, slide_id: str, coords: object = None, count: int = 4, seed: int = 0
) -> Path:
    """Write features, and perhaps their coordinates, in a file that says nothing of them."""
    folder.mkdir(exist_ok=True)
    arrays = {"features": np.random.default_rng(seed).normal(size=(count, 6)).astype("f4")}
    if coords is not None:
        arrays["coords"] = np.asarray(coords)
    path = folder / f"{slide_id}.npz"
    np.savez(path, **arrays)
    return path


def predict(bundle: Bundle, path: Path, hints: FeatureHints = HINTS) -> Prediction:
    model = prepare_for_features(bundle)
    with NumpyLayout().open(path, hints) as features:
        return predict_features(model, path, features)


def milpath(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# -- laws ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shifted:
    """An encoder plus a number, which float16 cannot hold beside the features."""

    base: NetworkEncoder
    shift: float

    @property
    def spec(self) -> EncoderSpec:
        """Return that of the encoder."""
        return self.base.spec

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features (n, D)."""
        return self.base.embed(patches) + np.float32(self.shift)


def shifted_encoder(shift: float) -> Shifted:
    keras.utils.set_random_seed(0)
    encoder = build_encoder(SMALL, 32)
    digest = fingerprint_weights(encoder)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, mpp=2.0, digest=digest)
    return Shifted(NetworkEncoder(encoder, spec), shift)


def heads_of(encoder: Shifted, tile: TileParams, trained: str) -> Bundle:
    return assemble_bundle(
        {
            "class_names": ("normal", "tumour"),
            "mode": "features",
            "encoder": encoder.spec.model_copy(update={"precision": trained}),
            "head": HEAD,
            "tile": tile,
            "background": "bright",
        },
        [make_member(2, None) for _ in range(2)],
        encoder.base,
    )


@pytest.mark.parametrize(
    ("codec", "stain", "shift", "stored", "trained"),
    [
        ("jpeg", "none", 0, np.float16, "float16"),
        ("jpeg", "none", 0, np.float16, "float32"),
        ("jpeg", "none", 100, np.float32, "float16"),
        ("none", "none", 0, np.float16, "float16"),
        ("none", "none", 100, np.float32, "float32"),
        ("none", "none", 100, np.float32, "float16"),
        ("jpeg", "macenko", 0, np.float16, "float16"),
        ("none", "reinhard", 0, np.float16, "float16"),
    ],
)
def test_slide_bag_and_features_give_the_same_prediction(
    codec: str,
    stain: str,
    shift: float,
    stored: type,
    trained: str,
    drawn: SyntheticSlide,
    tmp_path: Path,
) -> None:
    encoder = shifted_encoder(shift)
    tile = TileParams.model_validate(
        {
            **TILE.model_dump(),
            "pixels": {"codec": codec, "quality": 80},
            "stain": {"normalise": stain},
        }
    )
    entry, bag_file = SlideEntry(drawn.path, "s"), tmp_path / "bags" / "s.h5"
    if codec == "none":
        done = SlideEmbedder(encoder, tmp_path, tile)(entry)
    else:
        tile_slide(entry, tmp_path / "bags", tile)
        done = Embedder(encoder, tmp_path)(WorkItem(bag_file, "s"))
    assert done.status == "ok"
    assert read_stored(tmp_path / "s.h5").dtype == stored
    bundle = heads_of(encoder, tile, trained)
    with MilpathLayout().open(tmp_path / "s.h5", FeatureHints()) as features:
        found = predict_features(prepare_for_features(bundle), tmp_path / "s.h5", features)
    model = replace(prepare_model(bundle), encoder=encoder)
    with entry.open() as slide:
        others = [predict_slide(model, slide)]
    if codec != "none":
        with Bag(bag_file) as bag:
            others.append(predict_bag(model, bag))
    assert len(found.grid) > 20
    for other in others:
        np.testing.assert_array_equal(found.grid.coords, other.grid.coords)
        np.testing.assert_allclose(found.probs, other.probs, atol=1e-6)
        np.testing.assert_allclose(found.attention, other.attention, atol=1e-6)
        assert found.slide == other.slide
        assert found.stain == other.stain
    assert (found.stain is None) == (stain == "none")
    write_prediction(tmp_path / "s.prediction.h5", found)
    assert read_prediction(tmp_path / "s.prediction.h5").stain == found.stain


def test_bags_and_features_of_another_stain_normalisation_raise(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    encoder = shifted_encoder(0)
    tile_slide(SlideEntry(drawn.path, "s"), tmp_path / "bags", TILE)
    bag_file = tmp_path / "bags" / "s.h5"
    Embedder(encoder, tmp_path)(WorkItem(bag_file, "s"))
    tile = TILE.model_copy(update={"stain": StainParams(normalise="macenko")})
    model = prepare_for_features(make_model(tmp_path / "model", encoder.spec, tile=tile))
    reason = r"s\.h5: .*tiled with stain\.normalise none, the model needs macenko; tile"
    with Bag(bag_file) as bag, pytest.raises(UsageError, match=reason):
        predict_bag(model, bag)
    with (
        MilpathLayout().open(tmp_path / "s.h5", FeatureHints()) as features,
        pytest.raises(StoredFileError, match=reason),
    ):
        predict_features(model, tmp_path / "s.h5", features)


def test_the_order_of_the_rows_permutes_the_attention_and_leaves_the_probabilities(
    tmp_path: Path,
) -> None:
    bundle = make_model(tmp_path / "model", NET)
    one = predict(bundle, write_numpy(tmp_path, "s", count=9))
    values = np.load(tmp_path / "s.npz")["features"]
    order = np.random.default_rng(1).permutation(9)
    np.savez(tmp_path / "s.npz", features=values[order])
    two = predict(bundle, tmp_path / "s.npz")
    np.testing.assert_allclose(two.probs, one.probs, atol=1e-6)
    np.testing.assert_allclose(two.attention, one.attention[order], atol=1e-6)


# -- where patches lie -----------------------------------------------------------------------------


def test_without_slide_and_coordinates_there_is_a_prediction_without_places(
    tmp_path: Path,
) -> None:
    found = predict(make_model(tmp_path / "model", NET), write_numpy(tmp_path, "s"))
    assert found.grid.places == "unknown"
    assert len(found.grid) == 4
    assert not found.slide.identified
    assert found.features is not None


def test_coordinates_of_any_place_are_kept_and_drawn_on_the_slide(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    bundle = make_model(tmp_path / "model", NET)
    coords = [[100, 50], [157, 61], [400, 333], [101, 50]]
    write_numpy(tmp_path / "features", "drawn", coords)
    slide = Path(shutil.copy(drawn.path, tmp_path / "drawn.tif"))
    words = ("--encoder-name", "net", "--mpp", 1, "--patch-size", 64, "--slides", slide)
    out = tmp_path / "out"
    given = ("--features", tmp_path / "features", "--model", tmp_path / "model", "--out", out)
    done = milpath("classify", *given, *words)
    assert done.exit_code == 0, done.output
    found = read_prediction(out / "drawn.prediction.h5")
    np.testing.assert_array_equal(found.grid.coords, coords)
    assert found.slide.identified
    assert (out / "drawn.png").stat().st_size > 10_000
    assert bundle.spec.fingerprint == found.model


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"encoder": "other"}, "encoder net and other"),
        ({"mpp": 0.5}, r"µm per pixel 1\.0 and 0\.5"),
        ({"patch_px": 32}, "patch size 64 and 32"),
    ],
)
def test_features_of_another_kind_raise(
    tmp_path: Path, hints: dict[str, object], words: str
) -> None:
    bundle = make_model(tmp_path / "model", NET)
    path = write_numpy(tmp_path, "s")
    with pytest.raises(StoredFileError, match=rf"s\.npz: the model and these .* \({words}\)"):
        classify_features(
            FeatureItem(path, "s"),
            tmp_path / "out",
            bundle.spec,
            NumpyLayout(),
            replace(HINTS, **hints),
        )


def test_features_of_another_dimension_raise(tmp_path: Path) -> None:
    bundle = make_model(tmp_path / "model", NET.model_copy(update={"dim": 7}))
    path = write_numpy(tmp_path, "s")
    with pytest.raises(StoredFileError, match=r"\(dimension 7 and 6\)"):
        classify_features(FeatureItem(path, "s"), tmp_path, bundle.spec, NumpyLayout(), HINTS)


def test_a_model_of_pixels_does_not_take_features(tmp_path: Path) -> None:
    make_bundle(tmp_path / "model")
    write_numpy(tmp_path / "features", "s")
    words = ("--features", tmp_path / "features", "--model", tmp_path / "model")
    done = milpath("classify", *words, "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert isinstance(done.exception, UsageError)
    assert "the model was trained on pixels" in str(done.exception)


def test_a_model_of_features_says_what_it_lacks_for_slides(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    make_model(tmp_path / "model", NET)
    done = milpath("classify", "--model", tmp_path / "model", "--out", tmp_path / "o", drawn.path)
    assert isinstance(done.exception, UsageError), done.output
    assert str(done.exception) == (
        "the model was trained on features of net (6 numbers for patches of 64 px at 1 µm per "
        "pixel) and does not hold this encoder; compute such features of the slides, and give them "
        "with --features"
    )
    assert not (tmp_path / "o").exists()


def test_features_of_another_slide_raise(drawn: SyntheticSlide, tmp_path: Path) -> None:
    bundle = make_model(tmp_path / "model", features_spec(4))
    path = make_features(tmp_path, "s", np.random.default_rng(0).normal(size=(5, 4)))
    model = prepare_for_features(bundle)
    with (
        Slide(drawn.path) as slide,
        MilpathLayout().open(path, FeatureHints()) as features,
        pytest.raises(StoredFileError, match=r"s\.h5: was made from another slide than"),
    ):
        predict_features(model, path, features, slide.facts)


def test_patches_outside_the_slide_raise(drawn: SyntheticSlide, tmp_path: Path) -> None:
    bundle = make_model(tmp_path / "model", NET)
    path = write_numpy(tmp_path, "s", [[0, 0], [10, 10], [1 << 20, 5], [7, 7]])
    with Slide(drawn.path) as slide:
        hints = replace(HINTS, slide_mpp=slide.mpp_mean)
        with (
            NumpyLayout().open(path, hints) as features,
            pytest.raises(StoredFileError, match=r"s\.npz: has patches outside"),
        ):
            predict_features(prepare_for_features(bundle), path, features, slide.facts)


# -- the command line ------------------------------------------------------------------------------


def test_a_head_is_trained_and_applied_without_slides_or_bags(tmp_path: Path) -> None:
    rows = ["slide,label"]
    for number in range(12):
        write_numpy(tmp_path / "features", f"s{number}", count=number % 5 + 1, seed=number)
        rows.append(f"s{number}.svs,{'ab'[number % 2]}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    known = ("--encoder-name", "net", "--mpp", 0.5, "--patch-size", 64)
    words = ("--features", tmp_path / "features", "--out", tmp_path / "model", *known)
    done = milpath("train", tmp_path / "cohort.csv", *words, "--epochs", 2)
    assert done.exit_code == 0, done.output
    spec = json.loads((tmp_path / "model" / "model.json").read_text())["encoder"]
    assert (spec["name"], spec["mpp"], spec["patch_px"], spec["dim"]) == ("net", 0.5, 64, 6)
    assert spec["tool"] == "NumPy"
    out = tmp_path / "out"
    words = ("--features", tmp_path / "features", "--model", tmp_path / "model", "--out", out)
    done = milpath("classify", *words, *known)
    assert done.exit_code == 0, done.output
    assert len((out / "predictions.csv").read_text().splitlines()) == 13
    again = milpath("classify", *words, *known, "--json")
    statuses = [json.loads(line).get("status") for line in again.stdout.splitlines()]
    assert statuses.count("skipped") == 12
    refused = milpath("classify", *words, "--mpp", 0.5)
    assert refused.exit_code != 0


def test_files_of_the_user_that_changed_are_classified_again(tmp_path: Path) -> None:
    bundle = make_model(tmp_path / "model", NET)
    path = write_numpy(tmp_path, "s")
    model = prepare_for_features(bundle)

    def run() -> tuple[str, str]:
        done = classify_features(
            FeatureItem(path, "s"),
            tmp_path / "out",
            bundle.spec,
            NumpyLayout(),
            HINTS,
            lambda *given: predict_features(model, *given),
        )
        return done.status, done.message

    assert run()[0] == "ok"
    assert run()[0] == "skipped"
    write_numpy(tmp_path, "s", count=5)
    status, message = run()
    assert status == "ok"
    assert "re-classified: the features differ" in message
