"""Cells of a cohort file: what a person or a spreadsheet may write for a column or a value."""

from __future__ import annotations

import re
import unicodedata

_CASE_NAMES = frozenset(
    f"{who}{what}"
    for who in (
        "case",
        "cases",
        "patient",
        "patients",
        "subject",
        "participant",
        "donor",
        "person",
        "animal",
        "individual",
    )
    for what in (
        *("", "id", "no", "nr", "num", "number", "name", "code", "key", "barcode", "submitterid"),
        *("identifier", "uid", "uuid"),
    )
) | {"bcrpatientbarcode", "pat", "patid", "patno", "patnr", "pid", "mrn"}
"""Names of a column that says whose slide it is, without capitals, spaces and marks."""

_FOLD_NAMES = frozenset({"fold", "folds", "foldid", "foldno", "cvfold", "kfold"})

_MISSING = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "-nan", "none", "null", "<na>", "nat", "\\n", "?", "."}
    | {"#n/a", "#n/a n/a", "#na", "#nv", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
    | {"#ref!", "#bezug!", "#value!", "#wert!", "#name?", "#div/0!", "#num!", "#zahl!", "#null!"}
)
"""What pandas, R, SAS, databases and Excel write where there is no value, in small letters."""

_DOUBTFUL = frozenset(
    {"unknown", "unclear", "undetermined", "missing", "blank", "empty", "exclude", "excluded"}
    | {"tbd", "nd", "unbekannt", "ka", "notavailable", "notapplicable", "notknown", "notdone"}
)
"""Labels that may stand for no label, as `_merge_joints` writes them."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development", "tune", "tuning"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

_NUMBER = re.compile(r"[+-]?(\d{1,40}([.,]\d{0,40})?|[.,]\d{1,40})(e[+-]?\d{1,3})?", re.IGNORECASE)
_TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}

_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03b1\u03bf\u03c1\u03bd\u03b9",
    "aeopcyxijsaopvi",
)
"""Cyrillic and Greek small letters that look as Latin ones do."""

_WHOLE = re.compile(r"(\d{1,100})([.,]0*)?")


def name_column(text: str) -> str:
    """Return the name of a column in milpath: "Slide ID" is slide_id, "PATIENT" is case.

    A name that is not known stays as it is.
    """
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text[:100]).casefold())
    if plain in _CASE_NAMES:
        return "case"
    if plain in _FOLD_NAMES:
        return "fold"
    known = {"slideid": "slide_id"} | {
        name: name for name in ("slide", "label", "mpp", "split", "site")
    }
    return known.get(plain, text)


def read_value(text: str) -> str | None:
    """Return a cell's text without spaces around it; None where it says that there is no value."""
    text = text.strip().strip("\ufeff\u200b").strip()
    return None if text.casefold() in _MISSING else text


def read_number(text: str) -> float | None:
    """Return a number written with a point or a decimal comma; None if it is not one."""
    if not _NUMBER.fullmatch(text):
        return None
    return float(text.replace(",", "."))


def read_split(text: str) -> str | None:
    """Return train, val or test for any usual name of it; None if it is none."""
    return _SPLITS.get(text.casefold())


def label_key(label: str) -> str:
    """Return what labels have in common that differ only in writing, or are the same number."""
    plain = _plain(label.replace("_", " ")).strip("'\"")
    truth = _TRUTH.get(plain)
    number = read_number(plain) if truth is None else truth
    if number is not None:
        return repr(number + 0.0)
    joined = _merge_joints(plain).rstrip(".,;:")
    return joined.replace("our", "or").replace("ae", "e").replace("oe", "e")  # British, American


def is_doubtful_label(label: str) -> bool:
    """Return whether a label may mean that the slide has none: "unknown", "missing", "n.d."."""
    return re.sub(r"[.\s]", "", _merge_joints(_plain(label))) in _DOUBTFUL


def case_key(case: str) -> str:
    """Return what cases have in common that differ only in writing: P7, p-07.

    Other than of labels, of numbers only 7, 07 and 7.0 are the same: 7.1 and 7.10 may be two.
    """
    plain = _plain(case)
    whole = _WHOLE.fullmatch(plain)
    return (whole[1].lstrip("0") or "0") if whole else _merge_joints(plain)


def show_apart(one: str, two: str) -> str:
    """Show two values in a message; letters by their codes if both would look the same."""
    looks = {unicodedata.normalize("NFC", text).translate(_ALIKE) for text in (one, two)}
    return f"{one!a} and {two!a}" if len(looks) == 1 else f"{one!r} and {two!r}"


def _plain(text: str) -> str:
    """Fold capitals, Unicode forms, dashes, quotes and invisible letters; drop most spaces."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join("-" if unicodedata.category(one) == "Pd" else one for one in text)
    text = "".join(one for one in text if unicodedata.category(one) != "Cf")
    text = re.sub("[\u2018\u2019\u00b4`]", "'", text).replace("\u2212", "-").translate(_ALIKE)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "\0", text)  # "1 12" is not "11 2"
    return re.sub(r"\s+", "", text).replace("\0", " ")


def _merge_joints(plain: str) -> str:
    """Drop hyphens and underscores beside a letter, but not at an end, and zeros before a number.

    HER2- and HER2+ stay, as do 1-12 and 11-2.
    """
    plain = re.sub(r"(?<=[^\W\d_])[-_]+(?=\w)|(?<=[^\W_])[-_]+(?=[^\W\d_])", "", plain)
    return re.sub(r"(?<=[^\W\d_])0+(?=\d)", "", plain)
