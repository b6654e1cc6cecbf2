"""What is shared. The contract of a sharing scheme: from the rows of one table to the features that each task reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from ..blocks import Named
from ..catalog import hint, word
from ..copies import Copies, part, stack, unstack
from ..data import Inputs
from ..encoders import Encoder
from ..gradients.heads import Product
from ..penalties import Penalty
from ..ranges import Range
from ..tasks import Task

Features = Any
"""What a head reads: a tensor, a sequence with its mask, or a list of those where it is attached to several stages."""


class Trace:
    """What a forward pass can tell beside its result.

    Attributes:
        cut: task -> pairs (shared activation, the task's own view of it). A loss reaches the shared part of the net
            only through its own views, so one backward pass through the heads yields every task's gradient there. None
            where nobody asked, or where the scheme has no such place.
        apart: heads are computed one by one and no loss reaches another's, so that the graph tells whose is whose.
        beside: tasks for which an objective would rather have the heads of a family in one product. It vouches that
            each loss reads the outputs of its own head alone, and that these tasks have rows in one table only.
        products: task -> the product that its head is computed in, which stands for its view of what the head reads.
        aux: auxiliary losses that a scheme wants to be minimised, by the task whose presence they depend on ("" for
            those of all tasks).
        noting, pairing: whether `use` and `pairs` are wanted; a step of training wants neither by itself.
        use: task -> what a scheme would like to be seen in the report, by a label: the share of an expert, a mixing
            coefficient; a scalar, or one number per row (batch,).
        pairs: (shared features, private features) that belong together, for penalties on features.
    """

    def __init__(self, cut: bool = False, noting: bool = True, pairing: bool = True) -> None:
        self.noting, self.pairing = noting, pairing
        self.cut: dict[str, list[tuple[Tensor, Tensor]]] | None = {} if cut else None
        self.apart = cut
        self.beside: frozenset[str] = frozenset()
        self.products: dict[str, Product] = {}
        self.aux: dict[str, Tensor] = {}
        self.use: dict[str, dict[str, Tensor]] = {}
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def hand(self, task: str, shared: Features) -> Features:
        """The task's own view of a shared activation, remembered in `cut`."""
        if self.cut is None:
            return shared
        if isinstance(shared, tuple):
            return (self.hand(task, shared[0]), *shared[1:])
        if isinstance(shared, Mapping) or not (shared.requires_grad or is_batchedtensor(shared)):
            return shared  # raw inputs: nothing below them learns (inside `vmap` no tensor says whether it does)
        view = shared.view_as(shared)
        self.cut.setdefault(task, []).append((shared, view))
        return view

    def uncut(self) -> None:
        """Tasks share weights that no activation separates: there is no cut."""
        self.cut = None

    def add(self, loss: Tensor, task: str = "") -> None:
        """A further auxiliary loss, there when this task is (or always)."""
        self.aux[task] = self.aux[task] + loss if task in self.aux else loss

    def note(self, task: str, label: str, value: Tensor) -> None:
        """Something to be seen: a scalar, or a number per row (batch,)."""
        if self.noting:
            self.use.setdefault(task, {})[label] = value.detach()


class Sharing(nn.Module, ABC):
    """Which parameters tasks have in common.

    It does not declare what is shared: autograd's graph tells (`gradients.graph`). What belongs to one task sits in
    parameters of its own (under `blocks.Named` or `copies.Copies`), never in a slice of a common one.

    Args:
        encoder: makes a fresh encoder at each call.
        tasks: the tasks that will ask for features.

    Raises:
        ValueError: a task is attached to a stage where the scheme has one depth for all.
    """

    min_stages: ClassVar[int] = 1
    """An encoder of fewer stages cannot be shared in this way, with the default settings."""
    attaches: ClassVar[bool] = False
    """Whether heads can be attached to an earlier stage than the last."""
    ordered: ClassVar[str | None] = None
    """The setting that says in which order tasks stand, where that matters."""
    entangled: ClassVar[bool] = False
    """Whether what a task gets is made from other tasks' own parts from the start: a further task changes it."""
    penalties: Sequence[Penalty] = ()
    """Penalties that are part of the scheme, such as the coupling of soft sharing."""
    links: Mapping[str, tuple[str, ...]] = {}
    """Tasks whose output is made from other tasks' outputs as well (`join`), and those others."""
    random: bool = False
    """Whether training draws random numbers beside dropout: runs side by side draw others than single ones."""
    search: ClassVar[Mapping[str, Range]] = {}
    """What is tuned unless a config says otherwise: setting -> where it is looked for; the default lies within."""

    def __init__(self, encoder: Callable[[], Encoder], tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(t.name for t in tasks)
        for task in tasks:
            if task.attach is not None and not self.attaches:
                raise ValueError(
                    f"Task `{task.name}` should not be attached to a stage: with `{word(type(self))}` every head reads "
                    f"the last one. Found `attach: {task.attach}`; remove it, or use `hard`."
                )

    @abstractmethod
    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        """Features of these tasks for rows of one table; only what these tasks need is computed.

        What a task gets does not depend on which other tasks are asked. Wherever a shared activation is handed over to
        one task alone, `hand(trace, task, activation)` marks the cut.
        """

    def after(self, task: str) -> tuple[str, ...]:
        """The tasks from whose features this task's own are made, in their order; none, mostly.

        Args:
            task: its name.
        """
        return ()

    @abstractmethod
    def widths(self, task: str) -> list[int]:
        """The widths of the features that this task's head reads."""

    def join(self, outputs: Mapping[str, Tensor], trace: Trace | None = None) -> dict[str, Tensor]:
        """The outputs of linked tasks, made from what their heads gave: a product of probabilities, say.

        Args:
            outputs: of every linked task that is asked, and of all those that it is linked to.
        """
        return dict(outputs)

    def plan(self) -> list[tuple[int, str]]:
        """The scheme as an indented list, (depth, text) per line: which tasks read what."""
        return [(0, f"{type(self).__name__}: {', '.join(self.tasks)}")]


def hand(trace: Trace | None, task: str, shared: Features) -> Features:
    """The task's view of a shared activation; itself where nobody traces."""
    return shared if trace is None else trace.hand(task, shared)


class Beside(dict[str, Features]):
    """Features task by task that lie side by side in one tensor, so that heads can read them all in one product.

    Args:
        tasks: their names.
        whole: (tasks, batch, ...), or a tuple of such.
    """

    def __init__(self, tasks: Sequence[str], whole: Features) -> None:
        super().__init__(zip(tasks, unstack(whole), strict=True))
        self.whole = whole

    def part(self, tasks: Sequence[str]) -> Tensor | None:
        """(tasks, batch, d) of tasks that follow each other; None where there is no such tensor."""
        names = list(self)
        place = slice(names.index(tasks[0]), names.index(tasks[0]) + len(tasks))
        if isinstance(self.whole, Tensor) and self.whole.dim() == 3 and names[place] == list(tasks):
            return self.whole[place]
        return None


def by_task(tasks: Sequence[str], stacked: Features) -> dict[str, Features]:
    """What `Copies` gave, task by task."""
    return Beside(tasks, stacked)


def run(encoder: Encoder, x: Inputs, table: str | None) -> Features:
    """What the last of these stages gives; the inputs themselves where there are none."""
    z: Features = x
    for stage in encoder.path(table):
        z = stage(z)
    return z


def parted(
    encoder: Callable[[], Encoder], names: Sequence[str], from_stage: int, alike: bool = True
) -> tuple[Encoder, list[Copies]]:
    """(the shared stages below `from_stage`, copies under these names of each stage from there on).

    Stage 0 of several tables belongs to the tables: there, copies begin at stage 1 at the earliest.

    Args:
        from_stage: negative counts from the end.
        alike: copies start from the same weights.

    Raises:
        ValueError: no stage is left to copy.
    """
    made = {name: encoder() for name in names}
    lower = next(iter(made.values())) if names else encoder()
    n = len(lower.stages)
    first = from_stage + n if from_stage < 0 else from_stage
    tables = isinstance(lower.stages[0], Named)
    if tables:
        first = max(first, 1)
    if not 0 <= first < n + tables:
        raise ValueError(
            f"`from_stage` should be the number of one of the encoder's {n} stages, at which copies begin. "
            f"Found {from_stage}; give the encoder more stages (`n_layers`) or begin lower."
        )
    copies = [Copies({name: one.stages[i] for name, one in made.items()}, alike) for i in range(first, n)]
    lower.stages = lower.stages[:first]
    return lower, copies


def climb(
    stages: Iterable[nn.Module], shared: Features, tasks: Sequence[str], trace: Trace | None = None
) -> dict[str, Features]:
    """What the last of these stages gives each task, all tasks in one batched pass.

    Where losses are to be kept apart, tasks are computed one by one: in a batched pass the graph of each leads to the
    weights of all.

    Args:
        stages: `Copies` by task, or what is called as they are: (x, tasks, whether x is one for each) -> one for each.
        shared: what the first of them reads, one for all tasks.
    """
    stages = list(stages)
    if trace is None or not trace.apart:
        return by_task(tasks, _climb(stages, shared, tasks))
    return {task: part(_climb(stages, trace.hand(task, shared), (task,)), 0) for task in tasks}


def _climb(stages: Sequence[nn.Module], x: Features, tasks: Sequence[str]) -> Features:
    own = False
    for stage in stages:
        if not own and isinstance(stage, Copies) and not stage.learns:
            x = stage[tasks[0]](x)  # alike for all, such as columns side by side
        else:
            x, own = stage(x, tasks, own), True
    return x if own else stack([x] * len(tasks))


def depth_of(where: int | str | None, encoder: Encoder, what: str) -> int:
    """The index of the stage that somebody names; the last by default.

    Args:
        where: its number (negative counts from the end), or the dotted name of a module in the encoder, such as
            ``stages.1``; a module inside a stage stands for that stage.
        what: who names it, as an error begins: "Task `a`: `attach`".

    Raises:
        ValueError: there is no such stage.
    """
    n = len(encoder.stages)
    if where is None:
        return n - 1
    if str(where).removeprefix("-").isdecimal():
        if -n <= int(where) < n:
            return int(where) % n
        raise ValueError(f"{what} should be between {-n} and {n - 1}, the number of a stage. Found {where}.")
    inside = {id(module): i for i in reversed(range(n)) for module in encoder.stages[i].modules()}
    named = {name: m for name, m in encoder.named_modules(remove_duplicate=False) if id(m) in inside}
    if where not in named:
        near = hint(str(where), named)
        known = f"{', '.join(f'stages.{i}' for i in range(n))} and the modules in them"
        raise ValueError(
            f"{what} should be the number of a stage, or the name of a module in the encoder. Found `{where}`. "
            + (f"{near} Known: {known}." if near.startswith("Did") else f"Known: {known}.")
        )
    return inside[id(named[str(where)])]


def depths_of(task: Task, encoder: Encoder) -> tuple[int, ...]:
    """The stages that a task is attached to: where it says nothing the last one, or `Encoder.maps` if it reads a map.

    Raises:
        ValueError: there is no such stage.
    """
    if task.attach is None and task.eats == "map" and encoder.maps:
        return encoder.maps
    attach = task.attach if isinstance(task.attach, tuple) else (task.attach,)
    return tuple(depth_of(a, encoder, f"Task `{task.name}`: `attach`") for a in attach)
