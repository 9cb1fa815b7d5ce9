"""Table of malicious and damaged bags, predictions and weights, with and without valid footers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milpath.errors import StoredFileError
from milpath.formats.bag import Bag, encode_patch, write_bag
from milpath.formats.features import write_features
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.formats.prediction import Prediction, read_prediction, write_prediction
from milpath.formats.space import fit_space, read_space, save_space
from milpath.params import GridParams, TileParams
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts
from milpath.store import open_h5, publish_h5
from milpath.store.foreign import open_foreign_h5
from support.untrusted.tamper import Index, edited, tamper, write_footer_with
from support.untrusted.watch import Case

FACTS = SlideFacts("s", "aperio", 4000, 3000, 0.25, 0.25, "slide", 40.0, "c0ffee")
PARAMS = TileParams(grid=GridParams(mpp=0.5, patch_px=32))
_MODIFIED = "modified outside milpath"
CANARY = "canary in a file"

Plant = Callable[[h5py.File, Path], object]


# -- valid files, and how they are read ------------------------------------------------------------


def _grid() -> PatchGrid:
    coords = np.stack([np.arange(6) * 64 + 20, np.full(6, 40)], axis=1)
    return PatchGrid(coords, 32, 64, 64, (20, 40), 0.5, 0)


def _write_bag(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    patches = ((row, encode_patch(each, PARAMS.pixels)) for row, each in enumerate(pixels))
    write_bag(path, FACTS, _grid(), "bright", patches, PARAMS)


def _write_features(path: Path) -> None:
    source = path.with_name("source.h5")
    _write_bag(source)
    encoder = EncoderSpec(name="small", patch_px=32, dim=8, mpp=0.5, digest="abc")
    with Bag(source) as bag:
        write_features(path, bag, [np.eye(6, 8)], encoder)
    source.unlink()


def _write_prediction(path: Path) -> None:
    attention = np.full((2, 6), 1 / 6)
    prediction = Prediction(
        member_attention=attention,
        member_contributions=np.ones((2, 6, 2)),
        member_bias=np.zeros((2, 2)),
        slide=FACTS,
        grid=_grid(),
        status="ok",
        class_names=("normal", "tumour"),
        model="abc",
    )
    write_prediction(path, prediction)


def _write_weights(path: Path) -> None:
    with publish_h5(path, "weights") as h5:
        h5.attrs["model"] = ""
        h5["00000"], h5["00001"] = np.ones((3, 4), np.float32), np.float32(1)


def read_bag(path: Path) -> None:
    """Read everything in a bag."""
    with Bag(path) as bag:
        for _ in bag.iter_patches(4):
            pass


def read_features(path: Path) -> None:
    """Read everything in a file of features that has its checksums."""
    with open_h5(path, "features"):
        pass
    with MilpathLayout().open(path, FeatureHints()) as slide:
        slide.features[:]
        slide.features[np.array([0, 3])]


def read_all_of_prediction(path: Path) -> None:
    """Read everything in a prediction."""
    _ = read_prediction(path).probs


def read_weights(path: Path) -> None:
    """Read the two weights of a network, as the loader of a model does."""
    with open_h5(path, "weights") as h5:
        if h5.require_attr("model") != "" or "00002" in h5:
            raise h5.refuse("another model")
        h5.read("00000", "float32", (3, 4))
        h5.read("00001", "float32", ())


def _write_space(path: Path) -> None:
    save_space(path, fit_space([np.eye(4), np.eye(4)[:3] * 2]), "model")


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "bag": (_write_bag, read_bag, "coords"),
    "features": (_write_features, read_features, "features"),
    "prediction": (_write_prediction, read_all_of_prediction, "member_bias"),
    "weights": (_write_weights, read_weights, "00000"),
    "space": (_write_space, read_space, "axes"),
}
"""How each kind is written and read, and one of its required datasets."""


@cache
def valid_bytes(kind: str) -> bytes:
    """Return the bytes of a valid file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        KINDS[kind][0](path)
        return path.read_bytes()


def _write_valid(kind: str, folder: Path) -> Path:
    path = folder / "x.h5"
    path.write_bytes(valid_bytes(kind))
    return path


def hdf5_cases() -> Iterator[Case]:
    """Yield every invalid file of each kind, and the valid ones."""
    for kind, (_, read, needed) in KINDS.items():
        for name, write, words in _ways(kind, needed):
            yield Case(f"{kind} {name}", write, read, accepted=name == "valid", words=words)


def foreign_cases() -> Iterator[Case]:
    """Yield the same files, each read as the file of another program."""
    for case in hdf5_cases():
        yield replace(case, read=read_as_foreign, accepted=None, words="")


def read_as_foreign(path: Path) -> None:
    """Read every dataset of a file that can be read, and no byte of another file."""
    refused = []
    with open_foreign_h5(path) as h5:
        for name in h5.names:
            try:
                values = h5.read(name, h5.dtype(name), h5.shape(name))
                if CANARY.encode() in values.tobytes():
                    raise ValueError(f"{name} holds the contents of another file")
            except StoredFileError as error:
                refused.append(error)
    if refused:
        raise refused[0]


def _ways(kind: str, needed: str) -> Iterator[tuple[str, Callable[[Path], Path], str]]:
    """Yield the name of a case, a function that writes it, and a part of the expected message."""
    yield "valid", partial(_write_valid, kind), ""
    for name, plant in PLANTS.items():
        yield f"planted {name}", partial(_write_planted, kind, partial(plant, needed)), _MODIFIED
    for name, (change, words) in FORGED.items():
        yield f"forged {name}", partial(_write_forged, kind, partial(change, needed)), words
    for name, (fault, words) in FAULTS.get(kind, {}).items():
        yield f"edited {name}", partial(_write_edited, kind, fault), words
    for name, index in INDICES.items():
        yield f"index {name}", partial(_write_index, kind, index), ""
    for name, contents in FILES.items():
        yield f"file {name}", partial(_write_file, kind, contents), ""
    for seed in range(20):
        yield f"flipped {seed}", partial(_write_flipped, kind, seed), ""
        yield f"cut {seed}", partial(_write_cut, kind, seed), ""


# -- features of HDF5, added with h5py: the files have no footer -----------------------------------


def _write_planted(kind: str, plant: Plant, folder: Path) -> Path:
    path = _write_valid(kind, folder)
    with h5py.File(path, "r+") as h5:
        plant(h5, folder)
    return path


def _external_link(name: str, h5: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = h5[name][()]
    del h5[name]
    h5[name] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _soft_link(name: str, h5: h5py.File, folder: Path) -> None:
    h5.move(name, "moved")
    h5[name] = h5py.SoftLink("/moved")


def _soft_cycle(name: str, h5: h5py.File, folder: Path) -> None:
    del h5[name]
    h5[name], h5["back"] = h5py.SoftLink("/back"), h5py.SoftLink(f"/{name}")


def _group_cycle(name: str, h5: h5py.File, folder: Path) -> None:
    group = h5.create_group("cycle")
    group["again"] = group
    del h5[name]
    h5[name] = group


def _external_storage(name: str, h5: h5py.File, folder: Path) -> None:
    (folder / "canary").write_text(CANARY * 40)
    shape, dtype = h5[name].shape, h5[name].dtype
    del h5[name]
    h5.create_dataset(
        name, shape, dtype, external=[(str(folder / "canary"), 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(name: str, h5: h5py.File, folder: Path) -> None:
    shape, dtype = h5[name].shape, h5[name].dtype
    with h5py.File(folder / "other.h5", "w") as other:
        other.create_dataset("x", shape, dtype)
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape)
    del h5[name]
    h5.create_virtual_dataset(name, layout)


def _instead(name: str, h5: h5py.File, folder: Path, **options: Any) -> None:
    del h5[name]
    h5.create_dataset(name, **options)


def _many_attributes(name: str, h5: h5py.File, folder: Path) -> None:
    scalar = h5py.h5s.create(h5py.h5s.SCALAR)
    for number in range(20_000):  # the low-level way: h5.attrs takes five times as long
        h5py.h5a.create(h5.id, f"a{number}".encode(), h5py.h5t.NATIVE_INT64, scalar)


def _many_datasets(name: str, h5: h5py.File, folder: Path) -> None:
    for number in range(1000):
        h5.create_dataset(f"d{number}", (1 << 30,), "f4", chunks=(1 << 20,))


def _deep(name: str, h5: h5py.File, folder: Path) -> None:
    group: Any = h5
    for _ in range(3000):
        group = group.create_group("g")


def _plugin(name: str, h5: h5py.File, folder: Path) -> None:
    space = h5py.h5s.create_simple((6, 2), (6, 2))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((6, 2))
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    del h5[name]
    h5py.h5d.create(h5.id, name.encode(), h5py.h5t.NATIVE_INT64, space, made)


def _long_text(name: str, h5: h5py.File, folder: Path) -> None:
    h5.create_dataset("text", data="x" * (10 << 20))


PLANTS: dict[str, Callable[[str, h5py.File, Path], None]] = {
    "external link": _external_link,
    "soft link": _soft_link,
    "cycle of links": _soft_cycle,
    "cycle of groups": _group_cycle,
    "external storage": _external_storage,
    "virtual": _virtual,
    "plugin filter": _plugin,
    "gzip": partial(_instead, data=np.zeros(1 << 20), compression="gzip"),
    "scale-offset": partial(_instead, data=np.zeros(999, "i8"), scaleoffset=0),
    "references": partial(_instead, shape=(6, 2), dtype=h5py.ref_dtype),
    "regions": partial(_instead, shape=(6, 2), dtype=h5py.regionref_dtype),
    "texts": partial(_instead, data=["a"] * 12),
    "ragged": partial(_instead, shape=(6,), dtype=h5py.vlen_dtype(np.int64)),
    "compound": partial(_instead, shape=(6, 2), dtype=[("x", "i8"), ("y", "f4")]),
    "enumeration": partial(_instead, shape=(6, 2), dtype=h5py.enum_dtype({"a": 1})),
    "opaque": partial(_instead, shape=(6, 2), dtype="V9"),
    "24 GB in 1.4 KB": partial(_instead, shape=(3 << 30,), dtype="f8", chunks=(1 << 20,)),
    "exabytes": partial(_instead, shape=(1 << 59,), dtype="u1", chunks=(1 << 20,)),
    "no size": partial(_instead, data=h5py.Empty("f8")),
    "1,000 x 4 GB": _many_datasets,
    "deep groups": _deep,
    "20,000 attributes": _many_attributes,
    "10 MB of text": _long_text,
}


# -- invalid contents with a valid footer ----------------------------------------------------------


def _write_edited(kind: str, change: Callable[[h5py.File], None], folder: Path) -> Path:
    path = _write_valid(kind, folder)
    with edited(path) as h5:
        change(h5)
    return path


def _attr(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda h5: h5.attrs.__setitem__(name, value)


def _data(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        attrs = dict(h5[name].attrs)
        del h5[name]
        h5[name] = value
        h5[name].attrs.update(attrs)

    return change


def _both(*changes: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        for each in changes:
            each(h5)

    return change


Faults = dict[str, tuple[Callable[[h5py.File], None], str]]

GEOMETRY_FAULTS: Faults = {
    "outside": (_data("coords", np.full((6, 2), 1 << 40)), "coords"),
    "negative": (_data("coords", np.full((6, 2), -44)), "coords"),
    "least": (_data("coords", np.full((6, 2), np.iinfo("i8").min)), "coords"),
    "off grid": (_data("coords", np.full((6, 2), 21)), "coords"),
    "floats": (_data("coords", np.full((6, 2), 20.0)), "coords"),
    "three columns": (_data("coords", np.full((6, 3), 20)), "coords"),
    "fewer": (_data("coords", np.tile((20, 40), (5, 1))), "shape"),
    "more": (_data("coords", np.tile((20, 40), (7, 1))), "shape"),
    "far apart": (
        _both(
            _attr("width_l0", (1 << 31) - 1), _attr("height_l0", (1 << 31) - 1),
            _attr("stride_l0", 1),
            _data("coords", np.array([[20, 40]] * 5 + [[2_000_000_000] * 2])),
        ),
        "coords",
    ),
    "huge slide": (_attr("width_l0", 1 << 62), "width_l0"),
    "no width": (_attr("width_l0", 0), "width_l0"),
    "negative side": (_attr("patch_size_l0", -64), "patch_size_l0"),
    "no stride": (_attr("stride_l0", 0), "stride_l0"),
    "huge patch": (_attr("patch_px", 1 << 30), "patch_px"),
    "mpp 0": (_attr("mpp_x", 0.0), "mpp_x"),
    "mpp text": (_attr("mpp_y", "1"), "mpp_y"),
    "source": (_attr("mpp_source", "hearsay"), "mpp_source"),
    "id up": (_attr("slide_id", "../../x"), "slide_id"),
    "id root": (_attr("slide_id", "/etc/passwd"), "slide_id"),
    "id option": (_attr("slide_id", "--help"), "slide_id"),
    "id device": (_attr("slide_id", "CON.h5"), "slide_id"),
    "id escape": (_attr("slide_id", "\x1b[2Jx"), "slide_id"),
    "id long": (_attr("slide_id", "x" * 100_000), "slide_id"),
    "vendor escape": (_attr("vendor", "\x1b]0;x\x07"), "vendor"),
    "hash number": (_attr("quickhash", 5), "quickhash"),
    "level": (_attr("level", -1), "level"),
}  # fmt: skip

BAG_FAULTS: Faults = {
    **GEOMETRY_FAULTS,
    "offsets back": (_data("patch_offsets", np.arange(7)[::-1].copy()), "patch_offsets"),
    "offsets far": (_data("patch_offsets", np.arange(7) << 50), "patch_offsets"),
    "offsets few": (_data("patch_offsets", np.arange(3)), "patch_offsets"),
    "patches noise": (
        lambda h5: h5["patches"].write_direct(np.full(h5["patches"].shape, 7, np.uint8)),
        "patch 0 is damaged",
    ),
    "patches text": (_data("patches", np.ones((6, 32, 32, 3), "i4")), "patch"),
    "params nested": (_attr("params", "[" * 100_000), "parameters"),
    "params text": (_attr("params", "{}" * 500_000), "parameters"),
    "params more": (_attr("params", '{"run": "rm"}'), "parameters"),
    "status": (_attr("status", "no_tissue"), "status"),
    "unreadable": (_attr("unreadable", "many"), "parameters"),
}

FEATURES_FAULTS: Faults = {
    **GEOMETRY_FAULTS,
    "features NaN": (_data("features", np.full((6, 8), np.nan, "f2")), "not all finite"),
    "features inf": (_data("features", np.full((6, 8), np.inf, "f2")), "features"),
    "features whole": (_data("features", np.ones((6, 8), "i4")), "features"),
    "features few": (_data("features", np.ones((5, 8), "f2")), "features"),
    "features flat": (_data("features", np.ones(6, "f2")), "one vector a slide"),
    "features wide": (_data("features", np.ones((6, 9), "f2")), "features"),
    "encoder nested": (_attr("encoder", "[" * 100_000), "encoder"),
    "encoder text": (_attr("encoder", "{}"), "encoder"),
    "encoder escape": (
        _attr("encoder", '{"name": "\\u001b[2J", "patch_px": 32, "dim": 8}'),
        "encoder",
    ),
    "params nested": (_attr("params", "[" * 100_000), "parameters"),
    "params text": (_attr("params", "{}" * 500_000), "parameters"),
    "params more": (_attr("params", '{"run": "rm"}'), "parameters"),
    "status": (_attr("status", "no_tissue"), "status"),
    "unreadable": (_attr("unreadable", "many"), "parameters"),
}

PREDICTION_FAULTS: Faults = {
    **GEOMETRY_FAULTS,
    "attention NaN": (_data("member_attention", np.full((2, 6), np.nan)), "numbers"),
    "attention sums": (_data("member_attention", np.ones((2, 6))), "numbers"),
    "attention below": (
        _data("member_attention", np.array([[2.0, -1, 0, 0, 0, 0]] * 2)),
        "numbers",
    ),
    "contributions inf": (_data("member_contributions", np.full((2, 6, 2), np.inf)), "numbers"),
    "contributions few": (_data("member_contributions", np.ones((2, 5, 2))), "member_contr"),
    "bias NaN": (_data("member_bias", np.full((2, 2), np.nan)), "numbers"),
    "bias ints": (_data("member_bias", np.ones((2, 2), "i8")), "member_bias"),
    "no members": (
        _both(
            _data("member_bias", np.ones((0, 2))), _data("member_attention", np.ones((0, 6))),
            _data("member_contributions", np.ones((0, 6, 2))),
        ),
        "numbers",
    ),
    "names nested": (_attr("class_names", "[" * 100_000), "class_names"),
    "names numbers": (_attr("class_names", "[1, 2]"), "class_names"),
    "names escape": (_attr("class_names", json.dumps(["a", "\x1b[31m"])), "class_names"),
    "names twins": (_attr("class_names", '["a", "a"]'), "class_names"),
    "names long": (_attr("class_names", json.dumps(["a", "b" * 900_000])), "class_names"),
    "unreadable": (_attr("unreadable", "many"), "unreadable"),
    "status": (_attr("status", "fine"), "status"),
}  # fmt: skip


FAULTS = {"bag": BAG_FAULTS, "features": FEATURES_FAULTS, "prediction": PREDICTION_FAULTS}


# -- forged footers --------------------------------------------------------------------------------


def _write_forged(kind: str, change: Callable[[Index], None], folder: Path) -> Path:
    path = _write_valid(kind, folder)
    tamper(path, change)
    return path


def _set(name: str, index: Index, **values: Any) -> None:
    index["datasets"][name].update(values)


FORGED: dict[str, tuple[Callable[[str, Index], None], str]] = {
    "elsewhere": (partial(_set, extents=[[1 << 40, 800]]), "declares more"),
    "beyond": (partial(_set, extents=[[0, 1 << 50]]), "declares more"),
    "24 GB": (partial(_set, shape=[3 << 29, 2]), "declares more"),
    "exabytes": (partial(_set, shape=[1 << 62, 1 << 62]), "declares more"),
    "digits": (partial(_set, shape=[10**4000]), "declares more"),
    "one place again": (partial(_set, extents=[[0, 4096]] * 10_000), "declares more"),
    "tiny pieces": (partial(_set, extents=[[k, 1] for k in range(5000)]), "declares more"),
    "nowhere": (partial(_set, extents=[]), "declares more"),
    "negative shape": (partial(_set, shape=[-6, 2]), "shape"),
    "negative place": (partial(_set, extents=[[-8, 96]]), "extents"),
    "50 axes": (partial(_set, shape=[1] * 50), "shape"),
    "objects": (partial(_set, dtype="|O"), "dtype"),
    "compound": (partial(_set, dtype="i8,f4"), "dtype"),
    "long type": (partial(_set, dtype="x" * (1 << 20)), "dtype"),
    "true": (partial(_set, shape=[True, True]), "shape"),
    "float": (partial(_set, shape=[6.0, 2.0]), "shape"),
    "attributes": (lambda name, index: index["attrs"].update(model=["x"]), "attrs.model"),
    "NaN": (lambda name, index: index["attrs"].update(mpp_x=float("nan")), "attrs.mpp_x"),
    "long text": (lambda name, index: index["attrs"].update(t="x" * (3 << 19)), "attrs.t"),
    "code": (lambda name, index: index.update(__reduce__="os.system"), "__reduce__"),
    "no datasets": (lambda name, index: index["datasets"].clear(), "missing"),
    "no attributes": (lambda name, index: index["attrs"].clear(), "did not write"),
    "another kind": (lambda name, index: index["attrs"].update(milpath_kind="x"), "a x file"),
    "kind escape": (lambda name, index: index["attrs"].update(milpath_kind="\x1b["), "expected a"),
    "newer": (lambda name, index: index["attrs"].update(milpath_format=99), "format 99"),
    "format text": (lambda name, index: index["attrs"].update(milpath_format="\n"), "format"),
    "field escape": (lambda name, index: index.update({"\x1b[2J\n": 1}), "footer"),
}  # fmt: skip


def _write_index(kind: str, index: Callable[[], bytes], folder: Path) -> Path:
    path = _write_valid(kind, folder)
    write_footer_with(path, index())
    return path


INDICES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "lists in lists": lambda: b"[" * 100_000,
    "objects in objects": lambda: b'{"attrs":' * 100_000,
    "shapes in shapes": lambda: b'{"attrs":{},"datasets":{"x":{"shape":' + b"[" * (1 << 20),
    "a million attributes": cache(
        lambda: json.dumps(
            {"attrs": {f"{k:x}": k for k in range(500_000)}, "datasets": {}}
        ).encode()[: 8 << 20]
    ),
    "many datasets": cache(
        lambda: json.dumps(
            {
                "attrs": {},
                "datasets": {
                    f"{k}": {"dtype": "|u1", "shape": [], "attrs": {}, "extents": [[0, 1]]}
                    for k in range(100_000)
                },
            }
        ).encode()
    ),
    "16 MB": lambda: b" " * (16 << 20),
    "bytes": lambda: bytes(range(256)) * 100,
    "incomplete character": lambda: b'{"attrs":{"\xc3":1}}',
    "surrogate": lambda: b'{"attrs":{"a":"\\ud800"},"datasets":{}}',
    "nothing": lambda: b"null",
    "a number": lambda: b"1" * 100_000,
}


# -- other files, and damage -----------------------------------------------------------------------


def _write_file(kind: str, contents: Callable[[bytes], bytes], folder: Path) -> Path:
    path = folder / "x.h5"
    path.write_bytes(contents(valid_bytes(kind)))
    return path


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "pickle": lambda data: b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "zip": lambda data: b"PK\x03\x04" + bytes(100),
    "footer of another file": lambda data: b"x" * 1000 + data[-40:],
    "only a footer": lambda data: data[-28:],
    "twice": lambda data: data + data,
    "bytes prepended": lambda data: b"x" * 512 + data,
    "zeros appended": lambda data: data + bytes(4096),
    "16 MB of zeros": lambda data: bytes(16 << 20),
}


def _write_flipped(kind: str, seed: int, folder: Path) -> Path:
    path = _write_valid(kind, folder)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(data)
    return path


def _write_cut(kind: str, seed: int, folder: Path) -> Path:
    path = _write_valid(kind, folder)
    path.write_bytes(path.read_bytes()[: int(len(valid_bytes(kind)) * seed / 20)])
    return path
