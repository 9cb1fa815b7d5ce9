"""A published encoder goes from slides to features, a model and predictions, always the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import draw_weights, small, write_checkpoint
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.errors import MilpathError, StoredFileError
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import read_bundle_spec
from milpath.formats.prediction import read_prediction
from milpath.nn.bundle import load_bundle
from milpath.nn.encoders.published import load_published
from milpath.registry import ENCODERS
from milpath.registry.checksums import digest_weights
from milpath.registry.published import PublishedEncoder
from milpath.synthetic import draw_slide

SMALL = small("virchow2")
SIDE = 2 * SMALL.network.token_px


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the drawn weights of a small Virchow2."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    return write_checkpoint(path, draw_weights(SMALL))


@pytest.fixture
def virchow2(weights: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedEncoder:
    """Put it in the registry, made for patches of 28 px at 2 µm per pixel."""
    encoder = replace(SMALL, patch_px=SIDE, mpp=(2.0,), sha256=digest_weights(weights))
    monkeypatch.setitem(ENCODERS, "virchow2", encoder)
    return encoder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    lines = ["slide,label"]
    for number in range(6):
        tumour = number % 2 == 1
        options = {"tumour": tumour, "artefacts": False}
        draw_slide(folder / f"s{number}.tif", seed=number, size_px=(512, 512), **options)
        lines.append(f"s{number}.tif,{'tumour' if tumour else 'normal'}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder


def milpath(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def features_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    with MilpathLayout().open(path, FeatureHints()) as found:
        return np.asarray(found.features[:])


def test_a_model_refers_to_its_encoder_and_classifies_slides_as_their_features(
    virchow2: PublishedEncoder, weights: Path, slides: Path, tmp_path: Path
) -> None:
    given = ("--encoder", "Virchow2", "--weights", weights)
    done = milpath("embed", slides / "cohort.csv", *given, "--out", tmp_path / "features")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "features" / "virchow2-cls+mean"
    assert len(list(folder.glob("*.h5"))) == 6
    record = json.loads((folder / "encoder" / "encoder.json").read_text())
    assert record["kind"] == "published"
    assert record["revision"] == virchow2.revision
    assert record["digest"] == virchow2.sha256[:32]
    assert (record["variant"], record["dim"], record["compute"]) == ("cls+mean", 96, "float32")
    assert not (folder / "encoder" / "encoder.h5").exists()

    model = tmp_path / "model"
    done = milpath(
        *("train", slides / "cohort.csv", "--features", folder, "--out", model),
        *("--epochs", 2, "--test-fraction", 0.4, "--val-fraction", 0.4),
    )
    assert done.exit_code == 0, done.output
    spec = read_bundle_spec(model)
    assert (spec.has_encoder, spec.encoder.kind) == (False, "published")
    assert load_bundle(model).encoder is None
    assert not any(weights.read_bytes()[-64:] in path.read_bytes() for path in model.rglob("*.h5"))

    slide = slides / "s0.tif"
    direct, stored = tmp_path / "direct", tmp_path / "stored"
    for words in (
        (slide, "--weights", weights.parent, "--out", direct),
        ("--features", folder, "--out", stored),
    ):
        done = milpath("classify", "--model", model, *words)
        assert done.exit_code == 0, done.output
    one = read_prediction(direct / "s0.prediction.h5")
    two = read_prediction(stored / "s0.prediction.h5")
    assert len(one.grid) > 20
    np.testing.assert_array_equal(one.grid.coords, two.grid.coords)
    np.testing.assert_allclose(one.probs, two.probs, atol=1e-6)
    np.testing.assert_allclose(one.attention, two.attention, atol=1e-6)


def test_a_second_run_skips_and_another_variant_goes_to_a_folder_of_its_own(
    virchow2: PublishedEncoder, weights: Path, slides: Path, tmp_path: Path
) -> None:
    given = ("embed", slides / "s0.tif", "--encoder", "virchow2", "--weights", weights)
    for _ in range(2):
        done = milpath(*given, "--out", tmp_path)
        assert done.exit_code == 0, done.output
    assert "already done with this encoder" in done.output
    done = milpath(*given, "--out", tmp_path, "--variant", "cls")
    assert done.exit_code == 0, done.output
    both = features_of(tmp_path / "virchow2-cls+mean" / "s0.h5")
    first = features_of(tmp_path / "virchow2-cls" / "s0.h5")
    assert (both.shape[1], first.shape[1]) == (96, 48)
    np.testing.assert_array_equal(both[:, :48], first)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("--mpp", 1),
            "was made for patches of 28 px at 2 µm per pixel, not of 28 px at 1",
        ),
        (("--patch-size", 42), "virchow2 was made for patches of 28 px"),
        (("--variant", "mean"), "virchow2 has no variant 'mean'"),
        (("--weights", "no-such-file"), "no such file"),
    ],
)
def test_what_it_was_not_made_for_is_refused(
    words: tuple[object, ...],
    reason: str,
    virchow2: PublishedEncoder,
    weights: Path,
    slides: Path,
    tmp_path: Path,
) -> None:
    given = ("embed", slides / "s0.tif", "--encoder", "virchow2", "--weights", weights)
    done = milpath(*given, "--out", tmp_path / "out", *words)
    assert isinstance(done.exception, MilpathError), done.output
    assert reason in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_other_weights_than_the_registry_s_are_refused(
    virchow2: PublishedEncoder, slides: Path, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "model.safetensors", draw_weights(SMALL, seed=1))
    given = ("embed", slides / "s0.tif", "--encoder", "virchow2", "--weights", other)
    done = milpath(*given, "--out", tmp_path / "out")
    assert isinstance(done.exception, MilpathError), done.output
    assert not (tmp_path / "out").exists()


def test_patches_of_other_sizes_and_resolutions_are_embedded_on_request(
    virchow2: PublishedEncoder,
    weights: Path,
    slides: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = ("embed", slides / "s0.tif", "--encoder", "virchow2", "--weights", weights)
    more = ("--patch-size", 42, "--mpp", 1, "--allow-mpp", "--out", tmp_path)
    done = milpath(*given, *more)
    assert done.exit_code == 0, done.output
    assert "was made for patches of 28 px at 2 µm per pixel" in caplog.text
    assert features_of(tmp_path / "virchow2-cls+mean" / "s0.h5").shape[1] == 96


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_of_both_formats_give_the_same_features(suffix: str, tmp_path: Path) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    path = write_checkpoint(tmp_path / f"w.{suffix}", draw_weights(SMALL))
    (tmp_path / "reference").mkdir()
    reference = write_checkpoint(tmp_path / "reference" / "w.pt", draw_weights(SMALL))
    one, two = (load_published(SMALL, each).network(patches) for each in (path, reference))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_weights_that_are_left_over_or_missing_are_listed(tmp_path: Path) -> None:
    weights = draw_weights(SMALL)
    weights["more.weight"] = weights.pop("blocks.1.norm2.bias")
    path = write_checkpoint(tmp_path / "w.safetensors", weights)
    with pytest.raises(StoredFileError) as caught:
        load_published(SMALL, path)
    assert str(caught.value) == (
        "w.safetensors: not the weights of Virchow2: missing blocks.1.norm2.bias; left over "
        "more.weight"
    )
