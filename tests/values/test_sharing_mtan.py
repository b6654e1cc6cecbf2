"""Task attention against the formula written out: two stages by hand, hard sharing, whose gradient reaches what."""

from __future__ import annotations

import pytest
import torch
from test_sharing_stitch import ENCODERS, NAMES, TASKS, made, rows, tabular, values

from manyheads.gradients.graph import reached
from manyheads.sharing import Trace
from manyheads.sharing.hard import Hard
from manyheads.sharing.mtan import MTAN, shaped_like

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


@pytest.mark.parametrize("settings", [{}, {"from_stage": 0}, {"from_stage": -1, "d_attention": 3}], ids=str)
def test_training_begins_at_hard_sharing(encoder, settings):
    """Masks are exactly 1 at the start."""
    mtan, hard = made(MTAN, encoder[0], **settings), made(Hard, encoder[0])
    x = encoder[1]()
    for task, features in mtan(x, NAMES).items():
        assert torch.equal(values(features), values(hard(x, NAMES)[task]))


def test_two_stages_by_hand():
    scheme = made(MTAN, shaken=0.3, d_attention=5)
    x = rows()
    z = scheme.encoder.stages[0](x)
    u1 = scheme.encoder.stages[1](z)
    u2 = scheme.encoder.stages[2](u1)
    for trace in (None, Trace(), Trace(cut=True)):
        features = scheme(x, NAMES, trace=trace)
        for task in NAMES:
            w = {
                n: (layer.weight, layer.bias)
                for i, copies in enumerate(scheme.attention)
                for n, layer in ((f"{name} {i}", m) for name, m in copies[task].named_children())
            }

            def layer(name, z, w=w):
                return z @ w[name][0].T + w[name][1]

            m1 = 2 / (1 + torch.exp(-layer("outer 0", layer("inner 0", u1).clamp(min=0))))
            carried = layer("carry 1", m1 * u1).clamp(min=0)
            m2 = 2 / (1 + torch.exp(-layer("outer 1", layer("inner 1", torch.cat([u2, carried], 1)).clamp(min=0))))
            torch.testing.assert_close(features[task], m2 * u2, rtol=0, atol=1e-12)
            torch.testing.assert_close(scheme(x, [task], trace=trace)[task], m2 * u2, rtol=0, atol=1e-12)
            if trace is not None:
                torch.testing.assert_close(trace.use[task]["mask of stage 1"], m1.mean(1))
                torch.testing.assert_close(trace.use[task]["mask of stage 2"], m2.mean(1))


def test_every_position_is_attended_by_itself():
    """On a map, what a position reads is what a row with these channels reads."""
    encoder, inputs = ENCODERS["map"]
    scheme = made(MTAN, encoder, shaken=0.3, from_stage=-1)
    x = inputs()
    u = x["values"]
    for stage in scheme.encoder.stages[1:]:
        u = stage(u)
    features = scheme(x, NAMES)
    for task in NAMES:
        attention = scheme.attention[0][task]
        for h in range(u.shape[2]):
            for w in range(u.shape[3]):
                expected, _ = attention((u[:, :, h, w],))
                torch.testing.assert_close(features[task][:, :, h, w], expected, rtol=0, atol=1e-12)


def test_some_tasks_are_as_all_and_a_trace_changes_nothing(encoder):
    scheme = made(MTAN, encoder[0], shaken=0.3)
    x = encoder[1]()
    every = scheme(x, NAMES)
    assert not torch.allclose(values(every["a"]), values(every["b"]))
    for wanted in (["b"], ["c", "a"]):
        for trace in (None, Trace(cut=True)):
            for task, features in scheme(x, wanted, trace=trace).items():
                torch.testing.assert_close(values(features), values(every[task]), rtol=0, atol=1e-12)


def test_padding_does_not_count_in_the_mean_of_a_mask():
    encoder, inputs = ENCODERS["sequence"]
    scheme = made(MTAN, encoder, shaken=0.3, from_stage=0)
    x = inputs()
    x["mask"][:, 0] = True
    changed = x | {"values": torch.where(x["mask"].unsqueeze(-1), x["values"], 9.0)}
    one, other = Trace(), Trace()
    scheme(x, NAMES, trace=one)
    scheme(changed, NAMES, trace=other)
    for task in NAMES:
        assert len(one.use[task]) == 4
        for label, mask in one.use[task].items():
            torch.testing.assert_close(mask, other.use[task][label])


def test_a_task_never_moves_anothers_attention():
    scheme = made(MTAN, shaken=0.3)
    scheme(rows(), NAMES)["b"].sum().backward()
    for copies in scheme.attention:
        for task in NAMES:
            moved = [p.grad.abs().sum() > 0 for p in copies[task].parameters()]
            assert any(moved) if task == "b" else not any(moved)
    features = scheme(rows(), NAMES, trace=Trace(cut=True))
    own = {task: {p for copies in scheme.attention for p in copies[task].parameters()} for task in NAMES}
    trunk = set(scheme.encoder.parameters())
    for task in NAMES:
        assert reached(features[task].sum()) == own[task] | trunk


def test_each_stage_is_handed_to_each_task():
    trace = Trace(cut=True)
    made(MTAN, shaken=0.3)(rows(), NAMES, trace=trace)
    assert {task: len(pairs) for task, pairs in trace.cut.items()} == dict.fromkeys(NAMES, 2)
    assert all(torch.equal(trace.cut[t][i][0], trace.cut["a"][i][0]) for t in NAMES for i in (0, 1))


def test_the_first_steps_move_the_masks():
    """Their last layers start at 0, which is no point of rest: the upper mask moves first, the lower one follows."""
    scheme = made(MTAN)
    x, step = rows(), torch.optim.SGD(scheme.parameters(), 0.1)
    moved = []
    for _ in range(2):
        step.zero_grad()
        scheme(x, NAMES)["a"].square().sum().backward()
        moved.append([bool(copies["a"].outer.bias.grad.abs().sum() > 0) for copies in scheme.attention])
        step.step()
    assert moved == [[False, True], [True, True]]


def test_features_take_the_positions_of_the_next_stage():
    z = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = torch.zeros(1, 2, 2, 2)
    assert shaped_like(z, small).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert shaped_like(z, torch.zeros(1, 3)).tolist() == [[7.5]]
    sequence = (torch.tensor([[[1.0], [3.0], [50.0]]]), torch.tensor([[True, True, False]]))
    assert shaped_like(sequence, sequence) is sequence
    shorter = (torch.zeros(1, 2, 4), torch.tensor([[True, False]]))
    found = shaped_like(sequence, shorter)
    assert found[0].tolist() == [[[2.0], [2.0]]]
    assert found[1] is shorter[1]
    assert shaped_like(sequence, small).tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


@pytest.mark.parametrize(("settings", "found"), [({"d_attention": 0}, "0"), ({"from_stage": 3}, "3")])
def test_wrong_settings_are_refused(settings, found):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`.*{found}"):
        MTAN(tabular, TASKS, **settings)
