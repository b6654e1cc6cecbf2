"""Pages on whether tasks should share: every kind of evidence renders, in words as well, and a browser finds it."""

import random
import re
from itertools import pairwise

import pytest
from test_pages import ODD, browse, outside, words

from manyheads.cli import main
from manyheads.grouping.partition import advised, best, dendrogram, gains_of
from manyheads.report import render_evidence, write, write_evidence
from manyheads.report.charts import Dot, joins, scatter, tree
from manyheads.results import (
    Comparison,
    Cost,
    Efficiency,
    Evidence,
    Fractions,
    Grouping,
    GroupingStudy,
    Method,
    MethodStudy,
    Relatedness,
    Report,
    Score,
    Scores,
    TaskComparison,
    Trial,
    Tuned,
    TunedSide,
    Window,
)

SIX = ("IQ", "KWW", "educ", "lwage", "married", "enroll")


def related(names, method="pairs", gain=True, seeds=3, seed=5, windows=0):
    """Two halves that help each other and hurt the other half."""
    draw, n = random.Random(seed), len(names)

    def matrix(noise):
        return tuple(
            tuple(None if i == j else (0.6 if not gain else 0.03) * (1 if i * 2 // n == j * 2 // n else -0.5)
                  + draw.gauss(0, noise) for j in range(n)) for i in range(n))  # fmt: skip

    middle = matrix(0.01)

    def moved(by):
        return tuple(tuple(None if v is None or seeds < 2 else v + by for v in row) for row in middle)

    return Relatedness(
        method=method, tasks=names, matrix=middle, low=moved(-0.02), high=moved(0.02), own=(0.5,) * n,
        unit="change of the target's metric", gain=gain, directed=gain, seeds=seeds, seconds=3.5,
        windows=tuple(Window(first=w, last=w + 1, matrix=matrix(0.05)) for w in range(windows)),
        summary=f"{names[0]} gains most from {names[1]}.",
    )  # fmt: skip


def compared(names, shift, repeats=5, seed=3):
    draw = random.Random(seed)
    tasks = {}
    for i, name in enumerate(names):
        delta = shift + draw.gauss(0, 0.02)
        verdict = "helps" if delta > 0.03 else "hurts" if delta < -0.03 else "undecided"
        tasks[name] = TaskComparison(
            metric="r2" if i == 1 else "roc_auc",
            joint=0.7 + delta,
            single=0.7,
            delta=delta,
            interval=(delta - 0.02, delta + 0.02),
            p=0.02,
            verdict=verdict,
            absolute=i == 1,
        )
    values = {
        m: {n: tuple(0.7 + s + draw.gauss(0, 0.01) for _ in range(repeats)) for n in names}
        for m, s in (("joint", shift), ("single", 0.0))
    }
    return Comparison(
        tasks=tasks,
        delta_m=shift,
        interval=(shift - 0.01, shift + 0.01),
        repeats=repeats,
        summary="In words.",
        methods=tuple(Method(name=m, values=v, parameters=12_345, seconds=6.7) for m, v in values.items()),
    )


def searched(names, trials=12):
    draw = random.Random(2)
    made = []
    for number in range(trials):
        lean = draw.random()
        values = {n: 0.3 + 0.2 * (lean if i % 2 else 1 - lean) + draw.gauss(0, 0.02) for i, n in enumerate(names)}
        state = "pruned" if number == 4 else "failed" if number == 5 else "done"
        done = state == "done"
        made.append(
            Trial(
                number=number,
                state=state,
                settings={"optim.lr": 0.01},
                seconds=1.5,
                value=sum(values.values()) / len(values) if done else None,
                values=values if done else {},
                why="diverged" if state == "failed" else None,
            )
        )
    top = max((t for t in made if t.value is not None), key=lambda t: t.value).number
    score = Scores(split="test", scores=tuple(Score(task=n, metric="roc_auc", value=0.71, labels=90) for n in names))
    joint = TunedSide(
        name="joint",
        space={},
        trials=tuple(made),
        best=top,
        overrides=("optim.lr=0.01",),
        front=(top,),
        importance={"optim.lr": 0.8, "model.encoder.d_hidden": 0.2},
        test=score,
    )
    alone = TunedSide(name=f"single:{names[0]}", task=names[0], space={}, trials=tuple(
        Trial(number=i, state="done", settings={}, value=0.4 + i / 100, values={names[0]: 0.4 + i / 100})
        for i in range(3)), best=2)  # fmt: skip
    return Tuned(objective="mean", sides=(joint, alone), trials=trials, seconds=20.0, finished=True, protocol="Tried.")


def studied(names, overlap=False):
    found = related(names)
    grouping = best(gains_of(found), 2, overlap=overlap)
    study = {name: compared(names, shift, seed=i) for i, (name, shift) in
             enumerate({"joint": -0.02, "pairs": 0.03, "cka": 0.01}.items())}  # fmt: skip
    return GroupingStudy(
        groupings={"cka": Grouping(groups=(tuple(names),), serves=dict.fromkeys(names, 0),
                                   gains=dict.fromkeys(names, 0.01), total=0.06, exact=True, budget=2, cost=1),
                   "pairs": grouping},
        choice="pairs", groups=grouping.groups, recommendation=f"share {names[0]} and {names[1]}.",
        reason="On validation, `pairs` is best.", comparisons=study, over={"joint": compared(names, 0.05)},
        valid={"single": 0.0, "joint": -0.01, "pairs": 0.03, "cka": 0.0},
        realised={"pairs": {n: d.delta for n, d in study["pairs"].tasks.items()},
                  "cka": dict.fromkeys(names)},
        agreement={"pairs": 0.42, "cka": None}, repeats=5, protocol="Five splits were re-drawn.",
    )  # fmt: skip


def several(names):
    made = {m: compared(names, shift, seed=i) for i, (m, shift) in enumerate({"hard": 0.01, "mmoe": 0.02}.items())}
    return MethodStudy(
        choice="mmoe", reason="It is the best on validation.", recommendation="share all of them.",
        tasks=dict.fromkeys(names, "better with `mmoe`."), comparisons=made,
        ranks={"mmoe": 1.5, "single": 2.5, "hard": 2},
        valid={"hard": 0.0, "mmoe": 0.03}, repeats=5, protocol="Five splits.",
        costs={"hard": Cost(seconds=3.25, updates=400, backward=401, memory=12_500_000, parameters=999)},
        efficiency={"mmoe": Efficiency(skill=0.41, updates=120, updates_single=350, seconds=1, seconds_single=2)},
    )  # fmt: skip


def whole(names=SIX):
    """Everything that a page can show."""
    found = (related(names), related(names, "cka", gain=False), related(names, "lookahead", windows=4, seed=9))
    shares = (0.05, 0.1, 0.25, 1.0)
    return Evidence(
        title="Should these tasks share a model?", created="2031-05-04 10:20", relatedness=found,
        trees={f.method: dendrogram(gains_of(f)) for f in found}, advised={f.method: advised(f, 2) for f in found},
        study=studied(names), fractions=Fractions(shares=shares, comparisons=tuple(
            compared(names, 0.1 * (1 - share), seed=i) for i, share in enumerate(shares))),
        tuned=searched(names), settings={"seed": 0}, environment={"manyheads": "0.1.0"}, warnings=("Look here.",),
    )  # fmt: skip


CROWD = tuple(f"assay {i:03d}" for i in range(70))
UNKNOWN = related(("a", "b"), seeds=1).model_copy(update={
    "matrix": ((None, None), (None, None)), "missing": (("a", "b", "no labels"), ("b", "a", "no labels"))})  # fmt: skip
PAGES = {
    "methods": Evidence(title="methods", methods=several(SIX)),
    "whole": whole(),
    "odd": whole(ODD),
    "two": whole(("a", "b")),
    "crowd": Evidence(title="crowd", relatedness=(related(CROWD), related(CROWD[:40], "cka")),
                      trees={"pairs": dendrogram(gains_of(related(CROWD))),
                             "cka": dendrogram(gains_of(related(CROWD[:40])))},
                      comparisons={"joint": compared(CROWD, 0.02), "mmoe": compared(CROWD, 0.03)}),
    "matrix": Evidence(title="matrix", relatedness=(related(SIX, seeds=1),)),
    "unknown": Evidence(title="unknown", relatedness=(UNKNOWN,), trees={"pairs": dendrogram(gains_of(UNKNOWN))}),
    "search": Evidence(title="search", tuned=searched(SIX)),
    "one task": Evidence(title="one task", tuned=searched(("y",))),
    "nothing done": Evidence(title="nothing done", tuned=Tuned(objective="mean", trials=1, sides=(
        TunedSide(name="joint", space={}, trials=(Trial(number=0, state="failed", settings={}, why="no"),)),))),
    "bare": Evidence(title="bare"),
}  # fmt: skip


def section(page, name):
    return re.search(rf'<section aria-labelledby="{name}">.*?</section>', page, re.S)[0]


@pytest.mark.parametrize("kind", PAGES)
def test_every_kind_of_evidence_renders_into_one_small_file(kind):
    page = render_evidence(PAGES[kind])
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert outside(page) == []
    assert "<script" not in page
    assert len(page.encode()) < 700_000
    assert not re.search(r">\s*(None|nan|inf|Undefined)\s*<", page)
    assert not re.search(r'[xy][12]?="(nan|inf)', page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    ranks = [int(rank) for rank in re.findall(r"<h(\d)", page)]
    assert ranks[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(ranks))


@pytest.mark.parametrize("kind", PAGES)
def test_every_drawing_has_words_and_every_figure_a_table_or_words(kind):
    page = render_evidence(PAGES[kind])
    for drawing in re.findall(r"<svg[^>]*>", page):
        inner = " x=" in drawing
        assert inner or 'aria-hidden="true"' in drawing or re.search(r'role="img" aria-label="[^"]{20,}"', drawing)
    for figure in re.findall(r"<figure>.*?</figure>", page, re.S):
        assert 'role="img" aria-label="' in figure or "<table" in figure
        assert "<figcaption>" in figure


def test_sections_stand_in_their_order_and_say_what_was_found():
    text = words(render_evidence(PAGES["whole"]))
    place = 0
    for part in ("Should these tasks share a model?", "Share IQ and KWW.", "On validation, pairs is best.",
                 "Look here.", "IQ gains most from KWW.", "Groups that this speaks for", "Five splits were re-drawn.",
                 "★ pairs: 2 models", "Rank correlation of predicted and realised gains over tasks: 0.42",
                 "Every method against single-task models", "With fewer labels", "Two tasks at once",
                 "Settings that were tried", "optim.lr=0.01", "What it cost", "12 345".replace(" ", "\u2009"),
                 "seed: 0", "manyheads: 0.1.0"):  # fmt: skip
        place = text.index(part, place)


def test_a_matrix_stands_in_the_order_of_its_tree_source_by_target():
    evidence = PAGES["whole"]
    found, grown = evidence.relatedness[0], evidence.trees["pairs"]
    own = section(render_evidence(evidence), "related")
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi>|<b>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", own, re.S)][:7]
    order = [found.tasks[i] for i in grown.leaves]
    assert [row[0] for row in rows[1:]] == order
    for a, row in zip(order, rows[1:], strict=True):
        for b, cell in zip(order, row[1:], strict=True):
            value = found.matrix[found.tasks.index(a)][found.tasks.index(b)]
            number = float(cell.replace("\u2212", "-").rstrip("*"))
            assert number == pytest.approx(0.5 if a == b else value, abs=6e-4)
            if a != b:
                assert cell.endswith("*") == (abs(value) > 0.02)


def test_tiny_numbers_are_told_in_millionths_and_parts_in_a_few_words():
    names = ("a", "b", "c")
    small = tuple(tuple(None if v is None else v / 1000 for v in row) for row in related(names).matrix)
    stages = {"stage 0": related(names, "cosine", gain=False).matrix, "stage 1": related(names).matrix}
    found = related(names).model_copy(update={"matrix": small, "parts": stages, "low": small, "high": small})
    page = render_evidence(Evidence(title="t", relatedness=(found,)))
    assert "In millionths." in page
    assert f"{1e6 * small[0][1]:+.1f}" in page
    own = words(page[page.index("By part of what") :])
    pairs = {(a, b): stages["stage 1"][i][j] for i, a in enumerate(names) for j, b in enumerate(names) if i != j}
    top = max(pairs, key=pairs.get)
    assert f"{pairs[top]:+.3f} ({top[0]}, {top[1]})" in own
    assert "In millionths." not in render_evidence(PAGES["whole"])


def test_a_similarity_has_no_stars_and_a_single_seed_no_intervals():
    own = section(render_evidence(PAGES["matrix"]), "related")
    assert "One seed, so there are no intervals" in words(own)
    assert "<small>" not in own
    cka = section(render_evidence(PAGES["whole"]), "related").split("<h3>")[2]
    assert cka.startswith("cka")
    assert "*" not in words(cka.partition("<figure>")[0])


def test_what_could_not_be_measured_says_why():
    text = words(section(render_evidence(PAGES["unknown"]), "related"))
    assert "2 cells could not be measured" in text
    assert "a → b: no labels" in text
    assert text.count("?") == 2


def test_a_tree_is_told_join_by_join():
    grown = dendrogram({"a": {"b": 0.9, "c": 0.2}, "b": {"a": 0.7, "c": 0.2}, "c": {"a": 0.1, "b": 0.1}})
    assert [(a, b) for a, b, _ in joins(grown)] in ([("a", "b"), ("c", "a, b")], [("a", "b"), ("a, b", "c")])
    assert [h for *_, h in joins(grown)] == pytest.approx([0.8, 0.15])


def test_a_group_that_serves_and_one_that_helps_have_different_signs():
    names = ("a", "b", "c")
    grouping = Grouping(groups=(("a", "b"), ("b", "c")), serves={"a": 0, "b": 0, "c": 1},
                        gains={"a": 0.1, "b": 0.2, "c": 0.3}, total=0.6, exact=True, budget=2, cost=2)  # fmt: skip
    study = studied(names).model_copy(update={"groupings": {"own": grouping}, "realised": {}, "choice": "joint"})
    own = section(render_evidence(Evidence(title="overlap", study=study)), "groups")
    signs = [re.findall(r'aria-label="(served|helps)"', row) for row in re.findall(r"<tr>.*?</tr>", own, re.S)[-3:]]
    assert signs == [["served"], ["served", "helps"], ["served"]]
    assert "★ own" not in words(own)


def test_all_methods_are_in_one_forest_method_under_method():
    own = section(render_evidence(PAGES["crowd"]), "methods")
    assert own.count('class="row "') == 2 * 70 + 2
    assert own.count('class="of"') == 70
    assert 'class="forest many crowd"' in own


def test_methods_have_their_standings_their_costs_and_what_they_need():
    page = render_evidence(PAGES["methods"])
    assert "Share all of them." in words(page).partition("It is the best on validation.")[0]
    own = section(page, "methods")
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", own, re.S)]
    assert [row[0] for row in rows[1:4]] == ["★ ", "single", "hard"]
    assert rows[1][1:3] == ["+3.0 %", "+2.0 %"]
    assert rows[2][1:] == ["–", "–", "", "–", "–", "2.50"]
    assert rows[1][-1] == "1.50"
    assert "better with <code>mmoe</code>." in own
    assert "120350" in "".join(words(own).split())
    cost = words(section(page, "cost"))
    assert "hardper repeat9993.25040040112.50" in cost


def test_the_front_is_what_no_other_trial_beats_and_the_pair_can_be_chosen():
    evidence = PAGES["search"]
    asked = evidence.model_copy(update={"pair": ("IQ", "KWW")})
    own = section(render_evidence(asked), "pareto")
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", own, re.S)]
    assert rows[0] == ["trial", "IQ", "KWW", "standing"]
    trials = {f"trial {t.number}": t.values for t in evidence.tuned.sides[0].trials if t.values}
    assert {row[0] for row in rows[1:]} == set(trials)
    for name, _, _, standing in rows[1:]:
        mine = trials[name]
        beaten = any(o["IQ"] >= mine["IQ"] and o["KWW"] >= mine["KWW"] and o != mine for o in trials.values())
        assert ("on the front" in standing) == (not beaten)
    assert sum("chosen" in row[3] for row in rows[1:]) == 1
    assert "These two are the tasks whose values go together least" in words(render_evidence(evidence))
    assert "whose values go together least" not in words(own)


def test_a_search_leads_with_what_it_found_and_says_nothing_of_what_is_not_there():
    tuned = searched(SIX[:2])
    page = render_evidence(Evidence(title="t", tuned=tuned, fractions=whole(SIX[:2]).fractions))
    side = max((s for s in tuned.sides if s.task is None), key=lambda s: s.trials[s.best].value)
    assert f"<code>{side.name}</code>: trial {side.best} is the best, mean skill" in page
    assert "go together least" not in page  # there are but two
    assert "estimator" not in page
    assert "Joint is here" not in page
    curves = whole(SIX[:2]).fractions.model_copy(update={"method": "mmoe"})
    assert "Joint is here <code>mmoe</code>." in render_evidence(Evidence(title="t", fractions=curves))


def test_the_name_of_a_chosen_dot_stands_clear_of_its_ring():
    page = scatter("s", [Dot(1.0, 1.0, "joint", chosen=True)], x_name="x", y_name="y", words="w")
    ring = float(re.search(r'class="ring" cx="([\d.]+)"', page)[1])
    assert float(re.search(r'class="key" x="([\d.]+)"', page)[1]) >= ring + 8.5 + 3


def test_a_tree_of_gains_has_its_zero_even_where_all_are_gains():
    gains = {a: {b: 0.2 for b in "abc" if b != a} for a in "abc"}
    assert 'class="zero"' in tree(dendrogram(gains), True)
    assert 'class="zero"' not in tree(dendrogram(gains), False)


def test_a_pair_that_is_not_there_has_no_view():
    page = render_evidence(PAGES["search"].model_copy(update={"pair": ("IQ", "nobody")}))
    assert 'id="pareto"' not in page


def test_bands_reach_from_the_lowest_repeat_to_the_highest():
    evidence = PAGES["whole"]
    first = evidence.fractions.comparisons[0]
    values = next(m for m in first.methods if m.name == "joint").values["IQ"]
    own = section(render_evidence(evidence), "labels")
    row = next(row for row in re.findall(r"<tr>.*?</tr>", own, re.S) if "IQ" in row and "joint" in row)
    mean, low, high = (f"{v:.3f}" for v in (sum(values) / len(values), min(values), max(values)))
    assert f"{mean} [{low}, {high}]" in words(row)
    assert own.count('<polygon class="band') == 12


def test_a_page_and_its_json_are_written_and_read_again(tmp_path):
    page = write_evidence(PAGES["odd"], tmp_path / "deep" / "report.html")
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    assert Evidence.model_validate_json((page.parent / "report.json").read_text(encoding="utf-8")) == PAGES["odd"]
    text = words(page.read_text(encoding="utf-8"))
    assert all(name in text for name in ODD)


def test_the_command_report_draws_a_folder_of_evidence_again(tmp_path, capsys):
    one, out = tmp_path / "one", tmp_path / "again.html"
    write_evidence(PAGES["matrix"], one / "report.html")
    assert main(["report", str(one), "-o", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == (one / "report.html").read_text(encoding="utf-8")
    write(Report(title="a run"), tmp_path / "run" / "report.html")
    assert main(["report", str(one), str(tmp_path / "run"), "-o", str(tmp_path / "both.html")]) == 3
    assert "Found evidence in" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "run.html")]) == 0
    assert "a run" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["whole", "odd"])
def test_a_browser_finds_the_figures(kind, tmp_path):
    page = write_evidence(PAGES[kind], tmp_path / "report.html")
    dom = browse(page, tmp_path, "--dump-dom")
    for name in ("heat study", 'class="tree"', "forest many", 'class="band', 'class="dot front"', 'class="groups"'):
        assert name in dom
    assert dom.count('role="img"') >= 15


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_paints_them_within_the_window(width, tmp_path):
    import matplotlib.image

    page = write_evidence(PAGES["whole"], tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--window-size={width},6000")
    pixels = matplotlib.image.imread(shot)[..., :3]
    assert pixels.shape[:2] == (6000, width)
    for part in range(6):
        assert pixels[part * 1000 : (part + 1) * 1000].std() > 0.01
    assert pixels[:, -4:].std() < 0.01, "something runs out of the window"
