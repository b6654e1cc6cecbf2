"""A trained model on new tables: predictions, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import gates
from ..build import Prepared, objective_of
from ..catalog import hint
from ..data import Taskset
from ..data.assemble import Dataset
from ..data.preprocess import concat
from ..evaluate import Result, predict_frame, run, score
from ..evaluate import predict as predictions
from ..faults import ConfigError, DataError
from ..files import quoted, write_atomically
from ..intake import Intake, of_file
from ..members import Members
from ..modelfile import load
from ..results import Scores
from ..sieve import sifted
from ..spec import Part, RunSpec
from ..tasks import Task
from ..train import Training
from .door import Door, comparison_json, scores_json

if TYPE_CHECKING:
    import pandas as pd

    from ..model import AnyModel


def open_model(path: Path, trust: Sequence[str] = ()) -> tuple[AnyModel, Dataset]:
    """The model of a run, ready to predict.

    Args:
        path: a run's folder, or a model folder.
        trust: modules from which classes may be imported.

    Raises:
        DataError: there is none, or it is damaged.
    """
    folder = path / "model" if (path / "model").is_dir() else path
    if not (folder / "spec.json").is_file():
        what = "Found no model there" if path.is_dir() else "Found nothing there"
        raise DataError(f"`{path}` should be the folder of a finished run, or a model folder. {what}; check the path.")
    model, _, dataset, _ = load(folder, trust)
    return model, dataset


def _name(dataset: Dataset, path: Path, table: str | None) -> str:
    """The name under which a file's rows are read: a known table's, or the file's own."""
    if table is not None and table not in dataset.targets:
        raise ConfigError(f"--table should name a table of the run. Found `{table}`. {hint(table, dataset.targets)}")
    if table is not None:
        return table
    return path.stem if path.stem in dataset.targets and len(dataset.targets) > 1 else path.name


def _rows(
    model_path: Path, dataset: Dataset, table: Path, form: str | None, name: str | None, labels: bool = True
) -> pd.DataFrame:
    """The rows of a file, or of a folder in the form that is named, or else in that of the run's own data.

    Args:
        name: the run's table that the rows are like: its form is meant.
        labels: whether there should be some; without them a ``.txt`` may hold a text per line, where one column is
            all that the model reads.
    """
    from ..config import override, read
    from ..data.readers import KINDS

    given: Any = None if form is None else override(f"format={form}")["format"]
    data: dict[str, Any] = {}
    own = model_path / "config.yaml"
    if own.is_file() and not table.name.lower().endswith(tuple(KINDS)):
        data = read(own).get("data") or {}
    like = (data.get("tables") or {}).get(name)
    told = like.get("format") if isinstance(like, dict) else None
    word = next((w for w in (given, told, data.get("format")) if w is not None), None)
    features = {column.name for found in dataset.preprocess.columns.values() for column in found}
    if word is None and not labels and table.suffix.lower() == ".txt" and len(features) == 1:
        word = {"name": "lines", "column": features.pop()}
    try:
        part = None if word is None else Part.of(word)
    except ValueError:
        raise ConfigError(f"--format should be a word, or {{name: word, ...}}. Found `{form}`.") from None
    return of_file(table, part, data.get("on_error", "raise"), labels)


def _files_of(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    """The columns that name the file of each row, which nobody could tell the rows of a folder apart without."""
    kinds = {c.name: c.kind for found in dataset.preprocess.columns.values() for c in found if c.name in frame.columns}
    files = [name for name, kind in kinds.items() if kind in ("image", "audio")]
    return [name for name in files if frame[name].map(lambda value: isinstance(value, str)).all()]


def _skips(model_path: Path) -> bool:
    """Whether the run leaves rows out that cannot be read."""
    from ..config import read

    own = model_path / "config.yaml"
    return own.is_file() and (read(own).get("data") or {}).get("on_error") == "skip"


def _row_names(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    """A name for every row, fit for a file: the stem of its picture or recording, or else its number."""
    columns = {c.name: c.kind for found in dataset.preprocess.columns.values() for c in found}
    for column in (c for c, kind in columns.items() if kind in ("image", "audio") and c in frame.columns):
        values = frame[column]
        if len(values) and values.map(lambda value: isinstance(value, str)).all():
            stems = [Path(value).stem for value in values]
            if len(set(stems)) == len(stems):
                return [quoted(stem) for stem in stems]
    width = len(str(max(len(frame) - 1, 0)))
    return [f"{row:0{width}}" for row in range(len(frame))]


def _in_words(dataset: Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with texts as the lists of words that the model sees, in columns before all others."""
    import pandas as pd

    columns = {c.name: c for found in dataset.preprocess.columns.values() for c in found if c.name in frame.columns}
    found = {name: column.tokens(frame[name]) for name, column in columns.items()}
    words = {name: pd.Series(list(own), frame.index, object) for name, own in found.items() if own is not None}
    rest = frame[[c for c in frame.columns if c not in words]]
    return pd.concat([pd.DataFrame(words, frame.index), rest], axis=1)


def predict(
    model_path: Path,
    table: Path,
    output: Path,
    door: Door,
    tasks: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    name: str | None = None,
    trust: Sequence[str] = (),
    form: str | None = None,
    files: Path | None = None,
) -> dict[str, Any]:
    """Predictions for a table into a file, in the order of its rows.

    Args:
        model_path: a run's folder.
        table: the file with the rows.
        output: csv, parquet or jsonl, and what else `readers.write` knows.
        tasks: only these.
        keep: columns of the table that go before the predictions; of a folder by default those with its files.
        name: which of the run's tables the rows are like.
        trust: modules from which classes may be imported.
        form: how the rows are kept, where the ending does not say it: a word, or a mapping as YAML; the run's own form
            by default.
        files: a folder for predictions in the form that their field has for them, in a folder per task.

    Raises:
        ConfigError: an unknown task, column or form, or the output exists.
        DataError: the model or the table is damaged, or lacks a column.
    """
    import pandas as pd

    from ..data.readers import write

    door.claim(output)
    if files is not None:
        door.claim(files)
    model, dataset = open_model(model_path, trust)
    for task in tasks or ():
        if task not in model.tasks:
            raise ConfigError(f"--tasks should name tasks of the run. Found `{task}`. {hint(task, model.tasks)}")
    with door.hearing():
        frame = _rows(model_path, dataset, table, form, name, labels=False)
        keep = keep or (_files_of(dataset, frame) if table.is_dir() else ())
        for column in keep:
            if column not in frame.columns:
                raise DataError(
                    f"`{table}` should have the column `{column}`. Found no such column. {hint(column, frame.columns)}"
                )
        known = _name(dataset, table, name)
        if _skips(model_path):
            frame = sifted(dataset, known, frame, labels=False)
        predicted = predictions(model, dataset, known, frame, tasks)
    described: dict[str, Task] = model.tasks
    columns = {c: v for task, said in predicted.items() for c, v in described[task].columns(said).items()}
    found = pd.DataFrame(columns, index=frame.index)
    both = [c for c in keep if c in found.columns]
    if both:
        raise ConfigError(
            f"--keep-columns should not name a column of predictions. Found `{both[0]}`; rename it in the table."
        )
    whole = pd.concat([frame[list(keep)], found], axis=1)
    if not door.dry_run:
        write(whole, output)
        door.screen.say(f"Written: {output} ({len(whole):,} rows, {len(whole.columns)} columns)")
    answer: dict[str, Any] = {"output": str(output), "rows": len(whole), "columns": list(whole.columns)}
    if files is None:
        return answer
    names, count, frame = _row_names(dataset, frame), 0, _in_words(dataset, frame)
    for task, said in predicted.items() if not door.dry_run else ():
        for path, content in described[task].files(said, names, frame):
            target = files / quoted(task) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
            count += 1
    door.screen.say(f"Written: {files} ({count:,} files)")
    return answer | {"files": count}


def evaluate(
    model_path: Path,
    table: Path,
    door: Door,
    demands: Sequence[gates.Gate] = (),
    name: str | None = None,
    trust: Sequence[str] = (),
    form: str | None = None,
) -> dict[str, Any]:
    """Scores of a model on a table.

    Args:
        model_path: a run's folder.
        table: the file with rows and labels.
        demands: gates to be met; their split is ``test``.
        name: which of the run's tables the rows are like; its tasks alone are scored.
        trust: modules from which classes may be imported.
        form: how the rows are kept, as for `predict`.

    Raises:
        DataError: the model or the table is damaged, lacks a column, or holds a label never seen in training.
        GateError: a gate is not met.
    """
    model, dataset = open_model(model_path, trust)
    gates.named(demands, list(model.tasks))
    dtype = next(model.parameters()).dtype
    with door.hearing():
        frame = _rows(model_path, dataset, table, form, name)
        known = _name(dataset, table, name)
        if _skips(model_path):
            frame = sifted(dataset, known, frame, labels=True)
        tasksets = dataset.tasksets({known: frame})
        meant = list(model.tasks) if name is None else [t for t in model.tasks if t in dataset.targets[name]]
        tasksets = {t: rows.to(dtype) for t, rows in tasksets.items()}
        judged = _followed(model_path, model, dataset, tasksets, door)
        found = score(model, tasksets, "test", tasks=meant, judged=judged)
    if not any(s.labels for s in found.scores):
        wanted = list(dict.fromkeys(c for t in meant for c in model.tasks[t].targets))
        raise DataError(f"`{table}` should have labels in one of the columns {', '.join(wanted[:10])}. Found none.")
    absent = [t for t in meant if t not in {s.task for s in found.scores}]
    if absent:
        door.warn(f"Table `{table.name}` should label every task. Found no target column of {', '.join(absent)}.")
    door.screen.scores([Scores(split=str(table.name), scores=found.scores)])
    answer = {"scores": scores_json([found])["test"], "rows": len(frame), "warnings": door.warned}
    return gates.check(demands, [found], answer)


def _followed(
    model_path: Path, model: AnyModel, dataset: Dataset, tasksets: Mapping[str, Taskset], door: Door
) -> dict[str, Result] | None:
    """Outputs and labels of the rows of domains that the model did not follow, if it learned to follow some."""
    from ..config import load as config_of

    own = model_path / "config.yaml"
    if not own.is_file():
        return None
    objective = objective_of(config_of([own]), len(dataset.preprocess.sources))
    if objective.shape is None or objective.shape.ways is not None:
        return None
    by, most = objective.shape.by, objective.shape.sizes[1]
    by = f"each `{by}`" if any(by in rows.extra for rows in tasksets.values()) else "each table"
    door.screen.say(f"The model followed half of the rows of {by}, {most} at most, and is judged by the others.")
    return objective.held_out(model, tasksets)


# ---- a run's own rows


class Trained(Protocol):
    """A run after its training."""

    @property
    def spec(self) -> RunSpec:
        """Its config."""

    @property
    def intake(self) -> Intake:
        """Its tables."""

    @property
    def prepared(self) -> Prepared:
        """Its rows."""

    @property
    def training(self) -> Training | Members:
        """Its training."""


def of_part(ready: Trained, model: Any, part: str) -> pd.DataFrame:
    """The rows of a part in the tables' order: table and row, ids, and every task's columns.

    Of a run that learned to follow new domains: the rows that are left when some of each domain were followed.

    Args:
        ready: the run.
        model: its model.
        part: train, valid or test.
    """
    import pandas as pd

    from ..compare.rounds import lead

    dtype, tables = next(model.parameters()).dtype, ready.intake.tables
    of, at = _origin(ready, part)
    judged = {source: rows.to(dtype) for source, rows in ready.prepared.tasksets[part].items()}
    found: dict[str, list[pd.DataFrame]] = {}
    for source, positions, own in lead(ready.training).objective.following(model, judged):
        names, rows = of[source][positions.numpy()], at[source][positions.numpy()]
        for name in dict.fromkeys(names):
            mine = rows[names == name]
            said = predict_frame(own, ready.prepared.dataset, name, tables[name].iloc[mine])
            found.setdefault(name, []).append(said.set_axis(mine))
    frames = []
    for name in (n for n in tables if n in found):
        whole = pd.concat(found[name]).sort_index()
        frames.append(_led(ready, pd.Series(name, whole.index), whole.index.to_numpy(), whole))
    return pd.concat(frames, ignore_index=True)


def out_of_fold(ready: Trained) -> pd.DataFrame:
    """The training rows that members held out, each as the member saw it that did not learn from it.

    Args:
        ready: the run.
    """
    import pandas as pd

    training = ready.training
    runs = training.runs if isinstance(training, Members) else [training]
    tasks: Any = training.model.tasks
    tables, rows = _origin(ready, "train")
    frames = []
    for one in runs:
        for source, held in one.valid.items():
            learned = (one.sampler.within or {}).get(source)
            index = np.setdiff1d(np.arange(len(tables[source])), [] if learned is None else learned.numpy())
            if len(index) != len(held):
                continue
            of, at = tables[source][index], rows[source][index]
            frame = concat([ready.intake.tables[t].iloc[at[of == t]] for t in dict.fromkeys(of)])
            columns: dict[str, Any] = {}
            for task, output in run(one.model, held, held.tasks, source).items():
                described = tasks[task]
                columns |= described.columns(described.placed(described.predict(output), frame))
            frames.append(_led(ready, pd.Series(of), at, pd.DataFrame(columns)))
    whole = pd.concat(frames, ignore_index=True)
    order = [c for c in ("table", "row") if c in whole.columns]
    return whole.sort_values(order, kind="stable", ignore_index=True) if len(order) == 2 else whole


def _origin(ready: Trained, part: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Per source the table, and the row within it, of each row of a part."""
    names: dict[str, list[np.ndarray]] = {}
    rows: dict[str, list[np.ndarray]] = {}
    for name, (source, _, _) in ready.prepared.dataset.offsets(ready.intake.tables).items():
        found = np.flatnonzero(ready.intake.parts[name] == part)
        names.setdefault(source, []).append(np.full(len(found), name, dtype=object))
        rows.setdefault(source, []).append(found)
    return {s: np.concatenate(n) for s, n in names.items()}, {s: np.concatenate(r) for s, r in rows.items()}


def _led(ready: Trained, tables: pd.Series, rows: np.ndarray, found: pd.DataFrame) -> pd.DataFrame:
    """Predictions after table, row and ids; a column that a task is named like gives way."""
    import pandas as pd

    lead: dict[str, Any] = {"table": tables.to_numpy(), "row": rows}
    for column in ready.spec.data.ids:
        parts = [
            ready.intake.tables[t][column].iloc[rows[tables.to_numpy() == t]]
            for t in dict.fromkeys(tables)
            if column in ready.intake.tables[t].columns
        ]
        if sum(map(len, parts)) == len(rows):
            lead[column] = pd.concat(parts).to_numpy()
    kept = pd.DataFrame({c: v for c, v in lead.items() if c not in found.columns})
    return pd.concat([kept, found.reset_index(drop=True)], axis=1)


# ---- anyone's scores


def verdict(
    scores: Path, door: Door, output: Path | None = None, baseline: str = "single", ratio: float | None = None
) -> dict[str, Any]:
    """The statistics of `compare` on anyone's scores.

    Args:
        scores: a file with the columns task, method, split, seed, value.
        output: a page to write.
        baseline: the method that the others are compared with.
        ratio: test rows per training row.

    Raises:
        ConfigError: the baseline is no method of the file, or the output exists.
        DataError: the file is missing or damaged, or a row is wrong.
    """
    from ..results import Report
    from ..scoretable import compare_scores
    from .runfolder import now

    if output is not None:
        door.claim(output)
    frame = of_file(scores)
    if "method" in frame.columns and baseline not in set(map(str, frame["method"])):
        known = hint(baseline, dict.fromkeys(map(str, frame["method"])))
        raise ConfigError(f"--baseline should name a method in `{scores}`. Found `{baseline}`. {known}")
    try:
        found = compare_scores(frame, baseline, ratio)
    except ValueError as error:
        raise DataError(f"`{scores}`: {error}") from None
    for method, comparison in found.comparisons.items():
        door.screen.say(f"{method} against {baseline}")
        door.screen.verdicts(comparison)
    door.screen.say(found.summary)
    if output is not None:
        from ..report import write_pages

        pages = [
            Report(title=f"{m} against {baseline}", created=now(), comparison=c) for m, c in found.comparisons.items()
        ]
        write_pages(pages, output)
        door.screen.say(f"Written: {output}")
    methods = {m: comparison_json(c, output) for m, c in found.comparisons.items()}
    return {"baseline": baseline, "methods": methods, "ranks": found.ranks, "summary": found.summary,
            "report": None if output is None else str(output)}  # fmt: skip
