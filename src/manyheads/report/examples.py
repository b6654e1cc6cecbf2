"""Single rows on a page: what a model was given, what is true, and what it said.

Everything is drawn from a few plain kinds of values. Every drawing has words beside it that say the same, and what is
right and wrong is told by signs, lines and hatching, not by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from ..results import Boxes, Example, Mask, Pair, Picture, Shown, Sound, Tags, Text
from . import layers, sentences
from .words import percent

WIDE = 288
"""Width of a drawing, in its own units; letters are 13 of them."""
LONGEST = 1200
"""Letters of a text that are shown."""
RIGHT, WRONG = "✓", "✗"


@dataclass
class Panel:
    """A drawing with its heading."""

    title: str
    drawing: Markup


@dataclass
class Line:
    """What is true and what was said of one task, as words."""

    task: str
    true: Markup | str
    said: Markup | str
    sign: str = ""


@dataclass
class Drawn:
    """One example, ready for the template."""

    heading: str
    texts: list[tuple[str, str]] = field(default_factory=list)
    """(column, text) of the texts that no task marks."""
    panels: list[Panel] = field(default_factory=list)
    marked: list[tuple[str, Markup]] = field(default_factory=list)
    """(task, sentences with what is marked in them)."""
    legends: list[tuple[str, Markup]] = field(default_factory=list)
    """(task, what the numbers in its drawings stand for)."""
    lines: list[Line] = field(default_factory=list)
    """Tasks whose answer is a word or a number."""
    words: list[Line] = field(default_factory=list)
    """What drawings and marks show, in words."""


def drawn(example: Example, anchor: str) -> Drawn:
    """One example, arranged.

    Args:
        anchor: a prefix of the ids inside, its own for each example of a page.
    """
    where = f" of {example.table}" if example.table else ""
    found = Drawn(f"Row {example.row}{where}")
    picture = next((v for v in example.inputs.values() if isinstance(v, Picture)), None)
    texts = {name: v for name, v in example.inputs.items() if isinstance(v, Text)}
    used = set()
    for name, value in example.inputs.items():
        if isinstance(value, Picture):
            found.panels.append(Panel(name, _frame(value, anchor if value is picture else "", f"{name}: the picture")))
        elif isinstance(value, Sound):
            found.panels.append(Panel(name, _spectra(value, f"{name}: {_words(value)}")))
    for task, pair in example.tasks.items():
        if isinstance(pair.said, Tags):
            column = next((n for n, v in texts.items() if len(v.words) == pair.said.length), None)
            used.add(column)
            words = texts[column].words if column is not None else tuple("·" for _ in range(pair.said.length))
            _mark(found, task, pair, words)
        elif isinstance(pair.said, Text):
            found.lines.append(_line(task, pair))
        else:
            _draw(found, task, pair, picture, anchor)
            if isinstance(pair.said, Sound):
                _compare(found, pair, [v for v in example.inputs.values() if isinstance(v, Sound)])
    found.texts = [(name, _short(v.text)) for name, v in texts.items() if name not in used]
    return found


def kinds(examples: Sequence[Example]) -> set[str]:
    """The kinds of values that are shown in some example, and ``words`` where texts are compared word by word."""
    pairs = [pair for example in examples for pair in example.tasks.values()]
    found = {value.kind for example in examples for value in example.inputs.values()} | {p.said.kind for p in pairs}
    return found | {"words" for p in pairs if isinstance(p.said, Text) and isinstance(p.true, Text) and p.true.words}


def _draw(found: Drawn, task: str, pair: Pair, picture: Picture | None, anchor: str) -> None:
    """Panels of a task whose answer lies on a picture, or is a sound."""
    for title, value in (("true", pair.true), ("predicted", pair.said)):
        if value is None:
            continue
        said = f"{task}, {title}: {_against(pair) if title == 'predicted' else _words(value)}"
        if isinstance(value, Mask):
            wrong = pair.true if title == "predicted" and isinstance(pair.true, Mask) else None
            over = layers.mask(value, wrong)
            drawing = _frame(picture, "", said, anchor, Markup(over.drawing(WIDE, _height(picture, over.shape))))
        elif isinstance(value, Boxes):
            wanted = pair.true if title == "predicted" and isinstance(pair.true, Boxes) else None
            frames = layers.boxes(_kept(pair, title), wanted)
            drawing = _frame(picture, "", said, anchor, Markup(frames.drawing(WIDE, _height(picture, (1, 1)))))
        elif isinstance(value, Sound):
            drawing = _spectra(value, said)
        else:
            continue
        found.panels.append(Panel(f"{task}: {title}", drawing))
    true = "nobody knows" if pair.true is None else _words(pair.true)
    found.words.append(Line(task, true, _against(pair)))
    if isinstance(pair.said, Mask):
        masks = [m for m in (pair.true, pair.said) if isinstance(m, Mask)]
        found.legends.append((task, layers.legend(pair.said.names, masks)))
    if isinstance(pair.said, Boxes):
        found.legends.append((task, layers.listed(_kept(pair, "true"), _kept(pair, "predicted"), pair.true)))


def _compare(found: Drawn, pair: Pair, heard: Sequence[Sound]) -> None:
    """How far a sound is from what it should be, and how far what was heard is."""
    if isinstance(pair.true, Sound) and isinstance(pair.said, Sound):
        away = [layers.apart(pair.true, sound) for sound in (pair.said, *heard[:1])]
        told = [f"{a:.1f} decibels" for a in away if a is not None]
        if len(told) == 2:
            found.words[-1].said = (
                f"{found.words[-1].said}; on average {told[0]} from the true one at a place, where what was heard is "
                f"{told[1]} from it"
            )


def _kept(pair: Pair, which: str) -> Boxes:
    """The boxes that are drawn: all true ones, and as many of the surest predicted ones (three where none is known)."""
    value = pair.true if which == "true" else pair.said
    if not isinstance(value, Boxes):
        return Boxes()
    if which == "true":
        return Boxes(boxes=value.boxes[: layers.MOST_BOXES])
    count = len(pair.true.boxes) if isinstance(pair.true, Boxes) else 3
    return Boxes(boxes=value.boxes[: min(max(count, 1), layers.MOST_BOXES)])


def _mark(found: Drawn, task: str, pair: Pair, words: Sequence[str]) -> None:
    true = pair.true if isinstance(pair.true, Tags) else None
    said = pair.said
    assert isinstance(said, Tags)
    found.marked.append((task, sentences.marked(words, said, true)))
    told = "nobody knows" if true is None else sentences.in_words(words, true)
    found.words.append(Line(task, told, sentences.in_words(words, said)))


def _line(task: str, pair: Pair) -> Line:
    said, true = pair.said, pair.true
    assert isinstance(said, Text)
    chance = "" if said.chance is None else f" ({percent(said.chance, 0)} sure)"
    if not isinstance(true, Text):
        return Line(task, Markup('<span class="soft">nobody knows</span>'), said.text + chance)
    sign = "" if not true.exact else RIGHT if true.text == said.text else WRONG
    if sign == WRONG and (true.words or said.words):
        return Line(task, true.text, sentences.differing(true.words, said.words), sign)
    return Line(task, true.text, said.text + chance, sign)


# -- drawings


def _height(picture: Picture | None, shape: tuple[int, int]) -> float:
    height, width = (picture.height, picture.width) if picture is not None else shape
    return WIDE * height / width


def _frame(picture: Picture | None, own: str, words: str, shared: str = "", over: Markup | None = None) -> Markup:
    """A picture, or what lies over it.

    Args:
        own: the id prefix under which other drawings of this example find the picture.
        shared: the id prefix of the picture that lies below.
        words: what there is to be seen.
        over: what lies over it.
    """
    height = _height(picture, (1, 1))
    below = ""
    if picture is not None and shared:
        below = f'<use href="#{escape(shared)}picture"/>'
    elif picture is not None:
        name = f' id="{escape(own)}picture"' if own else ""
        crisp = ' class="crisp"' if max(picture.width, picture.height) < 100 else ""
        below = (
            f'<image{name}{crisp} width="{WIDE}" height="{height:.1f}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{escape(picture.png)}"/>'
        )
    return Markup(
        f'<svg class="drawing" viewBox="0 0 {WIDE} {height:.1f}" role="img" aria-label="{escape(words)}">'
        f'{below}{over or ""}<rect class="edge" width="{WIDE}" height="{height:.1f}"/></svg>'
    )


def _spectra(sound: Sound, words: str) -> Markup:
    """Time to the right, frequency upwards, with an axis each."""
    left, bottom, wide, high = 44, 18, WIDE - 44, 112
    marks = []
    top = sound.hertz / 1000
    for share in (0.0, 0.5, 1.0):
        y = high * (1 - share) + (4 if 0 < share < 1 else 10 if share else 0)
        unit = " kHz" if share == 1 else ""
        marks.append(f'<text x="{left - 5}" y="{y:.0f}" text-anchor="end">{top * share:.3g}{unit}</text>')
    for share in (0.0, 0.5, 1.0):
        anchor = ("start", "middle", "end")[int(2 * share)]
        unit = " s" if share == 1 else ""
        seconds = f"{sound.seconds * share:.2g}{unit}"
        marks.append(f'<text x="{left + wide * share:.0f}" y="{high + 14}" text-anchor="{anchor}">{seconds}</text>')
    return Markup(
        f'<svg class="drawing" viewBox="0 0 {WIDE} {high + bottom}" role="img" aria-label="{escape(words)}">'
        f'<image class="spectra" x="{left}" width="{wide}" height="{high}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{escape(sound.png)}"/>'
        f'<rect class="edge" x="{left}" width="{wide}" height="{high}"/>{"".join(marks)}</svg>'
    )


# -- words


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} ... ({len(text) - LONGEST} further letters)"


def _words(value: Shown) -> str:
    """What a value shows."""
    if isinstance(value, Mask):
        return layers.mask_in_words(value)
    if isinstance(value, Boxes):
        return layers.boxes_in_words(value)
    if isinstance(value, Sound):
        return f"a recording of {value.seconds:.2g} seconds, up to {value.hertz / 1000:.3g} kHz"
    if isinstance(value, Picture):
        return f"a picture of {value.width} x {value.height} pixels"
    return value.text if isinstance(value, Text) else f"{len(value.spans)} marks"


def _against(pair: Pair) -> str:
    """What a prediction shows, and how it does against the truth."""
    said = layers.boxes_in_words(_kept(pair, "predicted")) if isinstance(pair.said, Boxes) else _words(pair.said)
    if isinstance(pair.said, Mask) and isinstance(pair.true, Mask):
        share = layers.agreement(pair.true, pair.said)
        return said if share is None else f"{said}; {percent(share)} of the labelled pixels are right"
    if isinstance(pair.said, Boxes) and isinstance(pair.true, Boxes):
        kept = _kept(pair, "predicted")
        rest = len(pair.said.boxes) - len(kept.boxes)
        hits = sum(layers.hits(kept, pair.true))
        told = f"{said}; true boxes found: {hits} of {len(pair.true.boxes)}"
        return told + (f"; not drawn, as they are less sure: {rest}" if rest else "")
    return said
