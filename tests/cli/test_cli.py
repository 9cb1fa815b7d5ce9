"""The command line, as a user meets it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from milpath.cli.machines import open_backend
from milpath.cli.view import view
from milpath.errors import UsageError
from milpath.synthetic import SyntheticSlide, draw_slide

COMMANDS = (
    "tile", "embed", "train", "classify", "heatmap", "export", "view", "info", "report",
    "mnist", "demo",
)  # fmt: skip
PLAIN = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}


def milpath(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, where nothing is imported yet."""
    command = [sys.executable, "-m", "milpath", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=PLAIN, check=False)


def loaded_after(*arguments: str | Path) -> set[str]:
    """The modules a command has imported when it ends."""
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
    """Two drawn slides in a folder."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        draw_slide(folder / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(command: str) -> None:
    run = milpath(command, "--help")
    assert run.returncode == 0
    assert "Usage: " in run.stdout
    assert "--" in run.stdout.split("Options", 1)[1]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    run = milpath("--help")
    assert run.returncode == 0
    assert all(command in run.stdout for command in COMMANDS)
    assert "Exit codes" in run.stdout


def test_help_loads_no_heavy_library() -> None:
    code = "import sys, milpath.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "tensorflow",
        "keras",
        "numpy",
        "matplotlib",
        "skimage",
        "h5py",
        "openslide",
        "distributed",
    }
    assert not heavy & set(run.stdout.split())


def test_tile_and_info_never_load_the_network_or_matplotlib(slides: Path, tmp_path: Path) -> None:
    try:
        loaded = loaded_after(
            "tile", slides / "s0.tif", "--out", tmp_path, "--mpp", "1", "--patch-size", "64"
        )
    except subprocess.CalledProcessError as error:  # shown, as a test should
        pytest.fail(error.stderr)
    loaded |= loaded_after("info", tmp_path / "s0.h5") | loaded_after("info", slides / "s0.tif")
    assert {"milpath.tile", "milpath.figures.qc"} <= loaded
    assert not {"tensorflow", "keras", "milpath.nn", "matplotlib"} & loaded


def test_the_viewer_refuses_a_slide_that_is_none_in_one_line_and_loads_no_network(
    tmp_path: Path,
) -> None:
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
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "napari_milpath.window" in loaded.stdout.split()
    assert not {"tensorflow", "keras", "milpath.nn"} & set(loaded.stdout.split())


def test_without_the_plugin_the_viewer_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("milpath.cli.view.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install '\.\[napari\]' \./plugins/napari-milpath"):
        view(Path("a.svs"))


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


def test_json_gives_one_object_a_slide(slides: Path, tmp_path: Path) -> None:
    run = milpath("tile", slides, "--out", tmp_path, "--mpp", "1", "--patch-size", "64", "--json")
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    assert {outcome["slide_id"] for outcome in outcomes} == {"s0", "s1"}
    assert all(outcome["status"] == "ok" for outcome in outcomes)
    assert all(outcome["facts"]["patches"] > 0 for outcome in outcomes)


def read_all(terminal: int) -> None:
    with suppress(OSError):  # which is how a terminal ends
        while os.read(terminal, 4096):
            pass


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_json_goes_to_stdout_whole_also_under_a_progress_bar(slides: Path, tmp_path: Path) -> None:
    import pty

    screen, terminal = pty.openpty()
    # a full terminal stops its writer
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


def test_exit_codes_tell_some_failed_from_all_failed(slides: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tile", "x.svs", "--out", "o", "--overlap", "256"], "leaves no stride"),
        (["tile", "x.svs", "--out", "o", "--mpp", "99"], "mpp"),
        (["tile", "x.svs", "--out", "o", "--slide-mpp", "353"], "--slide-mpp is 353"),
        (["tile", "x.svs", "--out", "o", "--codec", "gif"], "codec"),
        (["tile", ".", "--out", "o"], "no slide in this folder"),
        (["tile", "a.csv", "--out", "o"], "cannot be read"),
        (["train", "a.csv", "--bags", "b", "--out", "o"], "cannot be read"),
        (["train", "a.csv", "--bags", "b", "--out", "o", "--from", "x"], "--from x"),
        (
            [
                "train",
                "a.csv",
                "--bags",
                "b",
                "--out",
                "o",
                "--from",
                "features",
                "--encoder",
                "small",
            ],
            "--encoder is for --from pixels, this is --from features",
        ),
        (["classify", "x.svs", "--model", "m", "--out", "o"], "not a model folder"),
        (["tile", "x.svs", "--out", "o", "--patch-size", "8"], "--patch-size 8"),
        (["train", "a.csv", "--bags", "b", "--out", "o", "--seed", "-1"], "--seed -1"),
        (["embed", "b", "--encoder", "vgg16", "--seed", "-1"], "'--seed'"),
        (["export", "p.h5", "--to", "png", "--out", "o.png"], "--slide: needed with --to png"),
        (["export", "p.h5", "--to", "csv", "--out", "o", "--slide", "s"], "with nothing else"),
        (["export", "p.h5", "--to", "csv", "--out", "o", "--coloured"], "only an ome-tiff"),
        (["export", "p.h5", "--to", "ome-tiff", "--out", "o", "--top", "3"], "single patches"),
        (["heatmap", "p.h5", "--slide", "s", "--out", "o.jpg"], "ends in .png"),
        (["heatmap", "p.h5", "--slide", "s", "--out", "o.png", "--class", "x"], "attention is of"),
        (["tile"], "Missing argument"),
        (["tile", "x.svs", "--out", "o", "--shard", "3/2"], "--shard 3/2: expected i/n"),
        (["tile", "x.svs", "--out", "o", "--scheduler", "host"], "neither an address (tcp://ho"),
        (["tile", "x.svs", "--out", "o", "--scheduler", "tcp://h:1", "-w", "2"], "give one of the"),
        (["classify", "x.svs", "--model", "m", "--out", "o", "--shard", "0/2"], "--shard 0/2"),
        (
            ["tile", "x.svs", "--out", "o", "--tissue-annotations", "t.geojson"],
            "--tissue-annotations: t.geojson: cannot",
        ),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = milpath(*arguments)
    assert run.returncode == 2, run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_cluster_without_its_library_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "milpath.runs.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"needs the package distributed: pip install 'milp"),
        open_backend(0, "tcp://127.0.0.1:1", 1, tmp_path, []),
    ):
        pass


def test_info_says_what_each_file_is(drawn: SyntheticSlide, tmp_path: Path) -> None:
    milpath("tile", drawn.path, "--out", tmp_path, "--mpp", "1", "--patch-size", "128")
    bag = json.loads(milpath("info", tmp_path / f"{drawn.path.stem}.h5", "--json").stdout)
    assert (bag["what"], bag["patch in pixels"]) == ("bag", 128)
    slide = json.loads(milpath("info", drawn.path, "--json").stdout)
    assert slide["µm per pixel"] == pytest.approx([1.0, 1.0], rel=1e-3)
    words = milpath("info", drawn.path).stdout
    assert "size in pixels  1030 x 1500" in words
    missing = milpath("info", tmp_path / "nothing.svs")
    assert missing.returncode == 4
    assert "no such file" in missing.stderr


@pytest.mark.slow
def test_the_whole_way_from_slides_to_a_class_and_its_heatmap(tmp_path: Path) -> None:
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
    judged = milpath(
        "classify", tmp_path / "slides" / "s0.tif", tmp_path / "bad.tif",
        "--model", tmp_path / "model", "--out", out,
    )  # fmt: skip
    assert judged.returncode == 3, judged.stderr
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
    assert "another slide" in other.stderr
    for form, name in (("geojson", "e.json"), ("csv", "e.csv"), ("ome-tiff", "e.ome.tif")):
        exported = milpath(
            "export", out / "s0.prediction.h5", "--to", form, "--out", tmp_path / name
        )
        assert exported.returncode == 0, exported.stderr
        assert (tmp_path / name).exists()
    square = [[[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]]]
    (tmp_path / "o.json").write_text(json.dumps({"type": "Polygon", "coordinates": square}))
    outlined = milpath(
        "classify", tmp_path / "slides" / "s0.tif", "--model", tmp_path / "model", "--out", out,
        "--tissue-annotations", tmp_path / "o.json", "--verbose",
    )  # fmt: skip
    assert outlined.returncode == 0, outlined.stderr
    assert " patches" in outlined.stderr
    assert "already done" not in outlined.stdout
    told = json.loads(milpath("info", tmp_path / "model", "--json").stdout)
    assert told["members"] == 2
    metrics = tmp_path / "model" / "metrics.json"
    assert told["held-out figures"].keys() == json.loads(metrics.read_text())["metrics"].keys()
    metrics.write_text(metrics.read_text().replace(told["fingerprint"], "0" * 32))
    of_another = json.loads(milpath("info", tmp_path / "model", "--json").stdout)
    assert of_another["held-out figures"] is None
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
