r"""Experience replay, uniform and prioritised: `init`, `add`, `sample` and `reprioritize` as pure functions.

A ring of L steps of N environments, `[L, N, ...]`, that stores every observation once: the successor of a step is the
observation in the next slot, so a ring of L steps holds L - 1 transitions of each environment. Where an episode was
truncated the next slot begins another episode; the true successor of such a transition lies in a small table beside the
ring, with room for a part of the capacity. Should more truncations than that be in the ring at once, the oldest ones'
successors are lost and those transitions are sampled with weight zero rather than learned from wrongly.

Priorities are the leaves of a binary tree of sums (Schaul et al. 2016, appendix B.2.1): both drawing a leaf and
changing one take as many steps as the tree has levels.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax import returns
from rljax.backend import random_bits
from rljax.backend.sharding import spread, whole
from rljax.errors import UsageError
from rljax.rollout import Trajectory
from rljax.types import Scalar

_GOES_ON, _TERMINATED = -1, -2  # in `Replay.end`; a number from 0 on is the slot of a true successor


class Priorities(NamedTuple):
    tree: jax.Array  # [2 P] sums: the root at 1, the children of node i at 2 i and 2 i + 1, the leaves from P on
    highest: jax.Array  # [] the highest priority that any transition has had


class Replay(NamedTuple):
    """L slots of N environments; M true successors of truncated transitions."""

    obs: jax.Array  # [L, N, ...]
    action: jax.Array  # [L, N, ...]
    reward: jax.Array  # [L, N]
    end: jax.Array  # [L, N] int32: whether and how the episode ended here
    added: jax.Array  # [] int32, steps of each environment so far; the next goes into slot `added % L`
    successors: jax.Array  # [M, ...] observations
    owners: jax.Array  # [M] int32, slot * N + environment of the transition that each successor belongs to
    truncations: jax.Array  # [] int32, successors stored so far, modulo M
    priorities: Priorities | None  # None where samples are uniform


class Sample(NamedTuple):
    """B transitions of up to n steps, `[B, ...]`."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array  # discounted sum of up to n rewards
    discount: jax.Array  # factor of the successor's value: gamma to the number of rewards; 0 where terminated
    next_obs: jax.Array  # the true successor
    weight: jax.Array  # importance weight, at most 1
    position: jax.Array  # int32, slot * N + environment, for `reprioritize`


def init(
    obs: Any, action: Any, num_envs: int, capacity: int, prioritized: bool = False, truncations: int | None = None
) -> Replay:
    """An empty replay.

    Args:
        obs, action: one observation and one action, for their shapes and dtypes.
        num_envs: N.
        capacity: transitions to hold; rounded down to a multiple of N.
        prioritized: whether to sample by priorities.
        truncations: true successors to hold for truncated transitions; None for one in eight transitions, which is
            enough for time limits of eight steps and more.
    """
    if capacity < num_envs:
        raise UsageError(
            f"A replay of {capacity} transitions cannot hold a step of {num_envs} environments: enlarge it."
        )
    slots = capacity // num_envs + 1
    successors = truncations or num_envs * math.ceil((slots - 1) / 8)
    leaves = 2 ** math.ceil(math.log2(slots * num_envs))
    obs, action = jnp.asarray(obs), jnp.asarray(action)
    return Replay(
        obs=jnp.zeros((slots, num_envs, *obs.shape), obs.dtype),
        action=jnp.zeros((slots, num_envs, *action.shape), action.dtype),
        reward=jnp.zeros((slots, num_envs)),
        end=jnp.full((slots, num_envs), _GOES_ON, jnp.int32),
        added=jnp.int32(0),
        successors=jnp.zeros((successors, *obs.shape), obs.dtype),
        owners=jnp.full(successors, -1, jnp.int32),
        truncations=jnp.int32(0),
        priorities=Priorities(jnp.zeros(2 * leaves, jnp.float32), jnp.float32(1.0)) if prioritized else None,
    )


def size(replay: Replay, n_step: int = 1) -> jax.Array:
    """Transitions of n steps that can be sampled, `[]` int32."""
    slots, num_envs = replay.reward.shape
    return jnp.maximum(jnp.minimum(replay.added, slots - 1) - n_step + 1, 0) * num_envs


def add(replay: Replay, steps: Trajectory, n_step: int = 1) -> Replay:
    """Store a rollout `[T, N, ...]` of raw observations and rewards over the oldest one; T may be up to L - 1.

    With priorities, a transition can be drawn as soon as it has n successors, and then has the highest priority so far.
    """
    slots, num_envs = replay.reward.shape
    num_steps = steps.reward.shape[0]
    chex.assert_shape(steps.reward, (num_steps, num_envs))
    if num_steps >= slots:
        raise UsageError(f"A rollout of {num_steps} steps does not fit a replay of {slots - 1}: enlarge the buffer.")
    written = (replay.added + jnp.arange(num_steps)) % slots

    # True successors of truncated steps; a step that is terminated as well needs none.
    room = len(replay.owners)
    truncated = (steps.truncated & ~steps.terminated).reshape(-1)
    rank = jnp.cumsum(truncated) - 1
    kept = truncated & (rank >= truncated.sum() - room)
    place = (replay.truncations + rank) % room
    owner = (written[:, None] * num_envs + jnp.arange(num_envs)).reshape(-1)
    flat_next = steps.next_obs.reshape(-1, *replay.successors.shape[1:])
    place_or_nowhere = jnp.where(kept, place, room)  # out of bounds: dropped
    end = jnp.where(truncated, place, _GOES_ON).reshape(num_steps, num_envs)
    end = jnp.where(steps.terminated, _TERMINATED, end).astype(jnp.int32)

    # The newest step's successor waits in the slot that the next step will fill.
    obs = jnp.concatenate([steps.obs, steps.next_obs[-1:]])
    added = replay.added + num_steps
    replay = Replay(
        obs=replay.obs.at[(replay.added + jnp.arange(num_steps + 1)) % slots].set(obs),
        action=replay.action.at[written].set(steps.action),
        reward=replay.reward.at[written].set(steps.reward),
        end=replay.end.at[written].set(end),
        added=added,
        successors=replay.successors.at[place_or_nowhere].set(flat_next, mode="drop"),
        owners=replay.owners.at[place_or_nowhere].set(owner.astype(jnp.int32), mode="drop"),
        truncations=(replay.truncations + truncated.sum()) % room,
        priorities=_admit(replay, num_steps, n_step),
    )
    # What reads the ring must not be fused with this writing: it would then read what was there before, for which XLA
    # keeps a copy of the whole ring.
    return jax.lax.optimization_barrier(replay)


def _admit(replay: Replay, num_steps: int, n_step: int) -> Priorities | None:
    """Give what `num_steps` new steps complete the highest priority, and what is not complete yet none."""
    if replay.priorities is None:
        return None
    slots, num_envs = replay.reward.shape
    time = replay.added - n_step + 1 + jnp.arange(num_steps + n_step)  # up to the slot that waits for the next step
    newest = replay.added + num_steps
    complete = (time >= 0) & (time > newest - slots) & (time <= newest - n_step)  # and not overwritten at once
    leaves = (time % slots)[:, None] * num_envs + jnp.arange(num_envs)
    values = jnp.broadcast_to(jnp.where(complete, replay.priorities.highest, 0.0)[:, None], leaves.shape)
    return replay.priorities._replace(tree=_set_leaves(replay.priorities.tree, leaves.reshape(-1), values.reshape(-1)))


def sample(
    bits: jax.Array,
    replay: Replay,
    discount: Scalar,
    n_step: int = 1,
    importance_exponent: Scalar = 0.0,
    rescale: Callable[[jax.Array], jax.Array] = lambda reward: reward,
) -> Sample:
    r"""B transitions, drawn with replacement: uniformly, or in proportion to their priorities.

    Args:
        bits: `[B]` uint32, `jax.random.bits(key, (B,))`: a word a transition, so that the words of many batches can be
            drawn in one call.
        replay: holds at least one transition of n steps.
        discount: gamma.
        n_step: n, the most rewards that a transition sums; fewer where the episode ends.
        importance_exponent: $\beta$ of the weights $(K P(i))^{-\beta}$ over their maximum, K being the number of
            transitions (Schaul et al. 2016, section 3.4); without priorities all weights are one.
        rescale: what a learner makes of each reward before the sum.
    """
    slots, num_envs = replay.reward.shape
    if replay.priorities is None:
        count = size(replay, n_step)
        oldest = replay.added - count // num_envs - n_step + 1
        drawn = random_bits.integers(bits, count)
        slot, env = (oldest + drawn // num_envs) % slots, drawn % num_envs
        weight = jnp.ones(bits.shape)
    else:
        position, probability = _draw_leaves(bits, replay.priorities.tree)
        slot, env = position // num_envs, position % num_envs
        weight = (size(replay, n_step) * probability) ** -importance_exponent

    # Where the ring is sharded by environments it stays where it is: all devices look for the whole batch.
    slot, env = whole((slot, env))
    ahead = (slot + jnp.arange(n_step)[:, None]) % slots  # [n, B]
    ends, rewards = replay.end[ahead, env], rescale(replay.reward[ahead, env])
    cut = ends != _GOES_ON
    last = jnp.where(cut.any(axis=0), jnp.argmax(cut, axis=0), n_step - 1)  # [B] the last step of each transition
    end = jnp.take_along_axis(ends, last[None], axis=0)[0]
    last_slot = (slot + last) % slots
    truncated = end >= 0
    following = replay.obs[(last_slot + 1) % slots, env]
    beside = replay.successors[jnp.maximum(end, 0)]
    lost = truncated & (replay.owners[jnp.maximum(end, 0)] != last_slot * num_envs + env)
    weight = jnp.where(lost, 0.0, weight)
    if replay.priorities is not None:
        weight = weight / jnp.maximum(weight.max(), jnp.finfo(weight.dtype).tiny)  # all may be lost
    n_rewards = returns.n_step(rewards, jnp.zeros_like(rewards), ends == _TERMINATED, ends >= 0, discount, n_step)
    batch = Sample(
        obs=replay.obs[slot, env],
        action=replay.action[slot, env],
        reward=n_rewards[0],
        discount=jnp.where(end == _TERMINATED, 0.0, jnp.asarray(discount) ** (last + 1)),
        next_obs=jnp.where(truncated.reshape(-1, *[1] * (beside.ndim - 1)), beside, following),
        weight=weight,
        position=slot * num_envs + env,
    )
    return spread(batch)


def reprioritize(replay: Replay, position: jax.Array, priority: jax.Array) -> Replay:
    """Give the transitions at `position` `[B]` of a sample new priorities `[B]`, none of them negative."""
    if replay.priorities is None:
        return replay
    tree, highest = replay.priorities
    # A sample has read the tree: unless its writing waits for what came of that, XLA copies the tree to have both.
    tree, priority = jax.lax.optimization_barrier((tree, priority.astype(tree.dtype)))
    return replay._replace(
        priorities=Priorities(_set_leaves(tree, position, priority), jnp.maximum(highest, priority.max()))
    )


def _set_leaves(tree: jax.Array, leaves: jax.Array, values: jax.Array) -> jax.Array:
    """Change leaves and every sum above them, level by level, so that rounding errors do not add up."""
    first_leaf = len(tree) // 2
    leaves, values = whole((leaves, values))  # every device keeps the tree: it is the batch that is sent, not the tree
    nodes = leaves + first_leaf

    def up(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tree, nodes = carry
        parents = nodes // 2
        return tree.at[parents].set(tree[2 * parents] + tree[2 * parents + 1]), parents

    # Where an index is repeated the largest value stays, whatever order they are written in.
    tree = tree.at[nodes].set(0.0).at[nodes].max(values)
    return jax.lax.fori_loop(0, int(math.log2(first_leaf)), up, (tree, nodes))[0]


def _draw_leaves(bits: jax.Array, tree: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Leaves `[B]` drawn by their values with words `[B]`, one from each of B equal parts of the sum; their chances."""
    first_leaf, count = len(tree) // 2, len(bits)
    part = (jnp.arange(count) + random_bits.uniforms(bits)) / count

    def down(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        node, rest = carry
        left, right = tree[2 * node], tree[2 * node + 1]
        # Rounding may leave a rest beyond the last leaf: never turn towards a sum of zero.
        to_right = (right > 0.0) & ((rest >= left) | (left <= 0.0))
        return 2 * node + to_right, jnp.where(to_right, rest - left, rest)

    start = (jnp.ones(count, jnp.int32), part * tree[1])
    node, _ = jax.lax.fori_loop(0, int(math.log2(first_leaf)), down, start)
    return node - first_leaf, tree[node] / tree[1]
