"""Health: labels derived from codes against a literal reading, nothing that tells them among the inputs, drug sets."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from manyheads.data.columns import Column, fitted
from manyheads.data.columns.ngrams import Ngrams
from manyheads.data.formats.diabetes130 import DRUGS, Diabetes130
from manyheads.data.formats.mimic import Mimic
from manyheads.data.icd import chapter, is_symptom, main_group
from manyheads.faults import ConfigError, DataError
from manyheads.metrics import Predicted, bootstrap, find

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "laws"))
from samples import diabetes130, lines, mimic  # noqa: E402


def _recipe(name):
    return yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


# -- codes


@pytest.mark.parametrize(
    ("code", "its_chapter", "its_group"),
    [
        ("250.83", "endocrine", "diabetes"), ("250", "endocrine", "diabetes"), ("25000", "endocrine", "diabetes"),
        ("272", "endocrine", "other"), ("428", "circulatory", "circulatory"), ("4280", "circulatory", "circulatory"),
        ("785", "symptoms", "circulatory"), ("786.05", "symptoms", "respiratory"), ("78791", "symptoms", "digestive"),
        ("788", "symptoms", "genitourinary"), ("780", "symptoms", "other"), ("799.9", "symptoms", "other"),
        ("8", "infectious", "other"), ("0389", "infectious", "other"), ("139", "infectious", "other"),
        ("140", "neoplasms", "neoplasms"), ("239", "neoplasms", "neoplasms"), ("800", "injury", "injury"),
        ("999", "injury", "injury"), ("715", "musculoskeletal", "musculoskeletal"), ("V45", "factors", "other"),
        ("E8889", "external", "other"), ("V45.81", "factors", "other"), ("600", "genitourinary", "genitourinary"),
    ],
)  # fmt: skip
def test_groups_of_codes(code, its_chapter, its_group):
    assert chapter(code) == its_chapter
    assert main_group(code) == its_group
    assert is_symptom(code) == (its_chapter == "symptoms")


@pytest.mark.parametrize("text", ["", "abc", "2 50", "250.8x", "0", "000", "1234.5", "V", "E8a", "123456"])
def test_what_is_no_code(text):
    with pytest.raises(ValueError, match="no ICD-9 code"):
        chapter(text)


# -- diabetes130


def test_stays_derived_by_hand(tmp_path):
    table = Diabetes130().frame(diabetes130(tmp_path).path)
    assert table["diagnosis"].fillna("missing").tolist() == ["diabetes", "circulatory", "other", "missing"]
    assert table["symptoms"].fillna(-1).tolist() == [-1, 1, 1, 0]
    assert table["readmitted_30"].tolist() == [0, 1, 0, 0]
    assert table["readmitted_any"].tolist() == [0, 1, 1, 0]
    assert table["a1c_high"].fillna(-1).tolist() == [-1, 0, 1, 1]
    assert table["glucose_high"].isna().all()
    assert table["insulin"].tolist() == [0, 1, 1, 1]
    assert table["age"].tolist() == [15, 25, 35, 45]
    assert table["race"].isna().all()
    every = Diabetes130(deceased="keep").frame(tmp_path / "stays.zip")
    assert every["diagnosis"].tolist()[-1] == "respiratory"
    with pytest.raises(ValueError, match="deceased"):
        Diabetes130(deceased="some")


def test_real_stays_against_a_literal_reading(data_root):
    path = data_root / "diabetes130" / "dataset_diabetes.zip"
    table = Diabetes130().frame(path).set_index("encounter_id")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("dataset_diabetes/diabetic_data.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    alive = [r for r in rows if r["discharge_disposition_id"] not in {"11", "13", "14", "19", "20", "21"}]
    assert len(table) == len(alive)
    assert table["patient_nbr"].nunique() == len({r["patient_nbr"] for r in alive})
    for row in alive[:: len(alive) // 300]:
        found = table.loc[int(row["encounter_id"])]
        assert found["readmitted_30"] == (row["readmitted"] == "<30")
        assert found["readmitted_any"] == (row["readmitted"] in ("<30", ">30"))
        result = {"None": None, "Norm": 0, ">7": 1, ">8": 1}[row["A1Cresult"]]
        assert np.isnan(found["a1c_high"]) if result is None else found["a1c_high"] == result
        second = [c for c in (row["diag_2"], row["diag_3"]) if c != "?"]
        signs = [c[0] not in "EV" and 780 <= int(float(c)) <= 799 for c in second]
        assert np.isnan(found["symptoms"]) if not second else found["symptoms"] == any(signs)
        for drug in ("insulin", "metformin", "glyburide-metformin"):
            assert found[drug] == (row[drug] != "No")
        assert found["time_in_hospital"] == int(row["time_in_hospital"])


def test_the_recipe_reads_nothing_that_tells_a_label():
    recipe = _recipe("diabetes130")
    inputs = set(recipe["features"]["only"])
    labels = {t for name, task in recipe["tasks"].items() for t in _targets(name, task)}
    telling = {"diag_1", "diag_2", "diag_3", "number_diagnoses", "change", "diabetesMed", "A1Cresult", "max_glu_serum"}
    assert not inputs & (labels | telling | set(DRUGS) | {"time_in_hospital", "readmitted", "glucose_high"})
    assert recipe["data"]["split"]["kind"] == "group"
    assert recipe["data"]["split"]["by"] == "patient_nbr"


def test_the_codes_do_not_leave_the_format(tmp_path):
    table = Diabetes130().frame(diabetes130(tmp_path).path)
    gone = {"diag_1", "diag_2", "diag_3", "change", "diabetesMed", "readmitted", "A1Cresult", "max_glu_serum"}
    assert not gone & set(table.columns)


def _targets(name, task):
    target = task.get("target", name)
    return [target] if isinstance(target, str) else target


# -- mimic


def test_stays_in_intensive_care_by_hand(tmp_path):
    table = Mimic(drugs=["heparin", "Insulin"]).frame(mimic(tmp_path).path)
    assert table["stay_days"].tolist() == [1.5, 1.0, 2.0]
    assert table["died"].tolist() == [0, 0, 1]
    assert table["age"].round(1).tolist() == [70.0, 71.0, 90.0]
    assert table["emergency"].tolist() == [1, 0, 1]
    assert table["operated"].tolist() == [0, 0, 1]
    assert table["diagnosis"].fillna("missing").tolist() == ["circulatory", "other", "missing"]
    # 785.52 is the second diagnosis of the first stay; 780.2 the first of the second, which is no sign beside it
    assert table["icd_symptoms"].fillna(-1).tolist() == [1, 0, -1]
    assert table["icd_circulatory"].fillna(-1).tolist() == [1, 0, -1]
    assert table["icd_factors"].fillna(-1).tolist() == [0, 1, -1]
    assert table["drug_heparin"].fillna(-1).tolist() == [1, -1, 0]
    assert table["drug_Insulin"].fillna(-1).tolist() == [1, -1, 0]


def test_the_demo_of_mimic(data_root):
    table = Mimic().frame(data_root / "mimic3_demo")
    assert len(table) == 129
    assert table["subject_id"].nunique() == 100
    assert table["died"].mean() == pytest.approx(0.310, abs=5e-4)
    assert table["stay_days"].median() == pytest.approx(6.4, abs=0.05)
    assert table["drug_Heparin"].isna().sum() == 7


def test_what_mimic_refuses(tmp_path):
    folder = mimic(tmp_path).path
    lines(folder / "DIAGNOSES_ICD.csv", "subject_id,hadm_id,seq_num,icd9_code\n7,100,1,4280\n7,100,2,78x")
    with pytest.raises(DataError, match=r"DIAGNOSES_ICD.csv, line 3.*78x"):
        Mimic().frame(folder)
    (folder / "PATIENTS.csv").unlink()
    with pytest.raises(DataError, match="PATIENTS"):
        Mimic().frame(folder)


# -- formulas of compounds


def _by_hand(texts, text, longest=2, min_count=3):
    def runs(t):
        return [t[i : i + n] for n in range(1, longest + 1) for i in range(len(t)) if i + n <= len(t)]

    held = {r: sum(r in runs(t) for t in set(texts)) for t in texts for r in runs(t)}
    kept = sorted(r for r, f in held.items() if f >= min_count)
    n = len(set(texts))
    values = []
    for r in kept:
        c = runs(text).count(r)
        values.append((1 + np.log(c)) * (1 + np.log((1 + n) / (1 + held[r]))) if c else 0.0)
    length = np.sqrt(np.sum(np.square(values)))
    return kept, np.array(values) / (length or 1.0)


def test_ngrams_against_a_loop():
    texts = ["CCO", "CCN", "CCO", "OCC", "CCCC", "CO", "CN"]
    series = pd.Series([*texts, None], name="smiles")
    column = fitted("ngrams", series, {"type": "ngrams", "longest": 2, "scale": 1.0})
    assert isinstance(column, Ngrams)
    found = column.transform(pd.Series([*texts, "XYZ", None]))
    assert found.shape == (9, column.layout)
    for row, text in zip(found, [*texts, "XYZ"], strict=False):
        kept, values = _by_hand(texts, text)
        assert list(column.runs) == kept
        assert row == pytest.approx(values, abs=1e-6)
    assert (found[-2:] == 0).all()
    again = Column.from_json(column.to_json())
    assert np.array_equal(again.transform(series), column.transform(series))


def test_ngrams_are_of_the_most_texts_and_about_1():
    rng = np.random.default_rng(0)
    series = pd.Series(["".join(rng.choice(list("CNO"), 20)) for _ in range(50)], name="smiles")
    column = Ngrams.fit("smiles", series, most=10)
    held = {run: sum(run in text for text in series) for run in column.runs}
    assert len(held) == 10
    assert min(held.values()) >= sorted((sum(r in t for t in series) for r in ("CC", "NN", "OO")), reverse=True)[-1]
    values = column.transform(series)
    assert np.sqrt((values[values > 0] ** 2).mean()) == pytest.approx(1.0, abs=0.1)
    with pytest.raises(ConfigError, match="longest"):
        Ngrams.fit("smiles", series, longest=0)


# -- drug sets


def test_jaccard_of_drug_sets_against_a_loop(rng):
    y, p = rng.integers(0, 2, (40, 5)), rng.integers(0, 2, (40, 5))
    known = rng.random((40, 5)) < 0.7
    y[3], p[3] = 0, 0  # nothing given, nothing recommended: 1
    known[4] = False  # nothing known: the row does not count
    scores = []
    for a, b, there in zip(y, p, known, strict=True):
        if not there.any():
            continue
        given, said = set(np.flatnonzero(a & there)), set(np.flatnonzero(b & there))
        scores.append(len(given & said) / len(given | said) if given | said else 1.0)
    metric = find("jaccard_samples")
    value, why = metric(y, Predicted(p), known=known)
    assert why is None
    assert value == pytest.approx(np.mean(scores))
    low, high = bootstrap(metric, y, Predicted(p), known=known)
    assert low < value < high
    assert metric(y[3:4], Predicted(p[3:4])).value == 1.0


def test_r2_of_logarithms(rng):
    y = rng.gamma(1.0, 100.0, 60)
    p = y * rng.gamma(5.0, 0.2, 60)
    logs = np.log1p(y)
    expected = 1 - ((logs - np.log1p(p)) ** 2).sum() / ((logs - logs.mean()) ** 2).sum()
    assert find("r2_log1p")(y, Predicted(p)).value == pytest.approx(expected)
    assert find("r2_log1p")(y, Predicted(y)).value == 1.0
    assert find("r2_log1p")(y, Predicted(-p)).value is None
