"""Words, tags, spans and relations: against other libraries and slow, obvious loops."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score

from manyheads import config, metrics
from manyheads.catalog import find
from manyheads.cli import main
from manyheads.data.columns import Column
from manyheads.data.columns.text import PARTS, Text, case_of, parts_of, tokens_of
from manyheads.data.formats.conll import Conll
from manyheads.data.formats.sentences import Sentences
from manyheads.data.infer import infer
from manyheads.data.preprocess import Preprocess
from manyheads.encoders import Encoder
from manyheads.encoders.text import Attention, Recurrent, Words
from manyheads.faults import ConfigError, DataError
from manyheads.metrics import Predicted
from manyheads.metrics.spans import bio, spans
from manyheads.ragged import Ragged, objects
from manyheads.spec import ModelSpec, settled
from manyheads.tasks._pairs import CLUES, RANK, WIDTH, Largest, pair_scores, pair_scores_in_parts, pooled
from manyheads.tasks.relation import Relation
from manyheads.tasks.text import Tagging, token_errors, viterbi

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def _series(*cells, name="words"):
    return pd.Series(list(cells), dtype=object, name=name)


# -- the column


def test_a_text_falls_into_words_and_signs():
    assert tokens_of("Isn't  50% of it 'good', Ms. O’Hara?") == [
        "Isn't", "50", "%", "of", "it", "'", "good", "'", ",", "Ms", ".", "O’Hara", "?"
    ]  # fmt: skip
    assert tokens_of("B-x U.S. ,", "spaces") == ["B-x", "U.S.", ","]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, "", "  ", []])
def test_nothing_has_no_token(missing):
    column = Text.fit("words", _series("a b a b"))
    assert column.transform(_series("a", missing, ["b"])).lengths.tolist() == [1, 0, 1]


def test_a_list_keeps_its_tokens_and_a_string_is_divided():
    column = Text.fit("words", _series(["New York", "!"]), min_count=1)
    found = column.transform(_series(["New York", "!"], "New York!", np.array(["!"], dtype=object)))
    assert found.lengths.tolist() == [2, 3, 1]
    assert found.values[0, 0] == found.values[0, 0].clamp(min=2)
    assert found.values[2, 0] == 1  # `New` alone was never seen


def test_words_are_looked_up_in_small_letters_and_rare_ones_are_unknown():
    column = Text.fit("words", _series("The cat", "the dog THE cat", "Cat"), min_count=2)
    assert column.words == ("cat", "the")
    words = column.transform(_series("THE Cat dog fish")).values[:, 0]
    assert words.tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize(
    ("token", "case"),
    [("the", 1), ("The", 2), ("NASA", 3), ("I", 2), ("iPod", 4), ("1,000", 5), ("B2", 6), ("--", 7), ("Émile", 2)],
)
def test_how_a_word_is_written(token, case):
    assert case_of(token) == case


def test_parts_are_those_of_the_word_whatever_its_case():
    one, other = parts_of("Walking", 1000), parts_of("talking", 1000)
    assert len(one) == PARTS == len(parts_of("", 1000)) == len(parts_of("x" * 99, 1000))
    assert len(set(one) & set(other)) >= 4 + 4  # ends, and runs of three within
    assert parts_of("ab", 1000)[2] == 0  # there is no beginning of three letters
    assert all(0 <= p <= 1000 for p in one)
    assert one[:8] == parts_of("WALKING", 1000)[:8]
    assert one[8] != parts_of("WALKING", 1000)[8]  # but its shape is another


def test_a_cell_that_is_no_text_is_refused():
    column = Text.fit("words", _series("a"))
    for wrong in (3.5, ["a", 1], {"a": 1}):
        with pytest.raises(DataError, match=r"Column `words` should hold texts or lists of texts.*row 1"):
            column.transform(_series("a", wrong))
    with pytest.raises(ConfigError, match="`split`"):
        Text.fit("words", _series("a"), split="letters")
    with pytest.raises(ConfigError, match="`min_count`"):
        Text.fit("words", _series("a"), min_count=0)


def test_a_text_column_goes_through_json_and_settings():
    column = Text.fit("words", _series("a b a"), min_count=1, split="spaces", buckets=50)
    again = Column.from_json(json.loads(json.dumps(column.to_json())))
    assert again == column
    assert torch.equal(again.transform(_series("b c")).values, column.transform(_series("b c")).values)
    made = Preprocess.fit(
        {"t": pd.DataFrame({"words": ["a b", None], "n": [1.0, 2.0]})}, {"words": {"type": "text", "min_count": 1}}
    )
    assert made.layouts["t"]["text:words"]["words"] == 4
    assert isinstance(made.inputs(pd.DataFrame({"words": ["b"], "n": [0.0]}))["text:words"], Ragged)


def test_free_text_and_lists_are_proposed_to_be_read():
    frame = pd.DataFrame({"review": [f"this is review {i}" for i in range(60)], "tokens": [["a", "b"]] * 60})
    with pytest.warns(UserWarning, match="`text`") as told:
        assert infer(frame) == {}
    assert sum("`text`" in str(w.message) for w in told) == 2


# -- the encoder

LAYOUT = {"numeric": 0, "categorical": [], "text:words": {"words": 9, "cases": 8, "buckets": 20, "parts": 3}}


def _rows(*lengths, top=9):
    return Ragged(torch.randint(2, 8, (sum(lengths), 5)), torch.tensor(lengths))


def test_parts_are_averaged_over_those_there_are():
    words = Words(LAYOUT, 2, 3, 0, 0.0, 0.0, False).eval()
    rows = Ragged(torch.tensor([[2, 1, 4, 7, 0], [3, 1, 0, 0, 0]]), torch.tensor([1, 1]))
    values, _ = words({"text:words": rows})
    table = words.parts[0].weight
    assert torch.allclose(values[0, 0, 2:], (table[4] + table[7]) / 2 * 3**0.5)
    assert (values[1, 0, 2:] == 0).all()


def test_a_gru_is_torchs_own_on_each_row_alone():
    stage = Recurrent(4, 6, 0.0).eval()
    values, mask = torch.randn(3, 5, 4), torch.arange(5) < torch.tensor([[5], [2], [0]])
    found, _ = stage((values, mask))
    for i, n in enumerate((5, 2)):
        assert torch.allclose(found[i, :n], stage.gru(values[i : i + 1, :n])[0][0], atol=1e-6)
        assert (found[i, n:] == 0).all()
    assert (found[2] == 0).all()


@pytest.mark.parametrize("stage", [Recurrent(4, 6, 0.0), Attention(4, 6, 2, 0.0)])
def test_padding_changes_nothing(stage):
    stage.eval()
    values, mask = torch.randn(2, 5, 4), torch.tensor([[True] * 5, [True, True, False, False, False]])
    wild = torch.where(mask.unsqueeze(-1), values, 99.0)
    one, other = stage((values * mask.unsqueeze(-1), mask))[0], stage((wild, mask))[0]
    assert torch.allclose(one[mask], other[mask], atol=1e-5)


def test_a_row_without_a_token_is_zero_and_finite():
    for cell in ("gru", "attention"):
        encoder = find(Encoder, "text")({"t": LAYOUT}, d_word=4, d_parts=4, d_case=0, d_hidden=8, cell=cell).eval()
        z = {"text:words": _rows(0, 3, 0)}
        for stage in encoder.path():
            z = stage(z)
        assert torch.isfinite(z[0]).all()
        assert (z[0][0] == 0).all()
        assert (z[0][1] != 0).any()


def test_several_texts_are_read_one_after_the_other():
    layout = LAYOUT | {"text:title": LAYOUT["text:words"]}
    words = Words(layout, 2, 0, 0, 0.0, 0.0, False).eval()
    one, other = _rows(2, 1), _rows(1, 3)
    values, mask = words({"text:words": one, "text:title": other})
    assert mask.sum(1).tolist() == [3, 4]
    assert values.shape[1] == 4
    assert torch.allclose(values[0, 2], words.words[1].weight[other.values[0, 0]] + words.which[1])
    assert torch.allclose(values[1, :1], words.words[0].weight[one.values[2:, 0]] + words.which[0])


def test_unknown_words_are_practised_in_training_alone():
    words = Words(LAYOUT, 4, 0, 0, 0.0, 0.5, False)
    rows = Ragged(torch.full((400, 5), 5), torch.tensor([400]))
    values, _ = words({"text:words": rows})
    unknown = (values[0] == words.words[0].weight[1]).all(-1).float().mean().item()
    assert 0.4 < unknown < 0.6
    values, _ = words.eval()({"text:words": rows})
    assert (values[0] == words.words[0].weight[5]).all()


def test_members_that_cannot_be_run_as_one_are_refused():
    with pytest.raises(ConfigError, match=r"`model\.members` should be 1 with the encoder `text`.*Found 3"):
        settled(ModelSpec.model_validate({"encoder": "text", "members": 3}), {"t": LAYOUT})
    assert settled(ModelSpec(), {"t": LAYOUT}).encoder.name == "text"
    beside = {"t": LAYOUT | {"image:photo": {"channels": 3}}}
    with pytest.raises(ConfigError, match=r"encoder `fused`, since words are packed .*Found 3"):
        settled(ModelSpec(members=3), beside)
    assert settled(ModelSpec(), beside).members == 1
    assert settled(ModelSpec(members=3), {"t": {"numeric": 2, "image:photo": {"channels": 3}}}).members == 3


def test_what_the_encoder_refuses():
    text = find(Encoder, "text")
    with pytest.raises(ValueError, match=r"Table `t` should have a text column.*features\.types"):
        text({"t": {"numeric": 2, "categorical": []}})
    for settings, match in [
        ({"cell": "lstm"}, "gru or attention"),
        ({"dropout": 1.0}, "dropout"),
        ({"d_hidden": 7}, "multiple of 2"),
        ({"cell": "attention", "d_hidden": 6}, "multiple of 4"),
    ]:
        with pytest.raises(ValueError, match=match):
            text({"t": LAYOUT}, **settings)


# -- spans and entity F1


def _random_tags(rng, letters="BI", n=300):
    kinds = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC"))]
    return [rng.choice(kinds, rng.integers(1, 9)).tolist() for _ in range(n)]


def test_spans_are_seqevals(rng):
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    for tags in _random_tags(rng):
        assert spans(tags) == [(start, stop + 1, kind) for kind, start, stop in seqeval.get_entities(tags)]


def test_entity_f1_is_seqevals(rng):
    seqeval = pytest.importorskip("seqeval.metrics")
    y, p = _random_tags(rng, n=200), None
    p = [[t if rng.random() < 0.8 else "O" for t in row] for row in y]
    found = metrics.find("entity_f1")(objects(y), Predicted(objects(p)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.value == pytest.approx(seqeval.f1_score(y, p), abs=1e-12)
        weight = rng.integers(0, 3, len(y))  # a weight is so many copies of a row
        many = [[row for row, w in zip(rows, weight, strict=True) for _ in range(w)] for rows in (y, p)]
        weighted = metrics.find("entity_f1")(objects(y), Predicted(objects(p)), sample_weight=weight)
        assert weighted.value == pytest.approx(seqeval.f1_score(*many), abs=1e-12)


def test_entity_f1_by_hand():
    y = [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["O"]]
    p = [["B-PER", "I-PER", "B-LOC"], ["B-PER", "O"], ["O"]]  # one right, two wrong, one lost
    found = metrics.find("entity_f1")(objects(y), Predicted(objects(p)))
    assert found.value == pytest.approx(2 / (2 + 2 + 1))
    nothing = metrics.find("entity_f1")(objects([["O"]]), Predicted(objects([["O"]])))
    assert nothing == (None, "There is no span, neither labelled nor predicted.")


def test_token_accuracy_is_scikit_learns_over_all_tokens(rng):
    y = _random_tags(rng, n=50)
    p = [[t if rng.random() < 0.7 else "O" for t in row] for row in y]
    found = metrics.find("token_accuracy")(objects(y), Predicted(objects(p))).value
    assert found == pytest.approx(accuracy_score([t for r in y for t in r], [t for r in p for t in r]))
    assert metrics.find("token_accuracy")(objects([["O", "O"]]), Predicted(objects([["O"]]))).value == 0.5


def test_other_schemes_say_the_same():
    assert bio(["B-A", "L-A", "U-B", "O", "B-A", "I-A", "L-A"]) == ["B-A", "I-A", "B-B", "O", "B-A", "I-A", "I-A"]
    assert bio(["B-A", "E-A", "S-B"]) == ["B-A", "I-A", "B-B"]
    for wrong in ("PER", "X-PER", "B-", "", "o"):
        with pytest.raises(ValueError, match="A tag should be"):
            bio([wrong])


# -- tagging


def _legal(path):
    return all(
        not tag.startswith("I-") or (i > 0 and path[i - 1] in (tag, "B-" + tag[2:])) for i, tag in enumerate(path)
    )


def test_viterbi_is_the_best_of_all_legal_paths():
    for _ in range(40):
        scores = torch.randn(3, 4, 5)
        mask = torch.arange(4) < torch.tensor([[4], [2], [0]])
        found = viterbi(scores, mask, NAMES, "bio")
        for row, n, own in zip(scores, (4, 2, 0), found, strict=True):
            paths = [p for p in itertools.product(range(5), repeat=n) if _legal([NAMES[i] for i in p])]
            best = max(paths, key=lambda p, row=row: sum(float(row[i, t]) for i, t in enumerate(p)))
            assert tuple(own.tolist()) == best


def test_tags_are_read_as_lists_and_as_texts_and_a_null_is_no_label():
    frame = pd.DataFrame(
        {"y": _series(["B-PER", "O"], "O O U-LOC", None, ["O", None], float("nan"), "", np.array(["O"]))}
    )
    task = Tagging("y").fitted(frame)
    assert task.tags == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    target, known = task.encode(frame)
    assert known.tolist() == [True, True, False, False, False, True, True]
    assert [row.tolist() for row in target] == [[3, 0], [0, 0, 1], [], [], [], [], [0]]


def test_what_tagging_refuses():
    task = Tagging("y").fitted(pd.DataFrame({"y": ["B-PER O"]}))
    with pytest.raises(DataError, match=r"`y`.*tag `B-ORG` in row 1.*never seen"):
        task.encode(pd.DataFrame({"y": ["O", "B-ORG"]}))
    with pytest.raises(DataError, match=r"`y`.*row 0: A tag should be"):
        Tagging("y").fitted(pd.DataFrame({"y": ["NOUN VERB"]}))
    with pytest.raises(DataError, match="two tags or more"):
        Tagging("y").fitted(pd.DataFrame({"y": ["O O"]}))
    with pytest.raises(ConfigError, match="`scheme` should be bio or none"):
        Tagging("y", scheme="bilou")
    with pytest.raises(ConfigError, match="no metric of a tagging"):
        Tagging("y", metrics=["accuracy"])
    target, _ = task.encode(pd.DataFrame({"y": ["B-PER O", "O"]}))
    output = task.head([2])((torch.randn(2, 3, 2), torch.tensor([[True] * 3, [True, False, False]])))
    with pytest.raises(DataError, match=r"`y`.*Found 2 tags and 3 tokens.*split: spaces"):
        task.errors(output, target)
    with pytest.raises(ConfigError, match="should read a sequence"):
        task.head([2])(torch.randn(4, 2))


def test_tagging_loss_is_the_mean_over_tokens():
    frame = pd.DataFrame({"y": ["A B A", "B"]})
    task = Tagging("y", scheme="none").fitted(frame)
    target, known = task.encode(frame)
    output = torch.randn(2, 3, 3)
    output[..., 0] = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    logp = output[..., 1:].log_softmax(-1)
    slow = -(logp[0, 0, 0] + logp[0, 1, 1] + logp[0, 2, 0] + logp[1, 0, 1]) / 4
    assert task.mean_loss(output, target, known).item() == pytest.approx(slow.item(), rel=1e-6)
    assert task.metrics == ("token_accuracy",)
    assert task.columns(task.predict(task.rows(output)))["y"][1] in ("A", "B")


# -- relations


def _slow_pair(values, head, tail):
    """log odds of one relation type for one pair of spans of one sentence; values (tokens, WIDTH)."""
    h, t = (torch.stack(list(values[s:e])).amax(0) for s, e, _ in (head, tail))
    score = sum(float(h[k]) * float(t[RANK + k]) for k in range(RANK)) / RANK**0.5
    score += float(h[2 * RANK]) + float(t[2 * RANK + 1]) - 2
    between = range(min(head[1], tail[1]), max(head[0], tail[0]))
    c, d = (2 * RANK + 2, 2 * RANK + 3) if head[0] < tail[0] else (2 * RANK + 4, 2 * RANK + 5)
    if len(between):
        score += max(float(values[i, c]) for i in between) - max(float(values[i, d]) for i in between)
    return score


def test_pair_scores_are_the_slow_loop(float64):
    assert WIDTH == 2 * RANK + 2 + CLUES
    values = torch.randn(3, 7, 2, 1, WIDTH)
    found = [[(0, 2, "A"), (3, 4, "B"), (4, 7, "A")], [], [(5, 6, "B"), (1, 2, "B")]]
    odds, pairs = pair_scores(values, found)
    assert pairs.tolist() == [
        *([0, h, t] for h in range(3) for t in range(3) if h != t), [2, 0, 1], [2, 1, 0]
    ]  # fmt: skip
    for (i, h, t), own in zip(pairs.tolist(), odds, strict=True):
        for kind in range(2):
            slow = _slow_pair(values[i, :, kind, 0], found[i][h], found[i][t])
            assert own[kind].item() == pytest.approx(slow, abs=1e-10)
    none, _ = pair_scores(values, [[], [(0, 1, "A")], []])
    assert none.shape == (0, 2)
    parts = list(pair_scores_in_parts(values, found, 3))
    assert [len(odds) for odds, _ in parts] == [2, 2, 2, 1, 1]  # a head has as many partners as its row has spans
    assert torch.equal(torch.cat([own for own, _ in parts]), odds)
    assert torch.equal(torch.cat([own for _, own in parts]), pairs)


def test_the_largest_of_many_ranges_is_that_of_each_with_its_gradient(float64):
    ends = [(a, b) for a in range(9) for b in range(a, 10)]
    start, stop = (torch.tensor(own) for own in zip(*ends, strict=True))
    slopes = []
    for largest in (lambda v: pooled(v, start, stop), lambda v: Largest(v, 9).within(start, stop)):
        values = (torch.arange(30.0).reshape(10, 3) * 7 % 31 - 9.5).requires_grad_()
        found = largest(values)
        (found * torch.arange(1.0, len(ends) + 1)[:, None]).sum().backward()
        slopes.append((found, values.grad))
    assert torch.equal(slopes[0][0], slopes[1][0])
    assert torch.allclose(slopes[0][1], slopes[1][1], atol=1e-12)


def test_a_document_of_600_names_is_searched_in_a_small_memory():
    words, task = 1200, _linked()[0]
    output = torch.zeros(1, words, 1 + len(task.tags) + WIDTH)
    output[..., 0] = 1.0
    for place, tag in ((0, "B-PER"), (1, "O"), (2, "B-LOC"), (3, "O")):
        output[0, place::4, 1 + task.tags.index(tag)] = 9.0
    product = slice(1 + len(task.tags), 1 + len(task.tags) + 2 * RANK)
    output[..., product.stop] = -4.0
    output[0, [100, 402], product] = 3.0  # a person, and the place 301 words further on
    (tags, links), *_ = task.rows(output)
    assert [link[:2] for link in links] == [(50, 201)]
    assert len(tags) == words


def _linked(**more):
    frame = pd.DataFrame(
        {
            "tags": ["B-PER O B-LOC", "B-PER B-LOC I-LOC", "O"],
            "links": [json.dumps([{"head": 0, "tail": 1, "type": "lives"}]), [], "[]"],
        }
    )
    return Relation("r", target=("tags", "links"), **more).fitted(frame), frame


def test_relation_loss_is_the_slow_loop():
    task, frame = _linked()
    target, known = task.encode(frame)
    assert task.sizes(target).tolist() == [3 + 2, 3 + 2, 1]
    n = 1 + len(task.tags)
    output = torch.randn(3, 3, n + WIDTH, dtype=torch.float64)
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 0, 0]])
    output[..., 0] = mask
    total = 0.0
    for i, tags in enumerate(frame["tags"]):
        row = tags.split()
        total -= sum(float(output[i, j, 1:n].log_softmax(-1)[task.tags.index(tag)]) for j, tag in enumerate(row))
        own = spans(row)
        for h, t in itertools.permutations(range(len(own)), 2):
            p = torch.tensor(_slow_pair(output[i, :, n:], own[h], own[t])).sigmoid().item()
            total -= np.log(p if (i, h, t) == (0, 0, 1) else 1 - p)
    assert task.mean_loss(output, target, known).item() == pytest.approx(total / 11, rel=1e-5)


def test_tags_for_one_of_two_texts_are_refused_with_a_remedy():
    scores, tags = torch.zeros(1, 8, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(DataError, match=r"4 tags and 8 tokens.*Several columns of text .* leave out those whose words"):
        token_errors(scores, tags, torch.tensor([4]), "t", torch.ones(1, 8))


def test_relation_f1_is_strict():
    y = [{"tags": ["B-P", "I-P", "O", "B-L"], "relations": [(0, 1, "lives")]}]
    metric = metrics.find("relation_f1")

    def score(tags, relations):
        return metric(objects(y), Predicted(objects([{"tags": tags.split(), "relations": relations}]))).value

    assert score("B-P I-P O B-L", [(0, 1, "lives")]) == 1
    assert score("B-P O O B-L", [(0, 1, "lives")]) == 0  # a span that ends elsewhere
    assert score("B-X I-X O B-L", [(0, 1, "lives")]) == 0  # another type of span
    assert score("B-P I-P O B-L", [(1, 0, "lives")]) == 0  # the other way round
    assert score("B-P I-P O B-L", [(0, 1, "works")]) == 0
    assert score("B-P I-P O B-L", [(0, 1, "lives"), (1, 0, "lives")]) == pytest.approx(2 / 3)
    assert score("B-P I-P B-P B-L", [(0, 2, "lives")]) == 1  # spans are meant, not their numbers


def test_relations_that_training_never_showed_between_such_spans_are_not_predicted():
    task, _ = _linked()
    n = 1 + len(task.tags)
    output = torch.zeros(1, 2, n + WIDTH)
    output[..., 0] = 1
    output[0, [0, 1], [1 + task.tags.index("B-PER"), 1 + task.tags.index("B-LOC")]] = 9.0
    output[..., n + 2 * RANK] = 9.0  # everybody has every relation
    (found,) = task.predict(task.rows(output)).value
    assert found["relations"] == [(0, 1, "lives")]
    cell = json.loads(task.columns(task.predict(task.rows(output)))["r"][0])
    assert cell == [{"head": 0, "tail": 1, "type": "lives", "probability": pytest.approx(0.9991, abs=1e-3)}]


def test_the_threshold_of_relations_is_the_best_on_validation():
    task, frame = _linked()
    frame = pd.concat([frame] * 12, ignore_index=True)
    target, known = task.encode(frame)
    n = 1 + len(task.tags)
    g = torch.Generator().manual_seed(0)
    output = torch.randn(len(frame), 3, n + WIDTH, generator=g)
    output[..., 0] = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 0, 0]] * 12)
    for i, tags in enumerate(frame["tags"]):
        for j, tag in enumerate(tags.split()):
            output[i, j, 1 + task.tags.index(tag)] += 9.0
    rows, metric, truth = task.rows(output), metrics.find("relation_f1"), task.truth(target)
    chosen = task.tuned(rows, target, known)
    assert chosen.cut is not None
    assert chosen.cut != 0.5
    values = {}
    for cut in np.arange(0.05, 1, 0.05):
        given = Relation.from_json(task.to_json() | {"threshold": round(float(cut), 2)})
        values[round(float(cut), 2)] = metric(truth, given.predict(given.rows(output))).value or 0.0
        assert given.tuned(rows, target, known) == given
    best = metric(truth, chosen.predict(chosen.rows(output))).value
    assert best == max(values.values()) == values[chosen.cut]
    assert best > metric(truth, task.predict(rows)).value
    again = Relation.from_json(json.loads(json.dumps(chosen.to_json())))
    assert again == chosen
    assert [v["relations"] for v in again.predict(again.rows(output)).value] == [
        v["relations"] for v in chosen.predict(rows).value
    ]
    assert task.tuned(rows, target, torch.zeros_like(known)) == task
    half = torch.arange(len(frame)) < 18
    spoilt = task.encode(frame.assign(links=objects([*frame["links"][:18], *["[]"] * 18])))[0]
    assert task.tuned(rows, target, half) == task.tuned(rows, spoilt, half)


def test_what_relation_refuses():
    with pytest.raises(ConfigError, match=r"between 0 and 1, or relation_f1. Found f1"):
        Relation("r", target=("tags", "links"), threshold="f1")
    with pytest.raises(ConfigError, match=r"two target columns.*Found links"):
        Relation("r", target="links")
    task, frame = _linked()
    for cell, match in [
        ([{"head": 0, "tail": 2, "type": "lives"}], r"row 0: a relation should be between two of the row's 2 spans"),
        ([{"head": 1, "tail": 1, "type": "lives"}], r"between 1 and 1"),
        ('[{"head": 0}]', r"should hold lists of head, tail and type.*row 0"),
        ("nothing", r"row 0 \(JSONDecodeError"),
        ([{"head": 0, "tail": 1, "type": "dies"}], r"relation `dies` in row 0.*never seen"),
    ]:
        with pytest.raises(DataError, match=match):
            task.encode(frame.assign(links=objects([cell, None, None])))
    assert task.encode(frame.assign(links=None))[1].tolist() == [False] * 3
    with pytest.raises(DataError, match="should have a relation"):
        Relation("r", target=("tags", "links")).fitted(frame.assign(links="[]"))


# -- formats, beyond their laws


def test_tags_beside_are_joined_by_id_and_missing_where_tokens_differ(tmp_path):
    line = "{}\t{}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n"
    body = "".join(
        f"# sent_id = {i}\n" + "".join(line.format(k, w) for k, w in enumerate(words, 1)) + "\n"
        for i, words in enumerate((["Ann", "left"], ["do", "n't"], ["Bye"]))
    )
    (tmp_path / "w.conllu").write_text(body)
    (tmp_path / "w.iob2").write_text(
        "# sent_id = 1\n1\tdon't\tO\t-\t-\n\n# sent_id = 0\n1\tAnn\tB-PER\t-\tx\n2\tleft\tO\t-\t-\n"
    )
    frame = Conll(beside=".iob2").frame(tmp_path / "w.conllu")
    assert frame["ner"].tolist() == [["B-PER", "O"], None, None]
    assert frame["upos"].tolist() == [["NOUN"] * 2, ["NOUN"] * 2, ["NOUN"]]
    assert frame["xpos"].tolist() == [[None] * 2, [None] * 2, [None]]
    with pytest.raises(DataError, match=r"should have `w\.txt` beside it"):
        Conll(beside=".txt").frame(tmp_path / "w.conllu")
    (tmp_path / "w.txt").write_text(body)
    with pytest.raises(DataError, match=r"should end in \.conllu or \.iob2, or its columns should be named"):
        Conll().frame(tmp_path / "w.txt")


def test_a_draw_of_sentences_has_the_sizes_asked_for(tmp_path):
    (tmp_path / "s.txt").write_text("".join(f"sentence {i}\t{i % 2}\n" for i in range(50)))
    form = Sentences(columns=("tokens", "good"), sizes=(0.6, 0.1, 0.3), seed=1)
    frame = form.frame(tmp_path / "s.txt")
    assert frame["split"].value_counts().to_dict() == {"train": 30, "test": 15, "valid": 5}
    assert frame["good"].tolist() == [0, 1] * 25  # no header: the first label is there again
    with pytest.raises(ValueError, match="three shares"):
        Sentences(sizes=(0.5, 0.5))


@pytest.mark.data
def test_real_files_are_read_whole(data_root):
    for name, words in (("imdb", 1000), ("yelp", 1000), ("amazon_cells", 1000)):
        frame = Sentences().frame(data_root / "sentiment_sentences" / f"{name}_labelled.txt")
        assert len(frame) == words
        assert frame["label"].value_counts().to_dict() == {0: 500, 1: 500}
    slots = find_format("slots").frame(data_root / "snips")
    assert slots["split"].value_counts().to_dict() == {"train": 13084, "valid": 700, "test": 700}
    assert len({t for row in slots["slots"][slots["split"] == "train"] for t in row}) == 72
    news = find_format("conll04").frame(data_root / "conll04")
    train = news[news["split"] == "train"]
    assert len(train) == 922
    assert sum(len(spans(bio(row))) for row in train["tags"]) == 3377
    assert sum(map(len, train["relations"])) == 1283
    for part, sentences, tokens, kept, names in (("dev", 2001, 25147, 1998, 966), ("test", 2077, 25094, 2074, 1088)):
        frame = Conll(beside=".iob2").frame(data_root / "ewt_pos_ner" / f"en_ewt-ud-{part}.conllu")
        assert (len(frame), frame["tokens"].map(len).sum()) == (sentences, tokens)
        assert frame["ner"].notna().sum() == kept
        found = sum(len(spans(row)) for row in frame["ner"].dropna())
        assert names - 10 <= found <= names  # a few stand in the sentences that differ


@pytest.mark.parametrize(
    ("entities", "tags"),
    [
        ([("Loc", 3, 5), ("Peop", 0, 1)], ["B-Peop", "O", "O", "B-Loc", "I-Loc"]),  # listed in an order of their own
        ([("Loc", 3, 5), ("Loc", 4, 5)], None),
        ([("Loc", 3, 6), ("Peop", 0, 1)], None),
        ([("Loc", 3, 3), ("Peop", 0, 1)], None),
    ],
)
def test_listed_entities_become_tags(entities, tags, tmp_path):
    record = {
        "tokens": ["Ann", "lives", "in", "New", "York"],
        "entities": [{"type": kind, "start": start, "end": end} for kind, start, end in entities],
        "relations": [{"type": "Live_In", "head": 1, "tail": 0}],
    }
    file = tmp_path / "news.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    if tags is None:
        with pytest.raises(DataError, match=r"news.json, sentence 1. should have entities with .* among its tokens"):
            find_format("conll04").frame(file)
        return
    (row,) = find_format("conll04").frame(file).to_dict("records")
    assert row["tags"] == tags
    assert row["relations"] == [{"type": "Live_In", "head": 0, "tail": 1}]


def find_format(word):
    """A format with its defaults."""
    from manyheads.data.formats import Format

    return find(Format, word)()


# -- a first config


def _sketched(tmp_path, table):
    """What `init` writes for a table, which `check` finds well."""
    assert main(["init", str(table), "-o", str(tmp_path / "run.yaml"), "--force", "-q"]) == 0
    assert main(["check", "-c", str(tmp_path / "run.yaml"), "-q"]) == 0
    return config.load([tmp_path / "run.yaml"])


def test_a_column_of_sentences_is_taken_for_a_text(tmp_path):
    rows = [f"the {a} is {b} , {c}" for a in ("food", "wine") for b in ("good", "bad", "cold") for c in range(8)]
    cities = ["San Jose de Mayo", "Villa del Carmen", "Santa Fe del Sur"] * 16  # words, but the same again and again
    frame = pd.DataFrame({"id": range(48), "city": cities, "review": rows, "liked": [0, 1] * 24})
    frame.to_csv(tmp_path / "t.csv", index=False)
    spec = _sketched(tmp_path, tmp_path / "t.csv")
    assert spec.tasks == {"liked": {"type": "binary"}}
    assert spec.features.types == {"review": "text"}
    assert spec.data.ids == ("id",)


def test_lists_of_words_and_of_tags_are_told_apart(tmp_path):
    rows = [["Ann", "went", "to", place] for place in ("Rome", "Oslo", "Lima", "Bonn")] * 6
    frame = pd.DataFrame(
        {
            "words": rows,
            "ner": [["B-PER", "O", "O", "U-LOC"]] * 24,
            "pos": [["N", "V", "P", "N"]] * 24,
            "heads": [["2", "0", "2", "3"]] * 24,
            "other": [["a", "b"]] * 24,
            "mood": ["good", "bad"] * 12,
        }
    )
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    spec = _sketched(tmp_path, tmp_path / "t.jsonl")
    tagging = {"ner": {"type": "tagging"}, "pos": {"type": "tagging", "scheme": "none"}}
    assert spec.tasks == tagging | {"mood": {"type": "binary"}}
    assert spec.features.types == {"words": "text"}
    assert spec.features.only == ("words",)
    assert main(["init", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "b.yaml"), "--targets", "mood,ner", "-q"]) == 0
    assert config.load([tmp_path / "b.yaml"]).tasks == {"ner": tagging["ner"], "mood": {"type": "binary"}}


@pytest.mark.parametrize(("form", "tasks"), [("slots", {"intent", "slots"}), ("conll04", {"tags", "relations"})])
def test_a_folder_of_sentences_is_known_by_its_files(form, tasks, tmp_path):
    if form == "slots":
        for part in ("train", "test"):
            (tmp_path / "own" / part).mkdir(parents=True)
            for name, line in (("seq.in", "play abba\ngo\n"), ("seq.out", "O B-artist\nO\n"), ("label", "Play\nGo\n")):
                (tmp_path / "own" / part / name).write_text(line * 8, encoding="utf-8")
    else:
        (tmp_path / "own").mkdir()
        rows = [
            {"tokens": ["Ann", "in", "Rome"], "tags": ["U-Peop", "O", "U-Loc"], "orig_id": 1,
             "relations": [{"head": 0, "tail": 1, "type": "Live_In"}]}
        ] * 8  # fmt: skip
        for part in ("train", "test"):
            (tmp_path / "own" / f"own_{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    spec = _sketched(tmp_path, tmp_path / "own")
    assert set(spec.tasks) == tasks
    assert spec.data.format is not None
    assert spec.data.format.name == form
    (tmp_path / "none").mkdir()
    assert main(["init", str(tmp_path / "none"), "-o", str(tmp_path / "no.yaml")]) == 3
