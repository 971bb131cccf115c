r"""Exact solutions of small Markov decision processes: the ground truth that learners are tested against.

All functions are pure: `jit` them, `vmap` them over models or over discounts. There are S states and A actions. A
policy is a table of probabilities `[S, A]`; `greedy` and `epsilon_greedy` compute one from action values.
`rljax.envs.tabular_model` returns the model of a tabular environment. Under `jax.enable_x64` all values have 64 bits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Model
from rljax.errors import UsageError, scalar
from rljax.types import Scalar

# By default some accelerators round the factors of a matrix product to 10 bits: too coarse for exact values.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Solution(NamedTuple):
    """Values of a model, with a bound on their error."""

    values: jax.Array  # [S]
    action_values: jax.Array  # [S, A], one backup of `values`
    iterations: jax.Array  # [] int32
    error_bound: jax.Array  # [] upper bound on the error of every value, rounding included


def action_values(model: Model, values: jax.Array, discount: Scalar) -> jax.Array:
    r"""$Q(s, a) = r(s, a) + \gamma \sum_{s'} P(s' | s, a) V(s')$, with $V(s') = 0$ after a termination.

    Args:
        model: the process.
        values: `[S]`.
        discount: scalar.

    Returns:
        `[S, A]` (Sutton and Barto 2018, equation 4.10 before the maximum).
    """
    return model.rewards + discount * _matmul(jnp.where(model.terminated, 0.0, model.transitions), values)


def greedy(action_values: jax.Array) -> jax.Array:
    """The policy `[S, A]` that takes the best action under action values `[S, A]`; ties go to the first."""
    return jax.nn.one_hot(jnp.argmax(action_values, axis=-1), action_values.shape[-1])


def epsilon_greedy(action_values: jax.Array, epsilon: Scalar) -> jax.Array:
    """The policy `[S, A]` that takes a uniformly random action with probability epsilon, else the best one."""
    return (1.0 - epsilon) * greedy(action_values) + epsilon / action_values.shape[-1]


def _check_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise UsageError(f"planning needs a Model, got {type(model).__name__}: rljax.envs.tabular_model makes one.")
    for name in ("transitions", "rewards"):
        dtype = jnp.result_type(getattr(model, name))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise UsageError(
                f"A model's {name} must be floats, got {dtype}: rljax.envs.from_model(model).params converts them."
            )


def _reward_process(model: Model, policy: jax.Array, discount: Scalar) -> tuple[jax.Array, jax.Array]:
    """The Markov reward process under a policy: discounted transitions that do not end `[S, S]`, and rewards `[S]`."""
    _check_model(model)
    if jnp.shape(policy) != model.rewards.shape:
        raise UsageError(
            f"A policy must be a table of probabilities of shape {model.rewards.shape}, got {jnp.shape(policy)}: "
            "make one with planning.greedy or planning.epsilon_greedy."
        )
    continuing = jnp.where(model.terminated, 0.0, model.transitions)
    transitions = _matmul(policy[:, None, :], continuing)[:, 0]
    return discount * transitions, jnp.sum(policy * model.rewards, axis=-1)


def policy_values(model: Model, policy: jax.Array, discount: Scalar) -> jax.Array:
    r"""The values `[S]` of a policy, $V = (I - \gamma P_\pi)^{-1} r_\pi$ (Puterman 1994, theorem 6.1.1).

    With a discount of one the policy must terminate from every state, or the system has no solution.
    """
    transitions, rewards = _reward_process(model, policy, discount)
    return jnp.linalg.solve(jnp.eye(len(rewards), dtype=rewards.dtype) - transitions, rewards)


def iterate_policy_values(
    model: Model, policy: jax.Array, discount: Scalar, tolerance: Scalar = 1e-6, max_iterations: int = 100_000
) -> Solution:
    r"""The values of a policy by repeated backups $V \leftarrow r_\pi + \gamma P_\pi V$.

    Stops as `value_iteration` does.
    """
    transitions, rewards = _reward_process(model, policy, discount)
    return _fixed_point(
        model, lambda values: rewards + _matmul(transitions, values), discount, tolerance, max_iterations
    )


def value_iteration(
    model: Model,
    discount: Scalar,
    epsilon: Scalar = 0.0,
    tolerance: Scalar = 1e-6,
    max_iterations: int = 100_000,
) -> Solution:
    r"""Optimal values by repeated backups
    $V \leftarrow (1 - \epsilon) \max_a Q(\cdot, a) + \epsilon\, \mathrm{mean}_a Q(\cdot, a)$.

    Stops when $\gamma / (1 - \gamma) \max_s |V_{k+1}(s) - V_k(s)|$, which bounds the error of $V_{k+1}$ except for
    rounding (Puterman 1994, theorem 6.3.1), is at most `tolerance`, when the values no longer change, or after
    `max_iterations`. `error_bound` adds the error of rounding, which in 32 bits may exceed the tolerance. With a
    discount of one the bound is infinite until the values no longer change, then zero.

    Args:
        model: the process.
        discount: scalar.
        epsilon: probability of a uniformly random action. 0 gives the optimal values; above 0, the values of the best
            epsilon-soft policy, to which SARSA converges (Sutton and Barto 2018, section 5.4).
        tolerance: largest accepted error of the values, see above.
        max_iterations: maximum number of backups.
    """
    _check_model(model)
    return _fixed_point(
        model,
        lambda values: _epsilon_greedy_values(action_values(model, values, discount), epsilon),
        discount,
        tolerance,
        max_iterations,
    )


def _epsilon_greedy_values(action_values: jax.Array, epsilon: Scalar) -> jax.Array:
    return (1.0 - epsilon) * jnp.max(action_values, axis=-1) + epsilon * jnp.mean(action_values, axis=-1)


def _fixed_point(
    model: Model,
    backup: Callable[[jax.Array], jax.Array],
    discount: Scalar,
    tolerance: Scalar,
    max_iterations: int,
) -> Solution:
    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, residual, iterations = carry
        return (_error_bound(residual, discount) > tolerance) & (iterations < max_iterations)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, _, iterations = carry
        backed_up = backup(values)
        change = jnp.max(jnp.abs(backed_up - values))
        return backed_up, discount * change, iterations + 1

    start = jnp.zeros_like(model.rewards[:, 0])
    first = (start, jnp.full((), jnp.inf, start.dtype), jnp.int32(0))
    values, residual, iterations = jax.lax.while_loop(unfinished, step, first)
    bound = _error_bound(residual + _rounding_error(model, values, discount), discount)
    return Solution(values, action_values(model, values, discount), iterations, bound)


def _error_bound(residual: jax.Array, discount: Scalar) -> jax.Array:
    """Residual / (1 - discount): infinite with a discount of one, unless the residual is zero."""
    remaining = jnp.maximum(1.0 - jnp.asarray(discount, residual.dtype), 0.0)
    return jnp.where(residual == 0.0, 0.0, residual / remaining)


def _rounding_error(model: Model, values: jax.Array, discount: Scalar) -> jax.Array:
    """Upper bound on the rounding error of one backup of `values`, for any order of summation.

    The number of operations times the unit roundoff times the largest sum (Higham 2002, section 3.1). Zero with a
    discount of one, where a backup's error does not bound that of the values.
    """
    operations = sum(model.rewards.shape) + 4
    largest = jnp.max(jnp.abs(model.rewards)) + jnp.max(jnp.abs(values))
    return jnp.where(jnp.asarray(discount) < 1.0, operations * jnp.finfo(values.dtype).eps / 2 * largest, 0.0)


def policy_iteration(model: Model, discount: Scalar, max_iterations: int = 1_000) -> Solution:
    r"""Optimal values by alternating exact evaluation and greedy improvement (Howard 1960), from the uniform policy.

    Stops when no action improves on the policy by more than rounding. `error_bound` is
    $(\max_s |(T V)(s) - V(s)| + \delta) / (1 - \gamma)$, where $\delta$ bounds the rounding error. With a discount of
    one, every intermediate policy must terminate from every state (otherwise use `value_iteration`), and the bound is
    infinite unless the residual is zero.
    """
    _check_model(model)
    num_states, num_actions = model.rewards.shape
    precision = 100.0 * jnp.finfo(model.rewards.dtype).eps

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, _, improved, iterations = carry
        return improved & (iterations < max_iterations)

    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        policy, _, _, iterations = carry
        values = policy_values(model, policy, discount)
        backed_up = action_values(model, values, discount)
        # On a tie the policy keeps its action: otherwise rounding could make it alternate forever.
        better = jnp.max(backed_up, axis=-1) > values + precision * (1.0 + jnp.abs(values))
        improved = jnp.where(better[:, None], greedy(backed_up), policy)
        return improved, values, better.any(), iterations + 1

    policy = jnp.full((num_states, num_actions), 1.0 / num_actions, model.rewards.dtype)
    first = (policy, jnp.zeros_like(model.rewards[:, 0]), jnp.bool_(True), jnp.int32(0))
    _, values, _, iterations = jax.lax.while_loop(unfinished, step, first)
    backed_up = action_values(model, values, discount)
    residual = jnp.max(jnp.abs(jnp.max(backed_up, axis=-1) - values))
    bound = _error_bound(residual + _rounding_error(model, values, discount), discount)
    return Solution(values, backed_up, iterations, bound)


def finite_horizon(model: Model, horizon: int, discount: Scalar = 1.0) -> tuple[jax.Array, jax.Array]:
    r"""Optimal values with h steps left: $V_0 = 0$, $V_h(s) = \max_a r + \gamma \sum_{s'} P V_{h-1}(s')$.

    Returns:
        values `[horizon + 1, S]` and action values `[horizon, S, A]`: `values[h]` are the values with h steps left,
        and the best action is then the argmax of `action_values[h - 1]` (Puterman 1994, section 4.5).
    """
    _check_model(model)
    _check_horizon(horizon)

    def step(values: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        backed_up = action_values(model, values, discount)
        best = jnp.max(backed_up, axis=-1)
        return best, (best, backed_up)

    start = jnp.zeros_like(model.rewards[:, 0])
    _, (values, backed_up) = jax.lax.scan(step, start, length=horizon)
    return jnp.concatenate([start[None], values]), backed_up


def finite_horizon_policy_values(model: Model, policy: jax.Array, horizon: int, discount: Scalar = 1.0) -> jax.Array:
    """The expected discounted return `[S]` of a stationary policy `[S, A]` over `horizon` steps."""
    _check_horizon(horizon)
    transitions, rewards = _reward_process(model, policy, discount)
    return jax.lax.fori_loop(
        0, horizon, lambda _, values: rewards + _matmul(transitions, values), jnp.zeros_like(rewards)
    )


def _check_horizon(horizon: int) -> None:
    if not isinstance(scalar(horizon), int) or horizon < 0:
        raise UsageError(f"A horizon must be an integer of at least 0, got {horizon!r}.")


def expected_return(model: Model, policy: jax.Array, horizon: int | None = None, discount: Scalar = 1.0) -> jax.Array:
    """The exact expected return `[]` of a policy `[S, A]` from the model's start distribution.

    Args:
        model: the process.
        policy: probabilities, for instance `epsilon_greedy(action_values, 0.1)`.
        horizon: steps after which an episode is truncated, or None for no limit.
        discount: scalar; 1 for the undiscounted return that runs report.
    """
    if horizon is None:
        return _matmul(model.start, policy_values(model, policy, discount))
    return _matmul(model.start, finite_horizon_policy_values(model, policy, horizon, discount))


def grid_value_iteration(
    step: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
    axes: Sequence[jax.Array],
    actions: jax.Array,
    iterations: int,
    discount: Scalar = 1.0,
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    r"""Values of a deterministic process with continuous states, by value iteration on a grid.

    Values are interpolated linearly between grid points; outside the grid, those of the nearest edge apply.

    Args:
        step: `(state [D], action) -> (next state [D], reward [], terminated [])`.
        axes: D arrays `[G_d]` of evenly spaced, increasing coordinates; values do not depend on an axis of one point.
        actions: `[A, ...]`, the actions to choose from.
        iterations: backups, starting from zero values; for a finite horizon, the episode's number of steps.
        discount: scalar.

    Returns:
        the values `[G_1, ..., G_D]`, and the policy `state [D] -> action` that is greedy with one-step lookahead.
    """
    axes = [jnp.asarray(axis, jnp.promote_types(jnp.result_type(axis), jnp.float32)) for axis in axes]
    actions = jnp.asarray(actions)
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)  # [G_1, ..., G_D, D]
    low = jnp.stack([axis[0] for axis in axes])
    # An axis of one point has no spacing; an infinite one maps every coordinate to that point.
    spacing = jnp.stack(
        [(axis[-1] - axis[0]) / (len(axis) - 1) if len(axis) > 1 else axis[0] + jnp.inf for axis in axes]
    )

    def backup(values: jax.Array, next_states: jax.Array, rewards: jax.Array, terminated: jax.Array) -> jax.Array:
        coordinates = jnp.moveaxis((next_states - low) / spacing, -1, 0)
        next_values = jax.scipy.ndimage.map_coordinates(values, list(coordinates), order=1, mode="nearest")
        return rewards + discount * jnp.where(terminated, 0.0, next_values)

    each_action = jax.vmap(step, (None, 0))
    each_point = each_action
    for _ in axes:
        each_point = jax.vmap(each_point, (0, None))
    outcomes = each_point(points, actions)  # [G_1, ..., G_D, A, ...]
    values = jax.lax.fori_loop(
        0,
        iterations,
        lambda _, values: jnp.max(backup(values, *outcomes), axis=-1),
        jnp.zeros(points.shape[:-1], points.dtype),
    )

    def policy(state: jax.Array) -> jax.Array:
        return actions[jnp.argmax(backup(values, *each_action(state, actions)))]

    return values, policy
