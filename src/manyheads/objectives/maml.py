"""A start from which a few steps go far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..data.episodes import Shape
from ..tasks import Task
from .episodic import Episodic, Net, Rows


class MAML(Episodic):
    """L_k = mean over episodes of L_query(phi), where phi = theta - lr * grad L_support(theta), some steps of it.

    The gradient goes through the steps. With 0 steps it is supervised training on the query rows.

    Args:
        tasks: what the outputs mean; default: the model's own `tasks`.
        inner_steps, inner_lr: of the plain descent on an episode's support rows.
        adapt: the parameters that move: `all`, `heads`, or a pattern of names (``sharing.*``).
        by: the column whose values are episodes; default: tables are, or what a group split goes by.
        support: rows to adapt to, of each class where there are `ways`; of two numbers one between is drawn per step.
        query: rows to be judged by, of each class where there are `ways`.
        episodes: in a step.
        ways: classes per episode, numbered anew in each: the first so many units of the head are theirs.
        norm: what batch normalisation does: `batch` or `frozen`.
        vectorised: whether episodes are computed side by side.

    Reference:
        Finn, Abbeel, Levine: Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    """

    first_order = False
    entangled = True

    def __init__(
        self,
        tasks: Sequence[Task] | None = None,
        *,
        inner_steps: int = 1,
        inner_lr: float = 0.01,
        adapt: str = "all",
        by: str | None = None,
        support: int | Sequence[int] = 10,
        query: int = 10,
        episodes: int = 8,
        ways: int | None = None,
        norm: str | None = None,
        vectorised: bool = True,
    ) -> None:
        shape = shape_of(support, query, episodes, ways, by)
        super().__init__(tasks, shape, inner_steps, inner_lr, adapt, norm, vectorised)

    def of_episode(
        self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return net.errors(self.adapted(net, weights, support, first_order=self.first_order), query)


def shape_of(support: int | Sequence[int], query: int, episodes: int, ways: int | None, by: str | None) -> Shape:
    """The shape of episodes from settings, in which a range is a list."""
    sizes = support if isinstance(support, int) else (int(support[0]), int(support[-1]))
    return Shape(sizes, query, episodes, ways, by)
