"""A tiny sample of each format, written into a folder, and a way to damage one of its rows.

A new format brings a function here, under its word in `SAMPLES`; `test_formats.py` runs the laws on it.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manyheads.metrics.sound import write_wav


@dataclass(frozen=True)
class Sample:
    """Files of one format.

    Attributes:
        path: what `Format.frame` is given.
        rows: how many rows the table has.
        columns: some of its columns.
        damage: damages the files; what a message about it must say (file and line, or the file alone).
        left: how many rows are left when the damaged one is skipped.
        settings: of the format.
    """

    path: Path
    rows: int
    columns: Sequence[str]
    damage: Callable[[], Sequence[str]]
    left: int
    settings: Mapping[str, Any] = field(default_factory=dict)


def lines(path: Path, text: str) -> Path:
    """A file with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n", encoding="utf-8")
    return path


def spoil(path: Path, line: int, old: str, new: str) -> Sequence[str]:
    """Replace a piece of one line (counted from 1); says what a message must name."""
    text = path.read_text(encoding="utf-8").splitlines()
    assert old in text[line - 1]
    text[line - 1] = text[line - 1].replace(old, new, 1)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return (path.name, f"line {line}")


def derived(folder: Path) -> Sample:
    """Visits to a shop, whether they bounced."""
    path = lines(folder / "visits.csv", "rate,month\n0.2,Feb\n0,Mar\n?,Mar\n0.1,May")
    settings = {"columns": {"bounced": "rate > 0"}, "missing": ["?"]}
    return Sample(path, 4, ("rate", "bounced"), lambda: spoil(path, 3, "Mar", "Mar,4"), 3, settings)


def movielens(folder: Path) -> Sample:
    """Five ratings of three films by two people."""
    ratings = "1,10,4.0,980730861\n1,20,2.5,980731380\n2,10,5.0,980731926\n2,30,1.0,980732000\n2,20,3.0,980733000"
    path = lines(folder / "films" / "ratings.csv", ratings)
    lines(folder / "films" / "movies.csv", '10,Up (2009),Comedy|War\n20,"Saw, The (1999)",War\n30,X,(no genres listed)')
    lines(folder / "films" / "tags.csv", "userId,movieId,tag,timestamp\n2,10,fun,1306926135")
    return Sample(
        path.parent, 5, ("user", "movie", "rating", "like", "tagged", "genre_War"),
        lambda: spoil(path, 2, "2.5", "good"), 4,
    )  # fmt: skip


def mimic(folder: Path) -> Sample:
    """Three stays of two people."""
    admissions = """
        row_id,subject_id,hadm_id,admittime,dischtime,admission_type,admission_location,insurance,language,religion,marital_status,ethnicity,hospital_expire_flag
        1,7,100,2164-10-23 12:00:00,2164-10-25 00:00:00,EMERGENCY,EMERGENCY ROOM ADMIT,Private,,,,WHITE,0
        2,7,101,2165-10-23 12:00:00,2165-10-24 12:00:00,ELECTIVE,PHYS REFERRAL,Private,,,,WHITE,0
        3,8,102,2165-01-01 00:00:00,2165-01-03 00:00:00,EMERGENCY,EMERGENCY ROOM ADMIT,Medicare,,,,WHITE,1
    """
    path = lines(folder / "icu" / "ADMISSIONS.csv", admissions)
    people = "subject_id,gender,dob\n7,F,2094-10-23 00:00:00\n8,M,1850-01-01 00:00:00"
    lines(path.with_name("PATIENTS.csv"), people)
    codes = "subject_id,hadm_id,seq_num,icd9_code\n7,100,1,4280\n7,100,2,78552\n7,101,1,7802\n7,101,2,V4581"
    lines(path.with_name("DIAGNOSES_ICD.csv"), codes)
    lines(path.with_name("PROCEDURES_ICD.csv"), "subject_id,hadm_id,seq_num,icd9_code\n8,102,1,3605")
    lines(path.with_name("PRESCRIPTIONS.csv"), "hadm_id,drug\n100,Heparin\n100,INSULIN\n102,Aspirin")
    return Sample(
        path.parent, 3, ("died", "stay_days", "icd_symptoms", "drug_Heparin", "diagnosis"),
        lambda: spoil(path, 4, "2165-01-01 00:00:00", "yesterday"), 2,
    )  # fmt: skip


DIABETES = (
    "encounter_id", "patient_nbr", "race", "age", "discharge_disposition_id", "time_in_hospital", "num_lab_procedures",
    "num_procedures", "num_medications", "number_outpatient", "number_emergency", "number_inpatient", "diag_1",
    "diag_2", "diag_3", "number_diagnoses", "max_glu_serum", "A1Cresult", "change", "diabetesMed", "readmitted",
)  # fmt: skip


def diabetes_rows() -> list[dict[str, str]]:
    """Five stays, the last of which ended in death."""
    from manyheads.data.formats.diabetes130 import DRUGS

    plain = dict.fromkeys(DRUGS, "No") | dict.fromkeys(DIABETES, "1") | {"max_glu_serum": "None", "change": "No"}
    own = [
        ("1", "250.83", "?", "?", "None", "NO", "No"),
        ("1", "428", "780", "250", "Norm", "<30", "Up"),
        ("1", "8", "V45", "799.2", ">7", ">30", "Steady"),
        ("1", "?", "410", "E888", ">8", "NO", "Down"),
        ("11", "786", "1", "2", "None", "NO", "No"),
    ]
    names = ("discharge_disposition_id", "diag_1", "diag_2", "diag_3", "A1Cresult", "readmitted", "insulin")
    more = [dict(zip(names, row, strict=True)) | {"age": f"[{i}0-{i + 1}0)"} for i, row in enumerate(own, 1)]
    return [plain | row | {"encounter_id": str(i), "race": "?"} for i, row in enumerate(more)]


def diabetes130(folder: Path) -> Sample:
    """Five stays in a zip file, beside what another system left there."""
    path, found = folder / "stays.zip", diabetes_rows()

    def write() -> None:
        inside = folder / "diabetic_data.csv"
        with inside.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/data/._diabetic_data.csv", b"\0")
            archive.write(inside, "data/diabetic_data.csv")

    def damage() -> Sequence[str]:
        found[1]["diag_2"] = "78o"
        write()
        return "stays.zip", "diabetic_data.csv", "line 3", "diag_2"

    write()
    return Sample(path, 4, ("diagnosis", "symptoms", "readmitted_30", "a1c_high", "insulin"), damage, 3)


def conll(folder: Path) -> Sample:
    """Two sentences; a joined word and one that is not there are lines of their own."""
    text = "# sent_id = a\n1\tIt\tPRON\n2-3\tisn't\t_\n2\tis\tAUX\n3\tn't\tPART\n3.1\tso\t_\n\n"
    text += "# sent_id = b\n1\tGo\tVERB\n"
    path = folder / "bank.conll"
    path.write_text(text, encoding="utf-8")
    settings = {"columns": ["id", "tokens", "upos"]}
    return Sample(path, 2, ("sent_id", "tokens", "upos"), lambda: spoil(path, 4, "\tAUX", ""), 1, settings)


def conll04(folder: Path) -> Sample:
    """Two sentences with names, one with a relation."""
    sentences: list[dict[str, Any]] = [
        {"tokens": ["Ann", "in", "Rome"], "tags": ["U-Peop", "O", "U-Loc"], "orig_id": 1,
         "relations": [{"head": 0, "tail": 1, "type": "Live_In"}]},
        {"tokens": ["Rome"], "tags": ["U-Loc"], "relations": [], "orig_id": 2},
    ]  # fmt: skip
    path = folder / "news.json"
    path.write_text(json.dumps(sentences), encoding="utf-8")

    def damage() -> Sequence[str]:
        sentences[0]["relations"][0]["tail"] = 2
        path.write_text(json.dumps(sentences), encoding="utf-8")
        return "news.json", "sentence 1", "2 entities"

    return Sample(path, 2, ("tokens", "tags", "relations", "orig_id"), damage, 1)


def slots(folder: Path) -> Sample:
    """Three commands in three parts."""
    for part, words, tags in (("train", "play abba\nrain", "O B-artist\nO"), ("dev", "go", "O"), ("test", "stop", "O")):
        lines(folder / "shop" / part / "seq.in", words)
        lines(folder / "shop" / part / "seq.out", tags)
        lines(folder / "shop" / part / "label", "Do\nDo" if part == "train" else "Do")
    damaged = folder / "shop" / "train" / "seq.out"
    return Sample(
        folder / "shop", 4, ("tokens", "slots", "intent", "split"), lambda: spoil(damaged, 1, "O B-artist", "O"), 3
    )


def sentences(folder: Path) -> Sample:
    """Reviews with a stray quote, a tab and a separator that is no end of a line."""
    path = folder / "reviews.txt"
    path.write_bytes('review\tgood\n"Bad\t0\nA\tfine film\t1\nOh \u0085 no\t0\nYes\t1\n'.encode())

    def damage() -> Sequence[str]:
        path.write_bytes(path.read_bytes().replace(b"Bad\t0", b"Bad 0"))
        return "reviews.txt", "line 2"

    return Sample(path, 4, ("text", "label"), damage, 3)


def text_lines(folder: Path) -> Sample:
    """Three lines, one of them without a text, and a separator that is no end of a line."""
    path = folder / "notes.txt"
    path.write_bytes('A fine\u0085 film\n\n"Oh" no\n'.encode())

    def damage() -> Sequence[str]:
        path.write_bytes(path.read_bytes().replace(b"fine", b"f\xffne"))
        return "notes.txt", "line 1", "UTF-8"

    return Sample(path, 3, ("text",), damage, 2)


def pictures(folder: Path) -> Sample:
    """Four pictures, one of them a PNG that is called JPEG; masks of two."""
    import numpy as np
    from PIL import Image

    root = folder / "zoo"
    for place in ("images", "masks"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(("cat_1.png", "cat_2.jpg", "dog_1.png", "dog_2.png")):
        Image.fromarray(np.full((4, 6, 3), 40 * i, np.uint8)).save(root / "images" / name, "PNG")
        if i < 2:
            Image.fromarray(np.full((4, 6), i, np.uint8)).save(root / "masks" / f"{Path(name).stem}.png")

    def damage() -> Sequence[str]:
        (root / "images" / "dog_1.png").write_bytes(b"no picture at all")
        return ("dog_1.png",)

    settings = {"images": "images", "masks": "masks", "pattern": r"(?P<kind>[a-z]+)_\d", "present": {1: "stripes"}}
    return Sample(root, 4, ("image", "width", "height", "kind", "mask", "has_stripes"), damage, 3, settings)


def idx(folder: Path) -> Sample:
    """Three pictures of 2 x 2 and their classes."""
    path = folder / "few-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2, *range(12)]))
    (folder / "few-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 1]))

    def damage() -> Sequence[str]:
        path.write_bytes(path.read_bytes()[:-1])
        return path.name, "picture 2"

    return Sample(path, 3, ("image", "label"), damage, 2)


def wavs(folder: Path) -> Sample:
    """Two words of two speakers, in noise."""
    for i, name in enumerate(("yes_ann", "no_ann", "yes_bob", "no_bob")):
        samples = [1000 * ((i + 2) * j % 7 - 3) for j in range(50)]
        (folder / f"{name}.wav").write_bytes(write_wav(np.array(samples, np.int16), 8000))
    bad = folder / "no_bob.wav"

    def damage() -> Sequence[str]:
        bad.write_bytes(bad.read_bytes()[:-7])
        return bad.name, "cut short"

    settings = {"pattern": "{word}_{speaker}", "transcript": "word", "noise": ["white"]}
    return Sample(folder, 4, ("audio", "clean", "word", "speaker", "transcript", "noise", "snr"), damage, 3, settings)


SAMPLES: dict[str, Callable[[Path], Sample]] = {
    "conll": conll,
    "conll04": conll04,
    "derived": derived,
    "diabetes130": diabetes130,
    "idx": idx,
    "mimic": mimic,
    "movielens": movielens,
    "pictures": pictures,
    "lines": text_lines,
    "sentences": sentences,
    "slots": slots,
    "wavs": wavs,
}
"""The word of a format -> what writes its sample into a folder."""
