"""Features are computed once, and belong to the encoder that computed them."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from support.nn_tools import make_bag, make_bundle, random_patches, read_stored

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.embed import (
    Embedder,
    EmbedFacts,
    choose_encoder,
    embed_patches,
    find_bags,
    name_folder,
)
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights


def small_embedder(out: Path, seed: int = 0, side: int = 16) -> Embedder:
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(SMALL, side)
    digest = fingerprint_weights(encoder)
    spec = EncoderSpec(name=SMALL, patch_px=side, dim=128, weights="random", mpp=1.0, digest=digest)
    return Embedder(encoder, spec, out)


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
    expected = job.encoder.predict_on_batch(patches)
    with MilpathLayout().open(tmp_path / "out" / "s.h5", FeatureHints()) as found:
        assert found.made is not None
        assert found.made.encoder == job.spec
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
        assert found.facts.digest == other.spec.digest


def test_a_bag_without_tissue_has_no_features_but_an_encoder(tmp_path: Path) -> None:
    item = item_of(make_bag(tmp_path, "s", random_patches(0)))
    job = small_embedder(tmp_path / "out")
    assert job(item).status == "ok"
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


# -- the choice ----------------------------------------------------------------------------------


def test_a_network_is_chosen_by_name_for_the_size_of_the_patches(tmp_path: Path) -> None:
    bags = [item_of(make_bag(tmp_path, "s", random_patches(1, side=32)))]
    encoder, spec = choose_encoder("MobileNetV2", "random", bags, seed=1)
    digest = fingerprint_weights(encoder)
    assert spec == EncoderSpec(
        name="mobilenetv2", patch_px=32, dim=1280, weights="random", mpp=1.0, digest=digest
    )
    assert name_folder(spec) == f"mobilenetv2-{digest[:8]}"
    assert encoder.input_shape == (None, 32, 32, 3)
    same, _ = choose_encoder("mobilenetv2", "random", bags, seed=1)
    other, _ = choose_encoder("mobilenetv2", "random", bags, seed=2)
    assert fingerprint_weights(same) == fingerprint_weights(encoder) != fingerprint_weights(other)


def test_the_encoder_of_a_model_folder_is_used(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    make_bag(tmp_path, "fits", random_patches(1, side=bundle.spec.encoder.patch_px))
    bags = find_bags(tmp_path)
    encoder, spec = choose_encoder(str(tmp_path / "model"), "imagenet", bags, seed=0)
    own = bundle.members[0].encoder
    assert own is not None
    assert fingerprint_weights(encoder) == fingerprint_weights(own)
    known = {"mpp": 1.0, "digest": fingerprint_weights(own)}
    assert spec == bundle.spec.encoder.model_copy(update=known)


def test_a_model_folder_of_another_patch_size_raises(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    make_bag(tmp_path, "other", random_patches(1, side=bundle.spec.encoder.patch_px + 16))
    with pytest.raises(UsageError, match="tile again with --patch-size"):
        choose_encoder(str(tmp_path / "model"), "imagenet", find_bags(tmp_path), seed=0)


def test_the_first_readable_bag_sets_the_patch_size(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("damaged")
    make_bag(tmp_path, "b", random_patches(1, side=32))
    bags = find_bags(tmp_path)
    assert [item.slide_id for item in bags] == ["a", "b"]
    _, spec = choose_encoder("mobilenetv2", "random", bags, seed=1)
    assert spec.patch_px == 32


def test_a_folder_without_readable_bags_raises(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("damaged")
    with pytest.raises(UsageError, match=r"no readable bag: a\.h5: not a bag file"):
        choose_encoder("mobilenetv2", "random", find_bags(tmp_path), seed=1)


def test_the_name_of_the_small_cnn_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the small CNN is trained with its model; give the mod"):
        choose_encoder("small", "random", [], seed=0)


def test_an_unknown_name_raises(tmp_path: Path) -> None:
    bags = [item_of(make_bag(tmp_path, "s", random_patches(1)))]
    with pytest.raises(UsageError, match="there is no encoder 'medium'"):
        choose_encoder("medium", "random", bags, seed=0)


def test_a_folder_that_is_not_a_model_raises(tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match="not a model folder"):
        choose_encoder(str(tmp_path), "imagenet", [], seed=0)
