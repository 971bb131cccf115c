"""Maps of values and policies of tabular environments, next to the exact ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax import planning
from rljax.envs import Env, Model
from rljax.envs.unwrapping import world_of
from rljax.report import plot
from rljax.report.plot import Path

_MOST_WRITTEN = 100  # states whose values are written into their cells
_LEFT_DOWN_RIGHT_UP = "←↓→↑"
_ARROWS = {
    "FrozenLake-misc": _LEFT_DOWN_RIGHT_UP,
    "GridWorld-misc": _LEFT_DOWN_RIGHT_UP,
    "CliffWalking-v1": "↑→↓←",
    "Taxi-v3": "↓↑→←PD",
}


class Maps(NamedTuple):
    """What is drawn of S states with A actions."""

    learned: np.ndarray | None
    """The learner's own estimates `[S]`, if it has a table."""
    policy_values: np.ndarray
    """Exact values `[S]` of its policy; NaN if it never ends with a discount of 1."""
    optimal_values: np.ndarray
    """`[S]`."""
    optimal_actions: np.ndarray
    """`[S, A]` bool, those that lose nothing."""
    reachable: np.ndarray
    """`[S]` bool, the states in which an action is ever taken."""


def compute(model: Model, actions: np.ndarray, discount: float, action_values: np.ndarray | None = None) -> Maps:
    """Compare a deterministic policy `[S]`, and its estimates `[S, A]`, with the exact solution of the model."""
    solution = jax.jit(planning.value_iteration)(model, discount)
    exact = np.asarray(solution.action_values)
    policy = np.eye(exact.shape[1])[actions]
    values = np.asarray(jax.jit(planning.policy_values)(model, policy, discount))
    best = exact.max(axis=1, keepdims=True)
    return Maps(
        learned=None if action_values is None else action_values.max(axis=1),
        policy_values=values,
        optimal_values=np.asarray(solution.values),
        optimal_actions=exact >= best - 1e-4 * np.maximum(1.0, np.abs(best)),
        reachable=_reachable(model),
    )


def _reachable(model: Model) -> np.ndarray:
    """States that an episode can be in before it ends, `[S]` bool."""
    leads = np.any((np.asarray(model.transitions) > 0) & ~np.asarray(model.terminated), axis=1)  # [S, S]
    found = np.asarray(model.start) > 0
    while (further := found | leads[found].any(axis=0)).sum() > found.sum():
        found = further
    return found


def places(env: Env, states: int) -> tuple[np.ndarray, tuple[int, int], int]:
    """The row and column of each state `[S, 2]`, the size of the map, and how many cells a block has, 0 for none."""
    world = world_of(env)
    if env.name == "Taxi-v3" and world is not None:  # a block for each passenger's place and destination
        cell, passenger, destination = np.unravel_index(np.arange(states), (25, 5, 4))
        rows, columns = passenger * 5 + cell // 5, destination * 5 + cell % 5
        return np.stack([rows, columns], axis=1), (25, 20), 5
    shape = None
    if world is not None and env.name in _ARROWS:
        tiles = getattr(world, "desc", None) if env.name == "FrozenLake-misc" else world.tiles
        shape = (4, 12) if tiles is None else np.shape(tiles)
    width = int(np.ceil(np.sqrt(states))) if shape is None else int(shape[1])
    place = np.stack(np.divmod(np.arange(states), width), axis=1)
    return place, (-(-states // width), width), 0


def plot_maps(
    path: Path,
    env: Env,
    model: Model,
    actions: np.ndarray,
    discount: float,
    title: str,
    action_values: np.ndarray | None = None,
) -> Any:
    """Plot the values and actions of a policy `[S]` next to the optimal ones; returns the matplotlib figure.

    Actions that lose something are red on white. Grey cells are never acted in: walls, holes, goals.
    """
    found = compute(model, actions, discount, action_values)
    place, shape, block = places(env, len(actions))
    best = np.where(
        found.optimal_actions[np.arange(len(actions)), actions], actions, found.optimal_actions.argmax(axis=1)
    )
    names = _names(env, found.optimal_actions.shape[1])
    panels = [
        ("exact values of its policy", found.policy_values, actions),
        ("optimal values", found.optimal_values, best),
    ]
    if found.learned is not None:
        panels.insert(0, ("values that it learned", found.learned, actions))
    shown = np.concatenate([values[found.reachable] for _, values, _ in panels])
    shown = shown[np.isfinite(shown)]
    limits = {"vmin": shown.min(), "vmax": shown.max()} if len(shown) else {}
    is_small = len(actions) <= _MOST_WRITTEN
    side = max(2.8, (0.55 if is_small else 0.2) * shape[1])
    wide = shape[1] > 2 * shape[0]  # panels below each other
    across, down = (1, len(panels)) if wide else (len(panels), 1)
    figure = plot.picture(side * across + 1.2, down * (side * shape[0] / shape[1] + 0.4) + 0.6)
    for axes, (name, values, chosen) in zip(figure.subplots(down, across, squeeze=False).flat, panels, strict=True):
        grid = np.full(shape, np.nan)
        grid[tuple(place.T)] = np.where(found.reachable, values, np.nan)
        axes.set_facecolor("0.75")
        image = axes.imshow(grid, cmap="viridis", **limits)
        missing = " (none: it never ends)" if np.isnan(values).all() else ""
        axes.set(title=name + missing, xticks=[], yticks=[])
        if block:
            axes.set(xlabel="destination R, G, Y, B", ylabel="passenger aboard, at B, Y, G, R")
        for state in np.flatnonzero(found.reachable):
            row, column = place[state]
            colour = "white" if not image.norm(values[state]) > 0.6 else "black"  # white on missing values
            action = chosen[state]
            _write(axes, (row, column), names[action], colour, found.optimal_actions[state, action], is_small)
            if is_small:
                axes.text(column, row + 0.3, f"{values[state]:.3g}", size=6, ha="center", va="center", color=colour)
        for at in range(block, shape[0], block or 1):
            axes.axhline(at - 0.5, color="white", linewidth=2)
        for at in range(block, shape[1], block or 1):
            axes.axvline(at - 0.5, color="white", linewidth=2)
    figure.colorbar(image, ax=figure.axes, shrink=0.9)
    figure.suptitle(plot.printable(title))
    return plot.written(path, figure)


def _names(env: Env, actions: int) -> Sequence[str]:
    """What is written for each action: an arrow, or its number."""
    if world_of(env) is not None and env.name in _ARROWS:
        return _ARROWS[env.name]
    return [str(action) for action in range(actions)]


def _write(axes: Any, place: Any, name: str, colour: str, is_optimal: bool, is_small: bool) -> None:
    """Write an action into its cell."""
    row, column = place
    box = None if is_optimal else {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    size, up = (12, 0.12) if is_small else (6, 0.0)
    colour = colour if is_optimal else "#d00000"
    axes.text(column, row - up, name, size=size, ha="center", va="center", color=colour, bbox=box)
