r"""Exact solutions of small Markov decision processes: the ground truth that learners are tested against.

Everything here is a pure function of arrays: `jit` it, `vmap` it over models or over discounts. There are S states
and A actions. A policy is a table of probabilities `[S, A]`; `greedy` and `epsilon_greedy` make one of action values.
Models of the tabular environments come from `rljax.envs.tabular_model`. Under `jax.enable_x64` all is done in 64 bits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Model
from rljax.errors import UsageError, scalar
from rljax.types import Scalar

# Some accelerators round the factors of a product to 10 bits unless told otherwise, and exact values would not be.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Solution(NamedTuple):
    """Values, and how good they are."""

    values: jax.Array  # [S]
    action_values: jax.Array  # [S, A], one backup of `values`
    iterations: jax.Array  # [] int32
    error_bound: jax.Array  # [] the most by which any of `values` may be off, rounding included


def action_values(model: Model, values: jax.Array, discount: Scalar) -> jax.Array:
    r"""$Q(s, a) = r(s, a) + \gamma \sum_{s'} P(s' | s, a) V(s')$, nothing being earned after a termination.

    Args:
        model: the process.
        values: `[S]`.
        discount: scalar.

    Returns:
        `[S, A]` (Sutton and Barto 2018, equation 4.10 before the maximum).
    """
    return model.rewards + discount * _product(jnp.where(model.terminated, 0.0, model.transitions), values)


def greedy(action_values: jax.Array) -> jax.Array:
    """The policy `[S, A]` that takes the best action of `[S, A]`, the first of equals."""
    return jax.nn.one_hot(jnp.argmax(action_values, axis=-1), action_values.shape[-1])


def epsilon_greedy(action_values: jax.Array, epsilon: Scalar) -> jax.Array:
    """The policy `[S, A]` that takes a uniform action with probability epsilon, else the best one."""
    return (1.0 - epsilon) * greedy(action_values) + epsilon / action_values.shape[-1]


def _check_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise UsageError(f"planning needs a Model, got {type(model).__name__}: rljax.envs.tabular_model makes one.")
    for name in ("transitions", "rewards"):
        dtype = jnp.result_type(getattr(model, name))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise UsageError(
                f"A model's {name} are floats, got {dtype}: rljax.envs.from_model(model).params has them so."
            )


def _under(model: Model, policy: jax.Array, discount: Scalar) -> tuple[jax.Array, jax.Array]:
    """The chain that a policy makes of a model: discounted transitions `[S, S]` that go on, and rewards `[S]`."""
    _check_model(model)
    if jnp.shape(policy) != model.rewards.shape:
        raise UsageError(
            f"A policy is a table of probabilities {model.rewards.shape}, got shape {jnp.shape(policy)}: "
            "make one with planning.greedy or planning.epsilon_greedy."
        )
    going_on = jnp.where(model.terminated, 0.0, model.transitions)
    transitions = _product(policy[:, None, :], going_on)[:, 0]
    return discount * transitions, jnp.sum(policy * model.rewards, axis=-1)


def policy_values(model: Model, policy: jax.Array, discount: Scalar) -> jax.Array:
    r"""The values `[S]` of a policy, $V = (I - \gamma P_\pi)^{-1} r_\pi$ (Puterman 1994, theorem 6.1.1).

    With a discount of one the policy must come to an end from everywhere, or the system has no solution.
    """
    transitions, rewards = _under(model, policy, discount)
    return jnp.linalg.solve(jnp.eye(len(rewards), dtype=rewards.dtype) - transitions, rewards)


def iterate_policy_values(
    model: Model, policy: jax.Array, discount: Scalar, tolerance: Scalar = 1e-6, max_iterations: int = 100_000
) -> Solution:
    r"""The values of a policy by repeated backups $V \leftarrow r_\pi + \gamma P_\pi V$; ends as `value_iteration`."""
    transitions, rewards = _under(model, policy, discount)
    return _fixed_point(
        model, lambda values: rewards + _product(transitions, values), discount, tolerance, max_iterations
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

    Stops when $\gamma / (1 - \gamma) \max_s |V_{k+1}(s) - V_k(s)|$, which bounds the error of $V_{k+1}$ but for
    rounding (Puterman 1994, theorem 6.3.1), is at most `tolerance`, when the values no longer change at all, or
    after `max_iterations`. `error_bound` adds what rounding can do, which in 32 bits may be more than the tolerance.
    With a discount of one there is no such bound: it is infinite until the values stand still, then zero.

    Args:
        model: the process.
        discount: scalar.
        epsilon: how often a uniform action replaces the chosen one: 0 for the optimum, else the values of the best of
            all epsilon-soft policies, where SARSA converges (Sutton and Barto 2018, section 5.4).
        tolerance: of the values, see above.
        max_iterations: backups at most.
    """
    _check_model(model)
    return _fixed_point(
        model,
        lambda values: _best(action_values(model, values, discount), epsilon),
        discount,
        tolerance,
        max_iterations,
    )


def _best(action_values: jax.Array, epsilon: Scalar) -> jax.Array:
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
        return (_bound(residual, discount) > tolerance) & (iterations < max_iterations)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, _, iterations = carry
        backed_up = backup(values)
        change = jnp.max(jnp.abs(backed_up - values))
        return backed_up, discount * change, iterations + 1

    start = jnp.zeros_like(model.rewards[:, 0])
    first = (start, jnp.full((), jnp.inf, start.dtype), jnp.int32(0))
    values, residual, iterations = jax.lax.while_loop(unfinished, step, first)
    bound = _bound(residual + _rounding(model, values, discount), discount)
    return Solution(values, action_values(model, values, discount), iterations, bound)


def _bound(residual: jax.Array, discount: Scalar) -> jax.Array:
    """How far values with a Bellman residual may be off: infinitely with a discount of one, unless it is zero."""
    remaining = jnp.maximum(1.0 - jnp.asarray(discount, residual.dtype), 0.0)
    return jnp.where(residual == 0.0, 0.0, residual / remaining)


def _rounding(model: Model, values: jax.Array, discount: Scalar) -> jax.Array:
    """The most by which rounding may change a backup of `values`, in whatever order its terms are summed.

    After Higham (2002, section 3.1): so many times the unit roundoff as terms and factors, times what they add up to.
    Zero with a discount of one, where no finite error of a backup bounds that of the values.
    """
    operations = sum(model.rewards.shape) + 4
    largest = jnp.max(jnp.abs(model.rewards)) + jnp.max(jnp.abs(values))
    return jnp.where(jnp.asarray(discount) < 1.0, operations * jnp.finfo(values.dtype).eps / 2 * largest, 0.0)


def policy_iteration(model: Model, discount: Scalar, max_iterations: int = 1_000) -> Solution:
    r"""Optimal values by exact evaluation and greedy improvement in turn (Howard 1960), from the uniform policy.

    Ends when no action improves on the policy's own by more than rounding. `error_bound` is
    $(\max_s |(T V)(s) - V(s)| + \delta) / (1 - \gamma)$, $\delta$ being the most that rounding may add. With a
    discount of one every policy on the way must come to an end; use `value_iteration` where one does not; the bound is
    then infinite unless the residual is zero.
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
        # Among equals the policy keeps its action: rounding would otherwise make it change for ever.
        better = jnp.max(backed_up, axis=-1) > values + precision * (1.0 + jnp.abs(values))
        improved = jnp.where(better[:, None], greedy(backed_up), policy)
        return improved, values, better.any(), iterations + 1

    policy = jnp.full((num_states, num_actions), 1.0 / num_actions, model.rewards.dtype)
    first = (policy, jnp.zeros_like(model.rewards[:, 0]), jnp.bool_(True), jnp.int32(0))
    _, values, _, iterations = jax.lax.while_loop(unfinished, step, first)
    backed_up = action_values(model, values, discount)
    residual = jnp.max(jnp.abs(jnp.max(backed_up, axis=-1) - values))
    bound = _bound(residual + _rounding(model, values, discount), discount)
    return Solution(values, backed_up, iterations, bound)


def finite_horizon(model: Model, horizon: int, discount: Scalar = 1.0) -> tuple[jax.Array, jax.Array]:
    r"""Optimal values with a number of steps left: $V_0 = 0$, $V_h(s) = \max_a r + \gamma \sum_{s'} P V_{h-1}(s')$.

    Returns:
        values `[horizon + 1, S]` and action values `[horizon, S, A]`: `values[h]` is what h more steps can earn, and
        the best action with h steps left is the largest of `action_values[h - 1]` (Puterman 1994, section 4.5).
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
    """What a stationary policy `[S, A]` earns within `horizon` steps, `[S]`."""
    _check_horizon(horizon)
    transitions, rewards = _under(model, policy, discount)
    return jax.lax.fori_loop(
        0, horizon, lambda _, values: rewards + _product(transitions, values), jnp.zeros_like(rewards)
    )


def _check_horizon(horizon: int) -> None:
    if not isinstance(scalar(horizon), int) or horizon < 0:
        raise UsageError(f"A horizon is a whole number of steps of at least 0, got {horizon!r}.")


def expected_return(model: Model, policy: jax.Array, horizon: int | None = None, discount: Scalar = 1.0) -> jax.Array:
    """The exact mean return `[]` of a policy `[S, A]` from the model's first states.

    Args:
        model: the process.
        policy: probabilities, for instance `epsilon_greedy(action_values, 0.1)`.
        horizon: steps after which an episode is cut, or None where it runs to its end.
        discount: scalar; 1 for the return that is reported.
    """
    if horizon is None:
        return _product(model.start, policy_values(model, policy, discount))
    return _product(model.start, finite_horizon_policy_values(model, policy, horizon, discount))


def grid_value_iteration(
    step: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
    axes: Sequence[jax.Array],
    actions: jax.Array,
    iterations: int,
    discount: Scalar = 1.0,
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    r"""Values of a deterministic process with continuous states, by value iteration on a grid.

    Between the grid's points values are interpolated linearly; beyond its ends they are those of the ends.

    Args:
        step: `(state [D], action) -> (next state [D], reward [], terminated [])`.
        axes: D evenly spaced increasing `[G_d]` coordinates; with one, values do not depend on it.
        actions: `[A, ...]` those to choose from.
        iterations: backups, starting from zero; as many as an episode has steps for a finite horizon.
        discount: scalar.

    Returns:
        the values `[G_1, ..., G_D]`, and the policy `state [D] -> action` that looks one step ahead on them.
    """
    axes = [jnp.asarray(axis, jnp.promote_types(jnp.result_type(axis), jnp.float32)) for axis in axes]
    actions = jnp.asarray(actions)
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)  # [G_1, ..., G_D, D]
    low = jnp.stack([axis[0] for axis in axes])
    # An axis of one point has no spacing: all of it lies at that point.
    spacing = jnp.stack(
        [(axis[-1] - axis[0]) / (len(axis) - 1) if len(axis) > 1 else axis[0] + jnp.inf for axis in axes]
    )

    def backup(values: jax.Array, following: jax.Array, rewards: jax.Array, terminated: jax.Array) -> jax.Array:
        at = jnp.moveaxis((following - low) / spacing, -1, 0)
        ahead = jax.scipy.ndimage.map_coordinates(values, list(at), order=1, mode="nearest")
        return rewards + discount * jnp.where(terminated, 0.0, ahead)

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
