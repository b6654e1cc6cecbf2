"""`manyheads compare` with methods, tuned settings and shares of the labels: from a table to the page, and again."""

from __future__ import annotations

import json

import pytest
from conftest import people, run

from manyheads.cli import main
from manyheads.commands.comparing import shared
from manyheads.results import Fractions, MethodStudy, Trial, Tuned, TunedSide

CONFIG = """
schema_version: 1
data: {train: t.csv}
model: {members: 2, encoder: {name: tabular, d_hidden: 8, n_layers: 1, dropout: 0.0}}
trainer: {max_epochs: 2}
tasks: {height: {type: regression}, clicked: {type: binary}}
"""
MORE = ("-c", "run.yaml", "--repeats", "2", "--n-jobs", "1", "-q")


@pytest.fixture(autouse=True)
def _table(empty_folder):
    people(160)[0].drop(columns=["weight"]).to_csv("t.csv", index=False)
    (empty_folder / "run.yaml").write_text(CONFIG)


def test_methods_as_words_behind_one_another(empty_folder, capsys):
    words = ("--methods", "sharing=hard,mmoe", "balance=equal,upgrad", "--methods", "linear")
    found = run(capsys, "compare", *MORE, "-o", "out", *words, "trainer.max_epochs=3")
    assert list(found["methods"]) == ["hard + equal", "hard + upgrad", "mmoe + equal", "mmoe + upgrad"]
    assert found["choice"] in (*found["methods"], "single")
    one = found["methods"]["mmoe + upgrad"]
    assert set(one["verdicts"]) == {"height", "clicked"}
    assert one["cost"]["memory"] > found["methods"]["hard + equal"]["cost"]["memory"]
    assert found["tasks"]["height"]["linear"] is not None
    assert found["tasks"]["height"]["boosting"] is None
    kept = MethodStudy.model_validate_json((empty_folder / "out" / "study.json").read_text())
    assert kept.choice == found["choice"]
    assert kept.comparisons["hard + equal"].budget["epochs at most"] == 3
    page = (empty_folder / "out" / "report.html").read_text()
    assert "mmoe + upgrad" in page


def test_what_was_done_is_not_done_again(empty_folder, capsys, monkeypatch):
    words = ("compare", *MORE, "-o", "out", "--methods", "balance=upgrad", "--methods", "linear")
    first = run(capsys, *words)
    assert main([*words, "--json"]) == 2
    assert "--resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("manyheads.parallel.run_all", lambda *_: pytest.fail("trained again"))
        patch.setattr("manyheads.baselines.run_all", lambda *_, **__: pytest.fail("fitted again"))
        again = run(capsys, *words, "--resume")
    for one in (first, again):
        for method in one["methods"].values():
            method.pop("cost"), method.pop("efficiency")
    assert again == first
    assert main([*words, "optim.lr=0.1", "--resume"]) == 2
    assert "`optim.lr`" in capsys.readouterr().err
    run(capsys, *words, "--force", "optim.lr=0.1")
    runs = list((empty_folder / "out" / "runs").glob("*.pt"))
    assert len(runs) == 2 * 2 * (2 + 2)  # repeats x members x (methods and tasks alone); those of before are gone


def test_shares_of_the_labels(empty_folder, capsys):
    words = ("--label-fractions", "0.2,0.5,1", "--few", "clicked", "--methods", "linear")
    found = run(capsys, "compare", *MORE, "-o", "out", *words)
    assert [f["share"] for f in found["fractions"]] == [0.2, 0.5, 1.0]
    kept = Fractions.model_validate_json((empty_folder / "out" / "fractions.json").read_text())
    few = kept.comparisons[0]
    assert "20 % of the labels of `clicked`" in few.protocol
    whole = found["tasks"]["height"]
    assert few.tasks["height"].single == whole["single"]  # alone, it does not know that another task has few
    assert few.tasks["clicked"].single != found["tasks"]["clicked"]["single"]


def test_tuned_settings_are_taken_from_their_folder(empty_folder, capsys):
    (empty_folder / "tuned").mkdir()

    def side(name, *overrides, task=None):
        trial = Trial(number=0, state="done", settings={}, value=0.5)
        return TunedSide(name=name, task=task, space={}, trials=(trial,), best=0, overrides=overrides)

    sides = (
        side("joint", "optim.lr=0.02"),
        side("weights", "optim.lr=0.01", "tasks.height.weight=2.0"),
        side("single:height", "optim.lr=0.03", task="height"),
    )
    text = Tuned(objective="mean", sides=sides, trials=1, finished=True).model_dump_json()
    (empty_folder / "tuned" / "tune.json").write_text(text)
    found = run(capsys, "compare", *MORE, "-o", "out", "--tuned", "tuned", "--methods", "constant")
    assert list(found["methods"]) == ["joint", "tuned weights"]
    kept = MethodStudy.model_validate_json((empty_folder / "out" / "study.json").read_text())
    assert "Nobody tuned clicked alone" in kept.protocol
    plain = run(capsys, "compare", *MORE, "-o", "plain", "--methods", "constant")
    assert plain["tasks"]["height"]["single"] != found["tasks"]["height"]["single"]
    assert plain["tasks"]["clicked"]["single"] == found["tasks"]["clicked"]["single"]  # nobody tuned this one alone


def test_axes_behind_a_comma(capsys):
    words = ("-o", "out", "--methods", "sharing=hard,balance=equal,upgrad", "--methods", "constant")
    assert list(run(capsys, "compare", *MORE, *words)["methods"]) == ["equal", "upgrad"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "sharing=hrd"), "`hard`"),
        (("--label-fractions", "a"), "numbers with commas"),
        (("--label-fractions", "0.5", "--few", "clickd"), "`clicked`"),
        (("--backend", "dsk"), "loky, threading, dask, ray"),
        (("--methods", "linaer", "balance=upgrad"), "`linear`"),
        (("--methods", "mmoe"), "`sharing=mmoe`"),
        (("--label-fractions", "1.5"), "in (0, 1]"),
        (("--few", "clicked"), "--label-fractions"),
    ],
)
def test_a_wrong_word_is_an_error_of_usage(words, said, empty_folder, capsys):
    assert main(["compare", *MORE, "-o", "out", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (empty_folder / "out").exists()


def test_the_plain_comparison_goes_on_too(capsys, monkeypatch):
    words = ("compare", *MORE[:-3], "-q", "-o", "out", "--methods", "linear")
    first = run(capsys, *words)
    assert "(`joint`)" in first["summary"]
    assert first["warnings"] == []
    monkeypatch.setattr("manyheads.parallel.run_all", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("manyheads.baselines.run_all", lambda *_, **__: pytest.fail("fitted again"))
    assert run(capsys, *words, "--resume")["tasks"] == first["tasks"]


def test_a_dry_run_writes_nothing(empty_folder, capsys):
    assert run(capsys, "compare", *MORE, "-o", "out", "--methods", "sharing=hard,soft", "--dry-run")["dry_run"]
    assert not (empty_folder / "out").exists()


@pytest.mark.slow
def test_curves_are_those_of_the_chosen_way_or_of_the_best_on_validation():
    empty = {"tasks": {}, "delta_m": None, "interval": (None, None), "repeats": 1}
    study = MethodStudy(
        choice="single", reason="", recommendation="", tasks={},
        comparisons=dict.fromkeys(("hard", "mmoe", "soft"), empty),
        valid={"hard": -0.2, "mmoe": -0.1, "soft": None}, repeats=1,
    )  # fmt: skip
    assert shared(study) == "mmoe"
    assert shared(study.model_copy(update={"choice": "hard"})) == "hard"


def test_a_cluster_of_processes_finds_the_same(empty_folder, capsys):
    pytest.importorskip("distributed")
    words = (
        "compare",
        "-c",
        "run.yaml",
        "--repeats",
        "2",
        "-q",
        "--methods",
        "balance=upgrad",
        "--methods",
        "constant",
    )
    here = run(capsys, *words, "-o", "here", "--n-jobs", "1")
    there = run(capsys, *words, "-o", "there", "--n-jobs", "2", "--backend", "dask")
    for task, row in here["tasks"].items():
        assert there["tasks"][task]["single"] == pytest.approx(row["single"], abs=1e-3)
    assert json.loads((empty_folder / "there" / "study.json").read_text())["choice"] == there["choice"]
