"""Ratings of films by real people, from a folder of MovieLens in any of its formats (Harper and Konstan 2015).

| files | format |
|---|---|
| `u.data`, `u.user`, `u.item` | ml-100k: tabs, and `|` in the other two |
| `ratings.dat`, `users.dat`, `movies.dat` | ml-1m and ml-10m: `::` |
| `ratings.csv`, `movies.csv` | ml-latest, ml-20m and later: CSV with a header |
| `NAME.inter`, `NAME.user`, `NAME.item` | RecBole's: tabs, with a header of `field:type` |

The files of people and films may be missing.
"""

import csv
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError, shown

_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)  # fmt: skip, the columns of ml-100k's u.item


class Ratings(NamedTuple):
    """R ratings of n films by U people, in the order of time."""

    user: np.ndarray  # [R] int, numbered in the order of their ids
    item: np.ndarray  # [R] int, likewise
    rating: np.ndarray  # [R], stars
    time: np.ndarray  # [R], seconds
    user_ids: tuple[str, ...]  # [U]
    item_ids: tuple[str, ...]  # [n]
    users: dict[str, tuple[str, ...]]  # what is known of people: `age`, `gender`, `occupation` `[U]`, "" if it is not
    titles: tuple[str, ...]  # [n], "" if it is not known
    genres: tuple[tuple[str, ...], ...]  # [n]

    @property
    def shape(self) -> tuple[int, int]:
        """U and n."""
        return len(self.user_ids), len(self.item_ids)


class _Format(NamedTuple):
    """How the files of a format are read; columns by position, or by the name in a header."""

    ratings: str
    users: str
    items: str
    separators: tuple[str, str, str]
    encoding: str
    has_header: bool
    of_rating: tuple[Any, Any, Any, Any] = (0, 1, 2, 3)
    of_user: tuple[tuple[str, Any], ...] = ()
    of_item: tuple[Any, Any, Any] = (0, 1, 2)  # id, title, genres
    genres_by: str | None = "|"  # None for a column of 0 or 1 for each genre


_LENS_USER = (("age", 1), ("gender", 2), ("occupation", 3))
_NAMED_USER = tuple((name, name) for name in ("age", "gender", "occupation"))
_FORMATS = (
    _Format(
        "u.data", "u.user", "u.item", ("\t", "|", "|"), "latin-1", False,
        of_user=_LENS_USER, of_item=(0, 1, 5), genres_by=None,
    ),
    _Format(
        "ratings.dat", "users.dat", "movies.dat", ("::",) * 3, "latin-1", False,
        of_user=(("gender", 1), ("age", 2), ("occupation", 3)),
    ),
    _Format(
        "ratings.csv", "users.csv", "movies.csv", (",",) * 3, "utf-8", True,
        ("userId", "movieId", "rating", "timestamp"), _NAMED_USER, ("movieId", "title", "genres"),
    ),
    _Format(
        "*.inter", "*.user", "*.item", ("\t",) * 3, "utf-8", True,
        ("user_id", "item_id", "rating", "timestamp"), _NAMED_USER, ("item_id", "movie_title", "class"), " ",
    ),
)  # fmt: skip


def from_movielens(folder: str | os.PathLike[str]) -> Ratings:
    """Read a folder of MovieLens; the format is found by the names of its files.

    Raises:
        UsageError: there are no ratings, a file cannot be read, or a line is malformed; one sentence names the file and
            the line.
    """
    root = pathlib.Path(folder)
    for form in _FORMATS:
        if found := sorted(root.glob(form.ratings)):
            return _read(found[0], form)
    names = ", ".join(form.ratings for form in _FORMATS)
    raise UsageError(f"{root} has no ratings of MovieLens: it needs one of the files {names}.")


def _read(path: pathlib.Path, form: _Format) -> Ratings:
    rows: list[tuple[str, str, float, float]] = []
    for where, fields in _lines(path, form.separators[0], form, form.of_rating):
        person, film, rating, time = fields
        rows.append((person, film, _number(where, "rating", rating, 0, 5), _number(where, "timestamp", time, 0)))
    if not rows:
        raise UsageError(f"{path} has no ratings.")
    users, items, stars, times = zip(*rows, strict=True)
    user_ids, user = _numbered(users)
    item_ids, item = _numbered(items)
    order = np.argsort(np.array(times), kind="stable")
    known = _table(_sibling(path, form.users), form.separators[1], form, [0 if not form.has_header else "user_id"],
                   [column for _, column in form.of_user])  # fmt: skip
    of_users = {
        name: tuple(known.get(one, [""] * len(form.of_user))[i] for one in user_ids)
        for i, (name, _) in enumerate(form.of_user)
    }
    films = _films(_sibling(path, form.items), form)
    described = [films.get(one, ("", ())) for one in item_ids]
    return Ratings(
        user[order],
        item[order],
        np.array(stars)[order],
        np.array(times)[order],
        user_ids,
        item_ids,
        of_users if known else {},
        tuple(title for title, _ in described),
        tuple(genres for _, genres in described),
    )


def _sibling(path: pathlib.Path, name: str) -> pathlib.Path:
    return path.with_name(name.replace("*", path.stem))


def _numbered(ids: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """The different ids, in the order of their numbers if they are numbers, and the place of each."""
    different = sorted(set(ids), key=lambda one: (len(one), one) if one.isdecimal() else (10**6, one))
    places = {one: place for place, one in enumerate(different)}
    return tuple(different), np.array([places[one] for one in ids])


def _lines(path: pathlib.Path, separator: str, form: _Format, columns: Any) -> Iterator[tuple[str, list[str]]]:
    """Each line's place in words and its values of some columns, positions or names of the header."""
    try:
        with open(path, encoding=form.encoding, newline="") as file:
            rows = _split(file, separator)
            width, places, first = 0, list(columns), 1
            if form.has_header:
                header = [name.partition(":")[0] for name in next(rows, (0, []))[1]]
                if missing := [str(name) for name in columns if name not in header]:
                    raise UsageError(f"{path}, line 1: the columns {', '.join(missing)} are missing.")
                width, places = len(header), [header.index(name) for name in columns]
            for line, fields in rows:
                width, first = (width, first) if width else (len(fields), line)
                if len(fields) != width or len(fields) <= max(places):
                    wanted = f"the header {width}" if form.has_header else f"line {first} {width}"
                    if len(fields) == width:
                        wanted = f"ratings need {max(places) + 1}"
                    raise UsageError(f"{path}, line {line}: it has {len(fields)} fields and {wanted}.")
                yield f"{path}, line {line}", [fields[place] for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


def _split(file: Any, separator: str) -> Iterator[tuple[int, list[str]]]:
    if separator == ",":
        reader = csv.reader(file)
        for fields in reader:
            yield reader.line_num, fields
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line.rstrip("\r\n").split(separator)


def _number(where: str, name: str, text: str, low: float, high: float = np.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not low <= value <= high or value == np.inf:
        bounds = f"in [{low:g}, {high:g}]" if high < np.inf else f"of at least {low:g}"
        raise UsageError(f"{where}: {name} must be a number {bounds}, got {shown(text)}.")
    return value


def _table(
    path: pathlib.Path, separator: str, form: _Format, key: list[Any], columns: list[Any]
) -> dict[str, list[str]]:
    """The values of columns by the first one; nothing if there is no such file."""
    if not path.exists():
        return {}
    return {fields[0]: fields[1:] for _, fields in _lines(path, separator, form, [*key, *columns])}


def _films(path: pathlib.Path, form: _Format) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Titles and genres by id."""
    one, title, genres = form.of_item
    if form.genres_by is None:
        flags = list(range(genres, genres + len(_GENRES)))
        rows = _table(path, form.separators[2], form, [one], [title, *flags])
        return {
            film: (fields[0], tuple(name for name, flag in zip(_GENRES, fields[1:], strict=True) if flag == "1"))
            for film, fields in rows.items()
        }
    rows = _table(path, form.separators[2], form, [one], [title, genres])
    return {film: (text, tuple(filter(None, kinds.split(form.genres_by)))) for film, (text, kinds) in rows.items()}


def split_by_time(ratings: Ratings, fraction: float = 0.8) -> tuple[Ratings, Ratings]:
    """The earliest fraction of all ratings, to learn from, and the later ones, to be predicted."""
    if not 0 < fraction < 1:
        raise UsageError(f"fraction must be between 0 and 1, got {shown(fraction)}.")
    cut = round(fraction * len(ratings.rating))
    return of_rows(ratings, slice(None, cut)), of_rows(ratings, slice(cut, None))


def of_rows(ratings: Ratings, rows: Any) -> Ratings:
    """Some of the ratings, of the same people and films."""
    columns = ("user", "item", "rating", "time")
    return ratings._replace(**{name: getattr(ratings, name)[rows] for name in columns})


def histories(ratings: Ratings) -> list[np.ndarray]:
    """The rows of each person's ratings, U arrays, the oldest first."""
    order = np.argsort(ratings.user, kind="stable")
    ends = np.cumsum(np.bincount(ratings.user, minlength=ratings.shape[0]))
    return np.split(order, ends[:-1])
