"""A training set is made of bags that were made alike, or it is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nn_tools import make_bag, make_cohort, random_patches, raw_tile

from milpath.errors import StoredFileError, UsageError
from milpath.nn.pixelset import gather_bags

LABELS = ("b", "a", "b", "10", "9")


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Five bags, b0 to b4, of 1 to 5 patches."""
    for number in range(5):
        make_bag(tmp_path, f"b{number}", random_patches(number + 1))
    return tmp_path


# -- what is gathered ----------------------------------------------------------------------------


def test_every_bag_is_recorded_with_its_label(bags: Path) -> None:
    found = gather_bags(make_cohort(bags, LABELS), bags)
    assert [bag.slide_id for bag in found.bags] == [f"b{number}" for number in range(5)]
    assert [bag.size for bag in found.bags] == [1, 2, 3, 4, 5]
    names = found.cohort.class_names
    assert names == ("9", "10", "a", "b")
    assert [names[bag.label] for bag in found.bags] == list(LABELS)
    assert [bag.case for bag in found.bags] == [bag.slide_id for bag in found.bags]
    assert (found.tile, found.background, found.patch_px) == (raw_tile(16), "bright", 16)
    assert (found.encoder, found.excluded) == (None, ())


def test_slides_without_tissue_are_left_out_and_named(bags: Path) -> None:
    make_bag(bags, "b1", random_patches(0))
    found = gather_bags(make_cohort(bags, ("a", "a", "b", "b", "b")), bags)
    assert found.excluded == ("b1",)
    assert [bag.slide_id for bag in found.bags] == ["b0", "b2", "b3", "b4"]
    assert [entry.slide_id for entry in found.cohort.entries] == ["b0", "b2", "b3", "b4"]


# -- what is refused -----------------------------------------------------------------------------


def test_all_slides_that_lack_something_are_listed_and_what_to_do(bags: Path) -> None:
    for slide_id in ("b3", "b2"):
        (bags / f"{slide_id}.h5").unlink()
    cohort = make_cohort(bags, ("a", None, "b", "b", "b"))
    with pytest.raises(UsageError) as refused:
        gather_bags(cohort, bags)
    assert str(refused.value) == (
        "made: 1 slide has no label (empty, or NA, nan, None, null): b1, 2 slides have no bag in "
        f"{bags}: b2, b3; write the labels, run milpath tile on this CSV first, or leave them out "
        "with --skip-missing"
    )


def test_slides_that_lack_something_are_left_out_on_request_and_all_are_said(
    bags: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (bags / "b3.h5").unlink()
    found = gather_bags(make_cohort(bags, ("a", None, "b", "b", "b")), bags, skip_missing=True)
    assert [bag.slide_id for bag in found.bags] == ["b0", "b2", "b4"]
    assert found.cohort.class_names == ("a", "b")
    assert found.skipped == {"label": ["b1"], "bag": ["b3"]}
    assert caplog.messages == [
        "made: left out, 1 slide has no label: b1",
        "made: left out, 1 slide has no bag: b3",
    ]


def test_a_class_that_is_left_out_wholly_raises(bags: Path) -> None:
    (bags / "b1.h5").unlink()
    with pytest.raises(UsageError, match="no slide of class 'a' has both a label and a bag"):
        gather_bags(make_cohort(bags, LABELS), bags, skip_missing=True)


@pytest.mark.parametrize(("labels", "found"), [((None, None), "none"), (("a", "a"), "a")])
def test_fewer_than_two_classes_raise(
    bags: Path, labels: tuple[str | None, ...], found: str
) -> None:
    with pytest.raises(UsageError, match=f"at least two classes; the column 'label' has {found}"):
        gather_bags(make_cohort(bags, labels), bags)


def test_a_class_whose_slides_all_lack_tissue_raises(bags: Path) -> None:
    make_bag(bags, "b0", random_patches(0))
    with pytest.raises(UsageError, match="made: no slide of class 'a' has tissue"):
        gather_bags(make_cohort(bags, ("a", "b", "b", "c", "c")), bags)


def test_a_cohort_without_any_tissue_raises(bags: Path) -> None:
    for number in range(2):
        make_bag(bags, f"b{number}", random_patches(0))
    with pytest.raises(UsageError, match="none of its slides has tissue"):
        gather_bags(make_cohort(bags, ("a", "b")), bags)


def test_bags_of_different_parameters_raise_and_the_parameters_are_named(bags: Path) -> None:
    make_bag(bags, "b2", random_patches(3), tile=raw_tile(16, mpp=2.0))
    with pytest.raises(
        UsageError, match=r"'b0' and 'b2' have different parameters \(grid\.mpp 1\.0 and 2\.0\)"
    ):
        gather_bags(make_cohort(bags, LABELS), bags)


def test_dark_and_bright_slides_together_raise(bags: Path) -> None:
    make_bag(bags, "b2", random_patches(3), background="dark")
    with pytest.raises(UsageError, match=r"parameters \(a bright and a dark background\)"):
        gather_bags(make_cohort(bags, LABELS), bags)


def test_a_damaged_bag_raises(bags: Path) -> None:
    (bags / "b2.h5").write_text("damaged")
    with pytest.raises(StoredFileError, match=r"b2\.h5: not a bag file, or damaged"):
        gather_bags(make_cohort(bags, LABELS), bags)
