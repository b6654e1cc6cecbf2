"""Config files and overrides: what they mean, and what is said about what is wrong with them."""

from __future__ import annotations

import pytest

from manyheads import config, yaml12
from manyheads.faults import ConfigError, DataError
from manyheads.spec import RunSpec

SMALLEST = "schema_version: 1\ndata: {train: t.csv}\ntasks: {y: {type: binary, target: y}}\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("1.5", 1.5), (".5", 0.5), ("-.inf", float("-inf")), ("010", 10), ("0o10", 8),
        ("0x1f", 31), ("1_000", "1_000"), ("12:30", "12:30"), ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("y", "y"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("2024-01-31", "2024-01-31"), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = yaml12.parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)
    assert yaml12.parse(yaml12.write({"key": value}))["key"] == value


def test_texts_that_look_like_something_else_come_back_as_texts():
    values = {"a": "1e-3", "b": "null", "c": "true", "d": "0x1", "e": "no", "f": "", "g": "<<", "h": ".nan", "1": "k"}
    assert yaml12.parse(yaml12.write(values)) == values


def test_keys_are_texts_as_written():
    assert yaml12.parse("{1: a, true: b, 1e3: c}") == {"1": "a", "true": "b", "1e3": "c"}


def test_a_key_that_stands_twice_is_named_with_its_line(write):
    path = write("schema_version: 1\ntasks:\n  y: {type: binary}\n  y: {type: binary}\n")
    with pytest.raises(ConfigError, match=r"line 4.*`y` stands twice, first in line 3"):
        config.load([path])


def test_the_smallest_config(write, tmp_path):
    spec = config.load([write(SMALLEST)])
    assert spec.data.train == str(tmp_path / "t.csv")
    assert [t.name for t in config.tasks_of(spec)] == ["y"]


def test_what_is_dumped_loads_to_the_same_run(write):
    spec = config.load([write(SMALLEST)], ["optim.lr=1e-3", "optim.scheduler=StepLR", "optim.scheduler.step_size=3"])
    again = config.load([write(config.dump(spec), "again.yaml")])
    assert again == spec
    assert isinstance(again, RunSpec)


def test_files_are_merged_in_order_and_overrides_come_last(write):
    first = write(SMALLEST + "trainer: {max_epochs: 3, patience: 5}\n")
    second = write("trainer: {max_epochs: 4}\noptim: {lr: 0.5}\n", "more.yaml")
    spec = config.load([first, second], ["optim.lr=1e-2", "trainer.patience=null"])
    assert (spec.trainer.max_epochs, spec.trainer.patience, spec.optim.lr) == (4, None, 0.01)


def test_overrides_reach_odd_names_and_the_settings_of_a_word(write):
    path = write("schema_version: 1\ndata: {train: t.csv}\ntasks: {a.b: {type: binary}, 'x=1': {type: regression}}\n")
    overrides = ['tasks."a.b".weight=2', "tasks.'x=1'.loss=huber", "model.encoder.d_hidden=64", "optim.balance=fixed"]
    spec = config.load([path], [*overrides, "optim.balance.weights={a.b: 3}"])
    assert spec.tasks["a.b"]["weight"] == 2
    assert spec.tasks["x=1"]["loss"] == "huber"
    assert (spec.model.encoder.name, spec.model.encoder.settings) == ("auto", {"d_hidden": 64})
    assert spec.optim.balance.settings == {"weights": {"a.b": 3}}


def test_another_word_takes_the_former_words_settings_away(write):
    path = write(SMALLEST + "optim: {balance: {name: uncertainty, lr: 0.1}}\n")
    assert config.load([path], ["optim.balance=equal"]).optim.balance.settings == {}


def test_paths_are_relative_to_the_file_or_to_the_root(write, tmp_path):
    inner = write(SMALLEST, "deep/run.yaml")
    assert config.load([inner]).data.train == str(tmp_path / "deep" / "t.csv")
    rooted = write(SMALLEST.replace("train: t.csv", "train: t.csv, root: ../rows"), "deep/rooted.yaml")
    assert config.load([rooted]).data.train == str(tmp_path / "rows" / "t.csv")
    text = "schema_version: 1\ndata: {tables: {a: a.csv, b: {path: b.csv, targets: [y]}}}\ntasks: {y: {type: binary}}"
    tables = write(text)
    found = config.load([tables]).data.tables
    assert found["a"].path == str(tmp_path / "a.csv")
    assert (found["b"].path, found["b"].targets) == (str(tmp_path / "b.csv"), ("y",))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("epochs: 3", "`epochs` should not be there: the config has no key `epochs`. Ours is `trainer.max_epochs`."),
        ("trainer: {num_epochs: 3}", "Ours is `trainer.max_epochs`."),
        ("trainer: {early_stopping: 3}", "Ours is `trainer.patience`."),
        ("optim: {learning_rate: 3}", "Ours is `optim.lr`."),
        ("task_weights: {y: 3}", "Ours is `tasks.<name>.weight`."),
        ("batch_size: 3", "It belongs under `sampling.batch_size`."),
        ("trainer: {batch_size: 3}", "It belongs under `sampling.batch_size`."),
        ("trainer: {max_epoch_s: 3}", "Did you mean `max_epochs`?"),
        ("model: {encoder: {name: tabular, d_hiden: 3}}", "Did you mean `d_hidden`?"),
        ("model: {sharing: {name: mmoe, n_experts: 1.5}}", "`model.sharing.n_experts` should be a whole number."),
        ("model: {sharing: hrad}", "No sharing is called `hrad`. Did you mean `hard`?"),
        ("model: {members: two}", "`model.members` should be a whole number. Found 'two'."),
        ("optim: {lr: -1}", "`optim.lr` should be greater than 0. Found -1."),
        ("data: {split: {kind: rndom}}", "Found 'rndom'. Did you mean `random`?"),
        ("schema_version: 2", "`schema_version` should be 1. Found 2."),
        ("tasks: {y: {type: binary, label: q}}", "a binary task has no setting `label`. Ours is `target`."),
        ("tasks: {y: {type: binry}}", "Did you mean `binary`?"),
        ("tasks: {y: {target: q}}", "`tasks.y.type` should be one of binary,"),
        ("tasks: {y: {type: binary, weight: heavy}}", "`tasks.y.weight` should be a number. Found 'heavy'."),
        ("tasks: {y: {type: binary, metrics: [roc_acu]}}", "roc_auc"),
        ("tasks: {}", "`tasks` should hold a task or more. Found none."),
    ],
)
def test_each_mistake_has_its_sentence(write, line, sentence):
    paths = [write(line)] if line.startswith("tasks:") else [write(SMALLEST), write(line, "more.yaml")]
    with pytest.raises(ConfigError) as caught:
        config.load(paths)
    assert sentence in str(caught.value)


def test_all_mistakes_are_told_at_once(write):
    path = write("schema_version: 1\nepochs: 3\ntrainer: {patience: no}\ntasks: {y: {type: binary, wieght: 2}, z: 3}\n")
    with pytest.raises(ConfigError) as caught:
        config.load([path])
    text = str(caught.value)
    assert text.startswith(f"4 problems in {path}:")
    for part in ("trainer.max_epochs", "`trainer.patience` should be a whole number", "`weight`", "`tasks.z`"):
        assert part in text


@pytest.mark.parametrize("text", ["a", "=3", ".=2", "a.b", "a..b=1", "a.=1"])
def test_an_override_should_read_like_one(write, text):
    with pytest.raises(ConfigError, match=r"should read `section.key=value`"):
        config.load([write(SMALLEST)], [text])


NO_CONFIGS = [("", DataError), ("# nothing\n", DataError), ("[1]", ConfigError), ("a: [", ConfigError)]


@pytest.mark.parametrize(("text", "error"), NO_CONFIGS)
def test_files_that_hold_no_config(write, text, error):
    path = write(text)
    with pytest.raises(error, match=r"run\.yaml"):
        config.load([path])


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.yaml` should be a config file"):
        config.load([tmp_path / "nowhere.yaml"])


def test_precision_may_be_written_as_a_number(write):
    assert config.load([write(SMALLEST)], ["trainer.precision=64"]).trainer.precision == "64"
