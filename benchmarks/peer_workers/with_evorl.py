"""evorl-jax: a workflow's jitted `step` in its `learn`, or vmapped and scanned, both as in its README."""

from typing import Any

import flax.linen as nn
import gymnax
import jax
from evorl.algorithms.dqn import DQNWorkflow
from evorl.algorithms.ppo import PPOWorkflow
from evorl.algorithms.sac import SACWorkflow
from evorl.networks import make_policy_network, make_v_network
from evorl.sample_batch import SampleBatch
from omegaconf import OmegaConf
from protocol import Program, gymnax_returns, seeds_of, serve

WORKFLOWS = {"ppo": PPOWorkflow, "dqn": DQNWorkflow, "sac": SACWorkflow}


def configure(job: dict[str, Any]) -> Any:
    """Return the repository's YAML settings of the algorithm, with the job's values."""
    hidden = list(job["hidden"])
    layers = {f"{part}_hidden_layer_sizes": hidden for part in ("actor", "critic", "q")}
    values = {
        "env": {"env_type": "gymnax", "env_name": job["env"], "max_episode_steps": job["episode_limit"]},
        "num_envs": job["num_envs"],
        "rollout_length": job["num_steps"],
        "total_timesteps": job["steps"],
        "discount": job["discount"],
        "normalize_obs": False,
        "num_eval_envs": 1,
        "eval_episodes": 1,
        "eval_interval": job["steps"],
        "checkpoint": {"enable": False},
        "optimizer": {"lr": job["learning_rate"], "grad_clip_norm": job["max_grad_norm"]},
        "agent_network": {**layers, "policy_obs_key": "", "value_obs_key": "", "num_critics": 2},
    }
    if job["algorithm"] == "ppo":
        values |= {
            "minibatch_size": job["num_envs"] * job["num_steps"] // job["minibatches"],
            "reuse_rollout_epochs": job["epochs"],
            "gae_horizon": 0,
            "gae_lambda": job["gae_lambda"],
            "normalize_gae": True,
            "clip_epsilon": 0.2,
            # Its critic loss is the squared error; ours is half of that.
            "loss_weights": {"actor_loss": 1.0, "critic_loss": 0.25, "actor_entropy": -job["entropy"]},
        }
        return OmegaConf.create(values)
    values |= {
        "fold_iters": 64,
        "random_timesteps": job["prefill"],
        "learning_start_timesteps": job["prefill"],
        "batch_size": job["batch"],
        "replay_buffer_capacity": job["buffer"],
        "num_updates_per_iter": job["gradient_steps"],
        "save_replay_buffer": False,
    }
    if job["algorithm"] == "dqn":
        epsilon = {"start": 1.0, "end": job["epsilon_end"], "exploration_fraction": job["epsilon_fraction"]}
        values |= {"exploration_epsilon": epsilon, "target_type": "DQN", "tau": 1.0}
        return OmegaConf.create(values | {"target_network_update_freq": job["target_period"]})
    actor = {"tau": job["target_rate"], "adaptive_alpha": True, "alpha": 1.0, "actor_update_interval": 1}
    return OmegaConf.create(values | actor | {"target_entropy_ratio": 1.0})


def build(job: dict[str, Any]) -> Program:
    """Run `learn` for one seed, otherwise all steps in one program."""
    scanned = job["seeds"] > 1 or job["mode"] == "scan"
    workflow: Any = WORKFLOWS[job["algorithm"]].build_from_config(configure(job), enable_jit=not scanned)
    if job["algorithm"] == "ppo":
        activation = getattr(nn, job["activation"])
        workflow.agent = workflow.agent.replace(
            policy_network=make_policy_network(workflow.env.action_space.n, job["hidden"], activation=activation),
            value_network=make_v_network(job["hidden"], activation=activation),
        )
        workflow.evaluator = workflow.evaluator.replace(action_fn=workflow.agent.evaluate_actions)
    per_step = job["num_envs"] * job["num_steps"]
    prefill = 0 if job["algorithm"] == "ppo" else job["prefill"]
    loops = -(-(job["steps"] - prefill) // per_step)

    @jax.jit
    @jax.vmap
    def train(key: jax.Array) -> Any:
        return jax.lax.scan(lambda state, _: (workflow.step(state)[1], None), workflow.init(key), None, loops)[0]

    def act(state: Any, obs: jax.Array) -> jax.Array:
        batch = SampleBatch(obs=obs.reshape(len(obs), -1))
        action = workflow.agent.evaluate_actions(state.agent_state, batch, jax.random.PRNGKey(0))[0]
        return 2.0 * action if job["algorithm"] == "sac" else action

    env, params = gymnax.make(job["env"])
    evaluate = jax.jit(jax.vmap(gymnax_returns(env, params, act, job), (0, 0)))

    def start(seed: int) -> Any:
        if scanned:
            return lambda: jax.block_until_ready(train(seeds_of(seed, job)))
        state = jax.block_until_ready(workflow.init(seeds_of(seed, job)[0]))
        return lambda: jax.block_until_ready(workflow.learn(state))

    def returns(states: Any) -> Any:
        states = states.replace(key=None, env_state=None, metrics=None)
        several = states if scanned else jax.tree.map(lambda x: x[None], states)
        return evaluate(seeds_of(1, job), several)

    return Program(start, returns, job["seeds"] * (prefill * scanned + loops * per_step))


if __name__ == "__main__":
    serve(build)
