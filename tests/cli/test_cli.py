"""The command line as users see it: help, options, exit codes, imports."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import h5py
import pytest

from milpath import __version__
from milpath.cli import COMMANDS
from milpath.cli.machines import open_backend
from milpath.errors import UsageError
from milpath.synthetic import SyntheticSlide, draw_slide

PLAIN = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}


def milpath(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a new process."""
    command = [sys.executable, "-m", "milpath", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=PLAIN, check=False)


def loaded_after(*arguments: str | Path) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    code = (
        "import sys\n"
        "from milpath.cli import app\n"
        f"app({list(map(str, arguments))!r}, standalone_mode=False)\n"
        "print('loaded:', *sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=PLAIN, check=True
    )
    return set(run.stdout.rsplit("loaded:", 1)[1].split())


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic slides in a folder."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        draw_slide(folder / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_options(command: str) -> None:
    run = milpath(command, "--help")
    assert run.returncode == 0
    assert "Usage: " in run.stdout
    assert "--" in run.stdout.split("Options", 1)[1]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    run = milpath("--help")
    assert run.returncode == 0
    assert all(command in run.stdout for command in COMMANDS)
    assert "Exit codes" in run.stdout


def test_help_imports_no_heavy_library_and_no_command() -> None:
    loaded = loaded_after("--help")
    heavy = {"tensorflow", "keras", "numpy", "matplotlib", "skimage", "scipy", "h5py", "openslide"}
    heavy |= {"distributed", "pydantic", "rich", "yaml", "milpath.cli.train"}
    assert not heavy & loaded


def test_version_is_printed() -> None:
    run = milpath("--version")
    assert (run.returncode, run.stdout) == (0, f"milpath {__version__}\n")


def test_no_arguments_print_the_help_and_are_wrong_usage() -> None:
    run = milpath()
    assert run.returncode == 2
    assert "Usage: milpath" in run.stderr


def test_a_shell_completes_commands_and_options() -> None:
    def complete(words: str, number: int) -> list[str]:
        asked = {"_MILPATH_COMPLETE": "complete_bash", "COMP_WORDS": words}
        run = subprocess.run(
            [sys.executable, "-m", "milpath"],
            capture_output=True, text=True, check=False,
            env=PLAIN | asked | {"COMP_CWORD": str(number)},
        )  # fmt: skip
        return run.stdout.split()

    assert complete("milpath t", 1) == ["tile", "train"]
    assert complete("milpath tile --pat", 2) == ["--patch-size"]
    assert "--install-completion" in milpath("--help").stdout


def test_tile_and_info_import_neither_the_network_nor_matplotlib(
    slides: Path, tmp_path: Path
) -> None:
    try:
        loaded = loaded_after(
            "tile", slides / "s0.tif", "--out", tmp_path, "--mpp", "1", "--patch-size", "64"
        )
    except subprocess.CalledProcessError as error:  # shown, as a test should
        pytest.fail(error.stderr)
    info = loaded_after("info", tmp_path / "s0.h5") | loaded_after("info", slides / "s0.tif")
    assert {"milpath.tile", "milpath.figures.qc"} <= loaded
    assert not {"tensorflow", "keras", "milpath.nn", "matplotlib"} & (loaded | info)
    assert not {"scipy", "skimage"} & info


def test_the_viewer_refuses_a_file_that_is_not_a_slide_and_imports_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLAIN, "QT_QPA_PLATFORM", "offscreen")
    (tmp_path / "a.svs").write_bytes(b"<html>404</html>")
    run = milpath("view", tmp_path / "a.svs")
    assert run.returncode == 4
    assert "a web page" in run.stderr
    assert "Traceback" not in run.stderr
    code = (
        "import sys\nfrom milpath.cli import app\nfrom milpath.errors import MilpathError\n"
        f"try: app(['view', {str(tmp_path / 'a.svs')!r}], standalone_mode=False)\n"
        "except MilpathError: print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=PLAIN
    )
    assert "napari_milpath.window" in loaded.stdout.split()
    assert not {"tensorflow", "keras", "milpath.nn"} & set(loaded.stdout.split())


def test_a_second_run_skips_what_is_done_and_says_so(slides: Path, tmp_path: Path) -> None:
    options = ["--out", tmp_path, "--mpp", "1", "--patch-size", "64"]
    first = milpath("tile", slides, *options)
    assert first.returncode == 0, first.stderr
    assert "2 done" in first.stderr
    before = (tmp_path / "s1.h5").read_bytes()
    second = milpath("tile", slides, *options)
    assert second.returncode == 0
    assert second.stdout.count("already done with the same parameters") == 2
    assert (tmp_path / "s1.h5").read_bytes() == before
    third = milpath("tile", slides, *options, "--overlap", "32")
    assert third.stdout.count("re-tiled: grid.overlap_px changed from 0 to 32") == 2


def test_shards_together_are_the_whole(slides: Path, tmp_path: Path) -> None:
    options = ["--out", tmp_path, "--mpp", "1", "--patch-size", "64"]
    for shard in ("1/3", "2/3"):
        assert "1 done" in milpath("tile", slides, *options, "--shard", shard).stderr
    empty = milpath("tile", slides, *options, "--shard", "3/3")
    assert (empty.returncode, empty.stderr) == (0, "tile: nothing to do\n")
    assert "2 skipped" in milpath("tile", slides, *options).stderr


def test_json_prints_one_object_per_slide(slides: Path, tmp_path: Path) -> None:
    run = milpath("tile", slides, "--out", tmp_path, "--mpp", "1", "--patch-size", "64", "--json")
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    assert {outcome["slide_id"] for outcome in outcomes} == {"s0", "s1"}
    assert all(outcome["status"] == "ok" for outcome in outcomes)
    assert all(outcome["facts"]["patches"] > 0 for outcome in outcomes)


def read_all(terminal: int) -> None:
    with suppress(OSError):  # raised at the end of a pseudo-terminal
        while os.read(terminal, 4096):
            pass


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_json_on_stdout_stays_valid_under_a_progress_bar(slides: Path, tmp_path: Path) -> None:
    import pty

    screen, terminal = pty.openpty()
    # unread output would block the command
    reader = threading.Thread(target=read_all, args=[screen], daemon=True)
    reader.start()
    command = [sys.executable, "-m", "milpath", "tile", str(slides), "--out", str(tmp_path)]
    run = subprocess.run(
        [*command, "--mpp", "1", "--patch-size", "64", "--json"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        check=True,
    )
    os.close(terminal)
    reader.join()
    os.close(screen)
    assert [json.loads(line)["status"] for line in run.stdout.splitlines()] == ["ok", "ok"]


def test_the_exit_code_is_3_if_some_slides_failed_and_4_if_all_did(
    slides: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_text("not a slide")
    out = tmp_path / "bags"
    some = milpath("tile", slides, bad, "--out", out, "--mpp", "1", "--patch-size", "64")
    assert some.returncode == 3
    assert "Traceback" not in some.stderr
    assert [line for line in some.stderr.splitlines() if line.startswith("failed: bad.svs")]
    assert milpath("tile", bad, "--out", out).returncode == 4
    assert sorted(path.name for path in out.iterdir()) == ["qc", "runlog", "s0.h5", "s1.h5"]
    assert sorted(path.name for path in (out / "qc").iterdir()) == ["s0.png", "s1.png"]


def test_one_odd_file_name_does_not_stop_a_folder(slides: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "bags"
    folder.mkdir()
    for name in ("case 1: left.tif", "good.tif"):
        (folder / name).hardlink_to(slides / "s0.tif")
    options = ("--out", out, "--mpp", "1", "--patch-size", "64", "--workers")
    for workers in ("1", "2"):
        run = milpath("tile", folder, *options, workers)
        assert run.returncode == 3
        (line,) = [line for line in run.stderr.splitlines() if line.startswith("failed: ")]
        assert line.startswith("failed: case 1: left.tif: its name cannot name its results")
        assert [path.name for path in out.glob("*.h5")] == ["good.h5"]
    run = milpath("tile", folder, *options, "1", "--ids-from-path")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in out.glob("*.h5")) == ["case 1%3A left.h5", "good.h5"]


def test_train_lists_all_slides_without_a_label_and_says_that_there_is_no_case(
    tmp_path: Path,
) -> None:
    rows = [f"s{number}.tif,{'xyxyxy'[number]},kept\n" for number in range(6)]
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("Slide,LABEL,note\n" + "".join(rows))
    bad.write_text("Slide,LABEL\ns6.tif,NA\ns7.tif,x\ns8.tif,nan\ns9.tif,y\n")
    run = milpath("train", bad, "--bags", tmp_path, "--out", tmp_path / "m")
    assert run.returncode == 2
    assert "bad: 2 slides have no label (empty, or NA, nan, None, null): s6, s8" in run.stderr
    run = milpath("train", good, "--bags", tmp_path, "--out", tmp_path / "m")
    assert run.stderr.count("not used: column 'note'") == 1
    assert run.stderr.count("each slide counts as a case of its own") == 1


@pytest.mark.parametrize("command", ["tile", "classify", "train"])
def test_help_says_what_paths_in_a_csv_are_relative_to(command: str) -> None:
    assert "relative to its folder" in " ".join(milpath(command, "--help").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tile", "x.svs", "--out", "o", "--overlap", "256"], "leaves no stride"),
        (["tile", "x.svs", "--out", "o", "--mpp", "99"], "mpp"),
        (["tile", "x.svs", "--out", "o", "--mpp", "a"], "must be a number, got a"),
        (["tile", "x.svs", "--out", "o", "--slide-mpp", "353"], "--slide-mpp is 353"),
        (["tile", "missing.svs", "--out", "o"], "path 'missing.svs' does not exist"),
        (["tile", "x.svs", "--out", "o", "--patchsize", "8"], "No such option: --patchsize"),
        (["til"], "No such command 'til'. Did you mean 'tile'?"),
        (["info", "missing.h5"], "path 'missing.h5' does not exist"),
        (["report", "missing"], "'missing' does not exist"),
        (["classify", "missing.svs", "--model", "m", "--out", "o"], "'missing.svs' does not exist"),
        (["tile", "x.svs", "--out", "o", "--codec", "gif"], "codec"),
        (["tile", "b", "--out", "o"], "no slide in this folder"),
        (["train", "a.csv", "--bags", "b", "--out", "o"], "cannot be read"),
        (["train", "a.csv", "--out", "o"], "give either --bags"),
        (["train", "a.csv", "--bags", "b", "--features", "f", "--out", "o"], "give either --bags"),
        (["classify", "--model", "m", "--out", "o"], "give slides to classify, or --features"),
        (
            [
                "train",
                "a.csv",
                "--features",
                "b",
                "--out",
                "o",
                "--encoder",
                "small",
            ],
            "--encoder is for training with --bags, this is with --features",
        ),
        (["classify", "x.svs", "--model", "m", "--out", "o"], "not a model folder"),
        (
            ["tile", "x.svs", "--out", "o", "--patch-size", "8"],
            "--patch-size must be at least 16, got 8",
        ),
        (
            ["train", "a.csv", "--bags", "b", "--out", "o", "--seed", "-1"],
            "--seed must be at least 0, got -1",
        ),
        (["embed", "b", "--encoder", "vgg16", "--out", "o"], "no bags (*.h5) in this folder"),
        (
            ["embed", "b", "--encoder", "vgg16", "--out", "o", "--seed", "-1"],
            "'--seed': must be at least 0",
        ),
        (["embed", "missing", "--encoder", "vgg16", "--out", "o"], "'missing' does not exist"),
        (["export", "p.h5", "--to", "png", "--out", "o.png"], "--slide: required with --to png"),
        (
            ["export", "p.h5", "--to", "csv", "--out", "o", "--slide", "s"],
            "only available with --to png or geojson",
        ),
        (
            ["export", "p.h5", "--to", "csv", "--out", "o", "--coloured"],
            "only available with --to ome-tiff",
        ),
        (
            ["export", "p.h5", "--to", "csv", "--out", "o", "--frame", "canvas"],
            "--frame: only available with --to geojson",
        ),
        (
            ["tile", "x.svs", "--out", "o", "--frame", "canvas"],
            "--frame: only available with --tissue-annotations",
        ),
        (["export", "p.h5", "--to", "ome-tiff", "--out", "o", "--top", "3"], "--to geojson or csv"),
        (["heatmap", "p.h5", "--slide", "s", "--out", "o.jpg"], "ends in .png"),
        (
            ["heatmap", "p.h5", "--slide", "s", "--out", "o.png", "--class", "x"],
            "attention has no class",
        ),
        (["tile"], "Missing argument"),
        (["tile", "x.svs", "--out", "o", "--shard", "3/2"], "--shard 3/2: expected i/n"),
        (["tile", "x.svs", "--out", "o", "--scheduler", "host"], "neither an address (tls://ho"),
        (["tile", "x.svs", "--out", "o", "--scheduler", "tcp://h:1", "-w", "2"], "give one of the"),
        (["classify", "x.svs", "--model", "m", "--out", "o", "--shard", "0/2"], "--shard 0/2"),
        (
            ["tile", "x.svs", "--out", "o", "--tissue-annotations", "t.geojson"],
            "--tissue-annotations: t.geojson: cannot",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.svs").touch()
    (tmp_path / "b").mkdir()
    before = sorted(tmp_path.iterdir())
    run = milpath(*arguments)
    assert run.returncode == 2, run.stderr
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("milpath")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "s0.tif", "--model", "missing", "--out", "o"],
        ["classify", "missing.tif", "--model", "m", "--out", "o"],
        ["classify", "empty", "--model", "m", "--out", "o"],
        ["classify", "s0.tif", "--model", "m", "--out", "o", "--shard", "2/1"],
        ["embed", "empty", "--out", "o", "--encoder", "vgg16"],
        ["embed", "bags", "--out", "o", "--encoder", "empty"],
        ["embed", "bags", "--out", "o", "--encoder", "models/missing"],
        ["embed", "bags", "--out", "o", "--encoder", "vgg16", "--weights", "missing.h5"],
        ["embed", "bags", "--out", "o", "--encoder", "vgg16", "--shard", "2/1"],
        [
            "embed",
            "bags",
            "--out",
            "o",
            "--encoder",
            "vgg16",
            "--scheduler",
            "tcp://h:1",
            "--workers",
            "2",
        ],
    ],
)
def test_wrong_usage_is_refused_before_keras_is_imported(
    arguments: list[str], tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiled)
    code = (
        "import sys\n"
        "from milpath.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, *loaded = run.stdout.split()
    assert code == "2", run.stderr
    assert not {"keras", "tensorflow"} & set(loaded)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_keras_is_imported(tiled: Path) -> None:
    out = tiled / "closed"
    out.mkdir()
    out.chmod(0o555)
    words = ("--encoder", "vgg16", "--out", out, "--weights", "random")
    try:
        run = milpath("embed", tiled / "bags", *words)
    finally:
        out.chmod(0o755)
    assert run.returncode == 5


@pytest.fixture(scope="module")
def tiled(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide, its bag, and an empty folder."""
    folder = tmp_path_factory.mktemp("tiled")
    (folder / "empty").mkdir()
    (folder / "s0.tif").write_bytes((slides / "s0.tif").read_bytes())
    options = ["--out", folder / "bags", "--mpp", "1", "--patch-size", "64"]
    milpath("tile", folder / "s0.tif", *options)
    return folder


def test_a_cluster_without_its_package_raises_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "milpath.runs.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"needs the package distributed: pip install 'milp"),
        open_backend(0, "tcp://127.0.0.1:1", 1, tmp_path, []),
    ):
        pass


def test_info_describes_every_kind_of_file(drawn: SyntheticSlide, tmp_path: Path) -> None:
    milpath("tile", drawn.path, "--out", tmp_path, "--mpp", "1", "--patch-size", "128")
    bag = json.loads(milpath("info", tmp_path / f"{drawn.path.stem}.h5", "--json").stdout)
    assert (bag["what"], bag["patch in pixels"]) == ("bag", 128)
    slide = json.loads(milpath("info", drawn.path, "--json").stdout)
    assert slide["µm per pixel"] == pytest.approx([1.0, 1.0], rel=1e-3)
    words = milpath("info", drawn.path).stdout
    assert "size in pixels  1030 x 1500" in words
    stored = Path(__file__).parents[1] / "data" / "format-3"
    features = json.loads(milpath("info", stored / "features.h5", "--json").stdout)
    assert (features["what"], features["patches"], features["features"]) == ("features", 5, 6)
    assert (features["encoder"], features["checksums"]) == ("drawn", "verified as they are read")
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["features"] = [[1.0]]
    assert "if it holds features, give its folder" in milpath("info", tmp_path / "other.h5").stderr
    torn = tmp_path / "torn.svs"
    torn.write_bytes(b"not a slide")
    assert milpath("info", torn).returncode == 4


@pytest.mark.slow
def test_all_steps_from_slides_to_a_class_and_its_heatmap(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    rows = ["slide,label,case"]
    for number in range(12):
        tumour = bool(number % 2)
        draw_slide(
            tmp_path / "slides" / f"s{number}.tif", seed=number, tumour=tumour, size_px=(512, 512)
        )
        rows.append(f"slides/s{number}.tif,{'tumour' if tumour else 'normal'},case{number // 2}")
    # a case whose slides differ in label would make the split impossible to stratify: pair by class
    rows[1:] = [f"{row.rsplit(',', 1)[0]},case{i % 2}{i // 4}" for i, row in enumerate(rows[1:])]
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    tiled = milpath(
        "tile", tmp_path / "cohort.csv", "--out", tmp_path / "bags", "--mpp", "1",
        "--patch-size", "32",
    )  # fmt: skip
    assert tiled.returncode == 0, tiled.stderr
    trained = milpath(
        "train", tmp_path / "cohort.csv", "--bags", tmp_path / "bags", "--out", tmp_path / "model",
        "--epochs", "2", "--members", "2",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "balanced accuracy" in trained.stdout
    again = milpath(
        "train", tmp_path / "cohort.csv", "--bags", tmp_path / "bags", "--out", tmp_path / "model"
    )
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    out = tmp_path / "results"
    (tmp_path / "bad.tif").write_bytes(b"II*\0 cut short")
    classified = milpath(
        "classify", tmp_path / "slides" / "s0.tif", tmp_path / "bad.tif",
        "--model", tmp_path / "model", "--out", out,
    )  # fmt: skip
    assert classified.returncode == 3, classified.stderr
    with (out / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["ok", "failed"]
    assert float(table[0]["prob_normal"]) + float(table[0]["prob_tumour"]) == pytest.approx(
        1, abs=1e-5
    )
    assert "not a slide" in table[1]["message"]
    again = milpath(
        "classify", tmp_path / "slides" / "s0.tif", "--model", tmp_path / "model", "--out", out
    )
    assert "already done with this model" in again.stdout
    with (out / "predictions.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"]
    picture = milpath(
        "heatmap", out / "s0.prediction.h5", "--slide", tmp_path / "slides" / "s0.tif",
        "--out", tmp_path / "c.png", "--score", "contribution", "--class", "tumour",
    )  # fmt: skip
    assert picture.returncode == 0, picture.stderr
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    other = milpath(
        "heatmap", out / "s0.prediction.h5", "--slide", tmp_path / "slides" / "s1.tif",
        "--out", tmp_path / "d.png",
    )  # fmt: skip
    assert other.returncode == 2
    assert "different slide" in other.stderr
    for form, name in (("geojson", "e.json"), ("csv", "e.csv"), ("ome-tiff", "e.ome.tif")):
        exported = milpath(
            "export", out / "s0.prediction.h5", "--to", form, "--out", tmp_path / name
        )
        assert exported.returncode == 0, exported.stderr
        assert (tmp_path / name).exists()
    square = [[[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]]]
    (tmp_path / "o.json").write_text(json.dumps({"type": "Polygon", "coordinates": square}))
    annotated = milpath(
        "classify", tmp_path / "slides" / "s0.tif", "--model", tmp_path / "model", "--out", out,
        "--tissue-annotations", tmp_path / "o.json", "--verbose",
    )  # fmt: skip
    assert annotated.returncode == 0, annotated.stderr
    assert " patches" in annotated.stderr
    assert "already done" not in annotated.stdout
    info = json.loads(milpath("info", tmp_path / "model", "--json").stdout)
    assert info["members"] == 2
    metrics = tmp_path / "model" / "metrics.json"
    assert info["held-out metrics"].keys() == json.loads(metrics.read_text())["metrics"].keys()
    metrics.write_text(metrics.read_text().replace(info["fingerprint"], "0" * 32))
    of_other = json.loads(milpath("info", tmp_path / "model", "--json").stdout)
    assert of_other["held-out metrics"] is None
    prediction = out / "s0.prediction.h5"
    assert not {"scipy", "keras", "matplotlib"} & loaded_after("info", prediction)
    assert "its model" in milpath("info", prediction, "--params").stderr
    params = tmp_path / "params.json"
    params.write_text(milpath("info", tmp_path / "model", "--params").stdout)
    assert json.loads(params.read_text())["train"]["members"] == 2
    repeated = milpath(
        "train", tmp_path / "cohort.csv", "--bags", tmp_path / "bags", "--out", tmp_path / "model",
        "--params", params, "--overwrite", "--folds", "2", "--dry-run", "--json",
    )  # fmt: skip
    assert json.loads(repeated.stdout)["models"] == 4
    names = {path.name for path in tmp_path.rglob("*") if path.suffix == ".part"}
    assert not names


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["info"]])
def test_a_full_stdout_is_one_line_and_a_code(words: list[str], slides: Path) -> None:
    words = [*words, str(slides / "s0.tif")] if words == ["info"] else words
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "milpath", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, env=PLAIN, check=False,
        )  # fmt: skip
    assert run.returncode == 5
    assert len(run.stderr.splitlines()) == 1
    assert "No space left on device" in run.stderr


@pytest.mark.skipif(os.name != "posix", reason="other systems keep a folder that is in use")
@pytest.mark.parametrize("out", ["out", "."])
def test_a_deleted_current_folder_is_one_line_and_a_code(
    out: str, slides: Path, tmp_path: Path
) -> None:
    code = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.rmdir(sys.argv[1])\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'milpath', *sys.argv[2:]])"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", code, str(gone), "tile", str(slides), "--out", out],
        capture_output=True, text=True, env=PLAIN, check=False,
    )  # fmt: skip
    assert run.returncode in (2, 5)
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("milpath")
