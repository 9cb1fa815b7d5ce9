"""Features are computed once, and belong to the encoder that computed them."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from support.nn_tools import make_bag, random_patches, read_stored

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.embed import (
    Embedder,
    EmbedFacts,
    embed_patches,
)
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder


def small_embedder(out: Path, seed: int = 0, side: int = 16) -> Embedder:
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(SMALL, side)
    digest = fingerprint_weights(encoder)
    spec = EncoderSpec(name=SMALL, patch_px=side, dim=128, weights="random", mpp=1.0, digest=digest)
    return Embedder(NetworkEncoder(encoder, spec), out)


def item_of(path: Path) -> WorkItem:
    return WorkItem(path, path.stem)


# -- the job -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 64, 70])
def test_features_are_what_the_encoder_gives(count: int, tmp_path: Path) -> None:
    patches = random_patches(count)
    item = item_of(make_bag(tmp_path, "s", patches))
    before = item.path.read_bytes()
    job = small_embedder(tmp_path / "out")
    outcome = job(item)
    assert outcome.status == "ok"
    assert outcome.message == f"{count} patches, 128 features each"
    assert outcome.facts == EmbedFacts(patches=count, dim=128, encoder="small")
    expected = job.encoder.embed(patches)
    with MilpathLayout().open(tmp_path / "out" / "s.h5", FeatureHints()) as found:
        assert found.made is not None
        assert found.made.encoder == job.encoder.spec
        assert found.features[:] == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert item.path.read_bytes() == before


def test_a_second_run_skips_the_bag(tmp_path: Path) -> None:
    item = item_of(make_bag(tmp_path, "s", random_patches(3)))
    first, again = (small_embedder(tmp_path / "out")(item) for _ in range(2))
    assert (first.status, again.status) == ("ok", "skipped")
    assert again.message == "3 patches, already done with this encoder"


def test_another_encoder_replaces_the_features(tmp_path: Path) -> None:
    item = item_of(make_bag(tmp_path, "s", random_patches(3)))
    small_embedder(tmp_path / "out", 0)(item)
    other = small_embedder(tmp_path / "out", 1)
    outcome = other(item)
    assert outcome.status == "ok"
    assert outcome.message.endswith(", re-embedded: the encoder differs")
    with MilpathLayout().open(tmp_path / "out" / "s.h5", FeatureHints()) as found:
        assert found.facts.digest == other.encoder.spec.digest


def test_a_bag_without_tissue_has_no_features_but_an_encoder(tmp_path: Path) -> None:
    item = item_of(make_bag(tmp_path, "s", random_patches(0)))
    job = small_embedder(tmp_path / "out")
    outcome = job(item)
    assert outcome.status == "no_tissue"
    assert outcome.message == "no tissue found: features of 0 patches"
    assert read_stored(tmp_path / "out" / "s.h5").shape == (0, 128)
    assert job(item).status == "skipped"


def test_patches_of_another_size_raise(tmp_path: Path) -> None:
    item = item_of(make_bag(tmp_path, "s", random_patches(3, side=16)))
    before = item.path.read_bytes()
    with pytest.raises(
        StoredFileError, match=r"s\.h5: has patches of 16 px, the encoder needs 32; tile again"
    ):
        small_embedder(tmp_path / "out", side=32)(item)
    assert item.path.read_bytes() == before


def test_features_come_in_batches_in_order(tmp_path: Path) -> None:
    path = make_bag(tmp_path, "s", random_patches(70))
    encoder = small_embedder(tmp_path / "out").encoder
    with Bag(path) as bag:
        sizes = [part.shape for part in embed_patches(encoder, bag)]
    assert sizes == [(64, 128), (6, 128)]
