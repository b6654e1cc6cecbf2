"""Groups of ICD-9 diagnosis codes."""

from __future__ import annotations

from bisect import bisect_right

CHAPTERS = {
    "infectious": 1, "neoplasms": 140, "endocrine": 240, "blood": 280, "mental": 290, "nervous": 320,
    "circulatory": 390, "respiratory": 460, "digestive": 520, "genitourinary": 580, "pregnancy": 630, "skin": 680,
    "musculoskeletal": 710, "congenital": 740, "perinatal": 760, "symptoms": 780, "injury": 800,
}  # fmt: skip
"""The chapters of ICD-9-CM and the number at which each begins; E and V codes are `external` and `factors`."""
_NAMES, _STARTS = list(CHAPTERS), list(CHAPTERS.values())
_ORGANS = {785: "circulatory", 786: "respiratory", 787: "digestive", 788: "genitourinary"}
_MAIN = {"circulatory", "respiratory", "digestive", "genitourinary", "injury", "musculoskeletal", "neoplasms"}


def number(code: str) -> int | None:
    """The three-digit category of a code, with its dot (``250.83``) or as databases store it (``25083``); None for E
    and V codes.

    Args:
        code: without a dot, a numeric code has its leading zeros (``0389``), as MIMIC stores it; with one, or with at
            most three digits, it need not (``8`` is 008).

    Raises:
        ValueError: it is no ICD-9 code.
    """
    text = code.strip().upper()
    head, dot, rest = text.partition(".")
    if head[:1] in ("E", "V") and head[1:].isdigit() and (not dot or rest.isdigit()):
        return None
    if not head.isdigit() or (dot and not rest.isdigit()) or len(head) > (3 if dot else 5) or int(head[:3]) < 1:
        raise ValueError(f"`{code}` is no ICD-9 code.")
    return int(head if dot else head[:3])


def chapter(code: str) -> str:
    """The chapter of a code.

    Raises:
        ValueError: it is no ICD-9 code.

    Example:
        >>> chapter("428"), chapter("4280"), chapter("250.83"), chapter("V45")
        ('circulatory', 'circulatory', 'endocrine', 'factors')
    """
    category = number(code)
    if category is None:
        return "external" if code.strip().upper().startswith("E") else "factors"
    return _NAMES[bisect_right(_STARTS, category) - 1]


def is_symptom(code: str) -> bool:
    """Whether a code is a symptom, a sign or an ill-defined condition: 780-799."""
    return chapter(code) == "symptoms"


def main_group(code: str) -> str:
    """One of nine groups of main diagnoses: seven chapters (the symptoms of an organ, 785-788, with the organ's),
    ``diabetes`` (250) and ``other``.

    Raises:
        ValueError: it is no ICD-9 code.

    Reference:
        Strack, DeShazo, Gennings, Olmo, Ventura, Cios, Clore: Impact of HbA1c measurement on hospital readmission
        rates, 2014.
    """
    category = number(code)
    if category == 250:
        return "diabetes"
    found = _ORGANS.get(category or 0, chapter(code))
    return found if found in _MAIN else "other"
