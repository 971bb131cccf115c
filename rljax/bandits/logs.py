"""Logs of bandits in the format of the Open Bandit Dataset (Saito et al. 2021), which companies can write themselves.

A CSV file has a line for each impression, with the columns `item_id`, counted from 0, `position`, `click` (0 or 1) and
`propensity_score`, the probability with which the policy that wrote the log chose this item there. Other columns are
ignored.
"""

import csv
import os
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError, shown

COLUMNS = ("item_id", "position", "click", "propensity_score")


class Log(NamedTuple):
    """A log of n impressions of A items in P positions, as NumPy arrays."""

    action: np.ndarray  # [n] int, the item that was shown
    position: np.ndarray  # [n] int, counted from 0
    reward: np.ndarray  # [n], clicks
    propensity: np.ndarray  # [n], probability of the item under the policy that wrote the log
    num_actions: int  # A


def read_open_bandit(path: str | os.PathLike[str], num_actions: int | None = None) -> Log:
    """Read a CSV file of the Open Bandit Dataset; positions are ranked from 0.

    Args:
        path: the file.
        num_actions: A; None for one more than the highest item.

    Raises:
        UsageError: the file cannot be read, or a line is malformed; one sentence names the file and the line.
    """
    actions: list[int] = []
    positions: list[int] = []
    numbers: list[tuple[float, float]] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [name for name in COLUMNS if name not in header]:
                raise UsageError(f"{path}, line 1: the columns {', '.join(missing)} are missing.")
            places = [header.index(name) for name in COLUMNS]
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise UsageError(f"{where}: it has {len(row)} fields and the header {len(header)}.")
                item, position, click, propensity = (row[place] for place in places)
                actions.append(_parsed(where, "item_id", item, int, 0, num_actions and num_actions - 1))
                positions.append(_parsed(where, "position", position, int, 0))
                clicked = _parsed(where, "click", click, float, 0, 1)
                numbers.append((clicked, _parsed(where, "propensity_score", propensity, float, 1e-300, 1)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    if not actions:
        raise UsageError(f"{path} has no impressions.")
    ranks = np.unique(positions, return_inverse=True)[1]
    reward, propensity_scores = np.array(numbers, np.float64).T
    return Log(np.array(actions), ranks, reward, propensity_scores, num_actions or max(actions) + 1)


def _parsed(where: str, name: str, text: str, kind: Any, low: float, high: float | None = None) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not value >= low or not value <= (2**31 - 1 if high is None else high):
        bounds = f"at least {low:g}" if high is None else f"in [0, {high:g}]" if low <= 0 else f"in (0, {high:g}]"
        what = "an integer" if kind is int else "a number"
        raise UsageError(f"{where}: {name} must be {what} {bounds}, got {shown(text)}.")
    return value
