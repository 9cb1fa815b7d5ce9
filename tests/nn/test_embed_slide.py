"""A slide gives the features that its bag would, without the bag."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from support.drawing import damage_tile
from support.nn_tools import read_stored

from milpath.cohort.cohort import SlideEntry
from milpath.errors import ResolutionError, SlideReadError
from milpath.formats.bag import Bag
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import bag_path, features_path
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import save_encoder
from milpath.nn.embed import Embedder, EmbedFacts
from milpath.nn.embed_slide import SlideEmbedder
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.jobs import EmbedSlideJob
from milpath.params import ArtefactParams, CodecParams, GridParams, TileParams
from milpath.slides.annotation import Polygon, write_annotation
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import tile_slide

GRID = GridParams(mpp=2.0, patch_px=32)
DIRECT = TileParams(grid=GRID, pixels=CodecParams(codec="none"))
RAW = TileParams(grid=GRID, pixels=CodecParams(codec="raw"))


@pytest.fixture(scope="module")
def encoder() -> NetworkEncoder:
    keras.utils.set_random_seed(0)
    network = build_encoder(SMALL, 32)
    digest = fingerprint_weights(network)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random", mpp=2.0, digest=digest)
    return NetworkEncoder(network, spec)


@pytest.fixture(scope="module")
def entry(drawn: SyntheticSlide) -> SlideEntry:
    return SlideEntry(drawn.path, "s")


def at(
    mpp: float, encoder: NetworkEncoder, params: TileParams
) -> tuple[NetworkEncoder, TileParams]:
    """Return an encoder and parameters of tiling for another resolution."""
    spec = encoder.spec.model_copy(update={"mpp": mpp})
    grid = params.grid.model_copy(update={"mpp": mpp})
    return NetworkEncoder(encoder.network, spec), params.model_copy(update={"grid": grid})


def embed_bag(
    encoder: NetworkEncoder, entry: SlideEntry, folder: Path, params: TileParams = RAW
) -> Path:
    """Embed a slide by way of its bag; return the folder of the features."""
    tile_slide(entry, folder / "bags", params)
    bag = replace(entry, path=bag_path(folder / "bags", "s"))
    Embedder(encoder, folder / "by-bag")(bag)
    return folder / "by-bag"


def require_equal_files(one: Path, two: Path) -> None:
    """Require two files of features that are the same but for the storage of the bag's pixels."""
    with (
        MilpathLayout().open(one, FeatureHints()) as left,
        MilpathLayout().open(two, FeatureHints()) as right,
    ):
        assert len(left) > 0
        assert np.array_equal(left.features[:], right.features[:])
        assert left.features.dtype == right.features.dtype
        assert left.facts == right.facts
        assert left.made is not None
        assert right.made is not None
        assert left.made.slide == right.made.slide
        for name, value in vars(left.made.grid).items():
            assert np.array_equal(value, getattr(right.made.grid, name))
        params = left.made.header.params
        assert params.pixels.codec == "none"
        known = {"params": params, "fingerprint": left.made.header.fingerprint}
        assert left.made.header == replace(right.made.header, **known)


# -- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_slide_and_its_raw_bag_give_equal_features(
    threads: int, encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    outcome = SlideEmbedder(encoder, tmp_path, DIRECT, threads)(entry)
    assert outcome.status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]  # neither a bag nor a picture
    by_bag = embed_bag(encoder, entry, tmp_path)
    require_equal_files(features_path(tmp_path, "s"), features_path(by_bag, "s"))


def test_limits_of_artefacts_leave_out_the_same_patches(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    tile_slide(entry, tmp_path / "all", RAW)
    with Bag(bag_path(tmp_path / "all", "s")) as bag:
        artefacts = bag.read_artefacts()
    assert artefacts is not None
    assert artefacts.blur is not None
    limits = ArtefactParams(max_blur=float(np.median(artefacts.blur)))
    direct, raw = (each.model_copy(update={"artefacts": limits}) for each in (DIRECT, RAW))
    outcome = SlideEmbedder(encoder, tmp_path, direct)(entry)
    assert "patches left out as artefacts" in outcome.message
    assert isinstance(outcome.facts, EmbedFacts)
    assert outcome.facts.left_out == int((artefacts.blur > limits.max_blur).sum()) > 0
    by_bag = embed_bag(encoder, entry, tmp_path, raw)
    require_equal_files(features_path(tmp_path, "s"), features_path(by_bag, "s"))


def test_an_annotation_is_followed_as_by_tiling(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    drawn = tmp_path / "s.geojson"
    ring = np.array([[200.0, 200.0], [800.0, 200.0], [800.0, 900.0], [200.0, 900.0]])
    write_annotation(drawn, [Polygon(ring)])
    annotated = replace(entry, annotation=drawn)
    outcome = SlideEmbedder(encoder, tmp_path, DIRECT)(annotated)
    assert "all in its annotation" in outcome.message
    by_bag = embed_bag(encoder, annotated, tmp_path)
    require_equal_files(features_path(tmp_path, "s"), features_path(by_bag, "s"))
    again = SlideEmbedder(encoder, tmp_path, DIRECT)(entry)
    assert again.message.endswith("re-embedded: its tissue changed from annotated to detected")


def test_a_pickled_job_embeds_alike(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    save_encoder(tmp_path / "encoder", encoder)
    job = EmbedSlideJob(tmp_path / "encoder", encoder.spec.digest or "", tmp_path / "there", DIRECT)
    assert pickle.loads(pickle.dumps(job))(entry) == SlideEmbedder(
        encoder, tmp_path / "here", DIRECT
    )(entry)
    here, there = (features_path(tmp_path / name, "s") for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


# -- what is there already -----------------------------------------------------------------------


def test_a_second_run_skips_the_slide_and_says_what_changed(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    first, again = (SlideEmbedder(encoder, tmp_path, DIRECT)(entry) for _ in range(2))
    assert again.status == "skipped"
    assert again.message.endswith("patches, already done with this encoder")
    assert again.facts == first.facts
    grid = GRID.model_copy(update={"min_tissue": 0.5})
    changed = SlideEmbedder(encoder, tmp_path, DIRECT.model_copy(update={"grid": grid}))
    planned = SlideEmbedder(encoder, tmp_path, changed.params, dry_run=True)(entry)
    assert planned.message.startswith(
        "would be re-embedded: grid.min_tissue changed from 0.25 to 0.5, "
    )
    assert planned.message.endswith(" patches")
    assert changed(entry).message.endswith("re-embedded: grid.min_tissue changed from 0.25 to 0.5")


def test_features_of_a_jpeg_bag_are_made_again(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    folder = embed_bag(encoder, entry, tmp_path, TileParams(grid=GRID))
    outcome = SlideEmbedder(encoder, folder, DIRECT)(entry)
    assert outcome.message.endswith("re-embedded: pixels.codec changed from jpeg to none")


def test_a_dry_run_counts_the_patches_and_writes_nothing(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    planned = SlideEmbedder(encoder, tmp_path, DIRECT, dry_run=True)(entry)
    assert not list(tmp_path.iterdir())
    done = SlideEmbedder(encoder, tmp_path, DIRECT)(entry)
    assert planned.status == "planned"
    assert isinstance(done.facts, EmbedFacts)
    assert planned.message == f"would be embedded: {done.facts.patches} patches"
    assert planned.facts == done.facts


# -- slides that are unlike others -----------------------------------------------------------------


def test_a_slide_without_tissue_has_a_file_of_no_features(
    encoder: NetworkEncoder, tmp_path: Path
) -> None:
    options = {"tumour": False, "tissue": False, "artefacts": False}
    draw_slide(tmp_path / "s.tif", seed=1, size_px=(512, 512), **options)
    blank = SlideEntry(tmp_path / "s.tif", "s")
    outcome = SlideEmbedder(encoder, tmp_path / "out", DIRECT)(blank)
    assert outcome.status == "no_tissue"
    assert outcome.message == "no tissue found: features of 0 patches"
    assert read_stored(tmp_path / "out" / "s.h5").shape == (0, 128)
    assert SlideEmbedder(encoder, tmp_path / "out", DIRECT)(blank).status == "skipped"
    assert detect_features(tmp_path / "out").layout.name == "milpath"


def test_a_slide_too_coarse_for_the_encoder_raises(
    encoder: NetworkEncoder, entry: SlideEntry, tmp_path: Path
) -> None:
    fine, params = at(0.5, encoder, DIRECT)
    with pytest.raises(ResolutionError, match=r"0\.5"):
        SlideEmbedder(fine, tmp_path, params)(entry)
    assert not list(tmp_path.iterdir())


def test_a_slide_with_many_unreadable_patches_raises_and_nothing_is_written(
    encoder: NetworkEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "s.tif"
    draw_slide(path, seed=3, tumour=False, size_px=(512, 512), artefacts=False)
    fine, params = at(1.0, encoder, DIRECT)
    damage_tile(path, 1, 1)
    with pytest.raises(SlideReadError, match="unreadable"):
        SlideEmbedder(fine, tmp_path / "out", params)(SlideEntry(path, "s"))
    assert not (tmp_path / "out" / "s.h5").exists()


def test_a_few_unreadable_patches_are_left_out_and_tried_again(
    encoder: NetworkEncoder,
    drawn: SyntheticSlide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("milpath.patches.reader.MAX_UNREADABLE", 0.5)
    path = Path(shutil.copy(drawn.path, tmp_path / "s.tif"))
    damage_tile(path, 2 * 5 + 2)  # of 5 x 6
    fine, params = at(1.0, encoder, DIRECT)
    entry = SlideEntry(path, "s")
    outcome = SlideEmbedder(fine, tmp_path, params)(entry)
    assert isinstance(outcome.facts, EmbedFacts)
    assert outcome.facts.unreadable > 0
    assert f"{outcome.facts.unreadable} unreadable patches left out" in outcome.message
    assert len(read_stored(features_path(tmp_path, "s"))) == outcome.facts.patches
    by_bag = embed_bag(fine, entry, tmp_path, RAW.model_copy(update={"grid": params.grid}))
    require_equal_files(features_path(tmp_path, "s"), features_path(by_bag, "s"))
    again = SlideEmbedder(fine, tmp_path, params)(entry)
    assert again.status == "ok"
    assert again.message.endswith("patches could not be read the last time")


def test_tiling_that_is_not_for_the_encoder_raises(encoder: NetworkEncoder, tmp_path: Path) -> None:
    _, params = at(1.0, encoder, DIRECT)
    with pytest.raises(
        ValueError, match=r"32 px at 1\.0 µm per pixel, but small is for 32 px at 2"
    ):
        SlideEmbedder(encoder, tmp_path, params)
