"""Sentences with what is marked in them: names, parts of speech, relations, and how one text differs from another."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from markupsafe import Markup

from ..results import Tags

Span = tuple[int, int, str]


def marked(words: Sequence[str], said: Tags, true: Tags | None) -> Markup:
    """A sentence with its spans underlined, as it is true and as it was predicted, once where both are the same;
    relations below.

    Where every word has a mark of its own there is one sentence, with the mark of each word under it, and the true one
    under a wrong one.

    Args:
        words: of the sentence.
        said: what was predicted.
        true: None where nobody knows.
    """
    if _every(said) and (true is None or _every(true)):
        return _one_each(words, said, true)
    lines = []
    if true is not None and set(true.spans) == set(said.spans):
        lines.append(_line("both", words, said.spans, dict.fromkeys(said.spans, "✓")))
        return Markup("").join([*lines, *_relations(words, said, true)])
    if true is not None:
        notes = {span: "" if span in said.spans else "missed" for span in true.spans}
        lines.append(_line("true", words, true.spans, notes))
    signs = {span: "" if true is None else "✓" if span in true.spans else "✗" for span in said.spans}
    lines.append(_line("predicted", words, said.spans, signs))
    relations = _relations(words, said, true)
    return Markup("").join([*lines, *relations])


def _every(tags: Tags) -> bool:
    """Whether each word has a mark of its own."""
    return tags.length > 0 and [(a, b) for a, b, _ in tags.spans] == [(i, i + 1) for i in range(tags.length)]


def _one_each(words: Sequence[str], said: Tags, true: Tags | None) -> Markup:
    parts = []
    for i, word in enumerate(words):
        own = said.spans[i][2]
        wanted = own if true is None else true.spans[i][2]
        if own == wanted:
            parts.append(Markup('<span class="word">{}<small>{}</small></span>').format(word, own))
        else:
            parts.append(
                Markup('<span class="word wrong">{}<small>✗ {}</small><small>true: {}</small></span>').format(
                    word, own, wanted
                )
            )
    return Markup('<p class="sentence each">{}</p>').format(Markup(" ").join(parts))


def _line(title: str, words: Sequence[str], spans: Sequence[Span], notes: dict[Span, str]) -> Markup:
    """One sentence with spans underlined, each with its type and a note."""
    parts, at = [], 0
    for span in sorted(spans):
        start, stop, kind = span
        if start < at:
            continue
        parts += [Markup("{}").format(word) for word in words[at:start]]
        note = notes[span]
        shown = f"{kind}, {note}" if note == "missed" else f"{note} {kind}".strip()
        wrong = " wrong" if note in ("✗", "missed") else ""
        parts.append(
            Markup('<span class="span{}">{}<small>{}</small></span>').format(wrong, " ".join(words[start:stop]), shown)
        )
        at = stop
    parts += [Markup("{}").format(word) for word in words[at:]]
    return Markup('<p class="sentence"><b class="who">{}</b> {}</p>').format(title, Markup(" ").join(parts))


def _relations(words: Sequence[str], said: Tags, true: Tags | None) -> list[Markup]:
    own = _named(said)
    wanted = _named(true) if true is not None else None
    if not own and not wanted:
        return []
    items = []
    for relation in own:
        sign = "" if wanted is None else "✓ " if relation in wanted else "✗ "
        note = "" if sign != "✗ " else ", not among the labels"
        items.append(Markup("<li>{}{}{}</li>").format(sign, _told(words, relation), note))
    for relation in wanted or ():
        if relation not in own:
            items.append(Markup("<li>– {}, missed</li>").format(_told(words, relation)))
    return [Markup('<ul class="relations">{}</ul>').format(Markup("").join(items))]


def _named(tags: Tags) -> list[tuple[Span, Span, str]]:
    """Relations with the spans they are between."""
    n = len(tags.spans)
    return [(tags.spans[h], tags.spans[t], kind) for h, t, kind in tags.relations if h < n and t < n]


def _told(words: Sequence[str], relation: tuple[Span, Span, str]) -> Markup:
    head, tail, kind = relation
    return Markup("{} <b>{}</b> → {}").format(
        " ".join(words[head[0] : head[1]]), kind, " ".join(words[tail[0] : tail[1]])
    )


def in_words(words: Sequence[str], tags: Tags) -> str:
    """What is marked, without a drawing."""
    found = [f"{' '.join(words[a:b])}: {kind}" for a, b, kind in tags.spans]
    found += [
        f"{kind} from {' '.join(words[h[0] : h[1]])} to {' '.join(words[t[0] : t[1]])}" for h, t, kind in _named(tags)
    ]
    return "; ".join(found) or "nothing is marked"


def differing(true: Sequence[str], said: Sequence[str]) -> Markup:
    """What was said, with words that should not be there struck out and missing ones put in, in brackets."""
    parts = [] if said else [Markup("<i>nothing;</i>")]
    for what, a, b, c, d in SequenceMatcher(None, list(true), list(said), autojunk=False).get_opcodes():
        if what == "equal":
            parts.append(Markup("{}").format(" ".join(said[c:d])))
            continue
        if d > c:
            parts.append(Markup("<del>{}</del>").format(" ".join(said[c:d])))
        if b > a:
            parts.append(Markup("<ins>[{}]</ins>").format(" ".join(true[a:b])))
    return Markup(" ").join(parts)
