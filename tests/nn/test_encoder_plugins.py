"""Encoders of other packages are listed, loaded when they are named, and checked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import random_patches
from support.plugins import DIGEST, MeanColour, offer

from milpath.errors import StoredFileError, UsageError
from milpath.nn.encoders.plugins import (
    PluginEncoder,
    find_plugin,
    list_plugins,
    load_plugin,
    reload_plugin,
)

Install = Callable[[str, Mapping[str, Callable[[], Any]]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, encoders: Mapping[str, Callable[[], Any]]) -> None:
        offer(tmp_path, package, encoders)

    return install


def load(name: str) -> PluginEncoder:
    plugin = find_plugin(name)
    assert plugin is not None
    return load_plugin(plugin)


def refusal(name: str = "mean-colour") -> str:
    with pytest.raises(UsageError) as caught:
        load(name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"encoder {name} of the package painters ")
    return text


def fail() -> Any:
    raise AssertionError("it was loaded")


# -- names -----------------------------------------------------------------------------------------


def test_encoders_are_listed_by_name_and_not_loaded(install: Install) -> None:
    install("painters", {"one": fail, "resnet50": fail})
    install("others", {"two": fail})
    assert list(list_plugins({"resnet50"})) == ["one", "painters:resnet50", "two"]
    (one, *_) = list_plugins(()).values()
    assert (one.package, one.version, one.name) == ("painters", "1.5", "one")


def test_a_name_that_two_packages_offer_is_chosen_with_the_package(install: Install) -> None:
    install("painters", {"mean-colour": MeanColour})
    install("others", {"mean-colour": MeanColour})
    assert list(list_plugins(())) == ["others:mean-colour", "painters:mean-colour"]
    with pytest.raises(UsageError, match="choose one: others:mean-colour, painters:mean-colour"):
        find_plugin("mean-colour")
    assert load("others:mean-colour").spec.weights == "others 1.5"


def test_only_the_named_encoder_is_loaded(install: Install) -> None:
    install("painters", {"mean-colour": MeanColour, "other": fail})
    spec = load("painters:mean-colour").spec
    assert (spec.name, spec.kind, spec.weights) == ("mean-colour", "plugin", "painters 1.5")
    assert (spec.patch_px, spec.mpp, spec.dim, spec.digest) == (32, 0.5, 3, DIGEST)
    assert find_plugin("missing") is None
    assert find_plugin("others:mean-colour") is None


# -- what it returns -------------------------------------------------------------------------------


def test_features_are_those_of_the_package_in_batches_of_up_to_64(install: Install) -> None:
    counts = []

    class Counting(MeanColour):
        def embed(self, patches: NDArray[np.uint8]) -> Any:
            counts.append(len(patches))
            return super().embed(patches)

    install("painters", {"mean-colour": Counting})
    encoder = load("mean-colour")
    del counts[:]
    patches = random_patches(130, 32)
    np.testing.assert_allclose(encoder.embed(patches), patches.mean(axis=(1, 2)), rtol=1e-5)
    assert counts == [64, 64, 2]


WRONG: dict[str, tuple[Callable[[NDArray[np.float32]], Any], str]] = {
    "a list": (lambda x: x.tolist(), "returns list, expected a NumPy array"),
    "nothing": (lambda x: None, "returns NoneType"),
    "float64": (lambda x: x.astype(np.float64), "returns float64, expected float32"),
    "another dim": (lambda x: x[:, :2], "returns the shape (2, 2), expected (2, 3) (n, dim)"),
    "fewer rows": (lambda x: x[:1], "returns the shape (1, 3)"),
    "pooled axes": (lambda x: x[:, :, None], "returns the shape (2, 3, 1)"),
    "NaN": (lambda x: x * np.float32("nan"), "returns numbers that are not finite"),
    "noise": (lambda x: x + np.random.default_rng().normal(0, 9, x.shape).astype("f4"), "evaluat"),
    "a mean over the batch": (lambda x: x - x[:1], "evaluation mode"),
    "an exit": (lambda x: sys.exit("bye"), "fails on 2 patches: SystemExit: bye"),
    "an error": (lambda x: 1 / 0, "fails on 2 patches: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize(("change", "fact"), WRONG.values(), ids=WRONG.keys())
def test_wrong_features_are_one_line_that_names_the_package(
    install: Install, change: Callable[[NDArray[np.float32]], Any], fact: str
) -> None:
    class Wrong(MeanColour):
        def embed(self, patches: NDArray[np.uint8]) -> Any:
            return change(super().embed(patches))

    install("painters", {"mean-colour": Wrong})
    assert fact in refusal()


def test_features_that_are_wrong_later_are_an_error_of_the_slide(install: Install) -> None:
    class Late(MeanColour):
        def embed(self, patches: NDArray[np.uint8]) -> Any:
            features = super().embed(patches)
            return features[:5]

    install("painters", {"mean-colour": Late})
    encoder = load("mean-colour")
    with pytest.raises(StoredFileError, match=r"package painters returns the shape \(5, 3\)"):
        encoder.embed(random_patches(6, 32))


def test_an_interrupt_is_not_taken_for_an_error_of_the_package(install: Install) -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    install("painters", {"mean-colour": interrupt})
    with pytest.raises(KeyboardInterrupt):
        load("mean-colour")


# -- what it states --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        ({"name": "colour"}, "has the spec.name 'colour', expected the name of its entry point"),
        ({"digest": ""}, "without spec.digest"),
        ({"digest": None, "mpp": None}, "without spec.mpp, spec.digest"),
        ({"dim": 0}, "has a wrong spec: dim"),
        ({"patch_px": 1 << 20}, "has a wrong spec: patch_px"),
        ({"mpp": -1}, "has a wrong spec: mpp"),
        ({"mpp": "half"}, "has a wrong spec: mpp"),
        ({"digest": "a\nb"}, "has a wrong spec: digest"),
        ({"dim": 4}, "returns the shape (2, 3), expected (2, 4)"),
    ],
)
def test_a_wrong_spec_is_one_line(install: Install, other: dict[str, Any], fact: str) -> None:
    install("painters", {"mean-colour": lambda: MeanColour(**other)})
    assert fact in refusal()


@pytest.mark.parametrize("build", [object, dict, lambda: None])
def test_what_is_no_encoder_is_refused(install: Install, build: Callable[[], Any]) -> None:
    install("painters", {"mean-colour": build})
    assert "not an encoder" in refusal()


def test_a_package_that_cannot_be_loaded_is_one_line(install: Install, tmp_path: Path) -> None:
    def need(argument: str) -> None:
        """An entry point that needs an argument."""

    install("painters", {"mean-colour": need, "broken": fail, "quits": sys.exit})  # type: ignore[dict-item]
    assert "cannot be loaded: TypeError" in refusal()
    assert "cannot be loaded: AssertionError: it was loaded" in refusal("broken")
    assert "cannot be loaded: SystemExit" in refusal("quits")
    del sys.modules["painters_module"]
    assert re.search("cannot be loaded: ModuleNotFoundError: .*painters_module", refusal())


def test_a_spec_may_have_attributes_instead_of_keys(install: Install) -> None:
    class Spec:
        name, patch_px, mpp, dim, digest = "mean-colour", 32, 0.5, 3, DIGEST

    class WithAttributes(MeanColour):
        def __init__(self) -> None:
            self.spec = Spec()  # type: ignore[assignment]

    install("painters", {"mean-colour": WithAttributes})
    assert load("mean-colour").spec.digest == DIGEST


# -- opened again ----------------------------------------------------------------------------------


def test_it_is_loaded_again_by_its_spec_and_another_digest_is_refused(install: Install) -> None:
    install("painters", {"mean-colour": MeanColour})
    spec = load("mean-colour").spec
    assert reload_plugin(spec).spec == spec
    with pytest.raises(UsageError, match=r"is not that of the features: weights 0{32} and 0123"):
        reload_plugin(spec.model_copy(update={"digest": "0" * 32}))
    with pytest.raises(UsageError, match="made by the package others 2"):
        reload_plugin(spec.model_copy(update={"weights": "others 2.0"}))
