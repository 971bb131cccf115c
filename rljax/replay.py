r"""Experience replay, uniform and prioritised: `init`, `add`, `sample` and `reprioritize` as pure functions.

The buffer is a ring of L steps of N environments, `[L, N, ...]`. It stores every observation once: the successor of a
step is the observation in the next slot, so L slots hold L - 1 transitions per environment. After a truncation the next
slot starts another episode, so the true successor is stored in a separate, smaller table. If the ring holds more
truncations than this table has slots, the oldest successors are lost and their transitions are sampled with weight
zero.

Of stacked observations, as `rljax.envs.frame_stack` makes them, only the newest frame of each is stored. A sample's
stack is put together from the slots before it, and repeats the first frame of an episode as the wrapper does. Stacks of
K frames need K - 1 more slots, since transitions whose older frames are overwritten are not drawn.

Priorities are the leaves of a binary sum tree (Schaul et al. 2016, appendix B.2.1): drawing or changing a leaf takes
one step per level.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax import returns
from rljax.backend import random_bits, rounding
from rljax.backend.sharding import replicate, shard_batch
from rljax.envs.masks import Masked, map_plain
from rljax.errors import UsageError
from rljax.rollout import Trajectory
from rljax.types import Scalar

_CONTINUES, _TERMINATED = -1, -2  # values of `Replay.end`; others are indices into `Replay.successors`


class Priorities(NamedTuple):
    tree: jax.Array  # [2 P] sums: the root is at 1, the children of node i at 2 i and 2 i + 1, the leaves start at P
    highest: jax.Array  # [] the highest priority of any transition so far


class Replay(NamedTuple):
    """A buffer of L slots for N environments, and of M true successors of truncated transitions."""

    obs: Any  # a pytree [L, N, ...], each leaf in its own dtype
    action: jax.Array  # [L, N, ...]
    reward: jax.Array  # [L, N]
    end: jax.Array  # [L, N] int32: _CONTINUES, _TERMINATED, or if truncated the index of the true successor
    added: jax.Array  # [] int32, steps added per environment so far; the next step goes into slot `added % L`
    successors: Any  # [M, ...] observations
    owners: jax.Array  # [M] int32, slot * N + environment of each successor's transition
    truncations: jax.Array  # [] int32, successors stored so far, modulo M
    priorities: Priorities | None  # None if sampling is uniform


class Sample(NamedTuple):
    """B transitions of up to n steps, `[B, ...]`."""

    obs: Any
    action: jax.Array
    reward: jax.Array  # discounted sum of up to n rewards
    discount: jax.Array  # of the successor's value: gamma to the power of the number of rewards, 0 where terminated
    next_obs: Any  # the true successor; another, finite observation where it is terminal or lost
    weight: jax.Array  # importance weight, at most 1; 0 where the true successor is lost
    position: jax.Array  # int32, slot * N + environment, an argument of `reprioritize`


def init(
    obs: Any,
    action: Any,
    num_envs: int,
    capacity: int,
    prioritized: bool = False,
    truncations: int | None = None,
    num_frames: int = 1,
) -> Replay:
    """An empty replay buffer.

    Args:
        obs, action: one observation and one action, for their shapes and dtypes.
        num_envs: N.
        capacity: number of transitions, rounded down to a multiple of N.
        prioritized: sample in proportion to priorities.
        truncations: M, the number of true successors to hold; None for one per eight transitions, enough for time
            limits of at least eight steps.
        num_frames: K, if observations are stacks of frames along the last axis; the other functions need the same K.

    Raises:
        UsageError: the capacity is less than N.
    """
    if capacity < num_envs:
        raise UsageError(
            f"A replay buffer of {capacity} transitions cannot hold a step of {num_envs} environments: enlarge it."
        )
    slots = capacity // num_envs + num_frames
    successors = truncations or num_envs * math.ceil((slots - num_frames) / 8)
    leaves = 2 ** math.ceil(math.log2(slots * num_envs))
    obs, action = jax.tree.map(jnp.asarray, (newest_frame(obs, num_frames), action))
    return Replay(
        obs=jax.tree.map(lambda x: jnp.zeros((slots, num_envs, *x.shape), x.dtype), obs),
        action=jnp.zeros((slots, num_envs, *action.shape), action.dtype),
        reward=jnp.zeros((slots, num_envs), jnp.float32),
        end=jnp.full((slots, num_envs), _CONTINUES, jnp.int32),
        added=jnp.int32(0),
        successors=jax.tree.map(lambda x: jnp.zeros((successors, *x.shape), x.dtype), obs),
        owners=jnp.full(successors, -1, jnp.int32),
        truncations=jnp.int32(0),
        priorities=Priorities(jnp.zeros(2 * leaves, jnp.float32), jnp.float32(1.0)) if prioritized else None,
    )


def newest_frame(obs: Any, num_frames: int) -> Any:
    """The last of the frames that are stacked along the last axis of every leaf."""
    if num_frames == 1:
        return obs
    return map_plain(lambda obs: jax.tree.map(lambda x: x[..., -(x.shape[-1] // num_frames) :], obs), obs)


def size(replay: Replay, n_step: int = 1, num_frames: int = 1) -> jax.Array:
    """Number of n-step transitions that can be sampled, `[]` int32."""
    slots, num_envs = replay.reward.shape
    return jnp.maximum(jnp.minimum(replay.added, slots - num_frames) - n_step + 1, 0) * num_envs


def add(replay: Replay, steps: Trajectory, n_step: int = 1, num_frames: int = 1) -> Replay:
    """Overwrite the oldest steps with a rollout `[T, N, ...]` of raw observations and rewards, T <= L - K.

    With priorities, a transition can be drawn once it has n successors, and starts with the highest priority so far.

    Raises:
        UsageError: the rollout is longer than L - K steps.
    """
    slots, num_envs = replay.reward.shape
    num_steps = steps.reward.shape[0]
    chex.assert_shape(steps.reward, (num_steps, num_envs))
    if num_steps > slots - num_frames:
        room = slots - num_frames
        raise UsageError(f"A rollout of {num_steps} steps does not fit a replay buffer of {room}: enlarge it.")
    replay = _add_older_frames(replay, steps.obs, num_frames)
    steps = steps._replace(obs=newest_frame(steps.obs, num_frames), next_obs=newest_frame(steps.next_obs, num_frames))
    written = (replay.added + jnp.arange(num_steps)) % slots

    # Store the true successors of truncated steps. Steps that also terminated need none.
    room = len(replay.owners)
    truncated = (steps.truncated & ~steps.terminated).reshape(-1)
    rank = jnp.cumsum(truncated) - 1
    kept = truncated & (rank >= truncated.sum() - room)
    index = (replay.truncations + rank) % room
    owner = (written[:, None] * num_envs + jnp.arange(num_envs)).reshape(-1)
    flat_next = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps.next_obs)
    index_if_kept = jnp.where(kept, index, room)  # an index out of bounds drops the successor
    end = jnp.where(truncated, index, _CONTINUES).reshape(num_steps, num_envs)
    end = jnp.where(steps.terminated, _TERMINATED, end).astype(jnp.int32)

    # The newest step's successor goes into the slot of the next step. Terminal observations have no value and may be
    # NaN: the step's own observation takes their place.
    def with_successor(obs: jax.Array, next_obs: jax.Array) -> jax.Array:
        ended = steps.terminated[-1].reshape(num_envs, *[1] * (obs.ndim - 2))
        return jnp.concatenate([obs, jnp.where(ended, obs[-1], next_obs[-1])[None]])

    obs = jax.tree.map(with_successor, steps.obs, steps.next_obs)
    added = replay.added + num_steps
    filled = (replay.added + jnp.arange(num_steps + 1)) % slots
    replay = Replay(
        obs=jax.tree.map(lambda ring, new: ring.at[filled].set(new), replay.obs, obs),
        action=replay.action.at[written].set(steps.action),
        reward=replay.reward.at[written].set(steps.reward),
        end=replay.end.at[written].set(end),
        added=added,
        successors=jax.tree.map(
            lambda table, new: table.at[index_if_kept].set(new, mode="drop"), replay.successors, flat_next
        ),
        owners=replay.owners.at[index_if_kept].set(owner.astype(jnp.int32), mode="drop"),
        truncations=(replay.truncations + truncated.sum(dtype=jnp.int32)) % room,
        priorities=_prioritize_new(replay, num_steps, n_step, num_frames),
    )
    # Later reads must not be fused with these writes: they would read the old ring, and XLA would copy it for them.
    return jax.lax.optimization_barrier(replay)


def _add_older_frames(replay: Replay, obs: Any, num_frames: int) -> Replay:
    """Before the first step, store the older frames of the first stacks `[T, N, ...]`, whose episodes may be older."""
    if num_frames == 1:
        return replay
    slots = len(replay.reward)
    before = jnp.where(replay.added == 0, slots - num_frames + 1 + jnp.arange(num_frames - 1), slots)  # or nowhere

    def write(ring: jax.Array, stacks: jax.Array) -> jax.Array:
        frames = jnp.stack(jnp.split(stacks[0], num_frames, axis=-1)[:-1])
        return ring.at[before].set(frames, mode="drop")

    if isinstance(obs, Masked):
        ring = replay.obs._replace(observation=jax.tree.map(write, replay.obs.observation, obs.observation))
    else:
        ring = jax.tree.map(write, replay.obs, obs)
    return replay._replace(obs=ring)


def _prioritize_new(replay: Replay, num_steps: int, n_step: int, num_frames: int) -> Priorities | None:
    """Assign the highest priority to transitions that `num_steps` new steps complete, and zero to incomplete ones.

    Incomplete ones are those that wait for their successors, and those whose older frames are overwritten.
    """
    if replay.priorities is None:
        return None
    slots, num_envs = replay.reward.shape
    # Up to the slot of the next step, and further to those of the oldest steps, which have lost frames.
    time = replay.added - n_step + 1 + jnp.arange(num_steps + n_step + num_frames - 1)
    newest = replay.added + num_steps
    oldest = newest - (slots - num_frames + 1)  # overwritten, or without its older frames
    complete = (time >= 0) & (time > oldest) & (time <= newest - n_step)
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
    num_frames: int = 1,
) -> Sample:
    r"""Draw B transitions with replacement: uniformly, or in proportion to their priorities.

    Args:
        bits: `[B]` uint32, from `jax.random.bits`; an argument, so that the bits of many batches can be drawn in
            one call.
        replay: with at least one transition of n steps.
        discount: $\gamma$.
        n_step: n, the number of rewards in a transition's sum, which has fewer where the episode ends.
        importance_exponent: $\beta$ of the weights $(K P(i))^{-\beta}$, divided by their maximum, for K transitions
            (Schaul et al. 2016, section 3.4); without priorities all weights are 1.
        rescale: applied to each reward before the sum.
        num_frames: K of `init`.
    """
    slots, num_envs = replay.reward.shape
    if replay.priorities is None:
        count = size(replay, n_step, num_frames)
        oldest = replay.added - count // num_envs - n_step + 1
        drawn = random_bits.integers(bits, count)
        slot, env = (oldest + drawn // num_envs) % slots, drawn % num_envs
        weight = jnp.ones(bits.shape, jnp.float32)
    else:
        position, probability = _draw_leaves(bits, replay.priorities.tree)
        slot, env = position // num_envs, position % num_envs
        smallest = jnp.finfo(probability.dtype).tiny  # a chance of 0 is drawn at most through rounding
        weight = (size(replay, n_step, num_frames) * jnp.maximum(probability, smallest)) ** -importance_exponent

    # A ring that is sharded by environments is not moved: every device looks up the whole batch.
    slot, env = replicate((slot, env))
    ahead = (slot + jnp.arange(n_step)[:, None]) % slots  # [n, B]
    ends, rewards = replay.end[ahead, env], rescale(replay.reward[ahead, env])
    cut = ends != _CONTINUES
    last = jnp.where(cut.any(axis=0), jnp.argmax(cut, axis=0), n_step - 1)  # [B] the last step of each transition
    end = jnp.take_along_axis(ends, last[None], axis=0)[0]
    last_slot = (slot + last) % slots
    truncated = end >= 0
    next_slot_obs = jax.tree.map(lambda ring: ring[(last_slot + 1) % slots, env], replay.obs)
    successor = jax.tree.map(lambda table: table[jnp.maximum(end, 0)], replay.successors)
    lost = truncated & (replay.owners[jnp.maximum(end, 0)] != last_slot * num_envs + env)
    weight = jnp.where(lost, 0.0, weight)
    if replay.priorities is not None:
        weight = weight / jnp.maximum(weight.max(), jnp.finfo(weight.dtype).tiny)  # all may be zero
    n_rewards = returns.n_step(rewards, jnp.zeros_like(rewards), ends == _TERMINATED, ends >= 0, discount, n_step)

    def true_successor(stored: jax.Array, in_ring: jax.Array) -> jax.Array:
        return jnp.where((truncated & ~lost).reshape(-1, *[1] * (stored.ndim - 1)), stored, in_ring)

    obs = jax.tree.map(lambda ring: ring[slot, env], replay.obs)
    next_obs = jax.tree.map(true_successor, successor, next_slot_obs)
    if num_frames > 1:
        obs = _stack(replay, slot, env, obs, num_frames)
        next_obs = _stack(replay, (last_slot + 1) % slots, env, next_obs, num_frames, continues=True)
    batch = Sample(
        obs=obs,
        action=replay.action[slot, env],
        reward=n_rewards[0],
        discount=jnp.where(end == _TERMINATED, 0.0, jnp.asarray(discount, jnp.float32) ** (last + 1)),
        next_obs=next_obs,
        weight=weight,
        position=slot * num_envs + env,
    )
    return shard_batch(batch)


def _stack(
    replay: Replay, slot: jax.Array, env: jax.Array, newest: Any, num_frames: int, continues: bool = False
) -> Any:
    """Stacks `[B, ...]` whose newest frames would be at slots `[B]`, with the frames of the slots before.

    An episode's first frame is repeated. With `continues` the newest frames follow the slot before in its episode, even
    if the episode ended there.
    """
    slots = len(replay.reward)
    back = jnp.arange(1, num_frames)[:, None]  # [K - 1, 1] slots before
    same_episode = replay.end[(slot - back) % slots, env] == _CONTINUES
    if continues:
        same_episode = same_episode.at[0].set(True)
    distance = jnp.cumsum(jnp.cumprod(same_episode, axis=0, dtype=jnp.int32), axis=0)  # [K - 1, B] slots to go back
    older = (slot - distance) % slots

    def stack(ring: jax.Array, newest: jax.Array) -> jax.Array:
        return jnp.concatenate([*ring[older, env][::-1], newest], axis=-1)

    if isinstance(newest, Masked):
        return newest._replace(observation=jax.tree.map(stack, replay.obs.observation, newest.observation))
    return jax.tree.map(stack, replay.obs, newest)


def reprioritize(replay: Replay, position: jax.Array, priority: jax.Array) -> Replay:
    """Give the transitions at `position` `[B]` of a sample new, nonnegative priorities `[B]`."""
    if replay.priorities is None:
        return replay
    tree, highest = replay.priorities
    # The sample was read from this tree: unless the write waits for it, XLA copies the whole tree.
    tree, priority = jax.lax.optimization_barrier((tree, priority.astype(tree.dtype)))
    return replay._replace(
        priorities=Priorities(_set_leaves(tree, position, priority), jnp.maximum(highest, priority.max()))
    )


def _set_leaves(tree: jax.Array, leaves: jax.Array, values: jax.Array) -> jax.Array:
    """Set leaves and recompute the sums above them level by level, so that rounding errors do not accumulate."""
    first_leaf = len(tree) // 2
    leaves, values = replicate((leaves, values))  # every device has the tree, so only the batch has to be sent
    nodes = leaves + first_leaf

    def up(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tree, nodes = carry
        parents = nodes // 2
        return tree.at[parents].set(tree[2 * parents] + tree[2 * parents + 1]), parents

    # The largest value of a repeated index wins, so the result does not depend on the order of writes.
    tree = tree.at[nodes].set(0.0).at[nodes].max(values)
    return jax.lax.fori_loop(0, int(math.log2(first_leaf)), up, (tree, nodes))[0]


def _draw_leaves(bits: jax.Array, tree: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw leaves `[B]` in proportion to their values, one from each of B equal parts of the sum.

    Returns:
        the leaves and their probabilities `[B]`.
    """
    first_leaf, count = len(tree) // 2, len(bits)
    # A single float has 24 bits, too few to tell the leaves of a large tree apart: positions are pairs of floats.
    upper, lower = (bits >> 16).astype(jnp.float32) * 2.0**-16, (bits & 0xFFFF).astype(jnp.float32) * 2.0**-32
    part = rounding.add((jnp.arange(count, dtype=jnp.float32), lower), upper)
    inverse = jnp.float32(1 / count), jnp.float32(1 / count - float(np.float32(1 / count)))
    position = rounding.multiply(part, rounding.multiply((tree[1], jnp.float32(0.0)), inverse))

    def down(_: int, carry: tuple[jax.Array, rounding.Pair]) -> tuple[jax.Array, rounding.Pair]:
        node, position = carry
        left, right = tree[2 * node], tree[2 * node + 1]
        # A node is its children's rounded sum. Stretched to the exact sum, positions leave no child short.
        total, rest = rounding.add((left, jnp.zeros_like(left)), right)
        position = rounding.add(position, position[0] * (rest / jnp.where(total > 0.0, total, 1.0)))
        beyond = rounding.add(position, -left)
        # Rounding may leave a position beyond the last leaf: never go towards a sum of zero.
        to_right = (right > 0.0) & ((beyond[0] >= 0.0) | (left <= 0.0))
        high, low = (jnp.where(to_right, x, y) for x, y in zip(beyond, position, strict=True))
        return 2 * node + to_right, (high, low)

    node, _ = jax.lax.fori_loop(0, int(math.log2(first_leaf)), down, (jnp.ones(count, jnp.int32), position))
    return node - first_leaf, tree[node] / tree[1]
