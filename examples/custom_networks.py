"""Custom networks for an actor-critic: a Flax linen module, an nnx module, and a pretrained part that stays frozen.

Each maps observations to policy outputs and values: `python examples/custom_networks.py`.
"""

from typing import Any

import flax.linen as nn
import jax
from flax import nnx

import rljax
from rljax import networks, ppo


class LinenActorCritic(nn.Module):
    num_actions: int = 2

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = nn.relu(nn.Dense(64, name="torso")(obs))
        return nn.Dense(self.num_actions, name="actor")(features), nn.Dense(1, name="critic")(features)[..., 0]


class NnxActorCritic(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs, num_inputs: int = 4, num_actions: int = 2) -> None:
        self.torso = nnx.Linear(num_inputs, 64, rngs=rngs)
        self.actor = nnx.Linear(64, num_actions, rngs=rngs)
        self.critic = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = nnx.relu(self.torso(obs))
        return self.actor(features), self.critic(features)[..., 0]


def with_pretrained_torso(trained: Any) -> Any:
    """The linen network with the torso of a trained one: only actor and critic are learned."""
    return networks.frozen(LinenActorCritic(), {"torso": trained["params"]["torso"]})


def train(network: Any, seeds: int, **fields: Any) -> tuple[ppo.State, dict[str, jax.Array]]:
    """Train several seeds; a class or a function of `rngs` makes each seed's own nnx module."""
    config = ppo.Config(
        env=rljax.make("CartPole-v1"), network=network, **{"learning_rate": "linear(2e-3, 0)", **fields}
    )
    return jax.jit(jax.vmap(ppo.train, (0, None)))(jax.random.split(jax.random.key(0), seeds), config)


def main(seeds: int = 4, **fields: Any) -> dict[str, Any]:
    """Train with all three and return the final states and the metrics."""
    results = {"linen": train(LinenActorCritic(), seeds, **fields), "nnx": train(NnxActorCritic, seeds, **fields)}
    first = jax.tree.map(lambda x: x[0], results["linen"][0].params)
    return {**results, "frozen torso": train(with_pretrained_torso(first), seeds, **fields)}


if __name__ == "__main__":
    rljax.configure_jax()
    for name, (_, metrics) in main().items():
        print(f"{name}: {metrics['episode_return'][:, -10:].mean():.0f}")
