"""Play whole episodes with a policy and return what they earned."""

from typing import Any

import jax
import jax.numpy as jnp

from rljax.envs import Env, make
from rljax.errors import number
from rljax.types import Policy, RecurrentPolicy

MOST_STEPS = 100_000  # of an evaluated episode


def evaluate(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int = 100,
    max_steps: int = MOST_STEPS,
) -> jax.Array:
    """Undiscounted returns `[num_episodes]` of whole episodes, in the environment's raw reward.

    Args:
        key: draws the first states, the steps and the policy's randomness.
        env: the environment, or its id; running statistics are the policy's affair and do not move.
        policy: `(key, obs [num_episodes, ...]) -> action [num_episodes, ...]`, for instance `ppo.act(state, config)`;
            or one with a memory, which begins anew with each episode.
        num_episodes: how many, side by side.
        max_steps: an episode that has not ended by then gives NaN; `play` has its return so far.
    """
    returns, ended = play(key, env, policy, num_episodes, max_steps)
    return jnp.where(ended, returns, jnp.nan)


def play(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int,
    max_steps: int = MOST_STEPS,
) -> tuple[jax.Array, jax.Array]:
    """Undiscounted returns `[num_episodes]`, of whole episodes or of `max_steps` steps, and which episodes ended.

    Its arguments are those of `evaluate`.
    """
    env, num_episodes = make(env), number("num_episodes", num_episodes, whole=True, minimum=1)
    key_reset, key_steps = jax.random.split(key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, num_episodes), env.params)
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    if not isinstance(policy, RecurrentPolicy):
        memoryless = policy
        policy = RecurrentPolicy(lambda _: (), lambda key, obs, _: (memoryless(key, obs), ()))

    def unfinished(carry: Any) -> jax.Array:
        time, _, _, _, _, ended = carry
        return (time < max_steps) & ~jnp.all(ended)

    def step(carry: Any) -> Any:
        time, obs, env_state, memory, returns, ended = carry
        key_policy, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        action, memory = policy.step(key_policy, obs, memory)
        result, env_state = step_env(jax.random.split(key_env, num_episodes), env_state, action, env.params)
        returns = returns + jnp.where(ended, 0.0, result.reward)
        return time + 1, result.next_obs, env_state, memory, returns, ended | result.terminated | result.truncated

    memory = policy.initial_memory(num_episodes)
    start = (jnp.int32(0), obs, env_state, memory, jnp.zeros(num_episodes), jnp.zeros(num_episodes, bool))
    _, _, _, _, returns, ended = jax.lax.while_loop(unfinished, step, start)
    return returns, ended
