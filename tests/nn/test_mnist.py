"""The benchmark draws what it says, keeps its sets apart, finds the target, and shows it.

Its digits are those that come with scikit-learn, 8 x 8, enlarged to MNIST's size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

import milpath.nn.mnist
from milpath.errors import UsageError
from milpath.nn.mnist import Digits, MnistBag, draw_bags, draw_sets, load_mnist, run_trial
from milpath.nn.scoring import score_bags
from milpath.params import MNIST_PRESETS, MnistBagParams, MnistParams

BAGS = MnistBagParams(target=0, mean_size=6, std_size=2)
QUICK = MnistParams(bags=BAGS, train_bags=(40,), test_bags=60, epochs=8)


@cache
def small_mnist() -> tuple[Digits, Digits]:
    found = load_digits()
    large = found.images.repeat(3, axis=1).repeat(3, axis=2) * 15.9
    images = np.pad(large, [(0, 0), (2, 2), (2, 2)]).astype(np.uint8)[..., None]
    digits = found.target.astype(np.uint8)
    return Digits(images[:1200], digits[:1200]), Digits(images[1200:], digits[1200:])


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "mnist.npz"
    train, test = small_mnist()
    np.savez_compressed(
        path,
        x_train=train.images[..., 0], y_train=train.digits,
        x_test=test.images[..., 0], y_test=test.digits,
    )  # fmt: skip
    return path


def drawn(params: MnistBagParams = BAGS, count: int = 300, seed: int = 0) -> list[MnistBag]:
    return draw_bags(small_mnist()[0], params, count, np.random.default_rng(seed))


# -- bags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
def test_a_bag_is_positive_when_the_target_is_in_it(balanced: bool) -> None:
    for bag in drawn(BAGS.model_copy(update={"balanced": balanced})):
        assert bag.label == int((bag.digits == 0).any())
        assert bag.images.shape == (len(bag.digits), 28, 28, 1)


def test_balanced_bags_alternate_between_the_classes() -> None:
    assert [bag.label for bag in drawn(count=20)] == [1, 0] * 10


def test_natural_bags_are_positive_at_the_expected_rate() -> None:
    params = MnistBagParams(target=0, mean_size=3, std_size=0, balanced=False)
    share = np.mean([bag.label for bag in drawn(params, 3000)])
    expected = 1 - (1 - np.mean(small_mnist()[0].digits == 0)) ** 3
    assert share == pytest.approx(expected, abs=0.04)


def test_sizes_follow_the_normal_distribution_and_no_bag_is_empty() -> None:
    sizes = [len(bag.digits) for bag in drawn(BAGS.model_copy(update={"balanced": False}), 2000)]
    assert np.mean(sizes) == pytest.approx(6, abs=0.2)
    assert np.std(sizes) == pytest.approx(2, abs=0.2)
    wide = MnistBagParams(target=0, mean_size=1, std_size=4, balanced=False)
    assert min(len(bag.digits) for bag in drawn(wide)) == 1
    fixed = MnistBagParams(target=0, mean_size=3, std_size=0)
    assert {len(bag.digits) for bag in drawn(fixed)} == {3}


def test_the_seed_determines_the_bags_and_the_three_sets_differ() -> None:
    params = QUICK.model_copy(update={"val_bags": 40})
    one, same, other = (draw_sets(small_mnist(), params, 40, seed) for seed in (1, 1, 2))
    for left, right in zip(one, same, strict=True):
        assert [bag.images.tobytes() for bag in left] == [bag.images.tobytes() for bag in right]
    assert one[0][0].images.tobytes() != other[0][0].images.tobytes()
    assert one[0][0].images.tobytes() != one[1][0].images.tobytes()


def test_test_bags_hold_test_digits_only() -> None:
    test_images = {image.tobytes() for image in small_mnist()[1].images}
    train, _, test = draw_sets(small_mnist(), QUICK, 40, 0)
    assert all(image.tobytes() in test_images for bag in test for image in bag.images)
    taught = [image.tobytes() in test_images for bag in train for image in bag.images]
    assert np.mean(taught) < 0.02  # scikit-learn's set holds a few digits twice


def test_a_larger_set_starts_with_the_bags_of_a_smaller_one() -> None:
    few, many = (draw_sets(small_mnist(), QUICK, count, 3)[0] for count in (20, 40))
    assert [bag.images.tobytes() for bag in few] == [bag.images.tobytes() for bag in many[:20]]


# -- presets -------------------------------------------------------------------------------------


def test_the_presets_are_the_published_protocols() -> None:
    paper, theirs = MNIST_PRESETS["paper"], MNIST_PRESETS["keras"]
    assert paper.bags == MnistBagParams(target=9, mean_size=10, std_size=2, balanced=True)
    assert paper.train_bags == (50, 100, 150, 200, 300, 400, 500)
    assert (paper.val_bags, paper.test_bags, paper.seeds) == (0, 1000, 5)
    assert theirs.bags == MnistBagParams(target=1, mean_size=3, std_size=0, balanced=False)
    assert (theirs.train_bags, theirs.val_bags, theirs.test_bags) == ((1000,), 0, 1000)
    assert theirs.train.class_weight == "balanced"


def test_more_bags_are_trained_for_fewer_epochs_but_more_steps() -> None:
    counts = (50, 100, 200, 500, 1000)
    epochs = [QUICK.model_copy(update={"epochs": None}).epochs_for(count) for count in counts]
    assert epochs == sorted(epochs, reverse=True)
    steps = [count * each for count, each in zip(counts, epochs, strict=True)]
    assert steps == sorted(steps)


def test_one_training_bag_raises() -> None:
    with pytest.raises(ValidationError, match="1 training bag cannot hold both classes"):
        MnistParams(train_bags=(1,))


# -- trials --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_finds_the_target_and_its_scores_are_invariant() -> None:
    trial = run_trial(small_mnist(), QUICK, 40, 0)
    assert trial.auc > 0.9
    assert trial.instance_auc is not None
    assert trial.instance_auc > 0.9
    assert trial.epochs == 8
    bag = max(trial.test, key=lambda bag: len(bag.digits)).images
    order = np.random.default_rng(0).permutation(len(bag))
    one, permuted = score_bags(trial.members, [bag, bag[order]])
    assert permuted.probs == pytest.approx(one.probs, abs=1e-6)
    assert permuted.attention == pytest.approx(one.attention[order], abs=1e-6)
    assert one.attention.sum() == pytest.approx(1)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trial_and_validation_stops_it() -> None:
    change = {"val_bags": 20, "epochs": 3}
    params = QUICK.model_copy(update=change)
    one, same = (run_trial(small_mnist(), params, 20, 5) for _ in range(2))
    assert (one.auc, one.loss, one.instance_auc) == (same.auc, same.loss, same.instance_auc)
    rare = params.model_copy(
        update={"epochs": 30, "train": params.train.model_copy(update={"patience": 1})}
    )
    assert run_trial(small_mnist(), rare, 20, 5).epochs < 30


def test_digits_are_warped_by_default_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(milpath.nn.mnist, "warp_pictures", lambda some, rng: seen.append(1) or some)
    params = QUICK.model_copy(update={"epochs": 1, "test_bags": 8})
    run_trial(small_mnist(), params.model_copy(update={"warp": False}), 8, 0)
    assert not seen
    run_trial(small_mnist(), params, 8, 0)
    assert seen


def test_bags_of_one_class_raise() -> None:
    hopeless = QUICK.model_copy(
        update={"bags": MnistBagParams(target=0, mean_size=200, std_size=0, balanced=False)}
    )
    with pytest.raises(UsageError, match="all 10 training bags drawn with seed 0 are of one class"):
        draw_sets(small_mnist(), hopeless, 10, 0)
    with pytest.raises(UsageError, match="all 1 validation bags drawn with seed 0"):
        draw_sets(small_mnist(), QUICK.model_copy(update={"val_bags": 1}), 10, 0)
    only = Digits(*(half[:5] for half in (np.zeros((9, 28, 28, 1), np.uint8), np.zeros(9, "u1"))))
    with pytest.raises(UsageError, match="every digit, or none, is a 0"):
        draw_bags(only, BAGS, 4, np.random.default_rng(0))


# -- the file ------------------------------------------------------------------------------------


def test_mnist_is_read_in_keras_format(npz: Path) -> None:
    for read, made in zip(load_mnist(npz), small_mnist(), strict=True):
        assert (read.images == made.images).all()
        assert (read.digits == made.digits).all()


def test_a_file_that_is_not_mnist_raises_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    with pytest.raises(UsageError, match="no such file"):
        load_mnist(path)
    path.write_text("no archive")
    with pytest.raises(UsageError, match="not MNIST in Keras' format"):
        load_mnist(path)
    np.savez(path, x_train=np.zeros(3))
    with pytest.raises(UsageError, match="it must contain x_train, y_train, x_test"):
        load_mnist(path)
    four = {name: np.zeros((2, 27, 27), np.uint8) for name in ("x_train", "x_test")}
    np.savez(path, **four, y_train=np.zeros(2), y_test=np.zeros(2))
    with pytest.raises(UsageError, match=r"expected images \(n, 28, 28\)"):
        load_mnist(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="not MNIST in Keras' format"):
        load_mnist(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UsageError, match="not MNIST in Keras' format"):
        load_mnist(path)
    np.savez(path, x_train=np.array([{}]), y_train=[0], x_test=[0], y_test=[0])
    with pytest.raises(UsageError, match="not MNIST in Keras' format"):
        load_mnist(path)  # nothing is unpickled


def test_a_failed_download_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise Exception("URL fetch failure on mnist.npz: None -- no route to host")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(UsageError, match=r"MNIST cannot be downloaded .*; give .* with --data"):
        load_mnist()


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_table_or_lines_and_draws_pictures(npz: Path, tmp_path: Path) -> None:
    words = ["mnist", "--data", str(npz), "--target", "0", "--mean-size", "4", "--std-size", "1"]
    words += ["--test-bags", "30", "--epochs", "2"]
    runs = {
        (12, 0, 12, 1): ["--train-bags", "12", "--seeds", "2"],
        (12, 0, 20, 0): ["--train-bags", "12,20", "--seeds", "1", "--json", "--plain", "--natural",
                         "--no-negative-class", "--no-warp"],
    }  # fmt: skip
    for made, extra in runs.items():
        done = subprocess.run(
            [sys.executable, "-m", "milpath", *words, *extra, "--out", str(tmp_path / "out")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        written = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in written]
        assert tuple(one[name] for one in records for name in ("train_bags", "seed")) == made
        assert {"auc", "accuracy", "loss", "instance_auc", "seconds"} <= set(records[0])
        if "--json" in extra:
            assert done.stdout.splitlines() == written
        else:
            assert "±" in done.stdout
    for name in ("auc", "positive", "negative"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--train-bags", "50;100"],
            "--train-bags 50;100: expected distinct numbers, each at least 2, such as 50,100,200",
        ),
        (["--target", "12"], "--target must be at most 9, got 12"),
        (["--class-weight", "odd"], "--class-weight must be one of balanced, none, got odd"),
    ],
)
def test_wrong_options_raise_one_line(options: list[str], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "milpath", "mnist", *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == f"milpath: {line}"
