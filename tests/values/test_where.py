"""The grammar of sample spaces, against pandas written out."""

import numpy as np
import pandas as pd
import pytest

from manyheads.data.where import Where, space
from manyheads.faults import ConfigError, DataError

TABLE = pd.DataFrame(
    {
        "clk": [1.0, 0.0, np.nan, 1.0],
        "n": [1, 2, 3, 4],
        "big": [2**60, 2**60 + 1, 2**60 + 2, 5],
        "town": ["Bonn", None, "Köln", "it's"],
        "ok": [True, False, True, False],
        "maybe": pd.array([True, None, False, True], dtype="boolean"),
        "count": pd.array([1, None, 3, 4], dtype="Int64"),
        "day": pd.to_datetime(["2020-01-01", "2020-06-01", None, "2021-01-01"]),
        "kind": pd.Categorical(["u", "v", None, "u"]),
        "a.b": [1, 2, 3, 4],
        "x[0]": [1, 2, 3, 4],
        "and": [1, 0, 1, 0],
        "empty": [None, None, None, None],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("clk == 1", "1001"),
        ("clk != 1", "0100"),  # a null satisfies no comparison
        ("not clk == 1", "0110"),  # but its absence can be negated
        ("clk is null", "0010"),
        ("clk is not null and n < 4", "1100"),
        ("clk == 1 or n == 2 and ok == true", "1001"),  # and binds tighter
        ("(clk == 1 or n == 2) and ok == false", "0101"),
        ("not (clk == 1 or n == 2)", "0010"),
        ("n in [1, 3,]", "1010"),
        ("n not in [1, 3]", "0101"),
        ("clk not in [1]", "0100"),
        ("clk in []", "0000"),
        ("n >= 2 AND n <= 3", "0110"),
        ("n > -1.5e0", "1111"),
        ("2 < n", "0011"),
        ("n == `a.b` and `x[0]` > 3", "0001"),
        ("`and` == 1", "1010"),
        ("town == 'Bonn'", "1000"),
        ("town != \"Bonn\"", "0011"),
        (r"town == 'it\'s'", "0001"),
        ("town in ['Bonn', 'Köln']", "1010"),
        ("town is null", "0100"),
        ("ok == true", "1010"),
        ("maybe != true", "0010"),
        ("count > 1", "0011"),
        ("big == 1152921504606846977", "0100"),
        ("day < '2020-07-01'", "1100"),
        ("day >= '2020-06-01' and day is not null", "0101"),
        ("kind == 'u'", "1001"),
        ("clk == n", "1000"),
        ("empty == 1", "0000"),
        ("empty is null", "1111"),
        ("1 == 1", "1111"),
    ],
)  # fmt: skip
def test_rows(text: str, rows: str) -> None:
    assert "".join(map(str, Where(text)(TABLE).astype(int))) == rows


def test_columns_are_known_before_any_table() -> None:
    assert Where("clk == 1 and (`a.b` in [1] or not town is null) and clk < 2").columns == ("clk", "a.b", "town")


def test_no_space_is_every_row() -> None:
    assert space(TABLE, None).all()
    assert not space(TABLE.iloc[:0], "n == 1").any()


@pytest.mark.parametrize(
    ("text", "sentence", "at"),
    [
        ("clk = 1", "Equality is `==`.", 4),
        ("clk == 1 & n == 2", "Write `and`.", 9),
        ("clk ==", "a column or a value here. Found the end.", 6),
        ("clk == and", "Found `and`.", 7),
        ("(clk == 1", "`)` here. Found the end.", 9),
        ("clk == 1)", "the end, `and` or `or` here. Found `)`.", 8),
        ("clk", "a comparison (== != < <= > >=), `in` or `is` here. Found the end.", 3),
        ("clk in 1", "`[` here. Found `1`.", 7),
        ("clk in [n]", "a number or a text in quotes here. Found `n`.", 8),
        ("clk not 1", "`in` here. Found `1`.", 8),
        ("clk is 1", "`null` here. Found `1`.", 7),
        ("a.b == 1", "goes in `backquotes`.", 1),
        ("", "a column or a value here. Found the end.", 0),
        ("__import__('os').system('ls') == 1", "goes in `backquotes`.", 16),
        ("__import__('os')", "a comparison", 10),
        ("1 < n < 3", "the end, `and` or `or` here. Found `<`.", 6),
        ("clk == 'x", "Found `'`.", 7),
    ],
)
def test_a_mistake_is_shown_with_its_place(text: str, sentence: str, at: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Where(text)
    first, shown, caret = str(caught.value).split("\n")
    assert sentence in first
    assert shown == f"  {text}"
    assert caret == "  " + " " * at + "^"


def test_an_unknown_column_is_data_and_the_nearest_is_proposed() -> None:
    with pytest.raises(DataError, match=r"Found `clik`\. Did you mean `clk`\?"):
        Where("clik == 1")(TABLE)


def test_text_beside_numbers_is_a_mistake() -> None:
    with pytest.raises(DataError, match=r"Found text beside a number"):
        Where("town == 1")(TABLE)
    with pytest.raises(DataError, match=r"Found a number beside text"):
        Where("n in ['1']")(TABLE)
    with pytest.raises(DataError, match=r"dates such as '2024-01-31'. Found 'soon'"):
        Where("day > 'soon'")(TABLE)
