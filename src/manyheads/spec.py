"""A whole run as plain values: pydantic models, and the objects they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .ranges import Range, log

if TYPE_CHECKING:
    from .model import AnyModel
    from .tasks import Task

SCHEMA_VERSION = 1


class Section(BaseModel):
    """A part of a config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Section):
    """A word of a catalogue and its settings: ``tabular``, or ``{name: tabular, d_hidden: 128}``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the word."""
        return dict(self.model_extra or {})

    @classmethod
    def of(cls, value: Any) -> Part:
        """From a word, a mapping with a `name`, or a Part."""
        return value if isinstance(value, Part) else cls.model_validate(_part(value))


def _part(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Word = Annotated[Part, BeforeValidator(_part)]


class SplitSpec(Section):
    """How rows are split."""

    kind: Literal["random", "stratified", "group", "time", "column"] = "random"
    by: str | tuple[str, ...] | None = None
    sizes: tuple[float, float, float] = (0.8, 0.0, 0.2)
    """Shares of train, valid and test. Without a validation part each member of the model holds out a fold of train."""
    seed: int = 0


class TableSpec(Section):
    """One of several tables."""

    path: str
    targets: tuple[str, ...] | None = None
    format: Word | None = None


FILES = ("train", "valid", "test")
"""The parts of the rows, each of which may have a file of its own: the keys of `data` that name it."""


class DataSpec(Section):
    """Where the rows are."""

    train: str | None = None
    valid: str | None = None
    test: str | None = None
    tables: dict[str, TableSpec | str] = {}
    split: SplitSpec = SplitSpec()
    root: str | None = None
    format: Word | None = None
    """How files are read that do not say it by their ending: a word of `manyheads doctor --list formats`."""
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of a row that cannot be read: an error, or it is left out and counted."""
    ids: tuple[str, ...] = ()
    """Columns that name a row: no features, kept in predictions."""


class FeaturesSpec(Section):
    """Which columns are read, and as what."""

    types: dict[str, str | dict[str, Any]] = {}
    """Column -> its type, or {type: ..., and its settings}."""
    drop: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    allow_leaks: tuple[str, ...] = ()
    """Columns that the leakage check may not refuse."""


class ModelSpec(Section):
    """What is read and what is shared."""

    encoder: Word = Part(name="auto")
    """auto: `tabular` where all inputs are numbers and categories, the encoder of the one rich kind where it reads all
    there is (a picture; a text, with numbers or without), `fused` where several kinds lie side by side."""
    sharing: Word = Part(name="hard")
    members: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Nets that are trained side by side and averaged; each holds out its own fold of the training rows for early
    stopping, where there is no validation part. auto: 8 where the encoder is `tabular` or `linear`, else 1."""


class SchedulerSpec(Section):
    """A scheduler of torch.optim.lr_scheduler."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    interval: Literal["epoch", "step"] = "epoch"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the word and the interval."""
        return dict(self.model_extra or {})


class OptimSpec(Section):
    """How weights move."""

    search: ClassVar[Mapping[str, Range]] = {"lr": log(3e-4, 3e-2), "weight_decay": log(1e-3, 1)}
    """What is tuned unless a config says otherwise: setting -> where it is looked for. Decay with AdamW alone."""

    optimizer: Word = Part(name="AdamW")
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    """On matrices; biases and other vectors are never decayed. null: 0.1 with AdamW, the optimiser's own default with
    any other."""
    scheduler: Annotated[SchedulerSpec | None, BeforeValidator(_part)] = None
    balance: Word = Part(name="equal")
    objective: Word = Part(name="supervised")
    penalties: Annotated[tuple[Word, ...], BeforeValidator(_one_or_several)] = ()
    """What weights should be like, beside what the sharing scheme asks for itself."""

    @property
    def decay(self) -> float | None:
        """The weight decay that holds; None leaves it to the optimiser."""
        own = self.optimizer.settings.get("weight_decay", self.weight_decay)
        return 0.1 if own is None and self.optimizer.name.lower() == "adamw" else own


class SamplingSpec(Section):
    """Which rows and tasks a step sees."""

    mode: str = "proportional"
    schedule: str = "joint"
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """auto: the power of two next to n / 16, within 32 and 128; from 24,000 rows on next to n / 256, at most 1024."""
    temperature: float = Field(default=2.0, gt=0)
    weights: dict[str, float] = {}
    bucket: bool | Literal["auto"] = "auto"
    """Batches have rows of like length, so that little of them is padding; auto: where an input has rows of unequal
    length."""
    augment: Annotated[tuple[Word, ...], BeforeValidator(_one_or_several)] = ()
    """How training rows are changed at random, one after the other."""


class TrainerSpec(Section):
    """How long, how exactly, on what."""

    max_epochs: int = Field(default=200, ge=0)
    max_steps: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=8, ge=1)
    """Epochs without a better mean skill on validation before training stops; null never stops."""
    monitor: Literal["proper", "metric"] = "proper"
    """What the mean skill of early stopping is made of: each task's proper score (log loss, R2, deviance), which is
    smooth on few labels, or its primary metric. A task whose validation labels are all alike has no say."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32", "bf16", "64"] = "32"
    accumulate_grad_batches: int = Field(default=1, ge=1)
    gradient_clip_val: float | None = Field(default=None, gt=0)
    val_check_interval: int = Field(default=1, ge=1)
    """Epochs between two looks at validation."""
    freeze_stopped: bool = False
    """A task that has not improved for `patience` epochs leaves the loss."""


class TuneSpec(Section):
    """How settings are searched for."""

    trials: int = Field(default=50, ge=1)
    """Settings that are tried, for every side the same number."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds for all sides together; null for no end."""
    objective: Literal["mean", "pareto"] = "mean"
    """mean: the mean skill over tasks; pareto: the skill of each task is an axis of its own."""
    pruner: Literal["median", "halving", "none"] = "median"
    """median: a trial ends where its best mean skill so far is under the median of former trials at that epoch;
    halving: after `warm_up` epochs, four times as many, and so on, about one trial in four goes on."""
    warm_up: int = Field(default=5, ge=1)
    """Epochs before a trial may be ended."""
    single: bool = False
    """Each task alone is a side of its own, with as many trials and the same ranges."""
    weights: bool = False
    """Fixed weights of the tasks are a side of their own: tuned together with all else, under equal weighting."""
    batch: int = Field(default=4, ge=1)
    """Trials of a side that are proposed at a time; what is tried depends on it, and not on the number of processes."""
    space: dict[str, Any] = {}
    """Path of a setting -> its range (``{log: [1e-4, 1e-1]}``, a list of options), or null where it should stay as it
    is; laid over the ranges that the classes have themselves."""


class RunSpec(Section):
    """One run."""

    schema_version: Literal[1] = 1
    seed: int = 0
    data: DataSpec = DataSpec()
    features: FeaturesSpec = FeaturesSpec()
    tasks: dict[str, dict[str, Any]]
    model: ModelSpec = ModelSpec()
    optim: OptimSpec = OptimSpec()
    sampling: SamplingSpec = SamplingSpec()
    trainer: TrainerSpec = TrainerSpec()
    tune: TuneSpec = TuneSpec()


def dumped(section: BaseModel) -> dict[str, Any]:
    """A section as plain values."""
    return section.model_dump(mode="json")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with another laid over it."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


AUTO = "auto"
MEMBERS = 8
"""Of a model of tables, where nobody says."""


def settled(spec: ModelSpec, layouts: Mapping[str, Any]) -> ModelSpec:
    """The same with every ``auto`` decided.

    Args:
        layouts: table -> what its inputs look like.

    Raises:
        ConfigError: no encoder reads an input of this kind, or several members of it cannot be run as one.
    """
    from .faults import ConfigError

    encoder = spec.encoder
    if encoder.name.lower() == AUTO:
        encoder = Part.of({**encoder.settings, "name": _encoder_of(layouts)})
    members = spec.members
    if members == AUTO:
        members = MEMBERS if encoder.name.lower() in ("tabular", "linear") else 1
    if int(members) > 1 and (why := _alone(encoder, layouts)):
        raise ConfigError(
            f"`model.members` should be 1 with the encoder `{encoder.name}`, since {why}. Found {members}."
        )
    return spec.model_copy(update={"encoder": encoder, "members": members})


def kept(spec: ModelSpec, layouts: Mapping[str, Any]) -> ModelSpec:
    """The same, decided, as a model file has it: what its encoder was made from is not needed to build it again."""
    from .catalog import find
    from .encoders import Encoder

    spec = settled(spec, layouts)
    own = find(Encoder, spec.encoder.name).kept(spec.encoder.settings, layouts)
    return spec.model_copy(update={"encoder": Part.of({**own, "name": spec.encoder.name})})


def _alone(encoder: Part, layouts: Mapping[str, Any]) -> str:
    """Why members of an encoder cannot be run as one; empty where they can (or its word is unknown: `make` says so)."""
    from .catalog import find
    from .encoders import Encoder

    try:
        return find(Encoder, encoder.name).single(layouts)
    except ValueError:
        return ""


def _encoder_of(layouts: Mapping[str, Any]) -> str:
    from .catalog import find, index
    from .encoders import Encoder
    from .faults import ConfigError

    words = index(Encoder)
    kinds = sorted({key.partition(":")[0] for layout in layouts.values() for key in layout if ":" in key})
    for kind in kinds:
        if kind not in words:
            raise ConfigError(f"`model.encoder` should name what reads inputs of the kind {kind}. Found `auto`.")
    if not kinds:
        return "tabular"
    one = len(kinds) == 1 and all(map(find(Encoder, kinds[0]).covers, layouts.values()))
    return kinds[0] if one else "fused"


def build_model(spec: ModelSpec, layouts: Mapping[str, Any], tasks: Sequence[Task], seed: int = 0) -> AnyModel:
    """The model that a config describes.

    Args:
        layouts: table -> what its inputs look like.
        tasks: fitted tasks.

    Raises:
        ConfigError: an unknown word or setting.
    """
    spec = settled(spec, layouts)
    from .catalog import make
    from .encoders import Encoder
    from .model import Ensemble, Model
    from .sharing import Sharing

    def one(seed: int) -> Model:
        def encoder() -> Encoder:
            return make(Encoder, spec.encoder.name, spec.encoder.settings, layouts)

        sharing = make(Sharing, spec.sharing.name, spec.sharing.settings, encoder, tasks)  # type: ignore[type-abstract]
        return Model(sharing, tasks, seed)

    assert isinstance(spec.members, int)
    return one(seed) if spec.members == 1 else Ensemble.of(one, spec.members, seed)
