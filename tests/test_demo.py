"""The demo learns from one label a slide, and looks where the tumour was drawn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_finds_the_tumours_it_was_never_shown(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "milpath", "demo", "--seed", "11", "--json", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["unseen_slides"] == 20
    assert result["auc"] >= 0.95
    assert result["attention_auc"] >= 0.90
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure>") >= 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(list((tmp_path / "results").glob("*.prediction.h5"))) == 20
    assert len(list((tmp_path / "results").glob("*.png"))) == 20
    assert not list(tmp_path.rglob("*.part"))
