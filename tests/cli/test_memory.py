"""Too little memory is one line and a documented exit code, not a traceback or endless wait."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from support.farm import entries, work

from milpath.cli.memory import require_memory
from milpath.cohort.workitem import WorkItem
from milpath.errors import UsageError, is_out_of_memory
from milpath.runs import Outcome, run_job
from milpath.synthetic import draw_slide

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on memory")


def run_limited(megabytes: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    import resource

    size = megabytes << 20
    return subprocess.run(
        [sys.executable, "-m", "milpath", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [60, 200, 300, 450, 700, 1500])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_slide_is_tiled_or_the_limit_is_named(
    megabytes: int, workers: int, tmp_path: Path
) -> None:
    for name in "ab":
        draw_slide(tmp_path / f"{name}.tif", seed=1, tumour=False, size_px=(512, 512))
    words = ["--mpp", "1", "--patch-size", "64", "--out", tmp_path / "out", "-w", str(workers)]
    run = run_limited(megabytes, "tile", tmp_path / "a.tif", tmp_path / "b.tif", *words)
    if megabytes < 600:
        assert (run.returncode, run.stdout) == (2, "")
        assert f"is limited to {megabytes} MB (ulimit -v), expected 600 MB or more" in run.stderr
    else:
        assert run.returncode == 0
    assert run.stderr.count("\n") == 1


def test_help_and_version_need_less() -> None:
    assert run_limited(300, "--version").returncode == 0
    assert run_limited(300, "--help").returncode == 0
    refused = run_limited(300, "info", Path(__file__))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_a_network_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milpath.cli.memory.address_space_limit", lambda: 1 << 30)
    require_memory()
    with pytest.raises(UsageError, match=r"limited to 1024 MB .* expected 2500 MB or more"):
        require_memory(network=True)
    monkeypatch.setattr("milpath.cli.memory.address_space_limit", lambda: None)
    require_memory(network=True)


def test_a_slide_for_which_memory_is_not_enough_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def job(item: WorkItem) -> Outcome:
        if item.slide_id == "huge":
            raise MemoryError("Unable to allocate 81.0 MiB")
        return work(item)

    found = {one.slide_id: one for one in run_job(job, entries("huge", "a"))}
    assert found["huge"].status == "failed"
    assert found["huge"].message.startswith("huge: not enough memory; use fewer --workers")
    assert found["a"].status == "ok"
    assert not caplog.text


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "OSError(12, 'Cannot allocate memory')",
        "ImportError('libx.so: failed to map segment from shared object')",
        'RuntimeError("can\'t start new thread")',
    ],
)
def test_an_error_of_memory_is_one_line_and_exit_4(error: str) -> None:
    code = (
        "import milpath.cli as cli\n"
        "def app(**_):\n"
        f"    try: raise {error}\n"
        "    except Exception as error: raise RuntimeError('while importing') from error\n"
        "cli.app = app\n"
        "cli.main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 4
    assert run.stderr.startswith("milpath: not enough memory; raise the limit")
    assert run.stderr.count("\n") == 1


def test_other_errors_are_not_taken_for_it() -> None:
    assert is_out_of_memory(OSError(errno.ENOMEM, "x"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_out_of_memory(ValueError("wrong"))
    assert not is_out_of_memory(None)
