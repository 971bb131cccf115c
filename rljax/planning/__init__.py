r"""Exact solutions of small Markov decision processes: the ground truth that learners are tested against.

All functions are pure: `jit` them, `vmap` them over models or over discounts. There are S states and A actions. A
policy is a table of probabilities `[S, A]`; `greedy` and `epsilon_greedy` compute one from action values.
`rljax.envs.tabular_model` returns the model of a tabular environment. Under `jax.enable_x64` all values have 64 bits.

Arguments are checked where their values are known: inside a traced function, only shapes and dtypes are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import Model, mdp
from rljax.errors import UsageError, number
from rljax.planning import processes
from rljax.planning.processes import Process, matmul
from rljax.types import Scalar


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
    _check_model(model)
    discount = _discount(discount, model)
    return model.rewards + discount * matmul(jnp.where(model.terminated, 0.0, model.transitions), values)


def greedy(action_values: jax.Array) -> jax.Array:
    """The policy `[S, A]` that takes the best action under action values `[S, A]`; ties go to the first."""
    return jax.nn.one_hot(jnp.argmax(action_values, axis=-1), action_values.shape[-1])


def epsilon_greedy(action_values: jax.Array, epsilon: Scalar) -> jax.Array:
    """The policy `[S, A]` that takes a uniformly random action with probability epsilon, else the best one.

    Actions of value -inf are forbidden, and never taken.
    """
    epsilon = _probability("epsilon", epsilon)
    allowed = ~jnp.isneginf(action_values)
    uniform = jnp.where(allowed, epsilon / allowed.sum(axis=-1, keepdims=True), 0.0)
    return (1.0 - epsilon) * greedy(action_values) + uniform


def _probability(what: str, value: Scalar) -> Any:
    return number(what, value, minimum=0, maximum=1, traced=True)


def _discount(discount: Scalar, model: Model) -> jax.Array:
    return jnp.asarray(_probability("discount", discount), jnp.result_type(model.rewards))


def _known(*arrays: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def _check_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise UsageError(f"planning needs a Model, got {type(model).__name__}: rljax.envs.tabular_model makes one.")
    for name in ("transitions", "rewards"):
        dtype = jnp.result_type(getattr(model, name))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise UsageError(
                f"A model's {name} must be floats, got {dtype}: rljax.envs.from_model(model).params converts them."
            )
    mdp.check_model(model)


def _process(model: Model) -> Process:
    _check_model(model)
    return processes.from_model(model)


def _reward_process(model: Model, policy: jax.Array) -> Process:
    """The process of one action per state that follows a policy."""
    process = _process(model)
    if jnp.shape(policy) != process.rewards.shape:
        raise UsageError(
            f"A policy must be a table of probabilities of shape {process.rewards.shape}, got {jnp.shape(policy)}: "
            "make one with planning.greedy or planning.epsilon_greedy."
        )
    if _known(policy):
        if not mdp.are_probabilities(policy):
            raise UsageError("A policy must be probabilities: not negative, and each row must sum to one.")
        _refuse_forbidden(model.rewards, np.asarray(policy) > 0, "This policy")
    return processes.under(process, jnp.asarray(policy, process.rewards.dtype))


def _refuse_forbidden(rewards: Any, chosen: Any, who: str) -> None:
    if _known(rewards) and np.any(np.isneginf(rewards) & chosen):
        raise UsageError(f"{who} takes a forbidden action (reward -inf), so it has no finite value.")


def _refuse_endless(endless: jax.Array, discount: jax.Array, who: str) -> jax.Array:
    """States `[S]` without values; raise `UsageError` if there is one and its number is known."""
    endless &= discount >= 1
    if _known(endless) and endless.any():
        raise UsageError(
            f"With a discount of 1, {who} collects rewards forever from state {int(jnp.argmax(endless))}: "
            "use a discount below 1, or planning.finite_horizon."
        )
    return endless


def policy_values(model: Model, policy: jax.Array, discount: Scalar) -> jax.Array:
    r"""The values `[S]` of a policy, $V = (I - \gamma P_\pi)^{-1} r_\pi$ (Puterman 1994, theorem 6.1.1).

    With a discount of one, a policy that collects rewards forever has no values: NaN inside a traced function.

    Raises:
        UsageError: an argument is invalid, or the policy collects rewards forever with a discount of one.
    """
    process, discount = processes.prune(_reward_process(model, policy)), _discount(discount, model)
    endless = _refuse_endless(processes.endless(process), discount, "this policy")
    values = processes.policy_values(process, jnp.ones_like(process.rewards), discount)
    return jnp.where(jnp.any(endless), jnp.nan, values)


def iterate_policy_values(
    model: Model, policy: jax.Array, discount: Scalar, tolerance: Scalar = 1e-6, max_iterations: int = 100_000
) -> Solution:
    r"""The values of a policy by repeated backups $V \leftarrow r_\pi + \gamma P_\pi V$.

    Stops as `value_iteration` does, and raises `UsageError` as `policy_values` does.
    """
    process, discount = processes.prune(_reward_process(model, policy)), _discount(discount, model)
    tolerance, max_iterations = _tolerance(tolerance), _most(max_iterations)
    _refuse_endless(processes.endless(process), discount, "this policy")
    values, iterations = _iterate(process, discount, tolerance, max_iterations)
    bound = processes.error_bound(process, values, discount)
    return Solution(values, action_values(model, values, discount), iterations, bound)


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
    `max_iterations`. `error_bound` adds the error of rounding, which in 32 bits may exceed the tolerance.

    With a discount of one, only the values no longer changing stops it before `max_iterations`. `error_bound` is then
    infinite unless it can be proved that every policy that never ends loses rewards forever.

    Args:
        model: the process. A reward of -inf forbids an action.
        discount: scalar in [0, 1].
        epsilon: probability of a uniformly random allowed action. 0 gives the optimal values; above 0, those of
            the best epsilon-soft policy, to which SARSA converges (Sutton and Barto 2018, section 5.4).
        tolerance: largest accepted error of the values, see above.
        max_iterations: maximum number of backups.

    Raises:
        UsageError: an argument is invalid, or with a discount of one every policy collects rewards forever.
    """
    process = _process(model)
    tolerance, max_iterations = _tolerance(tolerance), _most(max_iterations)
    discount, epsilon = _discount(discount, model), _probability("epsilon", epsilon)
    if not isinstance(epsilon, int | float) or epsilon > 0:
        process = processes.soften(process, jnp.asarray(epsilon, process.rewards.dtype))
    process = processes.prune(process)
    _refuse_endless(processes.endless(process), discount, "every policy")
    values, iterations = _iterate(process, discount, tolerance, max_iterations)
    bound = processes.error_bound(process, values, discount)
    return Solution(values, action_values(model, values, discount), iterations, bound)


def _tolerance(tolerance: Any) -> Any:
    return number("tolerance", tolerance, minimum=0, traced=True)


def _most(max_iterations: Any) -> Any:
    return number("max_iterations", max_iterations, integer=True, minimum=0, maximum=2**31 - 1, traced=True)


@jax.jit
def _iterate(
    process: Process, discount: jax.Array, tolerance: Scalar, max_iterations: Scalar
) -> tuple[jax.Array, jax.Array]:
    """Repeat optimal backups from zero; return the values and the number of backups."""

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, residual, iterations = carry
        return (residual > tolerance * (1.0 - discount)) & (iterations < max_iterations)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, _, iterations = carry
        backed_up = jnp.max(processes.backup(process, values, discount), axis=-1)
        return backed_up, discount * jnp.max(jnp.abs(backed_up - values)), iterations + 1

    start = jnp.zeros_like(process.rewards[:, 0])
    first = (start, jnp.full((), jnp.inf, start.dtype), jnp.int32(0))
    values, _, iterations = jax.lax.while_loop(unfinished, step, first)
    return values, iterations


def policy_iteration(model: Model, discount: Scalar, max_iterations: int = 1_000) -> Solution:
    r"""Optimal values by alternating exact evaluation and greedy improvement (Howard 1960), from the uniform policy.

    Stops when no action improves on the policy by more than rounding, or when rounding makes the policies repeat.
    `error_bound` is that of `value_iteration`. With a discount of one, only policies that end are compared.

    Raises:
        UsageError: an argument is invalid, or with a discount of one no policy ends from some state.
    """
    process, discount = processes.prune(_process(model)), _discount(discount, model)
    max_iterations = _most(max_iterations)
    allowed = jnp.isfinite(process.rewards)
    uniform = allowed / allowed.sum(axis=-1, keepdims=True).astype(process.rewards.dtype)
    endless = processes.endless(processes.under(process, uniform))
    _refuse_endless(endless, discount, "the uniform policy, where policy iteration starts,")
    values, iterations = _improve(process, uniform, discount, max_iterations)
    bound = processes.error_bound(process, values, discount)
    return Solution(values, action_values(model, values, discount), iterations, bound)


class _Search(NamedTuple):
    policy: jax.Array  # [S, A]
    values: jax.Array  # [S], of the previous policy
    earlier: jax.Array  # [S, A] the policy after 1, 2, 4, ... improvements: one that returns shows a cycle (Brent 1980)
    finished: jax.Array  # [] bool
    iterations: jax.Array  # [] int32


@jax.jit
def _improve(
    process: Process, policy: jax.Array, discount: jax.Array, max_iterations: Scalar
) -> tuple[jax.Array, jax.Array]:
    """Improve a policy until it is optimal; return its values and the number of evaluations."""

    def unfinished(search: _Search) -> jax.Array:
        return ~search.finished & (search.iterations < max_iterations)

    def step(search: _Search) -> _Search:
        policy, previous, earlier, _, iterations = search
        values = processes.policy_values(process, policy, discount)
        gains, rounding = processes.advantages(process, values, discount)
        gain = jnp.sum(jnp.where(policy > 0, policy * gains, 0.0), axis=-1)
        better = jnp.max(gains, axis=-1) > gain + jnp.max(rounding, axis=-1)
        improved = jnp.where(better[:, None], greedy(gains), policy).astype(policy.dtype)
        # An improved policy is worse only if rounding decided between equal actions, and it now never ends.
        slack = 1e-3 * (1.0 + jnp.max(jnp.abs(previous)))
        sound = (discount < 1) | (iterations == 0) | jnp.all(values >= previous - slack)
        finished = ~better.any() | jnp.all(improved == earlier) | ~sound
        earlier = jnp.where(jax.lax.population_count(iterations + 1) == 1, improved, earlier)
        return _Search(improved, jnp.where(sound, values, previous), earlier, finished, iterations + 1)

    start = jnp.zeros_like(process.rewards[:, 0])
    first = _Search(policy, start, jnp.full_like(policy, -1.0), jnp.bool_(False), jnp.int32(0))
    search = jax.lax.while_loop(unfinished, step, first)
    return search.values, search.iterations


def finite_horizon(model: Model, horizon: int, discount: Scalar = 1.0) -> tuple[jax.Array, jax.Array]:
    r"""Optimal values with h steps left: $V_0 = 0$, $V_h(s) = \max_a r + \gamma \sum_{s'} P V_{h-1}(s')$.

    Returns:
        values `[horizon + 1, S]` and action values `[horizon, S, A]`: `values[h]` are the values with h steps left,
        and the best action is then the argmax of `action_values[h - 1]` (Puterman 1994, section 4.5).
    """
    _check_model(model)
    horizon = number("horizon", horizon, integer=True, minimum=0, maximum=2**31 - 1)

    def step(values: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        backed_up = action_values(model, values, discount)
        best = jnp.max(backed_up, axis=-1)
        return best, (best, backed_up)

    start = jnp.zeros_like(model.rewards[:, 0])
    _, (values, backed_up) = jax.lax.scan(step, start, length=horizon)
    return jnp.concatenate([start[None], values]), backed_up


def finite_horizon_policy_values(model: Model, policy: jax.Array, horizon: int, discount: Scalar = 1.0) -> jax.Array:
    """The expected discounted return `[S]` of a stationary policy `[S, A]` over `horizon` steps."""
    horizon = number("horizon", horizon, integer=True, minimum=0, maximum=2**31 - 1)
    process, discount = _reward_process(model, policy), _discount(discount, model)
    return jax.lax.fori_loop(
        0,
        horizon,
        lambda _, values: processes.backup(process, values, discount)[:, 0],
        jnp.zeros_like(process.rewards[:, 0]),
    )


def expected_return(model: Model, policy: jax.Array, horizon: int | None = None, discount: Scalar = 1.0) -> jax.Array:
    """The exact expected return `[]` of a policy `[S, A]` from the model's start distribution.

    Args:
        model: the process.
        policy: probabilities, for instance `epsilon_greedy(action_values, 0.1)`.
        horizon: steps after which an episode is truncated, or None for no limit.
        discount: scalar; 1 for the undiscounted return that runs report.
    """
    _check_model(model)
    if horizon is None:
        return matmul(model.start, policy_values(model, policy, discount))
    return matmul(model.start, finite_horizon_policy_values(model, policy, horizon, discount))


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
    discount = _probability("discount", discount)
    iterations = number("iterations", iterations, integer=True, minimum=0, maximum=2**31 - 1, traced=True)
    _check_axes(axes)
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


def _check_axes(axes: Any) -> None:
    if not isinstance(axes, Sequence) or not axes:
        raise UsageError("axes must be a list with one array of coordinates for each dimension of the state.")
    for i, axis in enumerate(axes):
        if jnp.ndim(axis) != 1 or len(axis) < 1:
            raise UsageError(f"axes[{i}] must be a vector of coordinates, got shape {jnp.shape(axis)}.")
        if not _known(axis):
            continue
        gaps = np.diff(np.asarray(axis, np.float64))
        if not np.all(np.isfinite(axis)) or np.any(gaps <= 0) or not np.allclose(gaps, gaps[:1], rtol=1e-2, atol=0):
            raise UsageError(f"axes[{i}] must be finite, increasing and evenly spaced coordinates.")
