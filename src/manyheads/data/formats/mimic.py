"""Stays in intensive care (MIMIC-III, its open demo included)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...faults import DataError
from ..delimited import rows, with_numbers
from ..icd import CHAPTERS, chapter, main_group, number
from . import Format

if TYPE_CHECKING:
    import pandas as pd

INPUTS = (
    "admission_type", "admission_location", "insurance", "language", "religion", "marital_status", "ethnicity",
)  # fmt: skip
COMMON = (
    "Acetaminophen", "Furosemide", "Heparin", "Insulin", "Lorazepam", "Magnesium Sulfate", "Metoprolol",
    "Morphine Sulfate", "Pantoprazole", "Potassium Chloride", "Vancomycin",
)  # fmt: skip
OLDEST = 90.0
"""Ages over 89 were hidden by moving the birth 300 years; they count as 90."""


class Mimic(Format):
    """A folder of MIMIC-III, its files as ``.csv`` or ``.csv.gz``; a row per stay in hospital.

    Read are ADMISSIONS and PATIENTS, and, where they are, DIAGNOSES_ICD, PROCEDURES_ICD and PRESCRIPTIONS. Inputs:
    `age`, `gender`, what is known at admission, and `emergency`, whether the stay began there. Labels: `died`,
    `stay_days`; `diagnosis`, the group of the first diagnosis; for each chapter of ICD-9 whether a diagnosis is in it
    (`icd_circulatory`, ...), for `icd_symptoms` among the secondary ones; `operated`; and for each drug whether it was
    given (`drug_Heparin`). Stays without a line in DIAGNOSES_ICD or PRESCRIPTIONS have missing labels there, not 0; one
    without a procedure was not `operated`.

    Args:
        drugs: which drugs get a column, by how their name begins, in any case.

    Reference:
        Johnson, Pollard, Shen, et al.: MIMIC-III, a freely accessible critical care database, 2016.
    """

    def __init__(self, on_error: str = "raise", *, drugs: Sequence[str] = COMMON) -> None:
        super().__init__(on_error)
        self.drugs = tuple(drugs)

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        stays, place = self._file(
            path, "ADMISSIONS", ("subject_id", "hadm_id", "admittime", "dischtime", *INPUTS, "hospital_expire_flag")
        )
        stays = with_numbers(stays, ["hospital_expire_flag"], place, self.refuse)
        stays = self._moments(stays, ["admittime", "dischtime"], place)
        people, place = self._file(path, "PATIENTS", ("subject_id", "gender", "dob"))
        people = self._moments(people, ["dob"], place).set_index("subject_id")
        person = people.reindex(stays["subject_id"])
        birth, came = person["dob"].to_numpy(), stays["admittime"].to_numpy()
        years = (came.astype("datetime64[D]") - birth.astype("datetime64[D]")) / np.timedelta64(1, "D") / 365.25
        table = pd.DataFrame(
            {
                "hadm_id": stays["hadm_id"].to_numpy(),
                "subject_id": stays["subject_id"].to_numpy(),
                "age": np.minimum(years, OLDEST),
                "gender": person["gender"].to_numpy(),
                **{c: stays[c].to_numpy() for c in INPUTS},
                "emergency": stays["admission_location"].str.contains("EMERGENCY", na=False).to_numpy().astype(int),
                "died": stays["hospital_expire_flag"].to_numpy(),
                "stay_days": (stays["dischtime"].to_numpy() - came) / np.timedelta64(1, "D"),
            }
        )
        return self._labels(path, table)

    def _labels(self, path: Path, table: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        answer, needs = [table], ("hadm_id", "seq_num", "icd9_code")
        if (found := self._file(path, "DIAGNOSES_ICD", needs, True)) is not None:
            codes, place = found
            codes = with_numbers(codes, ["seq_num"], place, self.refuse)
            codes = self._codes(codes[codes["icd9_code"].notna()], place)
            first = codes.sort_values("seq_num", kind="stable").drop_duplicates("hadm_id").set_index("hadm_id")
            which = codes.assign(chapter=codes["icd9_code"].map(chapter))
            which = which[(which["chapter"] != "symptoms") | (which["seq_num"] > 1)]
            answer.append(first["icd9_code"].map(main_group).reindex(table["hadm_id"]).rename("diagnosis"))
            names = [*CHAPTERS, "external", "factors"]
            answer.append(_flags(which["hadm_id"], which["chapter"], names, "icd_", first.index, table))
        if (found := self._file(path, "PROCEDURES_ICD", ("hadm_id",), True)) is not None:
            answer.append(table["hadm_id"].isin(set(found[0]["hadm_id"])).astype(int).rename("operated"))
        if (found := self._file(path, "PRESCRIPTIONS", ("hadm_id", "drug"), True)) is not None:
            given = found[0].dropna(subset=["hadm_id", "drug"])
            lowered, starts = given["drug"].str.lower(), {d: d.lower() for d in self.drugs}
            parts = [given["hadm_id"][lowered.str.startswith(start)] for start in starts.values()]
            drug = np.repeat(list(starts), [len(p) for p in parts])
            stay = pd.concat(parts) if parts else given["hadm_id"].iloc[:0]
            answer.append(_flags(stay, drug, self.drugs, "drug_", pd.Index(given["hadm_id"].unique()), table))
        return pd.concat([part.reset_index(drop=True) for part in answer], axis=1)

    def _file(self, folder: Path, name: str, needs: Sequence[str], optional: bool = False) -> Any:
        """(table, its path) of one file, with column names in small letters; None where it is not there."""
        for file in (folder / f"{name}.csv", folder / f"{name}.csv.gz"):
            if file.is_file():
                table = rows(file, self.refuse)
                table.columns = [c.lower() for c in table.columns]
                for column in needs:
                    if column not in table.columns:
                        raise DataError(f"`{file}, line 1` should name `{column}`. Found {', '.join(table.columns)}.")
                return table, file
        if optional:
            return None
        raise DataError(f"`{folder}` should hold `{name}.csv` or `{name}.csv.gz`. Found neither.")

    def _moments(self, table: pd.DataFrame, columns: Sequence[str], file: Path) -> pd.DataFrame:
        import pandas as pd

        for column in columns:
            stamps = pd.to_datetime(table[column], errors="coerce", format="ISO8601")
            broken = stamps.isna()
            for line in table.index[broken]:
                self.refuse(f"{file}, line {line}", f"hold a moment under `{column}`", f"`{table[column][line]}`")
            table = table.assign(**{column: stamps})[~broken]
        return table

    def _codes(self, table: pd.DataFrame, file: Path) -> pd.DataFrame:
        good = table["icd9_code"].map(_reads(number))
        for line in table.index[~good]:
            self.refuse(f"{file}, line {line}", "hold an ICD-9 code", f"`{table['icd9_code'][line]}`")
        return table[good]


def _flags(stay: Any, value: Any, names: Sequence[str], start: str, known: Any, table: pd.DataFrame) -> pd.DataFrame:
    """1 or 0 per stay and name; NaN for the stays that are not `known`."""
    import pandas as pd

    counts = pd.crosstab(np.asarray(stay), np.asarray(value)).reindex(index=known, columns=list(names), fill_value=0)
    return (counts > 0).astype(float).reindex(table["hadm_id"]).add_prefix(start)


def _reads(function: Callable[[str], Any]) -> Callable[[str], bool]:
    def can(text: str) -> bool:
        try:
            function(text)
        except ValueError:
            return False
        return True

    return can
