"""The baseline is plain logistic regression, fitted to training slides alone, and always shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from support.nn_tools import HEAD_ALONE, make_cohort, make_marked
from typer.testing import CliRunner

from milpath.cli import app
from milpath.cli.info import describe
from milpath.cohort.cohort import Cohort
from milpath.nn.baseline import STRENGTHS, Baseline, pool_mean
from milpath.nn.train import train_cohort

QUICK = HEAD_ALONE.model_copy(update={"epochs": 1})


def draw(count: int, classes: int = 2, seed: int = 0) -> tuple[NDArray[np.float64], NDArray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    means = rng.normal(3, 2, (count, 6))
    means[np.arange(count), labels] += 2
    return means, labels


def fit(means: NDArray, labels: NDArray, classes: int = 2, balanced: bool = True) -> Baseline:
    cases = [str(row) for row in range(len(labels))]
    return Baseline(means, labels, cases, classes, balanced=balanced)


def minimise(means: NDArray, labels: NDArray, strength: float, balanced: bool) -> NDArray:
    """Minimise weighted summed log loss + λ/2 ‖W‖², features standardised; class scores."""
    scaled = (means - means.mean(0)) / means.std(0)
    classes = labels.max() + 1
    counts = np.bincount(labels)
    weight = (len(labels) / (classes * counts))[labels] if balanced else np.ones(len(labels))

    def loss(flat: NDArray) -> float:
        matrix = flat.reshape(-1, classes)
        scores = scaled @ matrix[:-1] + matrix[-1]
        log_sum = np.log(np.exp(scores).sum(1))
        of_label = scores[np.arange(len(labels)), labels]
        return float(weight @ (log_sum - of_label) + strength / 2 * np.square(matrix[:-1]).sum())

    start = np.zeros((scaled.shape[1] + 1) * classes)
    matrix = minimize(loss, start, tol=1e-10).x.reshape(-1, classes)
    scores = np.exp(scaled @ matrix[:-1] + matrix[-1])
    return scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("balanced", [True, False])
def test_three_classes_have_the_probabilities_of_the_stated_loss(balanced: bool) -> None:
    means, labels = draw(40, classes=3)
    labels[:10] = 0
    found = fit(means, labels, 3, balanced)
    twin = minimise(means, labels, found.strength, balanced)
    np.testing.assert_allclose(found.predict(means), twin, atol=1e-3)


def test_the_penalty_is_the_best_on_cases_held_out_within_training() -> None:
    rng = np.random.default_rng(0)
    means, labels = draw(60)
    noise = rng.normal(0, 1, (60, 200))
    assert fit(means, labels).strength < fit(noise, labels).strength == max(STRENGTHS)


def test_copies_of_a_slide_in_one_case_do_not_weaken_the_penalty() -> None:
    rng = np.random.default_rng(1)
    noise, labels = np.repeat(rng.normal(0, 1, (20, 50)), 4, 0), np.repeat(np.arange(20) % 2, 4)
    cases = [f"c{row // 4}" for row in range(80)]
    assert Baseline(noise, labels, cases, 2, balanced=True).strength == max(STRENGTHS)


def test_one_slide_of_each_class_is_enough() -> None:
    means, labels = draw(2)
    found = fit(means, labels).predict(means)
    assert found.argmax(axis=1).tolist() == [0, 1]


def test_a_class_that_no_training_slide_has_gets_no_probability() -> None:
    means, labels = draw(20)
    probs = fit(means, labels, classes=3).predict(means)
    assert not probs[:, 2].any()
    np.testing.assert_allclose(probs.sum(axis=1), 1)


def test_a_constant_feature_changes_nothing() -> None:
    means, labels = draw(20)
    more = np.column_stack([means, np.full(20, 5.0)])
    np.testing.assert_allclose(
        fit(means, labels).predict(means), fit(more, labels).predict(more), atol=1e-6
    )


def test_the_mean_does_not_depend_on_the_batches() -> None:
    rows = np.random.default_rng(0).normal(0, 100, (50, 4)).astype(np.float16)
    one, many = pool_mean([rows]), pool_mean(rows[at : at + 7] for at in range(0, 50, 7))
    np.testing.assert_allclose(one, many, rtol=1e-12)
    np.testing.assert_allclose(one, rows.astype(np.float64).mean(axis=0))


# -- beside a model ------------------------------------------------------------------------------


def draw_cohort(folder: Path, count: int = 24, classes: int = 2) -> tuple[Cohort, Path]:
    made = make_marked(folder / "bags", count, classes)
    return make_cohort(folder, [f"c{bag.label}" for bag in made.records]), folder / "bags"


def read_baseline(model: Path) -> dict:
    found: dict = json.loads((model / "metrics.json").read_text())["baseline"]
    return found


def test_training_twice_measures_the_same_baseline_with_intervals(tmp_path: Path) -> None:
    cohort, bags = draw_cohort(tmp_path)
    params = QUICK.model_copy(update={"folds": 2})
    for name in "ab":
        train_cohort(cohort, bags, tmp_path / name, params)
    found = read_baseline(tmp_path / "a")
    assert found == read_baseline(tmp_path / "b")
    assert found["held_out_slides"] == 24
    assert found["metrics"]["auc"]["low"] < found["metrics"]["auc"]["value"]
    assert len(found["over_folds"]["auc"]["folds"]) == 2
    shown = describe(tmp_path / "a")["baseline metrics"]
    assert shown == {name: each["value"] for name, each in found["metrics"].items()}


def test_labels_of_held_out_slides_do_not_reach_the_fit(tmp_path: Path) -> None:
    cohort, bags = draw_cohort(tmp_path)
    report = train_cohort(cohort, bags, tmp_path / "model", QUICK)
    assert report.baseline is not None
    tested = {slide.bag.slide_id for slide in report.baseline.slides}
    assert tested == {slide.bag.slide_id for slide in report.evaluation.slides}
    sides = json.loads((tmp_path / "model" / "metrics.json").read_text())["folds"][0]
    split = {name: side for side, names in sides.items() for name in names}
    other = {"c0": "c1", "c1": "c0"}
    entries = []
    for entry in cohort.entries:
        label = entry.label or ""
        label = other[label] if entry.slide_id in tested else label
        entries.append(replace(entry, split=split[entry.slide_id], label=label))
    swapped = Cohort(cohort.name, tuple(entries))
    again = train_cohort(swapped, bags, tmp_path / "swapped", QUICK)
    assert again.baseline is not None
    before = {slide.bag.slide_id: slide.probs for slide in report.baseline.slides}
    after = {slide.bag.slide_id: slide.probs for slide in again.baseline.slides}
    for name, probs in before.items():
        np.testing.assert_array_equal(probs, after[name])


def test_train_prints_the_baseline_below_each_figure(tmp_path: Path) -> None:
    cohort, bags = draw_cohort(tmp_path, 36, classes=3)
    table = tmp_path / "cohort.csv"
    lines = [f"{entry.slide_id}.svs,{entry.label}" for entry in cohort.entries]
    table.write_text("\n".join(["slide,label", *lines]) + "\n")
    words = ["train", str(table), "--features", str(bags), "--epochs", "1"]
    words += ["--out", str(tmp_path / "model")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    figures = read_baseline(tmp_path / "model")["metrics"]
    for name, figure in figures.items():
        at = done.output.index(f"  {name.replace('_', ' ')}: ")
        line = done.output[at:].splitlines()[1]
        assert line.startswith(f"    baseline: {figure['value']:.3f}")
    assert "the baseline is logistic regression" in done.output


def test_held_out_slides_of_one_class_have_no_auc_and_say_so(tmp_path: Path) -> None:
    cohort, bags = draw_cohort(tmp_path)
    table = tmp_path / "cohort.csv"
    lines = []
    for row, entry in enumerate(cohort.entries):
        split = "test" if row in (0, 2, 4) else "val" if row in (1, 6) else "train"
        lines.append(f"{entry.slide_id}.svs,{entry.label},{split}")
    table.write_text("\n".join(["slide,label,split", *lines]) + "\n")
    words = ["train", str(table), "--features", str(bags), "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "baseline: not defined, a class is missing" in done.output
