"""A sample space such as ``clk == 1 and country in ['DE', 'FR']``: which rows a task is about.

Comparisons (``== != < <= > >=``), ``in [...]``, ``not in [...]``, ``is null``, ``is not null``, ``and``, ``or``,
``not``, parentheses; column names bare or in backquotes, numbers, texts in quotes, true, false. Nothing is evaluated as
Python. A comparison with a null is false, whatever the operator: rows with an unknown `clk` satisfy neither
``clk == 1`` nor ``clk != 1``; ``not clk == 1`` does hold for them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ..catalog import hint
from ..faults import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

Test = Callable[["pd.DataFrame"], np.ndarray]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w))"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|`(?P<quoted>[^`]+)`"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<mark>==|!=|<=|>=|<|>|\(|\)|\[|\]|,))"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_KEYWORDS = ("and", "or", "not", "in", "is", "null", "true", "false")
_REMEDY = {"=": "Equality is `==`.", "&": "Write `and`.", "|": "Write `or`.", "!": "Write `not`.", "~": "Write `not`."}


class _Token(NamedTuple):
    kind: str
    value: Any
    start: int


@dataclass(frozen=True)
class _Column:
    name: str
    start: int


class Where:
    """A sample space, read from its text.

    Args:
        text: a condition on columns, see the top of this module.

    Raises:
        ConfigError: the text cannot be read; the message points to the place.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: tuple[str, ...] = ()
        """The columns it reads, in order."""
        self._tokens = self._split()
        self._next = 0
        self._test = self._either()
        if self._peek.kind != "end":
            self._fail("the end, `and` or `or`")

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows belong to the space.

        Shape:
            (rows,) of bool.

        Raises:
            DataError: the frame lacks a column, or a text is compared with a number.
        """
        return self._test(frame)

    # -- reading

    def _split(self) -> list[_Token]:
        tokens, at, end = [], 0, len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None or match.lastgroup is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                remedy = _REMEDY.get(
                    self.text[at], "A name with other characters than letters, digits and _ goes in `backquotes`."
                )
                self._stop("a column, a value or an operator", self.text[at], at, remedy)
            kind, raw, start = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
            value: Any = raw
            if kind == "number":
                value = int(raw) if re.fullmatch(r"[-+]?\d+", raw) else float(raw)
            elif kind == "text":
                value = re.sub(r"\\(.)", r"\1", raw[1:-1])
            elif kind == "name" and raw.lower() in _KEYWORDS:
                kind, value = "word", raw.lower()
            tokens.append(_Token("name" if kind == "quoted" else kind, value, start))
            at = match.end()
        return [*tokens, _Token("end", "", end)]

    def _stop(self, wanted: str, found: str, at: int, remedy: str = "") -> NoReturn:
        raise ConfigError(
            f"`where` should have {wanted} here. Found {f'`{found}`' if found else 'the end'}. {remedy}".rstrip()
            + f"\n  {self.text}\n  {' ' * at}^"
        )

    def _fail(self, wanted: str) -> NoReturn:
        token = self._peek
        self._stop(wanted, str(token.value), token.start)

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _accept(self, *values: str) -> str | None:
        token = self._peek
        if token.kind in ("word", "mark") and token.value in values:
            self._next += 1
            return str(token.value)
        return None

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            self._fail(f"`{value}`")

    # -- the grammar, loosest binding first

    def _either(self) -> Test:
        left = self._both()
        while self._accept("or"):
            left = _join(operator.or_, left, self._both())
        return left

    def _both(self) -> Test:
        left = self._inverse()
        while self._accept("and"):
            left = _join(operator.and_, left, self._inverse())
        return left

    def _inverse(self) -> Test:
        if self._accept("not"):
            inner = self._inverse()
            return lambda frame: ~inner(frame)
        if self._accept("("):
            inner = self._either()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Test:
        left = self._operand()
        if self._accept("is"):
            present = self._accept("not") is not None
            self._expect("null")
            return lambda frame: ~self._side(frame, left)[1] if present else self._side(frame, left)[1]
        negated = self._accept("not") is not None
        if negated or self._peek.value == "in":
            self._expect("in")
            choices = self._choices()
            return lambda frame: self._among(frame, left, choices, negated)
        sign = self._accept(*_COMPARE)
        if sign is None:
            self._fail("a comparison (== != < <= > >=), `in` or `is`")
        right = self._operand()
        return lambda frame: self._compare(frame, sign, left, right)

    def _operand(self) -> Any:
        token = self._peek
        self._next += 1
        if token.kind == "name":
            self.columns += (token.value,) if token.value not in self.columns else ()
            return _Column(token.value, token.start)
        if token.kind in ("number", "text"):
            return token.value
        if token.kind != "word" or token.value not in ("true", "false"):
            self._next -= 1
            self._fail("a column or a value")
        return int(token.value == "true")

    def _choices(self) -> list[Any]:
        self._expect("[")
        choices = []
        while not self._accept("]"):
            choice = self._operand()
            if isinstance(choice, _Column):
                self._stop("a number or a text in quotes", choice.name, choice.start)
            choices.append(choice)
            if self._peek.value != "]":
                self._expect(",")
        return choices

    # -- the answer

    def _side(self, frame: pd.DataFrame, side: Any) -> tuple[Any, np.ndarray]:
        """(values, which are null)."""
        if not isinstance(side, _Column):
            return side, np.zeros(len(frame), dtype=bool)
        if side.name not in frame.columns:
            raise DataError(
                f"`where` should name columns of the table. Found `{side.name}`. "
                f"{hint(side.name, map(str, frame.columns))}"
                f"\n  {self.text}\n  {' ' * side.start}^"
            )
        return _values(frame[side.name])

    def _compare(self, frame: pd.DataFrame, sign: str, left: Any, right: Any) -> np.ndarray:
        (a, a_null), (b, b_null) = self._side(frame, left), self._side(frame, right)
        known = ~(a_null | b_null)
        if not known.any():
            return known
        a, b = self._alike(a, b), self._alike(b, a)
        a, b = (v[known] if isinstance(v, np.ndarray) else v for v in (a, b))
        answer = np.zeros(len(frame), dtype=bool)
        answer[known] = np.asarray(_COMPARE[sign](a, b), dtype=bool)
        return answer

    def _among(self, frame: pd.DataFrame, left: Any, choices: list[Any], negated: bool) -> np.ndarray:
        found = np.zeros(len(frame), dtype=bool)
        for choice in choices:
            found |= self._compare(frame, "==", left, choice)
        return ~found & ~self._side(frame, left)[1] if negated else found

    def _alike(self, value: Any, other: Any) -> Any:
        """The value in the other's terms: a text beside dates is a date; text beside numbers is a mistake."""
        kinds = _kind(value), _kind(other)
        if kinds == ("text", "date") and isinstance(value, str):
            try:
                return np.datetime64(value)
            except ValueError:
                raise DataError(
                    f"`{self.text}` should compare dates with dates such as '2024-01-31'. Found '{value}'."
                ) from None
        if kinds[0] != kinds[1] and set(kinds) != {"text", "date"}:
            raise DataError(
                f"`{self.text}` should compare like with like. Found {kinds[0]} beside {kinds[1]}; texts go in quotes, "
                "numbers do not."
            )
        return value


def space(frame: pd.DataFrame, where: str | None) -> np.ndarray:
    """Which rows belong to a sample space; all of them where there is none."""
    return np.ones(len(frame), dtype=bool) if where is None else Where(where)(frame)


def _join(both: Callable[[Any, Any], Any], left: Test, right: Test) -> Test:
    return lambda frame: both(left(frame), right(frame))


def _kind(value: Any) -> str:
    kind = value.dtype.kind if isinstance(value, np.ndarray) else "O" if isinstance(value, str) else "i"
    return {"O": "text", "M": "date"}.get(kind, "a number")


def _values(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column as numbers, dates or texts, and which rows are null (those hold anything)."""
    import pandas as pd

    null = series.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return series.to_numpy(dtype="datetime64[ns]"), null
    if series.dtype.kind in "iufb" and not null.any():
        array = series.to_numpy()
        return (array if array.dtype.kind in "iuf" else array.astype(np.int64)), null
    texts = series.astype(object)
    if null.all() or pd.api.types.infer_dtype(texts, skipna=True) in (
        "integer",
        "floating",
        "boolean",
        "mixed-integer-float",
    ):
        numbers = np.zeros(len(series), dtype=np.float64)
        numbers[~null] = texts[~null].astype(float)
        return numbers, null
    return texts.where(~null, "").astype(str).to_numpy(dtype=object), null
