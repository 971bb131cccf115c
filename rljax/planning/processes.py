"""Decision processes as planning sees them: backups, linear solves, and proofs of error bounds.

A discount of one needs care: values exist only if the process ends or stops paying rewards, and the largest change of
one more backup says little about the error. The bound below holds for every discount.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Model

# By default some accelerators round the factors of a matrix product to 10 bits: too coarse for exact values.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Process(NamedTuple):
    """A decision process of S states and A actions in which only transitions that matter are left."""

    continuing: jax.Array  # [S, A, S] probabilities of a next state in which a reward may still follow
    ending: jax.Array  # [S, A] probability of any other end of the step
    rewards: jax.Array  # [S, A], -inf for a forbidden action
    roundings: jax.Array  # [S, A] number of rounded operations that one backup of an action may add up


@jax.jit
def from_model(model: Model) -> Process:
    """The process of a model, in which a termination ends the step."""
    transitions, rewards, terminated = map(jnp.asarray, (model.transitions, model.rewards, model.terminated))
    continuing = jnp.where(terminated, 0.0, transitions)
    deficit = 1.0 - transitions.sum(axis=-1)
    rounding = (jnp.sum(transitions > 0, axis=-1) + 2) * jnp.finfo(transitions.dtype).eps
    deficit = jnp.where(jnp.abs(deficit) <= rounding, 0.0, deficit)
    ending = jnp.sum(jnp.where(terminated, transitions, 0.0), axis=-1) + deficit
    return Process(continuing, ending, rewards, jnp.sum(continuing > 0, axis=-1) + 5)


@jax.jit
def prune(process: Process) -> Process:
    """Let a state in which no reward can follow end the process, as a termination does."""
    pays = jnp.any(jnp.isfinite(process.rewards) & (process.rewards != 0), axis=-1)
    continuing = jnp.where(_reaching(pays, _edges(process)), process.continuing, 0.0)
    return process._replace(
        continuing=continuing, ending=process.ending + jnp.sum(process.continuing - continuing, axis=-1)
    )


@jax.jit
def soften(process: Process, epsilon: jax.Array) -> Process:
    """The process in which every action is replaced by a uniformly random allowed one with probability epsilon."""
    allowed = jnp.isfinite(process.rewards)

    def mix(x: jax.Array) -> jax.Array:
        mask = allowed.reshape(*allowed.shape, *[1] * (x.ndim - 2))
        mean = jnp.mean(x, axis=1, keepdims=True, where=mask)
        return jnp.where(mask, (1.0 - epsilon) * x + epsilon * mean, x)

    continuing = mix(process.continuing)
    roundings = jnp.sum(continuing > 0, axis=-1) + 8 + process.rewards.shape[1]
    return Process(continuing, mix(process.ending), mix(process.rewards), roundings)


@jax.jit
def under(process: Process, policy: jax.Array) -> Process:
    """The process with a single action, which follows a policy `[S, A]`."""
    continuing = matmul(policy[:, None, :], process.continuing)
    rewards, ending = (
        jnp.sum(jnp.where(policy > 0, policy * x, 0.0), axis=-1, keepdims=True)
        for x in (process.rewards, process.ending)
    )
    return Process(continuing, ending, rewards, jnp.sum(continuing > 0, axis=-1) + 6 + policy.shape[1])


def backup(process: Process, values: jax.Array, discount: jax.Array) -> jax.Array:
    """Action values `[S, A]` from values `[S]`."""
    return process.rewards + discount * matmul(process.continuing, values)


@jax.jit
def policy_values(process: Process, policy: jax.Array, discount: jax.Array) -> jax.Array:
    """The values `[S]` of a policy `[S, A]`: arbitrary numbers if it never ends and the discount is one."""
    continuing, _, rewards, _ = under(process, policy)
    return jnp.linalg.solve(jnp.eye(len(rewards), dtype=rewards.dtype) - discount * continuing[:, 0], rewards[:, 0])


@jax.jit
def advantages(process: Process, values: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Action values minus the state's value `[S, A]`, and a bound on their rounding error.

    Only differences of values are multiplied, since near a discount of one values are large and nearly equal.
    """
    differences = values - values[:, None]  # [S, S']
    ends = (1.0 - discount) + discount * process.ending
    products = functools.partial(jnp.einsum, "sat,st->sa", process.continuing, precision=jax.lax.Precision.HIGHEST)
    gains = process.rewards + discount * products(differences) - ends * values[:, None]
    size = jnp.abs(process.rewards) + discount * products(jnp.abs(differences)) + jnp.abs(ends * values[:, None])
    return gains, jnp.where(jnp.isfinite(process.rewards), _roundoff(process) * size, 0.0)


@jax.jit
def endless(process: Process) -> jax.Array:
    """States `[S]` from which every policy collects rewards forever, so that values need a discount below one."""
    allowed = jnp.isfinite(process.rewards)
    edges = _edges(process)

    def can_stay(idle: jax.Array) -> jax.Array:
        leaves = jnp.any((process.continuing > 0) & ~idle, axis=-1)
        return idle & jnp.any((process.rewards == 0) & ~leaves, axis=-1)

    idle = _fixed_point(can_stay, jnp.ones(len(edges), bool))  # the states that need never pay a reward
    return ~_reaching(idle | jnp.any(allowed & (process.ending > 0), axis=-1), edges)


@jax.jit
def error_bound(process: Process, values: jax.Array, discount: jax.Array) -> jax.Array:
    r"""Upper bound `[]` on the error of optimal values `[S]`, rounding and that of the process's numbers included.

    One backup $T$ is known up to a rounding error $\delta$ (the number of operations times the unit roundoff times the
    sum of absolute values: Higham 2002, section 3.1). With a discount $\gamma < 1$ the bound is
    $(\max_s |(T V)(s) - V(s)| + \delta) / (1 - \gamma)$ (Puterman 1994, theorem 6.3.1). With a discount of one, the
    bound is $\max_s b(s)$ for any $b \ge 0$ with

    $$ b(s) - \sum_{s'} P(s' | s, a) b(s') \ge Q(s, a) - V(s) + \delta(s, a), $$

    for every action, with $|Q - V|$ for the best one: then $V - b$ is below and $V + b$ above the optimal values (by
    monotonicity; Bertsekas and Tsitsiklis 1991, section 2). It is infinite if no $b$ is found.
    """
    unit = jnp.finfo(values.dtype).eps / 2
    action_values = backup(process, values, discount)
    allowed = jnp.isfinite(process.rewards)
    size = jnp.abs(process.rewards) + discount * matmul(process.continuing, jnp.abs(values))
    rounding = jnp.where(allowed, _roundoff(process) * size, 0.0)
    residual = jnp.max(jnp.abs(jnp.max(action_values, axis=-1) - values))
    remaining = 1.0 - discount - unit  # the discount is rounded too
    contraction = (residual + jnp.max(rounding)) / remaining
    proved = _proved_bound(process, action_values - values[:, None], rounding, discount, remaining <= 0)
    return jnp.where(remaining > 0, contraction, proved)


def _proved_bound(
    process: Process, gains: jax.Array, rounding: jax.Array, discount: jax.Array, needed: jax.Array
) -> jax.Array:
    """The largest $b$ of `error_bound`, found by policy iteration on the inequality; at once infinite unless needed."""
    num_actions = gains.shape[1]
    best = jax.nn.one_hot(jnp.argmax(gains, axis=-1), num_actions, dtype=bool)
    errors = jnp.abs(jnp.max(gains, axis=-1))
    # Above zero, since b must decrease along every transition: only then do all policies that matter end. A part of the
    # largest error makes room for the rounding of b.
    floor = jnp.finfo(gains.dtype).eps * jnp.max(rounding) + 1e-2 * jnp.max(errors) + jnp.finfo(gains.dtype).tiny
    rounding = rounding + floor
    costs = jnp.where(best, errors[:, None], gains) + 2.0 * rounding
    problem = process._replace(rewards=costs)

    class Loop(NamedTuple):
        policy: jax.Array  # [S, A]
        bound: jax.Array  # []
        hopeless: jax.Array  # [] bool
        iterations: jax.Array

    def unfinished(loop: Loop) -> jax.Array:
        return needed & jnp.isinf(loop.bound) & ~loop.hopeless & (loop.iterations < 100)

    def step(loop: Loop) -> Loop:
        b = policy_values(problem, loop.policy, discount)
        following = discount * matmul(process.continuing, b)
        excess = costs + following - b[:, None]
        checked = excess + _roundoff(process) * (jnp.abs(b)[:, None] + following) <= rounding
        possible = jnp.all(jnp.isfinite(b) & (b >= 0))
        bound = jnp.where(possible & jnp.all(checked), jnp.max(b), jnp.inf)
        worst = jax.nn.one_hot(jnp.argmax(excess, axis=-1), num_actions, dtype=costs.dtype)
        policy = jnp.where(jnp.all(checked, axis=-1)[:, None], loop.policy, worst)
        return Loop(policy, bound, ~possible, loop.iterations + 1)

    first = Loop(best.astype(costs.dtype), jnp.full((), jnp.inf, costs.dtype), jnp.bool_(False), jnp.int32(0))
    return jax.lax.while_loop(unfinished, step, first).bound


def _roundoff(process: Process) -> jax.Array:
    """Relative rounding error `[S, A]` of one backup, for any order of summation."""
    return process.roundings * (jnp.finfo(process.rewards.dtype).eps / 2)


def _edges(process: Process) -> jax.Array:
    """True where an allowed action may lead from one state to another `[S, S]`."""
    return jnp.any((process.continuing > 0) & jnp.isfinite(process.rewards)[:, :, None], axis=1)


def _reaching(goals: jax.Array, edges: jax.Array) -> jax.Array:
    """States `[S]` from which one of the goals can be reached, in any number of steps."""
    return _fixed_point(lambda reached: goals | jnp.any(edges & reached, axis=-1), goals)


def _fixed_point(function: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Apply a monotone function of a set `[S]` until the set no longer changes."""

    def step(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return pair[1], function(pair[1])

    return jax.lax.while_loop(lambda pair: jnp.any(pair[0] != pair[1]), step, (start, function(start)))[1]
