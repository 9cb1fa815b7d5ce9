"""Cohort files as spreadsheets and people write them: read as meant, or refused with the line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from milpath.cohort.cohort import Cohort, gather_slides, read_cohort
from milpath.errors import UsageError


def write(folder: Path, text: str, name: str = "c.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- columns ---------------------------------------------------------------------------------------

CASES = [
    "patient", "patient_id", "case_id", "PATIENT", "Patient ID", "Case", "patientId", "Patient-No.",
    "CASE_ID", "subject", "Subject ID", "donor", "Patient Identifier",
    "patient_uuid", "individual", "participant_id", "caseid", "case_submitter_id",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case_by_another_name_is_taken_and_said_once(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, f"slide,label,{name}\na.svs,x,p1\nb.svs,y,p1\n")
    assert read_cohort(path).cases() == ["p1", "p1"]
    expected = [] if name == "Case" else [f"c.csv: the case of each slide is taken from {name!r}"]
    assert [line.replace("column ", "") for line in said(caplog)] == expected


@pytest.mark.parametrize("header", ["case,patient", "patient,case", "Patient ID,case_id"])
def test_two_columns_that_name_different_cases_raise(header: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"slide,{header}\na.svs,c1,c1\nb.svs,c2,c3\n")
    with pytest.raises(UsageError, match=r"^c\.csv, line 3: .* is 'c[23]' but .* is 'c[23]'"):
        read_cohort(path)


def test_two_columns_that_agree_fill_each_other(tmp_path: Path) -> None:
    path = write(tmp_path, "slide,patient,case\na.svs,P1,p1\nb.svs,p1,NA\nc.svs,,p3\nd.svs,nan,\n")
    with pytest.raises(UsageError, match="cases 'P1' and 'p1' differ"):
        read_cohort(write(tmp_path, "slide,patient,case\na.svs,,P1\nb.svs,p1,\n", "d.csv"))
    assert [entry.case for entry in read_cohort(path).entries] == ["p1", "p1", "p3", None]


def test_columns_that_are_not_used_are_listed_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_cohort(write(tmp_path, ",slide,Stain,label,scan\x1bner\n0,a.svs,HE,x,A\n1,b.svs,HE,y,B\n"))
    assert said(caplog) == [
        r"c.csv: not used: columns number 1, which has no name, 'Stain', 'scan\\x1bner'"
    ]


@pytest.mark.parametrize("name", ["fold", "Fold", "FOLDS", "cv_fold"])
def test_a_column_of_folds_is_not_ignored_silently(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_cohort(write(tmp_path, f"slide,case,{name}\na.svs,p,0\nb.svs,q,1\n"))
    (line,) = said(caplog)
    assert line.startswith(f"c.csv: not used: column {name!r}; --folds draws")


def test_a_plain_cohort_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_cohort(write(tmp_path, "slide,slide_id,label,case,mpp,split,site\na,b,c,d,1,train,f\n"))
    assert said(caplog) == []


@pytest.mark.parametrize(
    "header",
    ["Slide;Label;MPP", " SLIDE ; label;Mpp ", '"Slide";"Label";"mpp"', "\ufeffslide;label;mpp"],
)  # fmt: skip
def test_capitals_and_spaces_of_headings_do_not_matter(header: str, tmp_path: Path) -> None:
    (entry,) = read_cohort(write(tmp_path, f"{header}\na.svs;x;0,25\n")).entries
    assert (entry.slide_id, entry.label, entry.mpp) == ("a", "x", 0.25)


def test_the_slide_id_in_capitals_is_the_id(tmp_path: Path) -> None:
    (entry,) = read_cohort(write(tmp_path, "Slide,Slide ID\na.svs,one\n")).entries
    assert entry.slide_id == "one"


@pytest.mark.parametrize("header", ["slide,Slide", "label,slide,LABEL", "slide,Case,case"])
def test_a_column_in_two_spellings_raises(header: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="duplicated column"):
        read_cohort(write(tmp_path, f"{header}\na,b,c\n"))


# -- labels and missing values ---------------------------------------------------------------------

ALIKE = [
    ("Tumour", "tumour"), ("1", "1.0"), ("1", "01"), ("0", "-0.0"), ("1,0", "1"), ("1e0", "1"),
    ("lung cancer", "lung  cancer"), ("lung cancer", "lungcancer"), ("lung_cancer", "Lung cancer"),
    ("é", "e\u0301"), ("STRASSE", "Straße"), ("non-tumour", "non\u2013tumour"),
    ("tu\u200bmour", "tumour"), ("\uff11", "1"), ("a\u00a0b", "a b"), ("Crohn's", "Crohn\u2019s"),
    ("tumour.", "tumour"), ("non-tumour", "non tumour"), ("non_tumour", "Nontumour"), ("T1", "T01"),
    ("tumor", "tumour"), ("leukaemia", "leukemia"), ("tum\u043eur", "tumour"), ("TRUE", "1"),
    ("no", "0"), ("'tumour'", "tumour"), ("grade-2", "grade 2"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_labels_that_differ_only_in_writing_raise(one: str, two: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'slide,label\na.svs,"{one}"\nb.svs,normal\nc.svs,"{two}"\n')
    with pytest.raises(UsageError, match=r"labels .* differ only in spelling \(lines 2 and 4\)"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("1", "2"),
        ("-1", "1"),
        ("+", "-"),
        ("1 12", "11 2"),
        ("grade 1", "grade 2"),
        ("1.1", "1.2"),
        ("HER2+", "HER2-"),
        ("1-12", "11-2"),
        ("T1", "T10"),
        ("yes", "no"),
        ("pT1a", "pT1b"),
    ],
)
def test_other_labels_are_classes_of_their_own(one: str, two: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"slide,label\na.svs,{one}\nb.svs,{two}\n")
    assert set(read_cohort(path).class_names) == {one, two}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("p1", "P1"),
        ("7", "7.0"),
        ("7", "007"),
        ("P 1", "P1"),
        ("é", "e\u0301"),
        ("P-001", "p1"),
        ("P_1", "P1"),
        ("TCGA-AA-3502", "TCGA_AA_3502"),
    ],
)
def test_cases_that_differ_only_in_writing_raise(one: str, two: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cases .* differ only in spelling \(lines 2 and 3\)"):
        read_cohort(write(tmp_path, f"slide,patient\na.svs,{one}\nb.svs,{two}\n"))


@pytest.mark.parametrize(("one", "two"), [("1.1", "1.10"), ("1_12", "11_2"), ("A-1", "A-11")])
def test_other_cases_stay_apart(one: str, two: str, tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, f"slide,case\na.svs,{one}\nb.svs,{two}\n"))
    assert cohort.cases() == [one, two]


MISSING = ["", "nan", "NaN", "NA", "N/A", "n/a", "None", "NULL", "null", "<NA>", "#N/A", " NA ",
           "NaT", "#REF!", "?", "\\N"]  # fmt: skip


@pytest.mark.parametrize("word", MISSING)
def test_missing_values_are_missing(word: str, tmp_path: Path) -> None:
    text = f"slide,slide_id,label,case,mpp,split,site\na.svs,{','.join([word] * 6)}\n"
    (entry,) = read_cohort(write(tmp_path, text)).entries
    assert entry.slide_id == "a"
    assert {entry.label, entry.case, entry.mpp, entry.split, entry.site} == {None}
    with pytest.raises(UsageError, match="line 2: the slide is empty"):
        read_cohort(write(tmp_path, f"slide,label\n{word},x\n"))


def test_words_for_a_missing_value_are_no_label(tmp_path: Path) -> None:
    text = "slide,label\na.svs,nan\nb.svs,x\nc.svs,NA\nd.svs,y\ne.svs,\n"
    found = read_cohort(write(tmp_path, text))
    assert [entry.label for entry in found.entries] == [None, "x", None, "y", None]
    assert found.class_names == ("x", "y")


def test_a_class_named_as_if_the_label_were_missing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "slide,label\na,Unknown\nb,n.d.\nc,not available\nd,tumour\ne,-\nf,end\n"
    read_cohort(write(tmp_path, text)).report_labels()
    assert said(caplog) == [
        "c: taken as classes: 'Unknown', 'n.d.', 'not available'; if a slide so marked has no "
        "label, leave its cell empty"
    ]


def labelled(tmp_path: Path, cases: list[str]) -> Cohort:
    rows = [f"{number}.svs,{case}\n" for number, case in enumerate(cases)]
    return read_cohort(write(tmp_path, "slide,case\n" + "".join(rows)))


def test_slides_without_a_case_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled(tmp_path, ["p", "q"]).report_cases()
    assert said(caplog) == []
    labelled(tmp_path, ["", "nan"]).report_cases()
    labelled(tmp_path, ["p", "nan", "", "q"]).report_cases()
    none, some = said(caplog)
    assert "no case is given: each slide counts as a case of its own" in none
    assert "2 slides have no case, and each counts as a case of its own: 1, 2" in some


def test_slides_without_an_mpp_are_said_where_others_have_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gather_slides([write(tmp_path, "slide,mpp\na.svs,0.5\nb.svs,NA\nc.svs,\n")])
    assert "2 slides have no mpp there; that of the file is used: b, c" in said(caplog)[0]


# -- spreadsheets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "slide,label\na.svs,x\nb.svs,y\n,\n,\n",
        "slide,label,,\na.svs,x,,\nb.svs,y,,\n",
        "slide,label,,\na.svs,x\nb.svs,y,,,,\n",
        ",,\nslide,label,\na.svs,x,\n,,\nb.svs,y,\n , ,\n",
        "sep=;\nslide;label\na.svs;x\nb.svs;y\n",
        '"sep=,"\nslide,label\na.svs,x\nb.svs,y\n',
        ",slide,,label\n,a.svs,,x\n,b.svs,,y\n",
        'slide;"label"\na.svs;x\nb.svs;y\n',
        "slide\tlabel\t\na.svs\tx\t\n\t\t\nb.svs\ty\t\n",
    ],
)
def test_what_excel_leaves_empty_is_ignored(text: str, tmp_path: Path) -> None:
    found = read_cohort(write(tmp_path, text)).entries
    assert [(entry.slide_id, entry.label) for entry in found] == [("a", "x"), ("b", "y")]


def test_a_row_with_a_value_but_no_slide_still_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"c\.csv, line 5: the slide is empty"):
        read_cohort(write(tmp_path, "slide,label\na.svs,x\n,\n,\n,y\n"))


@pytest.mark.parametrize(
    "text",
    ["slide;mpp\na;0,2525\n", 'slide,mpp\na,"0,2525"\n', "slide\tmpp\na\t0,2525\n"],
)  # fmt: skip
def test_decimal_commas_are_read(text: str, tmp_path: Path) -> None:
    assert read_cohort(write(tmp_path, text)).entries[0].mpp == 0.2525


def test_a_number_as_programs_write_it_is_read_in_full(tmp_path: Path) -> None:
    (entry,) = read_cohort(write(tmp_path, "slide,mpp\na,0.25251234567890123\n")).entries
    assert entry.mpp == 0.25251234567890123


@pytest.mark.parametrize(
    ("word", "split"),
    [("train", "train"), ("Training", "train"), ("VAL", "val"), ("validation", "val"),
     ("Valid", "val"), ("dev", "val"), ("tuning", "val"), ("test", "test"), ("Testing", "test")],
)  # fmt: skip
def test_the_usual_names_of_the_sets_are_read(word: str, split: str, tmp_path: Path) -> None:
    assert read_cohort(write(tmp_path, f"slide,Split\na,{word}\n")).entries[0].split == split


def test_a_case_in_two_sets_is_found_by_any_name(tmp_path: Path) -> None:
    text = "slide,Patient ID,split\na,p,Training\nb,q,dev\nc,p,validation\n"
    with pytest.raises(UsageError, match=r"case 'p' is in train and val; .* \(lines 2 and 4\)"):
        read_cohort(write(tmp_path, text))


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (r"slides\a.svs", "slides/a.svs"),
        (r".\slides\a.svs", "slides/a.svs"),
        (r"slides\sub/a.svs", "slides/sub/a.svs"),
    ],
)
def test_windows_paths_are_understood(given: str, path: str, tmp_path: Path) -> None:
    (entry,) = read_cohort(write(tmp_path, f"slide\n{given}\n")).entries
    assert (entry.path, entry.slide_id) == (tmp_path / path, "a")


def test_a_windows_drive_gives_the_id_all_the_same(tmp_path: Path) -> None:
    (entry,) = read_cohort(write(tmp_path, "slide\nD:\\study\\a.svs\n")).entries
    assert entry.slide_id == "a"


def test_a_file_whose_name_holds_a_backslash_is_found(tmp_path: Path) -> None:
    (tmp_path / "x\\a.svs").touch()
    (entry,) = read_cohort(write(tmp_path, "slide,slide_id\nx\\a.svs,a\n")).entries
    assert entry.path == tmp_path / "x\\a.svs"


def test_two_rows_with_the_same_id_name_their_lines(tmp_path: Path) -> None:
    text = "slide\nx/a.svs\n\ny/a.svs\n"
    with pytest.raises(UsageError, match=r"lines 2 and 4 have the same slide id 'a'; give each"):
        read_cohort(write(tmp_path, text))
    found = read_cohort(write(tmp_path, text), ids_from_path=True)
    assert [entry.slide_id for entry in found.entries] == ["x__a", "y__a"]
