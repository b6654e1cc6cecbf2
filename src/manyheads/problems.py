"""What is wrong with a config, in sentences: where, what was found, what was expected, what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from .catalog import hint
from .spec import AUTO, Part, RunSpec

FOREIGN = {
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "max_epoch": "trainer.max_epochs",
    "max_iter": "trainer.max_steps",
    "steps": "trainer.max_steps",
    "num_steps": "trainer.max_steps",
    "early_stopping": "trainer.patience",
    "early_stop": "trainer.patience",
    "early_stopping_patience": "trainer.patience",
    "early_stopping_rounds": "trainer.patience",
    "n_iter_no_change": "trainer.patience",
    "device": "trainer.accelerator",
    "gpus": "trainer.accelerator",
    "fp16": "trainer.precision",
    "amp": "trainer.precision",
    "grad_clip": "trainer.gradient_clip_val",
    "clip_grad_norm": "trainer.gradient_clip_val",
    "max_grad_norm": "trainer.gradient_clip_val",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "learning_rate": "optim.lr",
    "learning_rate_init": "optim.lr",
    "lr_scheduler": "optim.scheduler",
    "l2": "optim.weight_decay",
    "weighting": "optim.balance",
    "loss_weighting": "optim.balance",
    "balancing": "optim.balance",
    "architecture": "model.sharing",
    "arch": "model.sharing",
    "backbone": "model.encoder",
    "n_estimators": "model.members",
    "per_device_train_batch_size": "sampling.batch_size",
    "train_batch_size": "sampling.batch_size",
    "n_trials": "tune.trials",
    "num_trials": "tune.trials",
    "max_trials": "tune.trials",
    "search_space": "tune.space",
    "param_distributions": "tune.space",
    "random_state": "seed",
    "random_seed": "seed",
    "task_weights": "tasks.<name>.weight",
    "loss_weights": "tasks.<name>.weight",
    "label": "tasks.<name>.target",
    "labels": "tasks.<name>.target",
    "label_column": "tasks.<name>.target",
    "label_col": "tasks.<name>.target",
    "target_column": "tasks.<name>.target",
    "metric": "tasks.<name>.metrics",
    "train_file": "data.train",
    "validation": "data.valid",
    "val": "data.valid",
    "dev": "data.valid",
    "ignore": "features.drop",
    "drop_columns": "features.drop",
    "id_columns": "data.ids",
}
"""Names that people know from elsewhere -> ours."""
_TASK = {"label": "target", "labels": "target", "label_column": "target", "label_col": "target", "column": "target",
         "metric": "metrics", "loss_weight": "weight", "task_weight": "weight", "sample_weights": "sample_weight",
         "task_type": "type", "kind": "type", "loss_fn": "loss", "criterion": "loss", "filter": "where",
         "query": "where"}  # fmt: skip
_EXPECTED = {
    "string_type": "a text", "string_unicode": "a text", "int_type": "a whole number", "int_parsing": "a whole number",
    "int_from_float": "a whole number", "float_type": "a number", "float_parsing": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false", "dict_type": "keys and values",
    "mapping_type": "keys and values", "model_type": "keys and values", "model_attributes_type": "keys and values",
    "tuple_type": "a list", "list_type": "a list", "finite_number": "a finite number",
}  # fmt: skip


def of_validation(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    """One sentence pair per problem that pydantic found.

    Args:
        error: what it raised for a `RunSpec`.
        values: the plain values it was given.
    """
    found: dict[str, list[tuple[bool, str]]] = {}
    for item in error.errors(include_url=False):
        place, union = _place(item["loc"], values, item["type"])
        found.setdefault(_dotted(place), []).append((union, _sentence(item, place)))
    kept = [next((text for union, text in texts if not union), texts[0][1]) for texts in found.values()]
    surplus = {path for path, texts in found.items() if all(u for u, _ in texts) and _deeper(path, found)}
    return [text for path, text in zip(found, kept, strict=True) if path not in surplus]


def _deeper(path: str, found: Mapping[str, Any]) -> bool:
    return any(other.startswith(path + ".") for other in found)


def _place(loc: Sequence[Any], values: Any, kind: str) -> tuple[list[Any], bool]:
    """Where in the file a problem is, without the names of union members; and whether there was a union."""
    place: list[Any] = []
    union = False
    for i, key in enumerate(loc):
        inside = (isinstance(values, Mapping) and key in values) or (
            isinstance(values, list | tuple) and isinstance(key, int) and key < len(values)
        )
        if inside:
            values = values[key]
            place.append(key)
        elif i == len(loc) - 1 and kind == "missing":
            place.append(key)
        else:
            union = True
    return place, union


def _sentence(item: Mapping[str, Any], place: Sequence[Any]) -> str:
    path, kind = _dotted(place), item["type"]
    if kind == "extra_forbidden":
        return unknown(place)
    if kind == "missing":
        if isinstance(place[-1], int):
            return f"`{_dotted(place[:-1])}` should have more entries. Found {_short(item['input'])}."
        return f"`{path}` should be there. Found nothing under that name."
    context = item.get("ctx", {})
    expected = _EXPECTED.get(kind)
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        known = [str(word) for word in expected.replace(" or ", ", ").split(", ")]
        near = f" {hint(str(item['input']), known)}" if len(known) > 1 and _near(item["input"], known) else ""
        if path == "schema_version":
            near = " Upgrade manyheads, or write `schema_version: 1`."
        return f"`{path}` should be {expected}. Found {_short(item['input'])}.{near}"
    if kind.startswith("too_"):
        bound = context.get("max_length", context.get("min_length"))
        expected = f"{'at most' if kind == 'too_long' else 'at least'} {bound} entries"
    if expected is None:
        expected = str(item["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return f"`{path}` should be {expected}. Found {_short(item['input'])}."


def _near(word: Any, known: Sequence[str]) -> bool:
    return bool(difflib.get_close_matches(str(word).lower(), known, n=1))


def unknown(place: Sequence[Any]) -> str:
    """The sentences about a key that does not exist: ours for a name known from elsewhere, else the nearest.

    Args:
        place: its path, section by section.
    """
    key, section = str(place[-1]), _section(place[:-1])
    known = list(section.model_fields) if section is not None else []
    path, where = _dotted(place), f"`{_dotted(place[:-1])}`" if len(place) > 1 else "the config"
    start = f"`{path}` should not be there: {where} has no key `{key}`."
    elsewhere = [p for p in _paths() if p.rpartition(".")[2] == key]
    foreign = key.lower() if key.lower() in FOREIGN else key.lower().replace("-", "_")
    if foreign in FOREIGN:
        return f"{start} Ours is `{FOREIGN[foreign]}`."
    if elsewhere:
        return f"{start} It belongs under `{elsewhere[0]}`."
    return f"{start} {hint(key, known)}"


def _section(place: Sequence[Any]) -> type[BaseModel] | None:
    section: Any = RunSpec
    for key in place:
        fields = getattr(section, "model_fields", {})
        if key in fields:
            section = _model(fields[key].annotation)
    return section


def _model(annotation: Any) -> Any:
    """The model in an annotation such as ``dict[str, TableSpec | str]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model, get_args(annotation)) if m is not None), None)


@cache
def _paths() -> tuple[str, ...]:
    def walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            inner = field.annotation
            yield prefix + name
            if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, Part):
                yield from walk(inner, f"{prefix}{name}.")

    return tuple(walk(RunSpec, ""))


# ---- what the catalogues know


def of_tasks(tasks: Mapping[str, Any]) -> list[str]:
    """The problems of a `tasks` section that only the types of the tasks can see.

    Args:
        tasks: name -> settings.
    """
    problems: list[str] = []
    for name, settings in tasks.items():
        if isinstance(settings, Mapping):
            problems += _task(name, dict(settings))
    return problems


def _task(name: str, settings: dict[str, Any]) -> list[str]:
    from dataclasses import fields

    from .catalog import find, index
    from .faults import ConfigError
    from .tasks import Task

    path = _dotted(["tasks", name])
    kind = settings.get("type")
    if not isinstance(kind, str) or not kind:
        known = ", ".join(index(Task))
        found = f"Found {_short(kind)}" if kind is not None else _absent_type(settings)
        return [f"`{path}.type` should be one of {known}. {found}."]
    try:
        cls = find(Task, kind)  # type: ignore[type-abstract]
    except (ValueError, ImportError, AttributeError) as error:
        return [f"`{path}.type` should be a type of task. {error}"]
    known_keys = [f.name for f in fields(cls) if f.name != "name"]
    problems = [
        f"`{path}.{key}` should not be there: a {kind} task has no setting `{key}`. "
        + (f"Ours is `{_TASK[key]}`." if _TASK.get(key) in known_keys else hint(key, known_keys))
        for key in settings
        if key not in (*known_keys, "type")
    ]
    problems += _typed(cls, path, settings)
    if not problems:
        try:
            Task.from_json({"name": name} | settings)
        except ConfigError as error:
            problems.append(f"`{path}`: {error}")
        except (TypeError, ValueError) as error:
            problems.append(f"`{path}` should describe a task. Found: {error}.")
    return problems


def _absent_type(settings: Mapping[str, Any]) -> str:
    foreign = next((key for key in settings if _TASK.get(key) == "type"), None)
    return f"Found `{foreign}`, which is none of our names" if foreign else "Found nothing under that name"


def _typed(cls: type, path: str, settings: Mapping[str, Any]) -> list[str]:
    from typing import get_type_hints

    hints = get_type_hints(cls)
    problems = []
    for key, value in settings.items():
        if key == "type" or key not in hints:
            continue
        try:
            TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            wanted = dict.fromkeys(_EXPECTED.get(e["type"], e["msg"]) for e in error.errors(include_url=False))
            problems.append(f"`{path}.{key}` should be {' or '.join(wanted)}. Found {_short(value)}.")
    return problems


def of_words(spec: RunSpec) -> list[str]:
    """Words that no catalogue has, and settings that their classes do not take.

    Args:
        spec: a run whose shape is right.
    """
    from .balance import Balance
    from .encoders import Encoder
    from .objectives import Objective
    from .penalties import Penalty
    from .sharing import Sharing

    places: list[tuple[str, type, Part, int]] = [
        ("model.encoder", Encoder, spec.model.encoder, 1),
        ("model.sharing", Sharing, spec.model.sharing, 2),
        ("optim.balance", Balance, spec.optim.balance, 0),
        ("optim.objective", Objective, spec.optim.objective, 0),
        *((f"optim.penalties[{i}]", Penalty, part, 0) for i, part in enumerate(spec.optim.penalties)),
    ]
    return [problem for place in places for problem in _word(*place)]


def _word(path: str, contract: type, part: Part, first: int) -> list[str]:
    from .catalog import find, index, mistyped, settings

    auto = path == "model.encoder" and part.name.lower() == AUTO  # any encoder's settings may turn out to be right
    try:
        classes: list[type] = [find(contract, word) for word in (index(contract) if auto else [part.name])]
    except (ValueError, ImportError, AttributeError) as error:
        return [f"`{path}` should name a {contract.__name__.lower()}. {error}"]
    known = list(dict.fromkeys(key for cls in classes for key in list(settings(cls))[first:]))
    wrong = {} if auto else mistyped(classes[0], part.settings)
    return [
        f"`{path}.{key}` should not be there: `{part.name}` has no setting `{key}`. "
        + (hint(key, known) if known else "It has none.")
        for key in part.settings
        if key not in known
    ] + [f"`{path}.{key}` {sentence}" for key, sentence in wrong.items()]


def _dotted(place: Sequence[Any]) -> str:
    """A path as an override would write it."""
    text = ""
    for key in place:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            plain = str(key) and not set(str(key)) & set(". \"'=")
            text += ("." if text else "") + (str(key) if plain else f'"{key}"')
    return text


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
