"""Steps of environments on the host: through our loop, and of plain Python's."""

import functools

import jax
import numpy as np

from rljax import rollout


@functools.partial(jax.jit, static_argnums=(0, 3))
def in_our_loop(env, key, actions, num_envs):
    """Observations and a raw trajectory `[T, N, ...]` of given actions; the seeds of the environments, and metrics."""
    key_reset, key_steps = jax.random.split(key)
    collector = rollout.reset(key_reset, env, num_envs)
    seeds = collector.env_state.seed
    _, trajectory, metrics = rollout.rollout(
        key_steps, lambda action, _: (action, action), actions, collector, env, len(actions), raw=True
    )
    return seeds, trajectory, metrics


def random_actions(env, steps, num_envs, seed=0):
    keys = jax.random.split(jax.random.key(seed), (steps, num_envs))
    return jax.vmap(jax.vmap(env.action_space.sample))(keys)


def in_plain_python(worlds, seeds, actions):
    """The same steps of Gymnasium's environments, one after the other: `Trajectory`'s fields `[T, N]`, and returns."""
    columns, returns = [], []
    for world, seed, own in zip(worlds, seeds.tolist(), np.swapaxes(np.asarray(actions), 0, 1), strict=True):
        obs, _ = world.reset(seed=seed)
        rows, total = [], 0.0
        for action in own:
            next_obs, reward, terminated, truncated, _ = world.step(int(action) if action.ndim == 0 else action)
            rows.append((obs, np.float32(reward), terminated, truncated, next_obs))
            obs, total = next_obs, total + reward
            if terminated or truncated:
                returns.append(total)
                obs, total = world.reset()[0], 0.0
        columns.append(jax.tree.map(lambda *x: np.stack(x), *rows))
        world.close()
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *columns), returns


def assert_equal(trajectory, reference):
    """All rows agree, in the dtypes of the spaces."""
    ours = (trajectory.obs, trajectory.reward, trajectory.terminated, trajectory.truncated, trajectory.next_obs)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y.astype(x.dtype)), ours, reference)
