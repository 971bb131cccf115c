"""gymnax: its automatically resetting `step`, vmapped and scanned."""

from typing import Any

import gymnax
import jax
from protocol import Program, serve


def build(job: dict[str, Any]) -> Program:
    """Step with uniform actions, drawn at every step."""
    env, params = gymnax.make(job["env"])
    num_envs = job["num_envs"]
    num_steps = job["steps"] // num_envs
    sample = jax.vmap(env.action_space(params).sample)
    reset, step = jax.vmap(env.reset, (0, None)), jax.vmap(env.step, (0, 0, 0, None))

    def once(state: Any, key: jax.Array) -> Any:
        key_action, key_step = jax.random.split(key)
        action = sample(jax.random.split(key_action, num_envs))
        _, state, reward, *_ = step(jax.random.split(key_step, num_envs), state, action, params)
        return state, reward.sum()

    @jax.jit
    def run(key: jax.Array) -> Any:
        key_reset, key_steps = jax.random.split(key)
        _, state = reset(jax.random.split(key_reset, num_envs), params)
        return jax.lax.scan(once, state, jax.random.split(key_steps, num_steps))

    return Program(
        lambda seed: lambda: jax.block_until_ready(run(jax.random.key(seed))),
        lambda outcome: [outcome[1].sum() / (num_steps * num_envs)],
        num_steps * num_envs,
    )


if __name__ == "__main__":
    serve(build)
