"""Every result has one place, and no two results share one."""

from __future__ import annotations

from pathlib import Path

from milpath.formats.layout import (
    bag_path,
    encoder_folder,
    encoder_spec_path,
    encoder_weights_path,
    list_bags,
    list_weights,
    member_path,
    metrics_path,
    model_spec_path,
    overlay_path,
    prediction_path,
    predictions_table_path,
    qc_path,
    runlog_folder,
    shared_encoder_path,
)


def test_no_two_results_share_a_path(tmp_path: Path) -> None:
    encoder = encoder_folder(tmp_path)
    paths = [
        *(place(tmp_path, name) for place in (bag_path, qc_path) for name in "ab"),
        *(place(tmp_path, name) for place in (prediction_path, overlay_path) for name in "ab"),
        *(member_path(tmp_path, number, code * 8) for number in (0, 1) for code in "12"),
        *(shared_encoder_path(tmp_path, code * 8) for code in "12"),
        *(predictions_table_path(tmp_path, shard) for shard in (None, (1, 2), (2, 2))),
        *(encoder_spec_path(encoder), encoder_weights_path(encoder)),
        *(model_spec_path(tmp_path), metrics_path(tmp_path), runlog_folder(tmp_path)),
    ]
    assert len(set(paths)) == len(paths)


def test_bags_and_weights_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5", "c.png"):
        (tmp_path / name).touch()
    assert list_bags(tmp_path) == [bag_path(tmp_path, "a"), bag_path(tmp_path, "b")]
    member_path(tmp_path, 0, "0" * 32).touch()
    shared_encoder_path(tmp_path, "0" * 32).touch()
    assert [path.name for path in list_weights(tmp_path)] == [
        "encoder-00000000.h5",
        "member-0-00000000.h5",
    ]


def test_the_table_of_a_shard_is_named_after_it(tmp_path: Path) -> None:
    assert predictions_table_path(tmp_path, (2, 4)).name == "predictions-2-of-4.csv"
