"""Encoders are found by what people write, and the names that need no registry are complete."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from milpath.nn.encoders import OWN_ENCODERS as OWN_BUILDERS
from milpath.nn.encoders import build_encoder
from milpath.nn.encoders.applications import list_applications
from milpath.registry import ENCODERS
from milpath.registry.installed import OWN_ENCODERS, list_keras_names
from milpath.registry.names import (
    MAX_SUGGESTIONS,
    describe_unknown,
    list_names,
    match_name,
    suggest_names,
)


def test_the_networks_of_keras_are_those_that_keras_has() -> None:
    assert set(list_keras_names()) == set(list_applications())


def test_milpaths_own_encoders_are_those_it_builds() -> None:
    assert set(OWN_ENCODERS) == set(OWN_BUILDERS)
    for name, dim in OWN_ENCODERS.items():
        assert build_encoder(name, 32).output_shape[-1] == dim


def test_no_two_encoders_have_one_name() -> None:
    names = [*ENCODERS, *OWN_ENCODERS, *list_keras_names()]
    assert len({name.casefold() for name in names}) == len(names)


def test_encoders_of_packages_are_listed_by_the_name_that_chooses_them_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, names in {"one": ("ours", "uni"), "two": ("ours", "theirs")}.items():
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        lines = "".join(f"{name} = not_importable:make\n" for name in names)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[milpath.encoders]\n{lines}[other]\nno = a:b\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"one:ours", "one:uni", "two:ours", "theirs"} <= set(list_names())
    assert not {"ours", "no"} & set(list_names())
    assert suggest_names("ours")[:2] == ("one:ours", "two:ours")
    assert "not_importable" not in sys.modules


@pytest.mark.parametrize("name", list_names())
def test_a_name_means_itself_in_any_case_and_is_its_own_nearest(name: str) -> None:
    for written in (name, name.upper(), name.title()):
        assert match_name(written, list_names()) == name
    assert suggest_names(name)[0] == name


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=list(ENCODERS))
def test_a_repository_and_a_title_suggest_the_name(encoder: object) -> None:
    assert suggest_names(encoder.repository)[0] == encoder.name  # type: ignore[attr-defined]
    assert suggest_names(encoder.title)[0] == encoder.name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("gigapath", "prov-gigapath"),
        ("uni2", "uni2-h"),
        ("UNI2_h", "uni2-h"),
        ("virchow-2", "virchow2"),
        ("hoptimus0", "h-optimus-0"),
        ("phikonv2", "phikon-v2"),
        ("resnet-50", "resnet50"),
        ("virchov", "virchow"),
        ("hibou", "hibou-b"),
    ],
)
def test_other_spellings_suggest_the_name(written: str, meant: str) -> None:
    assert match_name(written, list_names()) is None
    assert meant in suggest_names(written)
    assert f"did you mean {suggest_names(written)[0]}" in describe_unknown(written)


@pytest.mark.parametrize("name", ["", "/", "zzzzzz", "\n", "x" * 10_000, "é\u202e"])
def test_a_name_like_no_other_has_no_suggestion_and_is_one_short_line(name: str) -> None:
    assert suggest_names(name) == ()
    text = describe_unknown(name)
    assert text.isprintable()
    assert len(text) < 300
    assert len(suggest_names("resnet")) <= MAX_SUGGESTIONS
