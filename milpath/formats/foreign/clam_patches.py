"""How large CLAM's patches are: attributes of the coordinates in `patches/<slide>.h5`."""

from __future__ import annotations

from pathlib import Path

from milpath.formats.foreign.h5 import get_size, get_whole
from milpath.store.foreign import ForeignH5, open_foreign_h5

_IMAGES = "imgs"  # of patches, as CLAM stored them before 2021


def find_patches(folder: Path, slide_id: str) -> Path | None:
    """Return the file of a slide in `patches`, None without it.

    Parameters
    ----------
    folder : that holds CLAM's folders of features; `patches` lies in it or beside it
    slide_id : of the slide
    """
    places = (folder / "patches", folder.parent / "patches")
    paths = (each / f"{slide_id}.h5" for each in places)
    return next((path for path in paths if path.is_file()), None)


def read_patch_size(path: Path, count: int) -> tuple[int | None, float | None]:
    """Return the edge of a slide's patches, in pixels of their level and of level 0, if known.

    Parameters
    ----------
    path : of the slide's file in `patches`
    count : of its features

    Raises
    ------
    StoredFileError : it is of other patches than the features
    """
    with open_foreign_h5(path) as h5:
        if "coords" not in h5:
            return None, None
        found = h5.shape("coords")[0] if h5.shape("coords") else 0
        if found != count:
            raise h5.refuse(f"has {found} patches, but there are features of {count}")
        if _IMAGES in h5 and h5.dataset_attr(_IMAGES, "patch_level") not in (None, 0):
            raise h5.refuse("its coordinates are of another level, expected those of level 0")
        return read_size(h5)


def read_size(h5: ForeignH5) -> tuple[int | None, float | None]:
    """Return what the attributes of `coords` say of the edge of a patch.

    Returns
    -------
    Pixels of the patch as it was read, and level-0 pixels; None where it is not stated.
    """
    stated = h5.dataset_attr("coords", "patch_size")
    if stated is None:
        return None, None
    edge = get_whole(stated)
    if edge is None or edge >= 1 << 16:
        raise h5.refuse(f"attribute 'patch_size' of 'coords' is {stated}, expected pixels")
    scale = _read_scale(h5)
    return edge, None if scale is None else edge * scale


def _read_scale(h5: ForeignH5) -> float | None:
    """Return level-0 pixels per pixel of a patch, along x."""
    scale = h5.dataset_attr("coords", "downsample")
    if isinstance(scale, list | tuple):
        scale = scale[0] if scale else None
    if h5.dataset_attr("coords", "patch_level") == 0:
        scale = 1.0
    more = h5.dataset_attr("coords", "custom_downsample")
    first, second = get_size(scale), get_size(1.0 if more is None else more)
    if first is None or second is None or not 1 <= first * second < 1 << 16:
        return None
    return first * second
