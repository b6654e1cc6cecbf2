"""Ratings of films (MovieLens)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...faults import DataError
from ..delimited import rows, with_numbers
from . import Format

if TYPE_CHECKING:
    import pandas as pd

RATINGS = ("userId", "movieId", "rating", "timestamp")
MOVIES = ("movieId", "title", "genres")
TAGS = ("userId", "movieId", "tag", "timestamp")


class MovieLens(Format):
    """A folder of MovieLens: `ratings.csv`, and `movies.csv` and `tags.csv` where they are; a row per rating.

    Columns: `user`, `movie`, `rated_at`, `released` (the year in the title) and one of 0 and 1 per genre; the labels
    `rating`, `like` (1 from a rating of `like` on) and `tagged` (1 where this user gave this film a tag). Nothing is
    counted or averaged over users or films, since that would tell labels of test rows. The files may have a header
    line or none.

    Args:
        like: the rating from which a film is liked.
        latest: with more than 0, a column `part` says ``test`` for this share of each user's rows, the latest ones,
            and ``train`` for the others; for ``split: {kind: column, by: part}``.

    Reference:
        Harper, Konstan: The MovieLens datasets: history and context, 2015.
    """

    def __init__(self, on_error: str = "raise", *, like: float = 4.0, latest: float = 0.0) -> None:
        super().__init__(on_error)
        if not 0 <= latest < 1:
            raise ValueError(f"`latest` should be in [0, 1). Found {latest}.")
        self.like, self.latest = like, latest

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        folder = path if path.is_dir() else path.parent
        file = folder / "ratings.csv" if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"`{path}` should hold `ratings.csv`. Found no such file.")
        ratings = with_numbers(rows(file, self.refuse, names=RATINGS), RATINGS, file, self.refuse)
        empty = ratings[ratings[list(RATINGS)].isna().any(axis=1)]
        for line in empty.index:
            self.refuse(f"{file}, line {line}", "have no empty field", "one")
        ratings = ratings.drop(index=empty.index)
        table = pd.DataFrame(
            {
                "user": ratings["userId"].astype(int),
                "movie": ratings["movieId"].astype(int),
                "rated_at": pd.to_datetime(ratings["timestamp"], unit="s"),
                "rating": ratings["rating"].astype(float),
                "like": (ratings["rating"] >= self.like).astype(int),
            }
        ).reset_index(drop=True)
        if (folder / "tags.csv").is_file():
            table["tagged"] = self._tagged(folder / "tags.csv", table)
        if (folder / "movies.csv").is_file():
            films = self._films(folder / "movies.csv")
            table = table.join(films, on="movie")
            genres = [c for c in films.columns if c != "released"]
            table[genres] = table[genres].fillna(0).astype(int)
        if self.latest:
            moments = table.groupby("user")["rated_at"]
            last = moments.transform("size") - moments.rank(method="first")  # 0 is the latest
            table["part"] = np.where(last < np.floor(self.latest * moments.transform("size") + 1e-9), "test", "train")
        return table

    def _tagged(self, file: Path, table: pd.DataFrame) -> pd.Series:
        import pandas as pd

        tags = with_numbers(rows(file, self.refuse, names=TAGS), ["userId", "movieId"], file, self.refuse)
        pairs = pd.MultiIndex.from_frame(tags[["userId", "movieId"]])
        return pd.Series(pd.MultiIndex.from_frame(table[["user", "movie"]]).isin(pairs).astype(int))

    def _films(self, file: Path) -> pd.DataFrame:
        """Year and genres of each film, by its number."""
        import pandas as pd

        films = with_numbers(rows(file, self.refuse, names=MOVIES), ["movieId"], file, self.refuse)
        films = films[films["movieId"].notna()].drop_duplicates("movieId")
        years = [re.search(r"\((\d{4})[^()]*\)\s*$", title or "") for title in films["title"]]
        genres = films["genres"].fillna("").str.get_dummies("|").drop(columns="(no genres listed)", errors="ignore")
        genres.columns = [f"genre_{c}" for c in genres.columns]
        made = genres.assign(released=[float(y[1]) if y else np.nan for y in years])
        return made.set_index(pd.Index(films["movieId"].astype(int), name="movie"))
