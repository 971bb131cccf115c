"""Tables of networks."""

import flax.linen as nn
import jax
import pytest
from flax import nnx

import rljax
from rljax import cli, networks, ppo, q_learning, sac
from rljax.report.architecture import describe


def cells(text):
    return {cell.strip() for line in text.splitlines() for cell in line.split("\u2502")}


def test_the_command_line_prints_layers_shapes_and_counts(capsys):
    assert cli.main(["describe", "ppo", "--env", "CartPole-v1", "--hidden-sizes", "8", "--shared-torso"]) == 0
    told = capsys.readouterr().out
    assert {"torso", "Dense_0", "torso/Dense_0", "bias: float32[8]", "kernel: float32[4,8]"} <= cells(told)
    assert f"{4 * 8 + 8 + 8 * 2 + 2 + 8 + 1} learned parameters" in told
    for arguments, words in ((["ppo"], "Name the environment"), (["q_learning", "--env", "Taxi-v3"], "has no network")):
        assert cli.main(["describe", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_actor_and_critics_are_described():
    text = describe(sac, sac.Config(env="Pendulum-v1", hidden_sizes=(8,)))
    actor, critics = 3 * 8 + 8 + 8 * 2 + 2, 2 * (4 * 8 + 8 + 8 + 1)
    assert f"{actor + critics} learned parameters" in text
    assert {"kernel: float32[3,8]", "kernel: float32[2,4,8]"} <= cells(text)


class Model(nnx.Module):
    def __init__(self, *, rngs):
        self.torso, self.actor, self.critic = (nnx.Linear(4, n, rngs=rngs) for n in (8, 2, 1))

    def __call__(self, obs):
        return self.actor(obs), self.critic(obs)[..., 0]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, obs):
        features = nn.Dense(3, name="torso")(obs)
        return nn.Dense(2)(features), nn.Dense(1)(features)[..., 0]


def test_custom_networks_are_described():
    text = describe(ppo, ppo.Config(env="CartPole-v1", network=Model))
    assert {"actor", "kernel: float32[4,2]"} <= cells(text)
    assert f"{5 * 11} learned parameters" in text
    torso = Linen().init(jax.random.key(0), jax.numpy.zeros((1, 4)))["params"]["torso"]
    text = describe(ppo, ppo.Config(env="CartPole-v1", network=networks.frozen(Linen(), {"torso": torso})))
    assert "frozen: torso" in text
    assert f"{4 * 3} learned parameters" in text
    with pytest.raises(rljax.UsageError, match="q_learning has no network"):
        describe(q_learning, q_learning.Config(env="Taxi-v3"))
