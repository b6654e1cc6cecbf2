"""The laws of an Encoder."""

from __future__ import annotations

import pytest
import torch
from cases import catalogue, inputs_of, layout_of
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from manyheads.blocks import Named, initialise
from manyheads.catalog import find
from manyheads.encoders import Encoder
from manyheads.ragged import Ragged


@pytest.fixture(params=catalogue(Encoder), ids=str)
def case(request):
    return request.param


def _layouts(case, tables=1):
    return {f"t{i}": layout_of(case.word, i) for i in range(tables)}


def _run(encoder, x, table=None):
    seen = []
    for stage in encoder.path(table):
        x = stage(x)
        seen.append(x)
    return seen


def _each(features):
    """What each row got, without padding."""
    return [v[m] for v, m in zip(*features[:2], strict=True)] if isinstance(features, tuple) else list(features)


def _same(one, other):
    return all(torch.equal(a, b) for a, b in zip(_each(one), _each(other), strict=True))


def _width(features):
    values = features[0] if isinstance(features, tuple) else features
    return values.shape[1] if values.dim() == 4 else values.shape[-1]


@pytest.mark.parametrize("tables", [1, 2])
def test_widths_are_those_of_the_stages(case, tables):
    encoder = case(_layouts(case, tables)).eval()
    assert isinstance(encoder.stages, nn.ModuleList)
    assert len(encoder.stages) == len(encoder.widths)
    for i in range(tables):
        seen = _run(encoder, inputs_of(layout_of(case.word, i)), f"t{i}")
        assert [_width(z) for z in seen] == encoder.widths
        assert all(torch.isfinite(z).all() for z in seen if isinstance(z, torch.Tensor))


def test_tables_have_stage_0_apart_and_the_rest_in_common(case):
    encoder = case(_layouts(case, 2))
    assert isinstance(encoder.stages[0], Named)
    one, other = encoder.path("t0"), encoder.path("t1")
    assert one[0] is not other[0]
    assert all(a is b for a, b in zip(one[1:], other[1:], strict=True))


def test_rows_do_not_see_each_other(case):
    encoder = case(_layouts(case)).eval()
    x = inputs_of(layout_of(case.word), 10)
    together = _each(_run(encoder, x)[-1])
    for i in range(10):
        (alone,) = _each(_run(encoder, {k: v[i : i + 1] for k, v in x.items()})[-1])
        assert torch.allclose(together[i], alone, atol=1e-5)


def test_every_input_matters(case):
    encoder = case(_layouts(case)).eval()
    initialise(encoder, 0)
    with torch.no_grad():
        for weight in (p for p in encoder.parameters() if p.dim() > 1 and not p.any()):
            weight.normal_()  # what starts as nothing is learned
    x = inputs_of(layout_of(case.word))
    features = _run(encoder, x)[-1]
    for key, values in x.items():
        whole = values.values if isinstance(values, Ragged) else values
        numbers = whole if whole.dim() > 1 else whole.unsqueeze(1)
        for column in range(numbers.shape[1]):
            if key.startswith("text") and column > 1 and not case.settings.get("d_parts"):
                continue  # parts of words were not asked for
            changed = numbers.clone()
            other = numbers[:, column] + 0.3 if numbers.is_floating_point() else (numbers[:, column] + 1) % 3
            changed[:, column] = other
            changed = changed.reshape(whole.shape)
            changed = Ragged(changed, values.lengths) if isinstance(values, Ragged) else changed
            assert not _same(_run(encoder, {**x, key: changed})[-1], features), (key, column)


def test_vmap_over_members(case):
    if case.cls.alone:
        pytest.skip(case.cls.alone)
    members = [case(_layouts(case)).eval() for _ in range(3)]
    for i, member in enumerate(members):
        initialise(member, i)
    x = inputs_of(layout_of(case.word))

    class Whole(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            features = _run(self.encoder, x)[-1]
            return features[0] if isinstance(features, tuple) else features

    whole = [Whole(m) for m in members]
    state = stack_module_state(whole)
    together = vmap(lambda p, b: functional_call(whole[0], (p, b), (x,)))(*state)
    assert torch.allclose(together, torch.stack([w(x) for w in whole]), atol=1e-5)


def test_training_dropout_and_evaluation(case):
    encoder = case(_layouts(case))
    x = inputs_of(layout_of(case.word))
    encoder.eval()
    assert _same(_run(encoder, x)[-1], _run(encoder, x)[-1])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "selu"])
@pytest.mark.parametrize("embedding", ["none", "periodic", "piecewise"])
@pytest.mark.parametrize("residual", [False, True])
def test_the_linear_path(activation, embedding, residual):
    """With the hidden part zeroed, the last features still hold stage 0: the model contains the linear one."""
    encoder = find(Encoder, "tabular")(
        {"t": layout_of("tabular")},
        d_hidden=6, n_layers=3, activation=activation, embedding=embedding, residual=residual, linear_path=True,
    ).eval()  # fmt: skip
    seen = _run(encoder, inputs_of(layout_of("tabular")))
    assert all(torch.equal(z[:, 6:], seen[0]) for z in seen[1:])
    for p in (p for block in encoder.stages[1:] for p in block.parameters()):
        nn.init.zeros_(p)
    seen = _run(encoder, inputs_of(layout_of("tabular")))
    assert torch.equal(seen[-1][:, 6:], seen[0])
    assert (seen[-1][:, :6] == 0).all()
    if embedding == "none":
        assert torch.equal(seen[-1][:, 6:9], inputs_of(layout_of("tabular"))["numeric"])


def test_no_linear_path():
    encoder = find(Encoder, "tabular")({"t": layout_of("tabular")}, d_hidden=6, linear_path=False)
    assert encoder.widths[1:] == [6, 6]


def test_linear_is_the_columns_themselves():
    encoder = find(Encoder, "linear")({"t": layout_of("tabular")})
    x = inputs_of(layout_of("tabular"))
    initialise(encoder, 0)
    (features,) = _run(encoder, x)
    assert torch.equal(features[:, :3], x["numeric"])
    codes = torch.cat([torch.nn.functional.one_hot(x["categorical"][:, i], c) for i, c in enumerate((4, 20))], 1)
    assert torch.equal(features[:, 3:], codes.float())


def test_what_an_encoder_refuses():
    layouts = {"t": layout_of("tabular")}
    tabular = find(Encoder, "tabular")
    for settings, match in [
        ({"activation": "rleu"}, "activation"),
        ({"embedding": "fourier"}, "embedding"),
        ({"d_hidden": 0}, "d_hidden"),
        ({"dropout": 1.0}, "dropout"),
    ]:
        with pytest.raises(ValueError, match=match):
            tabular(layouts, **settings)
    with pytest.raises(ValueError, match="column"):
        tabular({"t": {"numeric": 0, "categorical": []}})
    with pytest.raises(ValueError, match="column"):
        tabular({"t": {"numeric": 0, "categorical": []}, "u": layout_of("tabular")})


def test_numbers_alone_and_codes_alone():
    for layout in ({"numeric": 2, "categorical": []}, {"numeric": 0, "categorical": [3, 4]}):
        x = {"numeric": torch.randn(5, layout["numeric"])}
        if layout["categorical"]:
            x["categorical"] = torch.zeros(5, 2, dtype=torch.long)
        for word in ("tabular", "linear"):
            encoder = find(Encoder, word)({"t": layout})
            assert [_width(z) for z in _run(encoder, x)] == encoder.widths
