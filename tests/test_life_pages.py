"""The page of a model's later life: tasks before and after, and scores over numbers of labels."""

import pytest
from test_pages import outside, words

from manyheads.report import render_evidence
from manyheads.report.later import _drawn
from manyheads.results import Evidence
from manyheads.results.added import Adapted, Added, CurvePoint, Kept, Merged, TransferCurve

KEPT = Kept(task="IQ", metric="r2", greater_is_better=True, before=0.25, after=0.375, labels=90)
FELL = Kept(task="KWW", metric="root_mean_squared_error", greater_is_better=False, before=2.0, after=2.5, labels=80)


def point(mean):
    return CurvePoint(mean=mean, low=mean - 0.1, high=mean + 0.1, values=(mean,))


def curve(starts=("scratch", "probe", "adapted")):
    found = {s: (point(0.5 + i / 20), point(0.6 + i / 10)) for i, s in enumerate(starts)}
    gains = {s: (point(0.05 * i), point(0.2)) for i, s in enumerate(starts) if i}
    return TransferCurve(
        task="married", metric="roc_auc", greater_is_better=True, counts=(10, 1000), starts=found, gains=gains, seeds=5,
        test_labels=99, protocol="Five draws.", summary="For `kind` a start is better.",
    )  # fmt: skip


ADDED = Added(task="married", kind="binary", way="probe", labels=300, score=None, frozen=True, identical=True,
              kept=(KEPT,), unchecked=("enroll",))  # fmt: skip
ADAPTED = Adapted(objective="maml", settings={"inner_steps": 5, "norm": None}, rows=30, folds=5, kept=(KEPT, FELL))
MERGED = Merged(how="ties", settings={"density": 0.2}, models=("top", "warm"), nearness={"top": 0.98}, kept=(KEPT,))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"added": ADDED}, ["married was added, by probe", "the same, to the bit", "for want of rows", "enroll"]),
        ({"adapted": ADAPTED}, ["followed 30 rows", "2 scores 1 got better and 1 worse", "inner_steps", "−0.5000"]),
        ({"merged": MERGED}, ["2 models became one: r2 of IQ went from 0.250 to 0.375", "density", "0.980"]),
        ({"added": ADDED, "curves": (curve(),)}, ["For kind a start is better.", "Five draws.", "1,000", "0.800*"]),
        ({"added": ADDED, "curves": (curve("abcde"),)}, ["the first 4 starts; the table has all 5"]),
    ],
)
def test_what_became_of_a_model_is_told(found, said):
    page = render_evidence(Evidence(title="Later", **found))
    for text in said:
        assert text in words(page)
    assert "norm" not in words(page).split("Environment")[0].replace("normal", "")
    assert not outside(page)
    assert ("<svg" in page) == ("curves" in found)


def test_one_wide_interval_does_not_flatten_all_others():
    wild = CurvePoint(mean=-9.0, low=-30.0, high=12.0)
    found = curve().model_copy(
        update={"metric": "r2", "starts": {"scratch": (wild, point(0.2)), "probe": (point(0.6), point(0.8))}}
    )
    courses = {c.name: c.points for c in _drawn(found)}
    assert courses["scratch"][0] == (10, -1.0, -1.0, 1.0)
    assert courses["probe"][1] == (1000, 0.8, pytest.approx(0.7), pytest.approx(0.9))
    assert "−9.000 [−30.00, 12.00]" in words(render_evidence(Evidence(title="Later", added=ADDED, curves=(found,))))


def test_folders_are_named_without_those_they_lie_in():
    merged = MERGED.model_copy(update={"start": "/somewhere/of/mine/run", "models": ("a/top", "b/warm")})
    text = words(render_evidence(Evidence(title="Later", merged=merged)))
    assert "mine" not in text.split("Environment")[0]
    assert "top, warm" in text


def test_evidence_is_read_back():
    evidence = Evidence(title="Later", adapted=ADAPTED, curves=(curve(),))
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence
