"""ajax-rl: the program of `agent.train(seed=[...])`, compiled once instead of at every call."""

from typing import Any

import gymnax
import jax
import jax.numpy as jnp
from ajax import DQN, PPO, SAC
from ajax.agents.DQN.train_DQN import mse_td_loss
from ajax.environments.interaction import get_pi
from protocol import Program, gymnax_returns, seeds_of, serve


def agent_of(job: dict[str, Any]) -> Any:
    """Return the agent with the job's values."""
    layers = tuple(part for size in job["hidden"] for part in (str(size), job["activation"]))
    common = {"env_id": job["env"], "n_envs": job["num_envs"], "gamma": job["discount"]}
    both = {
        "actor_learning_rate": job["learning_rate"],
        "critic_learning_rate": job["learning_rate"],
        "actor_architecture": layers,
        "critic_architecture": layers,
    }
    if job["algorithm"] == "ppo":
        return PPO(
            **common,
            **both,
            max_grad_norm=job["max_grad_norm"],
            ent_coef=job["entropy"],
            n_steps=job["num_steps"],
            n_epochs=job["epochs"],
            num_minibatches=job["minibatches"],
            gae_lambda=job["gae_lambda"],
        )
    replayed = {"buffer_size": job["buffer"], "batch_size": job["batch"], "learning_starts": job["prefill"]}
    if job["algorithm"] == "sac":
        starts = {"policy_update_start": job["prefill"], "alpha_update_start": job["prefill"]}
        rates = {"alpha_learning_rate": job["learning_rate"], "tau": job["target_rate"]}
        return SAC(**common, **both, **replayed, **starts, **rates)
    return DQN(
        **common,
        **replayed,
        learning_rate=job["learning_rate"],
        architecture=layers,
        max_grad_norm=job["max_grad_norm"],
        target_update_interval=job["target_period"],
        n_gradient_steps=job["gradient_steps"],
        epsilon_end=job["epsilon_end"],
        epsilon_decay_frac=job["epsilon_fraction"],
        td_loss_fn=mse_td_loss,
    )


def build(job: dict[str, Any]) -> Program:
    """Run all seeds in one program, also for a single seed."""
    agent = agent_of(job)
    train = agent.get_make_train()(
        env_args=agent.env_args,
        actor_optimizer_args=agent.actor_optimizer_args,
        critic_optimizer_args=agent.critic_optimizer_args,
        network_args=agent.network_args,
        agent_config=agent.agent_config,
        total_timesteps=job["steps"],
        num_episode_test=1,
        run_ids=[],
        logging_config=None,
    )
    several = jax.vmap(train)
    continuous = job["algorithm"] == "sac"

    def act(actor: Any, obs: jax.Array) -> jax.Array:
        if obs.ndim > 2 and agent.network_args.cnn_image_shape is None:
            obs = obs.reshape(len(obs), -1)
        pi, _ = get_pi(actor, actor.params, obs, None, False)
        return 2.0 * pi.mean() if continuous else pi.mode()

    env, params = gymnax.make(job["env"])
    evaluate = jax.jit(jax.vmap(gymnax_returns(env, params, act, job)))

    def start(seed: int) -> Any:
        keys, index = seeds_of(seed, job), jnp.arange(job["seeds"])
        return lambda: jax.block_until_ready(several(keys, index))[0]

    return Program(start, lambda states: evaluate(seeds_of(1, job), states.actor_state), job["seeds"] * job["steps"])


if __name__ == "__main__":
    serve(build)
