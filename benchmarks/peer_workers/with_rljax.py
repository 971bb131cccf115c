"""rljax: `jax.jit(ppo.train)` for one seed, `rljax.run` for many, as in its README."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from protocol import Program, serve

import rljax
from rljax import dqn, ppo, rollout, sac
from rljax.schedules import linear


def configure(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the algorithm's module and its config."""
    env = rljax.envs.flatten_observation(rljax.make(job["env"]))
    common = {
        "env": env,
        "total_steps": job["steps"],
        "learning_rate": job["learning_rate"],
        "discount": job["discount"],
        "num_envs": job["num_envs"],
        "num_steps": job["num_steps"],
        "hidden_sizes": tuple(job["hidden"]),
        "activation": job["activation"],
        "mixed_precision": job.get("mixed_precision", False),
    }
    if job["algorithm"] == "ppo":
        return ppo, ppo.Config(
            **common,
            num_epochs=job["epochs"],
            num_minibatches=job["minibatches"],
            gae_lambda=job["gae_lambda"],
            entropy_coefficient=job["entropy"],
        )
    replayed = {
        **common,
        "gradient_steps": job["gradient_steps"],
        "batch_size": job["batch"],
        "buffer_size": job["buffer"],
        "prefill_steps": job["prefill"],
    }
    if job["algorithm"] == "sac":
        return sac, sac.Config(**replayed, target_rate=job["target_rate"])
    return dqn, dqn.Config(
        **replayed,
        target_period=job["target_period"],
        epsilon=linear(1.0, job["epsilon_end"], fraction=job["epsilon_fraction"]),
    )


def learn(job: dict[str, Any]) -> Program:
    """Jit one seed; run several over all devices, timing all of `rljax.run` with one evaluation episode."""
    algorithm, config = configure(job)
    train = jax.jit(algorithm.train)

    def start(seed: int) -> Any:
        if job["seeds"] == 1:
            return lambda: jax.block_until_ready(train(jax.random.key(seed), config))[0]
        options: Any = {"seeds": job["seeds"], "evaluations": 0, "eval_episodes": 1, "progress": False}
        return lambda: rljax.run(algorithm, config, seed=seed, **options).states

    @jax.jit
    @jax.vmap
    def evaluate(key: jax.Array, state: Any) -> jax.Array:
        return rljax.evaluate(key, config.env, algorithm.act(state, config), job["episodes"]).mean()

    def returns(states: Any) -> Any:
        several = jax.tree.map(lambda x: np.asarray(x)[None] if job["seeds"] == 1 else np.asarray(x), states)
        return evaluate(jax.random.split(jax.random.key(1), job["seeds"]), several)

    env_steps = job["prefill"] * (algorithm is not ppo) + config.num_updates * config.steps_per_update
    return Program(start, returns, job["seeds"] * env_steps)


def step_at_random(job: dict[str, Any]) -> Program:
    """Roll out uniform actions, one slice of time after another."""
    env, num_envs, num_steps = rljax.make(job["env"]), job["num_envs"], job["num_steps"]
    times = job["steps"] // (num_envs * num_steps)
    env_steps = times * num_envs * num_steps

    def one_slice(collector: rollout.Collector, key: jax.Array) -> tuple[rollout.Collector, jax.Array]:
        key_action, key_rollout = jax.random.split(key)
        actions = jax.random.randint(key_action, (num_steps, num_envs), 0, env.action_space.n)  # type: ignore[union-attr]
        collector, trajectory, _ = rollout.rollout(
            key_rollout, lambda action, _: (action, action), actions, collector, env, num_steps
        )
        return collector, trajectory.reward.sum()

    @jax.jit
    def run(key: jax.Array) -> Any:
        key_reset, key_steps = jax.random.split(key)
        slices = jax.random.split(key_steps, times)
        return jax.lax.scan(one_slice, rollout.reset(key_reset, env, num_envs), slices)

    return Program(
        lambda seed: lambda: jax.block_until_ready(run(jax.random.key(seed))),
        lambda outcome: [jnp.sum(outcome[1]) / env_steps],
        env_steps,
    )


if __name__ == "__main__":
    serve(lambda job: step_at_random(job) if job["algorithm"] == "random" else learn(job))
