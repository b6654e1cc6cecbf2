"""Hospital stays of diabetic patients (UCI 296)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..delimited import rows, with_numbers
from ..icd import is_symptom, main_group
from . import Format

if TYPE_CHECKING:
    import pandas as pd

DRUGS = (
    "metformin", "repaglinide", "nateglinide", "chlorpropamide", "glimepiride", "acetohexamide", "glipizide",
    "glyburide", "tolbutamide", "pioglitazone", "rosiglitazone", "acarbose", "miglitol", "troglitazone", "tolazamide",
    "examide", "citoglipton", "insulin", "glyburide-metformin", "glipizide-metformin", "glimepiride-pioglitazone",
    "metformin-rosiglitazone", "metformin-pioglitazone",
)  # fmt: skip
"""The columns that say No, Steady, Up or Down of a drug."""
GONE = ("11", "13", "14", "19", "20", "21")
"""`discharge_disposition_id` of those who died or went to a hospice: they cannot be readmitted."""
COUNTS = (
    "time_in_hospital", "num_lab_procedures", "num_procedures", "num_medications", "number_outpatient",
    "number_emergency", "number_inpatient", "number_diagnoses",
)  # fmt: skip
KEYS = ("encounter_id", "patient_nbr")


class Diabetes130(Format):
    """Diabetes, 130 US hospitals: the published zip file, or `diabetic_data.csv` out of it; a row per stay.

    Derived: `diagnosis` (main diagnosis, nine groups), `symptoms` (a symptom or sign, ICD-9 780-799, among the
    secondary diagnoses; missing where none is recorded), `readmitted_30` and `readmitted_any`, `a1c_high` (over 7 %)
    and `glucose_high` (over 200 mg/dl), both missing where it was not measured, `age` in years (the middle of ten),
    and 1 or 0 for each of the 23 drugs. The diagnosis codes themselves, which these labels are made of, are left out,
    and so are `change`, `diabetesMed`, `readmitted`, `A1Cresult` and `max_glu_serum`, which tell labels.

    Args:
        deceased: ``drop`` leaves out stays that end in death or a hospice, ``keep`` does not.

    Reference:
        Strack, DeShazo, Gennings, Olmo, Ventura, Cios, Clore: Impact of HbA1c measurement on hospital readmission
        rates, 2014.
    """

    def __init__(self, on_error: str = "raise", *, deceased: str = "drop") -> None:
        super().__init__(on_error)
        if deceased not in ("drop", "keep"):
            raise ValueError(f"`deceased` should be drop or keep. Found `{deceased}`.")
        self.deceased = deceased

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        member = "diabetic_data.csv" if path.name.lower().endswith(".zip") else None
        place = str(path) if member is None else f"{path}:{member}"
        needs = (*KEYS, "discharge_disposition_id", *READS, *COUNTS)
        table = rows(path, self.refuse, needs=needs, missing=("?",), member=member)
        table = with_numbers(table, [*KEYS, *COUNTS], place, self.refuse)
        good = np.ones(len(table), bool)
        made: dict[str, np.ndarray] = {}
        lines = table.index.to_numpy()
        for column, (reads, what) in READS.items():
            codes, texts = pd.factorize(table[column])  # each text is read once
            values = [_or_none(reads, text) for text in texts]
            broken = np.array([*(v is None for v in values), False])[codes]  # -1, the last, is missing
            for i in np.flatnonzero(broken & good):
                self.refuse(f"{place}, line {lines[i]}", f"hold {what} under `{column}`", f"`{table[column].iloc[i]}`")
            good &= ~broken
            made[column] = np.array([*values, None], dtype=object)[codes]
        if self.deceased == "drop":
            good &= ~table["discharge_disposition_id"].isin(GONE).to_numpy()
        codes_2, codes_3 = (made[c].astype(np.float64) for c in ("diag_2", "diag_3"))
        labels = {
            "diagnosis": made["diag_1"],
            "symptoms": np.fmax(codes_2, codes_3),
            "readmitted_30": made["readmitted"] == 30,
            "readmitted_any": made["readmitted"] > 0,
            "a1c_high": made["A1Cresult"],
            "glucose_high": made["max_glu_serum"],
            "age": made["age"],
        } | {drug: made[drug] for drug in DRUGS}
        kept = table[[c for c in table.columns if c not in {*READS, "change", "diabetesMed"}]]
        frame = kept.assign(**{c: v if c == "diagnosis" else v.astype(np.float64) for c, v in labels.items()})
        return frame[good].reset_index(drop=True)


Read = Callable[[str], Any]


def _in(known: Mapping[str, Any]) -> tuple[Read, str]:
    return known.__getitem__, "one of " + ", ".join(known)


def _years(age: str) -> float:
    low, high = age.strip("[)").split("-")
    return (float(low) + float(high)) / 2


def _or_none(reads: Read, text: str) -> Any:
    try:
        return reads(text)
    except (ValueError, KeyError):
        return None


READS: dict[str, tuple[Read, str]] = {
    "diag_1": (main_group, "an ICD-9 code"),
    "diag_2": (is_symptom, "an ICD-9 code"),
    "diag_3": (is_symptom, "an ICD-9 code"),
    "age": (_years, "an age such as [70-80)"),
    "readmitted": _in({"NO": 0, "<30": 30, ">30": 31}),
    "A1Cresult": _in({"None": np.nan, "Norm": 0, ">7": 1, ">8": 1}),
    "max_glu_serum": _in({"None": np.nan, "Norm": 0, ">200": 1, ">300": 1}),
    **dict.fromkeys(DRUGS, _in({"No": 0, "Steady": 1, "Up": 1, "Down": 1})),
}
"""Column -> what its texts mean, and how such a text looks."""
