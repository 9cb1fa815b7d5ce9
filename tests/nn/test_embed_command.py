"""`milpath embed` takes slides or bags, and patches that the encoder was made for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import pytest
from support.nn_tools import make_bag, random_patches, read_stored
from support.onnx_files import DIM
from support.onnx_files import save_encoder as save_onnx
from support.plugins import DIGEST, MeanColour, offer
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.errors import UsageError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import save_encoder
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.params import TileParams
from milpath.synthetic import SyntheticSlide, draw_slide


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random encoder of 32 px patches at 2 µm per pixel."""
    folder = tmp_path_factory.mktemp("encoder")
    keras.utils.set_random_seed(0)
    network = build_encoder(SMALL, 32)
    digest = fingerprint_weights(network)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random", mpp=2.0, digest=digest)
    save_encoder(folder, NetworkEncoder(network, spec))
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three slides, the last one without tissue."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        options = {"tissue": number < 2, "artefacts": False}
        draw_slide(
            folder / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512), **options
        )
    return folder


def milpath(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def tiling_of(path: Path) -> TileParams:
    with MilpathLayout().open(path, FeatureHints()) as features:
        assert features.made is not None
        return features.made.header.params


def statuses(run: Result) -> dict[str, str]:
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {line["slide_id"]: line["status"] for line in lines}


# -- slides ----------------------------------------------------------------------------------------


def test_a_folder_of_slides_is_embedded_once_and_nothing_else_is_written(
    encoder: Path, slides: Path, tmp_path: Path
) -> None:
    words = ("embed", slides, "--encoder", encoder, "--out", tmp_path / "f", "--json")
    planned = milpath(*words, "--dry-run")
    assert statuses(planned) == dict.fromkeys(("s0", "s1", "s2"), "planned")
    assert not (tmp_path / "f").exists()
    done = milpath(*words)
    assert done.exit_code == 0
    assert statuses(done) == {"s0": "ok", "s1": "ok", "s2": "no_tissue"}
    (folder,) = (tmp_path / "f").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoder", "runlog", "s0.h5", "s1.h5", "s2.h5",
    ]  # fmt: skip
    assert read_stored(folder / "s2.h5").shape == (0, 128)
    params = tiling_of(folder / "s0.h5")
    assert (params.grid.patch_px, params.grid.mpp, params.pixels.codec) == (32, 2.0, "none")
    assert statuses(milpath(*words)) == dict.fromkeys(("s0", "s1", "s2"), "skipped")


def test_a_cohort_table_and_shards_are_taken_as_by_tile(
    encoder: Path, slides: Path, tmp_path: Path
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("".join(["slide,slide_id\n", *(f"{slides}/s{n}.tif,x{n}\n" for n in (0, 1))]))
    words = ("embed", table, "--encoder", encoder, "--out", tmp_path / "f", "--json", "--shard")
    assert statuses(milpath(*words, "1/2")) == {"x0": "ok"}
    assert statuses(milpath(*words, "2/2")) == {"x1": "ok"}


def test_options_and_a_file_of_parameters_decide_the_tiling(
    encoder: Path, slides: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    tile = {"grid": {"min_tissue": 0.5}, "pixels": {"codec": "jpeg", "quality": 60}}
    file.write_text(json.dumps({"tile": tile}))
    words = ("embed", slides / "s0.tif", "--encoder", encoder, "--out", tmp_path / "f")
    options = ("--params", file, "--overlap", 8, "--max-blur", 0.9, "--keep-pen")
    assert milpath(*words, *options).exit_code == 0
    (path,) = (tmp_path / "f").glob("*/s0.h5")
    params = tiling_of(path)
    assert (params.grid.min_tissue, params.grid.overlap_px) == (0.5, 8)
    assert (params.artefacts.max_blur, params.tissue.exclude_pen) == (0.9, False)
    assert (params.pixels.codec, params.pixels.quality) == ("none", 90)


def test_a_named_network_has_the_resolution_that_is_asked_for_or_said(
    slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("embed", slides / "s0.tif", "--encoder", "mobilenetv2", "--weights", "random")
    words = (*words, "--out", tmp_path, "--dry-run")
    assert milpath(*words, "--slide-mpp", "0.25").exit_code == 0
    assert "mobilenetv2 was made for no particular resolution" in caplog.text
    assert "0.5 µm per pixel" in caplog.text
    caplog.clear()
    assert milpath(*words, "--mpp", 2, "--patch-size", 32).exit_code == 0
    assert "no particular resolution" not in caplog.text


@pytest.mark.slow
def test_two_processes_write_the_same_files_within_rounding(
    encoder: Path, slides: Path, tmp_path: Path
) -> None:
    words = ("embed", slides, "--encoder", encoder, "--out")
    assert milpath(*words, tmp_path / "one").exit_code == 0
    assert milpath(*words, tmp_path / "two", "--workers", 2).exit_code == 0
    for path in (tmp_path / "one").glob("*/*.h5"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert read_stored(other) == pytest.approx(read_stored(path), rel=1e-3, abs=1e-4)


# -- patches that the encoder was not made for -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (("--mpp", 1), "not of 32 px at 1 µm per pixel; leave out --mpp, or"),
        (("--patch-size", 64), "not of 64 px at 2 µm per pixel; leave out --patch-size, or"),
    ],
)
def test_other_patches_are_refused_unless_they_are_allowed(
    options: tuple[str, int],
    given: str,
    encoder: Path,
    slides: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ("embed", slides / "s0.tif", "--encoder", encoder, "--out", tmp_path / "f", *options)
    refused = milpath(*words)
    assert isinstance(refused.exception, UsageError)
    assert "small was made for patches of 32 px at 2 µm per pixel" in str(refused.exception)
    assert given in str(refused.exception)
    assert not (tmp_path / "f").exists()
    assert milpath(*words, "--allow-mpp").exit_code == 0
    assert "and is applied to patches of" in caplog.text
    (path,) = (tmp_path / "f").glob("*/s0.h5")
    grid = tiling_of(path).grid
    name, value = options
    assert {"--mpp": grid.mpp, "--patch-size": grid.patch_px}[name] == value


def test_a_published_encoder_is_refused_before_its_weights_are_looked_for(
    slides: Path, tmp_path: Path
) -> None:
    words = ("embed", slides, "--encoder", "uni", "--out", tmp_path / "f", "--mpp", 1)
    refused = milpath(*words, "--weights", tmp_path / "missing.bin")
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception).startswith(
        "uni was made for patches of 224 px at 0.5 µm per pixel, not of 224 px at 1 µm per pixel"
    )
    other = milpath(*words, "--weights", tmp_path / "missing.bin", "--allow-mpp")
    assert "missing.bin" in str(other.exception)


def test_bags_of_other_patches_are_refused_unless_they_are_allowed(
    encoder: Path, tmp_path: Path
) -> None:
    make_bag(tmp_path / "bags", "s", random_patches(3))  # 16 px at 1 µm per pixel
    words = ("embed", tmp_path / "bags", "--encoder", encoder, "--out", tmp_path / "f")
    refused = milpath(*words)
    assert isinstance(refused.exception, UsageError)
    assert "tile again with --patch-size 32 --mpp 2, or" in str(refused.exception)
    assert milpath(*words, "--allow-mpp").exit_code == 0
    (path,) = (tmp_path / "f").glob("*/s.h5")
    with MilpathLayout().open(path, FeatureHints()) as features:
        assert (features.facts.patch_px, features.facts.mpp) == (16, 1.0)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--mpp", "1"), "--mpp"),
        (("--patch-size", "64"), "--patch-size"),
        (("--keep-pen",), "--keep-pen"),
        (("--max-blur", "0.5"), "--max-blur"),
        (("--slide-mpp", "1"), "--slide-mpp"),
        (("--ids-from-path",), "--ids-from-path"),
        (("--frame", "canvas"), "--frame"),
    ],
)
def test_options_of_slides_are_refused_with_bags(
    options: tuple[str, ...], named: str, encoder: Path, tmp_path: Path
) -> None:
    make_bag(tmp_path / "bags", "s", random_patches(3, side=32))
    run = milpath(
        "embed", tmp_path / "bags", "--encoder", encoder, "--out", tmp_path / "f", *options
    )
    assert str(run.exception) == f"{named} is for slides; bags are tiled already, so leave it out"
    assert not (tmp_path / "f").exists()


def test_slides_and_bags_together_are_refused(
    drawn: SyntheticSlide, encoder: Path, tmp_path: Path
) -> None:
    bag = make_bag(tmp_path / "both", "s", random_patches(3, side=32))
    make_bag(tmp_path / "bags", "s", random_patches(3, side=32))
    shutil.copy(drawn.path, tmp_path / "both" / "a.tif")
    end = ("--encoder", encoder, "--out", tmp_path / "f")
    assert "holds both slides and bags" in str(milpath("embed", bag.parent, *end).exception)
    several = milpath("embed", tmp_path / "bags", drawn.path, *end)
    assert "give one folder of bags, or slides" in str(several.exception)
    assert "of bags, give their folder" in str(milpath("embed", bag, *end).exception)
    with Bag(bag):
        pass
    bag.write_bytes(b"of another program")
    assert milpath("embed", bag.parent, *end, "--dry-run").exit_code == 0  # a folder of slides


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", "5000"), "leaves no stride"),
        (("--min-tissue", "2"), "--min-tissue must be at most 1, got 2"),
        (("--max-blur", "-1"), "--max-blur must be at least 0, got -1"),
    ],
)
def test_wrong_parameters_are_refused(
    options: tuple[str, str], message: str, encoder: Path, slides: Path, tmp_path: Path
) -> None:
    run = milpath("embed", slides, "--encoder", encoder, "--out", tmp_path / "f", *options)
    assert isinstance(run.exception, UsageError)
    assert message in str(run.exception)


# -- ONNX files ------------------------------------------------------------------------------------


HALF = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")


def test_slides_are_embedded_by_an_onnx_file_and_a_model_finds_it_again(
    slides: Path, tmp_path: Path
) -> None:
    path = save_onnx(tmp_path / "net.onnx", metadata={})
    words = ("embed", slides, "--encoder", path, *HALF, "--mpp", 2, "--out", tmp_path / "f")
    done = milpath(*words, "--json")
    assert statuses(done) == {"s0": "ok", "s1": "ok", "s2": "no_tissue"}
    (folder,) = (tmp_path / "f").iterdir()
    assert read_stored(folder / "s0.h5").shape[1] == DIM
    assert [each.name for each in (folder / "encoder").iterdir()] == ["encoder.json"]
    spec = EncoderSpec.model_validate_json((folder / "encoder" / "encoder.json").read_bytes())
    assert (spec.kind, spec.patch_px, spec.mpp, spec.mean) == ("onnx", 32, 2.0, (0.5,) * 3)
    again = milpath("embed", slides, "--encoder", folder / "encoder", "--weights", path, "--out",
                    tmp_path / "f", "--json")  # fmt: skip
    assert again.exit_code == 0, again.output
    assert set(statuses(again).values()) == {"skipped"}


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ((), "give --mean and --std"),
        (("--mean", "0.5,0.5"), "--mean 0.5,0.5: expected three numbers"),
        (("--std", "a,b,c"), "--std a,b,c: expected three numbers"),
        ((*HALF, "--variant", "x"), "has no variant 'x'"),
        ((*HALF, "--weights", "random"), "leave --weights out"),
        (HALF, "give --mpp"),
        ((*HALF, "--patch-size", "64"), "takes patches of 32 px only, not 64"),
    ],
)
def test_what_an_onnx_file_needs_is_asked_for_in_one_line(
    slides: Path, tmp_path: Path, words: tuple[str, ...], fact: str
) -> None:
    path = save_onnx(tmp_path / "net.onnx", metadata={})
    run = milpath("embed", slides, "--encoder", path, "--out", tmp_path / "f", *words)
    assert isinstance(run.exception, UsageError)
    assert fact in str(run.exception)
    assert not (tmp_path / "f").exists()


def test_colours_of_other_encoders_are_refused(encoder: Path, slides: Path, tmp_path: Path) -> None:
    run = milpath("embed", slides, "--encoder", encoder, *HALF, "--out", tmp_path / "f")
    assert "--mean and --std: only for ONNX files" in str(run.exception)


def test_a_damaged_onnx_file_is_refused(slides: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no network")
    run = milpath("embed", slides, "--encoder", path, "--out", tmp_path / "f")
    assert "net.onnx: not an ONNX file, or damaged" in str(run.exception)


def test_an_encoder_of_a_package_is_chosen_with_or_without_the_package(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    offer(tmp_path, "painters", {"mean-colour": lambda: MeanColour(mpp=2.0)})
    for name in ("mean-colour", "painters:mean-colour"):
        run = milpath("embed", slides / "s0.tif", "--encoder", name, "--out", tmp_path / name[:4])
        assert run.exit_code == 0, run.output
        (folder,) = (tmp_path / name[:4]).iterdir()
        assert folder.name == f"mean-colour-{DIGEST[:8]}"
        assert read_stored(folder / "s0.h5").shape[1] == 3
    offer(tmp_path / "more", "others", {"mean-colour": MeanColour})
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    run = milpath("embed", slides, "--encoder", "mean-colour", "--out", tmp_path / "f")
    assert "choose one: others:mean-colour, painters:mean-colour" in str(run.exception)
