"""The page on files names every dataset, attribute and layout."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from milpath.formats.foreign import LAYOUTS
from milpath.formats.model_spec import BundleSpec, EncoderSpec
from milpath.store.writing import FORMAT_VERSION

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
STORED = sorted((ROOT / "tests" / "data" / f"format-{FORMAT_VERSION}").rglob("*.h5"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_dataset_and_attribute_of_a_file_is_on_the_page(path: Path) -> None:
    with h5py.File(path) as h5:
        names = {*h5, *h5.attrs, *(name for each in h5.values() for name in each.attrs)}
    if path.name.startswith("member"):
        names = {name for name in names if not name.isdigit()} | {"00000"}
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_field_of_a_model_and_of_an_encoder_is_on_the_page() -> None:
    fields = {*BundleSpec.model_fields, *EncoderSpec.model_fields}
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()
    stored = json.loads((STORED[0].parent / "model" / "model.json").read_text())
    assert set(stored) <= set(BundleSpec.model_fields)


def test_every_layout_is_on_the_page() -> None:
    table = PAGE.partition("## Features of other tools")[2]
    rows = {name.strip() for line in table.splitlines() for name in line.split("|")[1:2]}
    named = {name.strip() for row in rows for name in row.split(",")}
    assert {layout.name for layout in LAYOUTS} <= named


def test_the_page_names_the_format_that_is_written() -> None:
    assert f"**format {FORMAT_VERSION}**" in PAGE
