"""PPO with a penalty on the KL divergence from a reference policy: another loss, and nothing else of PPO again.

`rljax train examples/kl_penalty.py:ppo_kl --env CartPole-v1 --kl-coefficient 0.1`; its coefficient can be swept, and
`rljax resume` continues it. The reference may also be a trained network, from the states that `rljax.load` returns.
"""

from typing import Any

import jax
import jax.numpy as jnp

import rljax
from rljax import on_policy, ppo, schedules
from rljax.config import config, traced
from rljax.types import Metrics


@config
class Config(ppo.Config):
    kl_coefficient: schedules.Scheduled = traced(default=0.1, minimum=0)
    """Weight of the divergence from the reference policy, a number or a schedule."""


def reference(obs: jax.Array) -> jax.Array:
    """Log-probabilities of a hand-written policy for CartPole that pushes towards the side to which the pole falls."""
    falling = 5.0 * (obs[..., 2] + obs[..., 3])
    return jax.nn.log_softmax(jnp.stack([-falling, falling], axis=-1))


def loss(params: Any, batch: on_policy.Samples, config: Config) -> tuple[jax.Array, Metrics]:
    total, metrics = ppo.loss(params, batch, config)
    logits, _ = ppo.default_network(config.env, config).apply(params, *batch.inputs)
    log_probs = jax.nn.log_softmax(logits)
    kl = jnp.sum(jnp.exp(log_probs) * (log_probs - reference(batch.inputs[0])), axis=-1).mean()
    return total + config.kl_coefficient * kl, {**metrics, "kl": kl}


ppo_kl = rljax.variant(ppo, loss=loss, Config=Config, name="ppo_kl")

if __name__ == "__main__":
    result = rljax.run(ppo_kl, Config(env=rljax.make("CartPole-v1")), seeds=8)
    print(result.metrics["kl"][:, -1])
