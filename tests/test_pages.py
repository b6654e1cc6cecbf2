"""Pages: every kind of report renders, nothing leaves the file, and a browser finds the charts."""

import math
import random
import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from manyheads.report import render, write
from manyheads.results import (
    Comparison,
    History,
    Method,
    Part,
    Record,
    Report,
    Score,
    Scores,
    TaskComparison,
    TaskInfo,
)

ODD = (
    "<script>alert(1)</script>",
    "a.b",
    "x[0]",
    "a/b",
    "家庭收入",
    "{{ 7 * 7 }}",
    "\"quoted\" & 'so'",
    "n" * 80,
    "עברית",
)
WARNINGS = ("married: the validation part has one class only.",)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
CARD = {
    "IQ": ("regression", "r2", True, 0.31, 0.018),
    "KWW": ("regression", "r2", True, 0.36, 0.006),
    "educ": ("regression", "rmse", False, 1.71, 0.041),
    "lwage": ("regression", "rmse", False, 0.371, -0.002),
    "married": ("binary", "roc_auc", True, 0.652, -0.061),
    "enroll": ("binary", "roc_auc", True, 0.731, 0.012),
}


def make(names=tuple(CARD), *, repeats=5, epochs=30, compared=True, title="card: does sharing help?"):
    """A made-up but lifelike report."""
    draw = random.Random(7)
    tasks, scores, records, compare, methods = [], {"valid": [], "test": []}, [], {}, {}
    missing = {"IQ": 0.315, "KWW": 0.315}
    for name in names:
        other = ("binary", "roc_auc", True, draw.uniform(0.55, 0.9), draw.gauss(0.004, 0.03))
        kind, metric, up, level, delta = CARD.get(name, other)
        rows = {"train": 2006, "valid": 394, "test": 610}
        gap = missing.get(name, 0.0 if draw.random() < 0.4 else draw.uniform(0.0, 0.9))
        labels = {split: round(count * (1 - gap)) for split, count in rows.items()}
        detail = {"classes": [0, 1], "threshold": 0.5} if kind == "binary" else {"mean": 3.1, "sd": 1.2}
        tasks.append(
            TaskInfo(
                name=name,
                kind=kind,
                metric=metric,
                greater_is_better=up,
                rows=rows,
                labels=labels,
                probability=1 / len(names),
                passes=1.0,
                tables=("card",),
                detail=detail,
            )
        )
        for epoch in range(1, epochs + 1):
            rise = 1 - math.exp(-epoch / 6) - 0.004 * max(0, epoch - 14)
            value = level * (0.7 + 0.3 * rise) if up else level * (1.4 - 0.4 * rise)
            records += [
                Record(
                    epoch=epoch,
                    step=8 * epoch,
                    split="train",
                    task=name,
                    metric="loss",
                    value=0.4 + 0.6 * math.exp(-epoch / 8) + draw.gauss(0, 0.01),
                ),
                Record(
                    epoch=epoch,
                    step=8 * epoch,
                    split="valid",
                    task=name,
                    metric=metric,
                    value=value + draw.gauss(0, 0.004),
                ),
                Record(
                    epoch=epoch,
                    step=8 * epoch,
                    split="train",
                    task=name,
                    metric="weight",
                    value=1 + 0.3 * math.sin(epoch / 5 + len(name)),
                ),
            ]
        for split in scores:
            broken = name == "married" and split == "valid"
            scores[split].append(
                Score(
                    task=name,
                    metric=metric,
                    value=None if broken else level,
                    labels=labels[split],
                    interval=None if broken else (level * 0.95, level * 1.05),
                    greater_is_better=up,
                    why="only one class among the labels" if broken else None,
                )
            )
            if kind == "binary":
                scores[split].append(
                    Score(
                        task=name,
                        metric="log_loss",
                        value=0.61,
                        labels=labels[split],
                        greater_is_better=False,
                        primary=False,
                    )
                )
        half = draw.uniform(0.008, 0.05)
        verdict = "helps" if delta - half > 0 else "hurts" if delta + half < 0 else "undecided"
        joint = level * (1 + delta if up else 1 - delta)
        compare[name] = TaskComparison(
            metric=metric,
            greater_is_better=up,
            joint=joint,
            single=level,
            linear=level * 0.97,
            boosting=level * 1.01,
            constant=0.5 if metric == "roc_auc" else 0.0 if metric == "r2" else level * 1.5,
            delta=delta,
            interval=(delta - half, delta + half),
            p=0.004 if verdict != "undecided" else 0.41,
            verdict=verdict,
            absolute=metric == "r2",
            why=f"The joint model's {metric} is {joint:.3f}, alone it is {level:.3f}.",
        )
        for method, factor in (("joint", 1 + delta), ("single", 1.0), ("linear", 0.97), ("boosting", 1.01)):
            methods.setdefault(method, {})[name] = tuple(level * factor * draw.gauss(1, 0.01) for _ in range(repeats))
    for epoch in range(1, epochs + 1):
        records.append(
            Record(
                epoch=epoch,
                step=8 * epoch,
                split="valid",
                metric="skill",
                value=0.3 * (1 - math.exp(-epoch / 6)) - 0.002 * max(0, epoch - 18),
            )
        )
    comparison = Comparison(
        tasks=compare,
        delta_m=sum(task.delta for task in compare.values()) / len(compare),
        interval=(-0.011, 0.014),
        repeats=repeats,
        summary="Sharing helps no task beyond noise and hurts one: train married by itself.",
        protocol=f"{repeats} splits were re-drawn, 20 % for test; intervals use the corrected resampled t.",
        budget={"max_epochs": 30, "patience": 8, "trials": 1, "batch_size": 256},
        methods=tuple(
            Method(name=name, values=values, parameters=18_000 + 1000 * index, seconds=3.2 * index + 1)
            for index, (name, values) in enumerate(methods.items())
        ),
    )
    gates = {name: {f"expert {index}": 1 / (index + 2) for index in range(4)} for name in names}
    return Report(
        title=title,
        created="2031-05-04 10:20",
        tasks=tuple(tasks),
        history=History(records=tuple(records)),
        scores=tuple(Scores(split=split, scores=tuple(found)) for split, found in scores.items()),
        comparison=comparison if compared else None,
        warnings=WARNINGS,
        settings={
            "schema_version": 1,
            "data": {"train": "card.csv"},
            "model": {"sharing": {"kind": "mmoe", "experts": 4}},
            "optim": {"lr": 1e-3, "balance": None},
            "trainer": {"max_epochs": 30, "monitors": ["skill", "loss"]},
        },
        environment={"manyheads": "0.1.0", "torch": "2.4.0", "threads": 1},
        notes={
            "gates": gates,
            "temperature": 1.5,
            "log variances": {name: 0.1 * index - 0.2 for index, name in enumerate(names)},
        },
    )


def words(page):
    """The page without its tags."""
    from html.parser import HTMLParser

    class Words(HTMLParser):
        text = ""

        def handle_data(self, data):
            self.text += data

    parser = Words()
    parser.feed(page)
    return parser.text


def outside(page):
    """Whatever on a page would be fetched."""
    page = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    return re.findall(r"https?://\S+|(?:src|href)=[\"'](?!#|data:)[^\"']*|@import|url\((?!#)[^)]*", page)


CROWD = tuple(f"assay {index:03d}" for index in range(139))
REPORTS = {
    "typical": make(),
    "crowd": make(CROWD, epochs=40),
    "odd": make(ODD, epochs=3),
    "one": make(("y",), repeats=1, epochs=1),
    "train": make(compared=False),
    "bare": Report(title="bare"),
    "verdict": Report(title="scores", comparison=make().comparison),
    "undefined": Report(
        title="undefined",
        tasks=(
            TaskInfo(
                name="y",
                kind="binary",
                metric="roc_auc",
                greater_is_better=True,
                rows={"train": 0},
                labels={"train": 0},
            ),
        ),
        history=History(records=(Record(epoch=1, step=1, split="valid", task="y", metric="roc_auc", value=None),)),
        scores=(
            Scores(split="test", scores=(Score(task="y", metric="roc_auc", value=None, labels=0, why="no labels"),)),
        ),
        comparison=Comparison(
            tasks={
                "y": TaskComparison(
                    metric="roc_auc",
                    joint=None,
                    single=None,
                    delta=None,
                    interval=(None, None),
                    p=None,
                    verdict="undecided",
                )
            },
            delta_m=None,
            interval=(None, None),
            repeats=0,
        ),
    ),
}


def parted(n, splits=("valid", "test")):
    """A task with two metrics by label, of n labels; the fourth has no value."""
    kinds = (("roc_auc", "roc_auc", True), ("f1_macro", "f1", True), ("log_loss", "log_loss", False))
    return Report(title="parts", scores=tuple(
        Scores(split=split, scores=tuple(
            Score(task="codes", metric=metric, value=0.5, labels=100, greater_is_better=up, primary=metric == "roc_auc",
                  parts=tuple(Part(name=f"<{i}>", value=None if i == 3 else (i * 7 % n) / n, labels=1000, cases=i,
                                   word=word) for i in range(n)))
            for metric, word, up in kinds)) for split in splits))  # fmt: skip


REPORTS |= {"parts": parted(8), "many parts": parted(1200)}


def test_parts_are_a_table_in_several_orders():
    page = render([REPORTS["parts"]])
    text = words(page)
    assert "codes, part by part" in text
    assert "On the test split" in text
    rows = re.findall(r'<tr role="row" style="([^"]*)">.*?<bdi>&lt;(\d)&gt;</bdi>.*?class="n">([^<]*)<', page)
    assert [int(name) for _, name, _ in rows] == list(range(8))
    assert [value for *_, value in rows][:4] == ["0.000", "0.875", "0.750", "–"]
    orders = re.findall(r'value="\d"(?: checked)?> ([^<\n]*)', page)
    assert orders == ["as given", "roc_auc, worst first", "f1, worst first", "log_loss, worst first", "most cases"]
    places = [[int(p) for p in re.findall(r":(\d+)", style)] for style, *_ in rows]
    for order, expected in ((0, "01234567"), (1, "07654213"), (3, "12456703"), (4, "76543210")):
        assert "".join(str(i) for i in sorted(range(8), key=lambda i: places[i][order])) == expected


def test_many_parts_are_folded_and_their_middle_is_left_out():
    page = render([REPORTS["many parts"]])
    text = words(page)
    assert "1200 parts: roc_auc from 0 (<0>) to 0.999" in text
    assert "; 1 without a value." in text
    assert "900 in the middle are left out" in text
    assert page.count('<tr role="row" style=') == 300
    assert "<details><summary>1200 parts" in page


@pytest.mark.parametrize("kind", REPORTS)
def test_every_report_renders_into_one_small_file(kind):
    page = render([REPORTS[kind]])
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert outside(page) == []
    assert "<script" not in page
    assert len(page.encode()) < 500_000
    assert not re.search(r">\s*(None|nan|inf|Undefined)\s*<", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    ranks = [int(rank) for rank in re.findall(r"<h(\d)", page)]
    assert ranks[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(ranks))
    for figure in re.findall(r"<figure>.*?</figure>", page, re.S):
        assert 'role="img" aria-label="' in figure
        assert "<figcaption>" in figure
        assert "<details>" in figure
        assert "<table>" in figure


def test_the_verdict_comes_first_and_the_numbers_are_there():
    text = words(render([REPORTS["typical"]]))
    place = 0
    for part in (
        "card: does sharing help?",
        "Sharing helps no task beyond noise",
        WARNINGS[0],
        "The joint model's r2",
        "What sharing changed",
        "Every method, every task",
        "5 splits were re-drawn",
        "31.5 % missing",
        "The mean skill on valid is best",
        "undefined: only one class among the labels",
        "Task weights over the epochs",
        "schema_version: 1",
        "torch: 2.4.0",
    ):
        place = text.index(part, place)
    assert "−6.1 %" in text
    assert "+0.018†" in text


def test_a_train_run_leaves_the_comparison_out():
    text = words(render([REPORTS["train"]]))
    assert "Verdict" not in text
    assert "not compared with single-task models" in text
    assert WARNINGS[0] in text


def test_odd_names_are_shown_as_they_are():
    page = render([REPORTS["odd"]])
    text = words(page)
    for name in ODD:
        assert name in text
    assert "<script>alert" not in page


def test_a_crowd_is_cut_with_a_note():
    page = render([REPORTS["crowd"]])
    assert page.count('class="card"') == 13
    assert "Shown: 12 of 139 tasks" in words(page)
    assert page.count('class="row "') == 139


def test_weights_are_courses_whatever_their_number_and_equal_ones_say_nothing():
    def page_of(weights):
        records = tuple(
            Record(epoch=epoch, step=epoch, split="train", task=task, metric="weight", value=weight)
            for task, own in weights.items()
            for epoch, weight in enumerate(own)
        )
        return words(render([Report(title="weights", history=History(records=records))]))

    text = page_of({"a": [1.0, 0.5], "b": [1.0, 1.5]})
    assert "firstlowesthighestlasta1.0000.5001.0000.500" in "".join(text.split())
    assert "Task weights" not in page_of({"a": [1.0, 1.0], "b": [1.0, 1.0]})


def test_an_undefined_number_gives_its_reason_and_is_never_zero():
    page = render([REPORTS["undefined"]])
    assert "undefined: no labels" in page
    assert "The change in roc_auc is undefined." in page
    assert "0.000" not in page


def test_several_runs_stand_side_by_side():
    second = make(("IQ", "enroll", "extra"), compared=False)
    page = render([REPORTS["typical"], second])
    text = words(page)
    assert "2 runs compared" in text
    assert text.index("Primary scores side by side") < text.index("What sharing changed")
    assert "card: does sharing help? (2)" in text
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert outside(page) == []


def test_no_report_is_refused():
    with pytest.raises(ValueError, match="at least one report"):
        render([])


def test_write_leaves_the_page_and_its_json_only(tmp_path):
    report = REPORTS["odd"]
    page = write(report, tmp_path / "deep" / "report.html")
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    assert Report.model_validate_json((page.parent / "report.json").read_text(encoding="utf-8")) == report
    assert page.read_text(encoding="utf-8") == render([report])
    with pytest.raises(ValueError, match="should not be named like the JSON"):
        write(report, tmp_path / "report.json")


@pytest.mark.parametrize("value", [
    1.5, "words", [0.1, 0.2], [], {}, {"a": 1.0, "b": None}, {"a": [1.0, 2.0], "b": [3.0, 4.0]},
    {"a": [0.5] * 50, "b": [0.1] * 50}, [[1.0, 2.0], [3.0, 4.0]], {"layer": {"a": [0.2, 0.8], "b": [0.5, 0.5]}},
    {"a": "text", "b": [1, {"c": None}]}, {"a": math.inf, "b": math.nan}, [1.0, math.nan] * 20, [None] * 3,
    [[float(i * j) for i in range(139)] for j in range(139)], None, True,
])  # fmt: skip
def test_any_note_renders(value):
    page = render([Report(title="notes", notes={"<b>gates</b>": value})])
    assert "<b>gates" not in page
    assert len(page) < 500_000


def browse(page, tmp_path, *options):
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome on this machine")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("kind", ["typical", "crowd", "odd"])
def test_a_browser_finds_the_charts(kind, tmp_path):
    page = write(REPORTS[kind], tmp_path / "report.html")
    dom = browse(page, tmp_path, "--dump-dom")
    assert dom.count("<svg") >= 20
    assert dom.count('role="img"') >= 5
    assert "Sharing helps no task beyond noise" in dom
    assert "<script" not in dom


def test_a_browser_paints_the_page(tmp_path):
    import matplotlib.image

    page = write(REPORTS["typical"], tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1200,1800")
    pixels = matplotlib.image.imread(shot)
    assert pixels.shape[:2] == (1800, 1200)
    assert pixels[..., :3].std() > 0.03
    for part in range(4):
        assert pixels[part * 450 : (part + 1) * 450, :, :3].std() > 0.01


def with_use(report, use):
    """The report with what a scheme noted: task -> label -> one number per epoch."""
    more = tuple(
        Record(epoch=epoch, step=epoch, split="sharing", task=task, metric=label, value=value)
        for task, own in use.items()
        for label, course in own.items()
        for epoch, value in enumerate(course)
    )
    return report.model_copy(update={"history": History(records=(*report.history, *more)), "notes": {}})


def course(start, end, epochs=31):
    return [start + (end - start) * epoch / (epochs - 1) for epoch in range(epochs)]


USE = {
    "IQ": {"expert 1": course(0.5, 0.9), "expert 2": course(0.5, 0.1)},
    "married": {"expert 1": course(0.5, 0.25), "<b>from</b> IQ": [None, *course(0.0, -0.4, 30)]},
}


def section(page, name):
    return re.search(rf'<section aria-labelledby="{name}">.*?</section>', page, re.S)[0]


def test_who_uses_what_is_a_heat_map_of_the_chosen_epoch():
    report = with_use(REPORTS["train"], USE)
    page = render([report])
    found = section(page, "use")
    epoch = max((r for r in report.history if r.metric == "skill"), key=lambda r: r.value).epoch + 1
    text = words(found)
    assert f"in epoch {epoch}, the best" in text
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", found, re.S)]
    assert rows[0][1:3] == ["expert 1", "expert 2"]
    expected = USE["IQ"]["expert 1"][epoch - 1]
    assert rows[1] == ["IQ", f"{expected:.3f}", f"{1 - expected:.3f}", "\u2013"]
    assert rows[2][0] == "married"
    assert rows[2][2] == "\u2013"
    assert rows[2][3].startswith("\u2212")
    assert found.count('class="spark"') == 4
    assert "from \u22120.400 (bottom) to 0.900 (top)" in text
    assert "<b>from" not in page
    assert outside(page) == []


def test_where_nothing_was_noted_nobody_uses_anything():
    assert 'id="use"' not in render([REPORTS["train"]])
    unknown = with_use(REPORTS["train"], {"IQ": {"expert 1": [None, None]}})
    assert 'id="use"' not in render([unknown])


def test_one_epoch_has_no_course():
    found = section(render([with_use(REPORTS["one"], {"y": {"own share": [0.3]}})]), "use")
    assert "0.30" in words(found)
    assert "spark" not in found
    assert "bottom" not in found


def test_what_was_noted_leaves_the_curves_as_they_were():
    plain = REPORTS["train"].model_copy(update={"notes": {}})
    noted = with_use(plain, {name: {"loss": [9.0] * 31, "skill": [9.0] * 31, "r2": [9.0] * 31} for name in CARD})
    assert section(render([noted]), "curves") == section(render([plain]), "curves")


def test_a_crowd_that_uses_much_stays_a_small_page():
    labels = [f"from assay {index:03d}" for index in range(50)]
    use = {name: dict.fromkeys(labels, course(0.1, 0.7, 2)) for name in CROWD}
    page = render([with_use(REPORTS["crowd"], use)])
    assert len(page.encode()) < 600_000
    assert "Shown: 60 of 139 rows and 40 of 50 columns" in words(page)
    assert "spark" not in section(page, "use")


def test_a_task_with_several_labels_a_row_is_covered_at_most_wholly():
    own = {"greater_is_better": True, "rows": {"train": 90}, "labels": {"train": 810}}
    task = TaskInfo(name="drugs", kind="multilabel", metric="roc_auc", per_row=9, **own)
    assert task.coverage("train") == 1.0
    assert task.coverage("test") is None
    page = render([Report(title="t", tasks=(task,))])
    assert "810 <small>of 810</small>" in page
    assert 'width="100.0%"' in page
    assert "missing</span>" not in page


def test_the_name_of_a_metric_ends_before_the_best_value():
    task = TaskInfo(name="a", kind="regression", metric="mean_absolute_percentage_error", greater_is_better=False)
    records = [
        Record(epoch=e, step=e, split="valid", task="a", metric=task.metric, value=v)
        for e, v in enumerate((1.0, 0.5, 0.7))
    ]
    page = render([Report(title="t", tasks=(task,), history=History(records=tuple(records)))])
    assert re.search(r'<text class="title" x="2" [^>]*textLength="203"[^>]*>mean_absolute_percentage_error', page)
