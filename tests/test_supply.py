"""No package version with a known advisory is installed or allowed.

One row per advisory on milpath's dependencies. When a new one is published, add a row; the tests
then name the lower bound to raise. `scripts/nightly` asks for new advisories.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import h5py
import imagecodecs
import openslide
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import features

ROOT = Path(__file__).resolve().parents[1]

DIRECT = (
    # advisory, package, first version without it, what it is
    ("CVE-2026-48977", "openslide-bin", "4.0.1", "a Ventana BIF writes into memory"),
    ("CVE-2026-54604", "openslide-bin", "4.0.1", "pixels that were never read are shown"),
    ("CVE-2025-1550", "keras", "3.9.0", "a .keras file runs any function"),
    ("CVE-2025-8747", "keras", "3.11.0", "a .keras file runs a chain of functions"),
    ("CVE-2025-9906", "keras", "3.11.0", "a .keras file turns safe_mode off"),
    ("CVE-2025-9905", "keras", "3.11.3", "safe_mode is ignored for .h5"),
    ("CVE-2025-12058", "keras", "3.12.0", "a vocabulary can read any file"),
    ("CVE-2025-12060", "keras", "3.12.0", "get_file unpacks outside its folder"),
    ("CVE-2026-0897", "keras", "3.15.0", "weights of an unbounded shape (in the loader: 3.15)"),
    ("CVE-2026-1669", "keras", "3.13.2", "weights stored in another file"),
    ("CVE-2026-1462", "keras", "3.13.2", "TFSMLayer loads an attacker's graph"),
    ("GHSA-hqp4-2352-xf5r", "keras", "3.14.0", "archives unpacked outside their folder"),
    ("keras#23010", "keras", "3.15.0", "zip bombs"),
    ("keras#23015", "keras", "3.15.0", "archives with symbolic links"),
    ("keras#22976", "keras", "3.15.0", "virtual datasets"),
    ("keras#23048", "keras", "3.15.0", "Lambda.from_config fails open"),
    ("CVE-2026-40192", "pillow", "12.2.0", "FITS bombs"),
    ("CVE-2026-55380", "pillow", "12.3.0", "GD pictures pass the check for bombs"),
    ("CVE-2026-26200", "h5py", "3.14.0", "HDF5 before 1.14.4-2 writes past its heap"),
    ("CVE-2026-23528", "distributed", "2026.1.0", "the dashboard runs scripts from a link"),
    ("CVE-2021-42343", "distributed", "2021.10.0", "local workers listen to the network"),
    ("CVE-2024-5206", "scikit-learn", "1.5.0", "a vectoriser keeps training text"),
    ("CVE-2024-3772", "pydantic", "2.4.0", "an e-mail pattern of unbounded run time"),
)
"""Direct dependencies: the lower bound in `pyproject.toml` must not be below the fixed version."""

INDIRECT = (
    ("CVE-2026-31958", "tornado", "6.5.5"),
    ("CVE-2025-27516", "jinja2", "3.1.6"),
    ("CVE-2025-66418", "urllib3", "2.6.0"),
    ("CVE-2025-4565", "protobuf", "6.31.1"),
    ("CVE-2025-66034", "fonttools", "4.60.2"),
    ("CVE-2025-47273", "setuptools", "78.1.1"),
    ("CVE-2020-14343", "pyyaml", "5.4"),
)
"""Indirect dependencies: the installed and the pinned version must not be below the fixed one."""

BUNDLED = (
    ("CVE-2026-26200", "HDF5 in h5py", h5py.version.hdf5_version, "1.14.5"),
    ("CVE-2026-48977", "OpenSlide", openslide.__library_version__, "4.0.1"),
    ("CVE-2023-4863", "libwebp in Pillow", features.version("webp"), "1.3.2"),
    ("CVE-2025-54874", "OpenJPEG in Pillow", features.version("jpg_2000"), "2.5.4"),
    ("CVE-2025-9900", "libtiff in Pillow", features.version("libtiff"), "4.7.1"),
    *(
        (advisory, f"{name} in imagecodecs", found.partition("-")[2], fixed)
        for advisory, name, fixed in (
            ("CVE-2023-4863", "libwebp", "1.3.2"),
            ("CVE-2025-54874", "openjpeg", "2.5.4"),
            ("CVE-2025-9900", "libtiff", "4.7.1"),
        )
        for found in str(imagecodecs.version()).split(", ")
        if found.startswith(f"{name}-")
    ),
)
"""Libraries inside wheels: advisory, library, version found, first fixed version."""

OPEN = {
    "CVE-2026-12479": "layers named ../ escape from the folder of a .keras file",
    "keras#23100": "many weights, each below the limit, are unbounded in total; only "
    "`embed --weights FILE` lets Keras read a file, which should be your own",
}
"""Fixed in no version: milpath must not load models with Keras, nor unpickle anything."""


def requirements() -> dict[str, list[Requirement]]:
    """Return the requirements of both distributions and their extras, by package."""
    found: dict[str, list[Requirement]] = {}
    for file in (ROOT / "pyproject.toml", ROOT / "plugins/napari-milpath/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def floor(requirement: Requirement) -> Version:
    """Return the lowest version that a requirement allows."""
    bounds = [each.version for each in requirement.specifier if each.operator in {">=", "==", "~="}]
    return max(map(Version, bounds), default=Version("0"))


@pytest.mark.parametrize(("advisory", "package", "fixed", "what"), DIRECT)
def test_requirements_allow_no_version_with_an_advisory(
    advisory: str, package: str, fixed: str, what: str
) -> None:
    for each in requirements()[package]:
        assert floor(each) >= Version(fixed), f"{advisory} ({what}): raise {each} to {fixed}"


@pytest.mark.parametrize(
    ("advisory", "package", "fixed"), [*(row[:3] for row in DIRECT), *INDIRECT]
)
def test_no_version_with_an_advisory_is_installed(advisory: str, package: str, fixed: str) -> None:
    try:
        found = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert Version(found) >= Version(fixed), f"{advisory}: {package} {found} is installed"


@pytest.mark.parametrize(("advisory", "library", "found", "fixed"), BUNDLED)
def test_no_wheel_contains_a_library_with_an_advisory(
    advisory: str, library: str, found: str, fixed: str
) -> None:
    assert Version(found) >= Version(fixed), f"{advisory}: {library} is {found}"


def test_the_pinned_versions_have_no_advisory() -> None:
    pinned: dict[str, list[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line.partition("#")[0])
        pinned.setdefault(canonicalize_name(requirement.name), []).append(floor(requirement))
    for advisory, package, fixed in [*(row[:3] for row in DIRECT), *INDIRECT]:
        assert min(pinned[package]) >= Version(fixed), f"{advisory}: {package} in constraints.txt"


@pytest.mark.parametrize(
    "word",
    ["models.load_model", "saving.load_model", "enable_unsafe", "import pickle", "joblib"],
)
def test_milpath_calls_nothing_that_an_open_advisory_needs(word: str) -> None:
    sources = [*(ROOT / "milpath").rglob("*.py"), *(ROOT / "plugins").rglob("src/**/*.py")]
    assert len(sources) > 80
    assert [path.name for path in sources if word in path.read_text(encoding="utf-8")] == []
