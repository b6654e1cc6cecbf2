"""Rows of unequal length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyheads.data import Block, Taskset
from manyheads.ragged import Ragged, Rows, joined, objects

ROWS = [np.arange(3.0), np.empty(0), np.arange(5.0) + 10]


def test_rows_are_picked_in_any_order_and_padded():
    ragged = Ragged.of(ROWS)
    picked = ragged[torch.tensor([2, 0, 1, 2])]
    assert [row.tolist() for row in picked] == [ROWS[i].tolist() for i in (2, 0, 1, 2)]
    values, mask = picked.padded(fill=-1)
    assert values.shape == mask.shape == (4, 5)
    assert values[1].tolist() == [0, 1, 2, -1, -1]
    assert mask.sum(1).tolist() == [5, 3, 0, 5]
    assert ragged[torch.tensor([1])].padded()[0].shape == (1, 1)  # one column at least


def test_further_dimensions_stay():
    boxes = Ragged.of([torch.rand(2, 5), torch.rand(0, 5), torch.rand(1, 5)])
    values, mask = boxes.padded()
    assert values.shape == (3, 2, 5)
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(values[2, 0], boxes[torch.tensor([2])].values[0])


def test_joined_is_one_after_the_other():
    one, other = Ragged.of(ROWS[:2]), Ragged.of(ROWS[2:])
    assert [row.tolist() for row in joined([one, other])] == [row.tolist() for row in ROWS]
    assert list(joined([Rows(["a"]), Rows([None, [1, 2]])])) == ["a", None, [1, 2]]
    assert torch.equal(joined([torch.ones(2), torch.zeros(1)]), torch.tensor([1.0, 1.0, 0.0]))


def test_objects_are_not_looked_into():
    found = objects([[1, 2], [3, 4]])
    assert found.shape == (2,)
    assert found[1] == [3, 4]


def test_lengths_have_to_add_up():
    with pytest.raises(ValueError, match=r"sum to 3.*Found 2"):
        Ragged(torch.ones(3), torch.tensor([1, 1]))


def test_a_taskset_of_ragged_rows_is_batched_and_cast():
    tags = Ragged.of([torch.tensor([0, 1, 1]), torch.tensor([1]), torch.tensor([0, 0])])
    words = Ragged.of([torch.rand(3, 2), torch.rand(1, 2), torch.rand(2, 2)])
    rows = Taskset({"audio:x": words}, (Block(("t",), tags, torch.tensor([True, False, True])),))
    assert len(rows) == 3
    part = rows.batch(torch.tensor([2, 0]))
    assert part.inputs["audio:x"].lengths.tolist() == [2, 3]
    assert [t.tolist() for t in part.labels("t")[0]] == [[0, 0], [0, 1, 1]]
    wide = rows.to(torch.float64)
    assert wide.inputs["audio:x"].values.dtype == torch.float64
    assert wide.labels("t")[0].values.dtype == torch.int64
    assert rows.counts() == {"t": 2}
