"""A cohort file is read in all its common forms, or the error names line and remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.drawing import noise, write_levels

from milpath.cohort.cohort import Cohort, SlideEntry, gather_slides, read_cohort
from milpath.errors import UsageError


def csv(folder: Path, text: str | bytes, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def ids(entries: list[SlideEntry] | tuple[SlideEntry, ...]) -> list[str]:
    return [entry.slide_id for entry in entries]


# -- reading ---------------------------------------------------------------------------------------


def test_all_columns_are_read(tmp_path: Path) -> None:
    text = (
        "site,slide,slide_id,label,case,mpp,split,stain\n"
        'Ulm,sub/a.svs,one,"big, bad",P1,0.25,train,HE\n,b.svs,,,,,val,\n'
    )
    cohort = read_cohort(csv(tmp_path, text))
    assert cohort.name == "cohort"
    assert cohort.entries == (
        SlideEntry(tmp_path / "sub/a.svs", "one", "big, bad", "P1", 0.25, "cohort", "train", "Ulm"),
        SlideEntry(tmp_path / "b.svs", "b", None, None, None, "slide", "val", None),
    )


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_common_csv_dialects_are_read_alike(
    tmp_path: Path, bom: bytes, end: str, mark: str
) -> None:
    lines = ["slide,label", "ä.svs, 1 ", "", "b.svs,0"]
    data = bom + end.join(line.replace(",", mark) for line in lines).encode()
    cohort = read_cohort(csv(tmp_path, data))
    assert [(e.slide_id, e.label) for e in cohort.entries] == [("ä", "1"), ("b", "0")]


def test_a_quoted_name_may_contain_the_delimiter(tmp_path: Path) -> None:
    cohort = read_cohort(csv(tmp_path, 'slide,label\n"a, b.svs","x ""y"""\n'))
    assert [(e.slide_id, e.label) for e in cohort.entries] == [("a, b", 'x "y"')]


def test_a_slides_path_may_be_absolute(tmp_path: Path) -> None:
    assert read_cohort(csv(tmp_path, "slide\n/d/a.svs\n")).entries[0].path == Path("/d/a.svs")


def test_the_cohort_s_resolution_is_used_and_its_source_recorded(tmp_path: Path) -> None:
    write_levels(tmp_path / "a.tif", [noise(300, 300)], mpp=None)
    (entry,) = read_cohort(csv(tmp_path, "slide,mpp\na.tif,0.3\n")).entries
    with entry.open() as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.3, 0.3), "cohort")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("b a c", "a b c"),
        ("10 9 1", "1 9 10"),
        ("2 x 1", "1 2 x"),
        ("nan b inf a 1 -inf", "1 -inf a b inf nan"),
    ],
)
def test_class_names_are_sorted_and_numbers_by_value(labels: str, expected: str) -> None:
    for given in (labels.split(), labels.split()[::-1]):
        entries = tuple(SlideEntry(Path(f"{i}"), str(i), label) for i, label in enumerate(given))
        assert Cohort("c", entries).class_names == tuple(expected.split())


def test_a_slide_without_a_case_is_a_case_of_its_own() -> None:
    entries = (SlideEntry(Path("a"), "a", case="P"), SlideEntry(Path("b"), "b"))
    assert Cohort("c", entries).cases() == ["P", "b"]


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "needs a column 'slide' in its first line, found nothing"),
    "no_slide": (
        "file,label\na,1\n",
        "needs a column 'slide' in its first line, found file, label",
    ),
    "only_header": ("slide,label\n", "contains no slides"),
    "twice": ("slide,label,label\na,1,1\n", "duplicated column 'label'"),
    "few": ("slide,label\na,1\nb\n", "3: wrong number of columns"),
    "many": ("slide,label\na,1,2\n", "2: wrong number of columns"),
    "after_blank": ("slide,label\n\n\na,1,2\n", "4: wrong number of columns"),
    "no_name": ("slide,label\n ,1\n", "2: the slide is empty"),
    "open_quote": ('slide,label\na,"x\nb,y\n', "3: not CSV"),
    "same": ("slide\nx/a.svs\ny/a.svs\n", "same slide id 'a'; give each its own in a slide_id"),
    "same_case": ("slide\na.svs\nA.svs\n", "same slide id"),
    "same_nfc": ("slide\n\u00e4.svs\na\u0308.svs\n", "same slide id"),
    "same_given": ("slide,slide_id\na.svs,b\nb.svs,\n", "same slide id 'b'"),
    "mpp_word": ("slide,mpp\na,fine\n", "2: mpp is 'fine', expected a number from 0.05 to 20"),
    "mpp_commas": ("slide;mpp\na;0,2,5\n", "mpp is '0,2,5'"),
    "mpp_unquoted": ("slide,mpp\na,0,25\n", "2: wrong number of columns; .* in quotes"),
    "mpp_underscore": ("slide,mpp\na,1_0\n", "mpp is '1_0'"),
    "mpp_zero": ("slide,mpp\na,0\n", "mpp is '0'"),
    "mpp_huge": ("slide,mpp\na,353\n", "mpp is '353'"),
    "mpp_inf": ("slide,mpp\na,inf\n", "mpp is 'inf'"),
    "split": ("slide,split\na,fit\n", "2: split is 'fit', expected train, val or test"),
    "split_part": ("slide,split\na,train\nb,\n", "split is given for some slides but not 'b'"),
    "straddle": (
        "slide,case,split\na,P,train\nb,P,test\n",
        "case 'P' is in test and train; all slides of a case must be in one set",
    ),
    "latin": ("slide,label\nä.svs,1\n".encode("latin-1"), r"not UTF-8 text \(byte 12\)"),
    "escape": (
        "slide,label\na.svs,\x1b[2Jx\n",
        r"2: label is '\\x1b\[2Jx', which has control characters",
    ),
    "zero": ("slide,case\na.svs,x\0\n", r"2: case is 'x\\x00', which has control characters"),
    "zero_path": (
        "slide\nd\0/a.svs\n",
        r"2: slide is 'd\\x00/a\.svs', which has control characters",
    ),
    "two_lines": ('slide\n"a\nb.svs"\n', "which has control characters or is too long"),
    "long_label": ("slide,label\na.svs," + "x" * 999 + "\n", "label is 'x{50}', .* or is too long"),
    "many_columns": ("a," * 99_999 + "\n", "found (a, ){33}a$"),
    "long_line": ("slide\n" + "a" * 200_000 + "\n", "2: not CSV"),
    "many_slides": ("slide\n" + "a\n" * 100_001, "more than 100,000 lines; split it"),
    "huge": (bytes((1 << 26) + 1), "larger than 64 MB, not a list of slides"),
    "utf16": ("slide,label\na.svs,1\n".encode("utf-16"), "not UTF-8 text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_cohort_raises_one_line(tmp_path: Path, fault: str) -> None:
    text, said = FAULTS[fault]
    with pytest.raises(UsageError, match=rf"^cohort\.csv[:,] .*{said}") as caught:
        read_cohort(csv(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "slide_id",
    ["a/b", "..", ".a", "-rf", "a\0b", "a\\b", "a:b", "x" * 201, "a\u2028b", "CON", "a."],
)
def test_an_id_that_is_not_a_valid_file_name_raises(tmp_path: Path, slide_id: str) -> None:
    with pytest.raises(
        UsageError, match="is not a valid file name; give another one in the column slide_id"
    ):
        read_cohort(csv(tmp_path, f'slide,slide_id\na.svs,"{slide_id}"\n'))


@pytest.mark.parametrize("slide", ["-a.svs", ".hidden.svs", "a:b.svs"])
def test_a_file_stem_that_is_not_a_valid_id_raises(tmp_path: Path, slide: str) -> None:
    with pytest.raises(UsageError, match="is not a valid file name"):
        read_cohort(csv(tmp_path, f"slide\n{slide}\n"))


def test_a_missing_cohort_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read \(No such file"):
        read_cohort(tmp_path / "none.csv")


# -- gathering -------------------------------------------------------------------------------------


def test_a_folder_is_searched_recursively(tmp_path: Path) -> None:
    for name in ("b.svs", "sub/deep/a.TIF", "c.txt", ".h.svs", "d.svs/e.ndpi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert ids(gather_slides([tmp_path])) == ["b", "e", "a"]


def test_files_folders_and_cohorts_may_be_mixed(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x.svs").touch()
    listed = csv(tmp_path, "slide,label\ny.svs,1\n")
    found = gather_slides([tmp_path / "z.svs", tmp_path / "f", listed])
    assert ids(found) == ["z", "x", "y"]
    assert found[2].label == "1"


def test_a_resolution_for_all_slides_replaces_the_cohort_s(tmp_path: Path) -> None:
    listed = csv(tmp_path, "slide,label,case,mpp,split,site\ny.svs,1,P,0.3,val,Ulm\n")
    (entry,) = gather_slides([listed], slide_mpp=0.5)
    assert entry == SlideEntry(tmp_path / "y.svs", "y", "1", "P", 0.5, "option", "val", "Ulm")


@pytest.mark.parametrize("mpp", [0.0, -1.0, 353.0, float("nan")])
def test_an_implausible_resolution_for_all_slides_raises(tmp_path: Path, mpp: float) -> None:
    with pytest.raises(UsageError, match=r"--slide-mpp is .*, expected 0\.05 to 20"):
        gather_slides([tmp_path / "a.svs"], slide_mpp=mpp)


def test_a_folder_without_slides_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"no slide in this folder; expected files named .*\.svs"):
        gather_slides([tmp_path])


def test_two_slides_with_the_same_id_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same slide id 'a'"):
        gather_slides([tmp_path / "x" / "a.svs", tmp_path / "y" / "a.tif"])


def test_dicom_files_that_are_not_slides_are_one_entry_each(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(b"no dicom")
    assert ids(gather_slides([tmp_path])) == ["a", "b"]


def test_the_levels_of_a_dicom_slide_are_one_entry(shared_data: Path, tmp_path: Path) -> None:
    (entry,) = gather_slides([shared_data / "slides" / "dicom_cmu_multilevel"])
    assert entry.slide_id == "dicom_cmu_multilevel"
    assert entry.path.suffix == ".dcm"
    shutil.copytree(shared_data / "slides" / "dicom_cmu_multilevel", tmp_path / "d")
    os.chmod(tmp_path / "d", 0o755)  # noqa: PTH101
    shutil.copy(shared_data / "broken" / "not_a_slide.dcm", tmp_path / "d" / "z.dcm")
    assert len(gather_slides([tmp_path])) == 2


def test_a_real_cohort_is_read_by_its_csv_and_by_its_folder(shared_data: Path) -> None:
    cohort = read_cohort(shared_data / "cohort" / "labels.csv")
    assert cohort.class_names == ("0", "1")
    assert all(entry.path.is_file() and entry.mpp_source == "cohort" for entry in cohort.entries)
    assert len(set(cohort.cases())) < len(cohort.entries) == 19
    found = gather_slides([shared_data / "cohort"])
    assert sorted(ids(found)) == sorted(ids(cohort.entries))


def test_a_case_in_two_spellings_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cases 'p1' and 'P1' differ only in spelling"):
        read_cohort(csv(tmp_path, "slide,case\na.svs,p1\nb.svs,P1\n"))


def test_absolute_paths_include_the_annotation() -> None:
    entry = SlideEntry(Path("a.svs"), "a", annotation=Path("a.geojson")).absolute()
    assert entry.path == Path("a.svs").absolute()
    assert entry.annotation == Path("a.geojson").absolute()
    assert SlideEntry(Path("a.svs"), "a").absolute().annotation is None
