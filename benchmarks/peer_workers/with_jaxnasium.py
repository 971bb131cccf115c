"""jaxnasium: `algorithm.train(key, env)`, already jitted; vmapped over keys for many seeds."""

from typing import Any

import equinox as eqx
import jax
import jaxnasium as jym
from jaxnasium.algorithms import DQN, PPO, SAC
from jaxnasium.algorithms.architectures import MLP
from protocol import Program, seeds_of, serve


def algorithm_of(job: dict[str, Any]) -> Any:
    """Return the algorithm with the job's values, without normalisation or logging."""
    body = MLP.with_params(hidden_sizes=tuple(job["hidden"]), activation=getattr(jax.nn, job["activation"]))
    networks = {"body": body}
    common = {
        "total_timesteps": job["steps"] - job["prefill"] * (job["algorithm"] != "ppo"),  # warm-up steps come on top
        "num_envs": job["num_envs"],
        "gamma": job["discount"],
        "max_grad_norm": job["max_grad_norm"],
        "critic_kwargs": networks,
        "normalize_observations": False,
        "normalize_rewards": False,
        "log_function": None,
    }
    if job["algorithm"] == "ppo":
        return PPO(
            **common,
            actor_kwargs=networks,
            learning_rate_start=job["learning_rate"],
            ent_coef_start=job["entropy"],
            ent_coef_end=None,
            gae_lambda=job["gae_lambda"],
            num_steps=job["num_steps"],
            num_minibatches=job["minibatches"],
            num_epochs=job["epochs"],
            warmup_steps=0,
        )
    replayed = {
        "update_every": job["num_envs"] * job["num_steps"],
        "replay_buffer_size": job["buffer"],
        "batch_size": job["batch"],
        "warmup_steps": job["prefill"],
    }
    if job["algorithm"] == "dqn":
        return DQN(
            **common,
            **replayed,
            learning_rate_start=job["learning_rate"],
            epsilon_end=job["epsilon_end"],
            exploration_fraction=job["epsilon_fraction"],
            num_updates=job["gradient_steps"],
            tau=1.0 / job["target_period"],
        )
    rates = {f"learning_rate_{part}_start": job["learning_rate"] for part in ("actor", "critics", "alpha")}
    return SAC(
        **common,
        **replayed,
        **rates,
        actor_kwargs=networks,
        target_entropy_scale_end=None,
        init_alpha=1.0,
        tau=job["target_rate"],
        critics_num_updates=job["gradient_steps"],
        actor_num_updates=job["gradient_steps"],
        alpha_num_updates=job["gradient_steps"],
    )


def build(job: dict[str, Any]) -> Program:
    """Run `train` for one seed, one vmapped program for several."""
    env = jym.make(job["env"])
    if len(env.observation_space.shape) > 1:
        env = jym.FlattenObservationWrapper(env)
    algorithm = algorithm_of(job)
    several = eqx.filter_jit(eqx.filter_vmap(lambda key: algorithm.train(key, env)[0]))

    @eqx.filter_jit
    def evaluate(key: jax.Array, agent: Any) -> jax.Array:
        return agent.evaluate(key, env, num_eval_episodes=job["episodes"]).mean()

    def start(seed: int) -> Any:
        keys = seeds_of(seed, job)
        if job["seeds"] == 1:
            return lambda: jax.block_until_ready(algorithm.train(keys[0], env)[0])
        return lambda: jax.block_until_ready(several(keys))

    def returns(agents: Any) -> Any:
        keys = seeds_of(1, job)
        return [evaluate(keys[0], agents)] if job["seeds"] == 1 else eqx.filter_vmap(evaluate)(keys, agents)

    return Program(start, returns, job["seeds"] * job["steps"])


if __name__ == "__main__":
    serve(build)
