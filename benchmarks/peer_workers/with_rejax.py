"""rejax: `jax.jit` of `train`, `jax.vmap` over keys, as in its README."""

from typing import Any

import jax
import jax.numpy as jnp
import rejax
from protocol import Program, gymnax_returns, seeds_of, serve


def algorithm(job: dict[str, Any]) -> Any:
    """Return the algorithm with the job's values, without evaluation during the run."""
    common = {
        "env": job["env"],
        "total_timesteps": job["steps"],
        "eval_freq": job["steps"],
        "skip_initial_evaluation": True,
        "learning_rate": job["learning_rate"],
        "gamma": job["discount"],
        "num_envs": job["num_envs"],
        "agent_kwargs": {"activation": job["activation"]},
    }
    if job["algorithm"] == "ppo":
        algo = rejax.PPO.create(
            **{**common, "agent_kwargs": {"activation": job["activation"], "hidden_layer_sizes": job["hidden"]}},
            num_steps=job["num_steps"],
            num_epochs=job["epochs"],
            num_minibatches=job["minibatches"],
            gae_lambda=job["gae_lambda"],
            ent_coef=job["entropy"],
        )
        return algo.replace(eval_callback=lambda *_: ())
    replayed = {
        **common,
        "num_epochs": job["gradient_steps"],
        "batch_size": job["batch"],
        "buffer_size": job["buffer"],
        "fill_buffer": job["prefill"],
    }
    if job["algorithm"] == "dqn":  # its networks are always 64 x 64
        algo = rejax.DQN.create(
            **replayed,
            ddqn=False,
            eps_end=job["epsilon_end"],
            exploration_fraction=job["epsilon_fraction"],
            target_update_freq=job["target_period"] * job["num_envs"] // job["gradient_steps"],
            polyak=0.0,
        )
    else:
        algo = rejax.SAC.create(
            **replayed,
            hidden_layer_sizes=job["hidden"],
            polyak=1.0 - job["target_rate"],
            target_update_freq=1,
        )
    return algo.replace(eval_callback=lambda *_: ())


def build(job: dict[str, Any]) -> Program:
    """Jit one seed, vmap several."""
    algo = algorithm(job)
    train = jax.jit(algo.train) if job["seeds"] == 1 else jax.jit(jax.vmap(algo.train))

    def act(state: Any, obs: Any) -> Any:
        if job["algorithm"] == "dqn":
            return jnp.argmax(algo.agent.apply(state.q_ts.params, obs), axis=-1)
        policy = algo.actor.apply(state.actor_ts.params, obs, method="_action_dist")
        return 2.0 * jnp.tanh(policy.mode()) if job["algorithm"] == "sac" else policy.mode()

    evaluate = jax.jit(jax.vmap(gymnax_returns(algo.env, algo.env_params, act, job)))

    def start(seed: int) -> Any:
        keys = seeds_of(seed, job)
        return lambda: jax.block_until_ready(train(keys[0] if job["seeds"] == 1 else keys))[0]

    def returns(states: Any) -> Any:
        several = jax.tree.map(lambda x: jnp.asarray(x)[None], states) if job["seeds"] == 1 else states
        return evaluate(seeds_of(1, job), several)

    return Program(start, returns, job["seeds"] * job["steps"])


if __name__ == "__main__":
    serve(build)
