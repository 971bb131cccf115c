"""The replay buffer of nested and of stacked observations, against a plain Python list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nested import robot

import rljax
from rljax import dqn, envs, replay, rollout

ENVS, STEPS = 2, 5


def random_space(rng, depth=2):
    """A random nested space."""
    kind = rng.integers(5 if depth else 3)
    if kind == 0:
        return rljax.Box(0, 255, tuple(rng.integers(1, 3, rng.integers(1, 3)).tolist()), np.uint8)
    if kind == 1:
        return rljax.MultiDiscrete(rng.integers(1, 4, rng.integers(1, 3)))
    if kind == 2:
        return rljax.Box(-1.0, 1.0, (int(rng.integers(1, 4)),))
    parts = [random_space(rng, depth - 1) for _ in range(rng.integers(1, 3))]
    return envs.Tuple(parts) if kind == 3 else envs.Dict({f"leaf{i}": part for i, part in enumerate(parts)})


class Played:
    """Random steps of several environments as lists of frames, and their stacks of K frames by hand."""

    def __init__(self, rng, space, num_frames, masked):
        self.rng, self.space, self.num_frames, self.masked = rng, space, num_frames, masked
        self.history = [[self.frame()] for _ in range(ENVS)]  # of the current episode
        self.transitions = [[] for _ in range(ENVS)]  # (obs, action, reward, next_obs, terminated)

    def frame(self):
        def leaf(space):
            low, high = (0, 250) if space.dtype != np.float32 else (-1, 1)
            drawn = self.rng.uniform(low, high, space.shape)
            return np.floor(drawn).astype(space.dtype) if low == 0 else drawn.astype(space.dtype)

        return jax.tree.map(leaf, envs.leaves_of(self.space))

    def stacked(self, history):
        frames = [history[0]] * (self.num_frames - 1) + history
        obs = jax.tree.map(lambda *x: np.concatenate(x, -1), *frames[-self.num_frames :])
        return envs.Masked(obs, np.asarray(jax.tree.leaves(obs)[0]).sum() % np.arange(1, 4) < 1) if self.masked else obs

    def play(self, end_chance=0.4):
        """One step of every environment, as a `Trajectory` `[N, ...]`."""
        rows = []
        for env in range(ENVS):
            obs, following = self.stacked(self.history[env]), self.frame()
            next_obs = self.stacked([*self.history[env], following])
            terminated, truncated = self.rng.uniform(size=2) < end_chance / 2
            reward, action = np.float32(self.rng.normal()), np.int32(self.rng.integers(10**6))
            self.transitions[env].append((obs, action, reward, next_obs, terminated))
            rows.append(rollout.Trajectory(obs, action, reward, terminated, truncated, next_obs))
            self.history[env] = [self.frame()] if terminated or truncated else [*self.history[env], following]
        return jax.tree.map(lambda *x: np.stack(x), *rows)


@pytest.mark.parametrize("seed", range(4))
def test_samples_equal_a_list_for_random_spaces_and_stacks(seed):
    """Every transition that can be drawn, after each of several rollouts, also once the ring has been overwritten."""
    rng = np.random.default_rng(seed)
    num_frames, prioritized, masked = int(rng.integers(1, 5)), bool(seed % 2), seed in (2, 3)
    space = random_space(rng)
    played = Played(rng, space, num_frames, masked)
    capacity = 8
    stack = played.stacked(played.history[0])
    buffer = replay.init(stack, np.int32(0), ENVS, capacity * ENVS, prioritized, 100, num_frames)
    ring = jax.tree.leaves(buffer.obs)
    assert len(ring[0]) == capacity + num_frames
    sizes = [x.size * num_frames / len(x) / ENVS for x in jax.tree.leaves(spaces_of(buffer))]
    whole = jax.tree.leaves(stack.observation if masked else stack)
    assert [x.dtype for x in jax.tree.leaves(spaces_of(buffer))] == [x.dtype for x in whole]
    assert sizes == [x.size for x in whole]  # a single frame of every leaf
    add = jax.jit(lambda buffer, steps: replay.add(buffer, steps, 1, num_frames))
    sample = jax.jit(lambda bits, buffer: replay.sample(bits, buffer, 0.9, 1, 0.5, num_frames=num_frames))
    for _ in range(5):
        steps = jax.tree.map(lambda *x: np.stack(x), *[played.play() for _ in range(STEPS)])
        buffer = add(buffer, steps)
        kept = [row for env in range(ENVS) for row in played.transitions[env][-capacity:]]
        assert int(replay.size(buffer, 1, num_frames)) == len(kept)
        batch = sample(jax.random.bits(jax.random.key(seed), (256,)), buffer)
        by_action = {int(row[1]): row for row in kept}
        assert set(np.asarray(batch.action).tolist()) == set(by_action)
        for i, action in enumerate(np.asarray(batch.action).tolist()):
            obs, _, reward, next_obs, terminated = by_action[action]
            drawn = jax.tree.map(lambda x, i=i: np.asarray(x[i]), batch)
            jax.tree.map(np.testing.assert_array_equal, drawn.obs, obs)
            assert drawn.reward == reward
            assert drawn.discount == np.float32(0.0 if terminated else 0.9)
            assert drawn.weight > 0.0
            if not terminated:
                jax.tree.map(np.testing.assert_array_equal, drawn.next_obs, next_obs)


def spaces_of(buffer):
    return buffer.obs.observation if isinstance(buffer.obs, envs.Masked) else buffer.obs


@pytest.mark.slow
def test_a_run_with_single_frames_equals_one_with_whole_stacks():
    """Bit for bit in its parameters and metrics, with 3-step returns and truncations."""
    stacked = envs.time_limit(envs.frame_stack(robot(), 3), 4)
    assert (stacked.num_frames, envs.flatten_observation(stacked).num_frames) == (3, 1)
    results = []
    for env in (stacked, stacked.replace(num_frames=1)):
        config = dqn.Config(
            env=env, total_steps=80, num_envs=2, num_steps=4, prefill_steps=24, buffer_size=40, batch_size=8,
            hidden_sizes=(8,), n_step=3, successor_slots=40,
        )  # fmt: skip
        results.append(jax.jit(dqn.train)(jax.random.key(0), config))
    (single, metrics), (whole, expected) = results
    jax.tree.map(np.testing.assert_array_equal, (single.params, metrics), (whole.params, expected))
    assert single.replay.obs["camera"].shape == (23, 2, 4, 5, 3)
    assert whole.replay.obs["camera"].shape == (21, 2, 4, 5, 9)


def test_a_million_atari_transitions_need_seven_gigabytes():
    env_obs = jax.ShapeDtypeStruct((84, 84, 4), np.uint8)
    made = jax.eval_shape(
        lambda obs: replay.init(obs, jnp.int32(0), 8, 10**6, False, 1000, num_frames=4),
        env_obs,
    )
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made)) < 7.2e9


def test_a_rollout_longer_than_the_ring_less_its_older_frames_is_refused():
    buffer = replay.init(jnp.zeros(4), jnp.int32(0), 1, 3, num_frames=4)
    steps = rollout.Trajectory(*(jnp.zeros((4, 1, *shape)) for shape in ((4,), (), (), (), (), (4,))))
    with pytest.raises(rljax.UsageError, match="of 4 steps does not fit a replay buffer of 3"):
        replay.add(buffer, steps, num_frames=4)
