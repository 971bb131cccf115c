"""Measures of an episode next to its return: how the numbers in `TimeStep.info` are reduced over its steps.

An environment declares them once, `Env(info={"collisions": "sum", "speed": "mean", "distance": "last"})`: the sum or
the mean over all steps of the episode, or the number at its last step.

`outcome` is the result of a game: 1 for a win, 0 for a draw, -1 for a loss at the last step of an episode, whether
terminated or truncated; what it is at earlier steps does not count. It gives three measures, `win`, `draw` and `loss`,
each 1 or 0, whose means over episodes are fractions.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rljax.errors import UsageError, shown

REDUCTIONS = ("mean", "sum", "last")
OUTCOME = "outcome"
_RESERVED = ("return", "length", "win", "draw", "loss")  # measures of their own

Declared = tuple[tuple[str, str], ...]  # names and reductions


def declared(info: Mapping[str, str] | Iterable[tuple[str, str]]) -> Declared:
    """The names and reductions as a tuple, sorted as JAX sorts a dict.

    Raises:
        UsageError: a name or a reduction is invalid.
    """
    try:
        pairs = tuple(sorted((name, how) for name, how in dict(info).items()))
    except (TypeError, ValueError):
        wanted = "a dict such as {'speed': 'mean'}"
        raise UsageError(f"An environment's info must be {wanted}, got {shown(info)}.") from None
    for name, how in pairs:
        if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
            raise UsageError(
                f"A measure in an environment's info needs a name like a variable's, except {', '.join(_RESERVED)}, "
                f"got {shown(name)}."
            )
        if how not in REDUCTIONS:
            raise UsageError(f"An environment's info {name} must be 'mean', 'sum' or 'last', got {shown(how)}.")
        if name == OUTCOME and how != "last":
            raise UsageError(f"An environment's outcome is that of the last step: declare it as 'last', got {how!r}.")
    return pairs


def zeros(info: Declared, num_envs: int) -> dict[str, jax.Array]:
    """The sums `[N]` over no steps yet, of what is summed or averaged."""
    return {name: jnp.zeros(num_envs, jnp.float32) for name, how in info if how != "last"}


def violation(info: Declared, step: Any) -> str | None:
    """What is wrong with the info of one step, one sentence, or None."""
    if not isinstance(step, dict):
        return (
            f"step must return its info as a dict of numbers, got {type(step).__name__}: build it with rljax.timestep."
        )
    names = sorted(name for name, _ in info)
    if sorted(step, key=str) != names:
        given = "{" + ", ".join(f"{name!r}: 'mean'" for name in sorted(step, key=str)) + "}"
        return (
            f"step reports the info {', '.join(map(str, step)) or 'nothing'} and the environment declares "
            f"{', '.join(names) or 'nothing'}: make them equal, for example Env(info={given}), with 'mean', 'sum' or "
            "'last' for each."
        )
    for name, value in step.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return f"info {name} must be a float32 number, got {value.dtype}: build steps with rljax.timestep."
    return None


def add(info: Declared, sums: dict[str, jax.Array], step: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The sums `[N]` after one more step.

    Raises:
        UsageError: the step's info is not what the environment declares.
    """
    if (wrong := violation(info, step)) is not None:
        raise UsageError(f"{wrong[0].upper()}{wrong[1:]}")
    return {name: total + step[name] for name, total in sums.items()}


def of_episodes(
    info: Declared, sums: dict[str, jax.Array], lengths: jax.Array, last: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """The measures `[N]` of episodes with these sums `[N]` over `lengths` `[N]` steps and this info at the last one."""
    found: dict[str, jax.Array] = {}
    for name, how in info:
        if name == OUTCOME:
            signs = {"win": last[name] > 0, "draw": last[name] == 0, "loss": last[name] < 0}
            found |= {word: sign.astype(jnp.float32) for word, sign in signs.items()}
        elif how == "last":
            found[name] = last[name]
        else:
            found[name] = sums[name] / lengths if how == "mean" else sums[name]
    return found
