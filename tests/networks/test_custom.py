"""Networks of Flax nnx, and networks with frozen parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rljax
from rljax import networks, ppo
from rljax.experiment.description import describe
from rljax.networks import custom


class Stack(nnx.Module):
    def __init__(self, *, rngs, dropout=False):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if dropout else None

    def __call__(self, obs):
        return self.layers[1](jnp.tanh(self.layers[0](obs)))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(2, name="last")(nn.Dense(4, name="torso")(obs))


OBS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


def test_an_nnx_module_gives_its_own_outputs_and_other_parameters_for_another_key():
    network, key = custom.adapted(Stack), jax.random.key(1)
    params = network.init(key, OBS)
    np.testing.assert_array_equal(network.apply(params, OBS), Stack(rngs=nnx.Rngs(key))(OBS))
    assert list(params["layers"]) == ["0", "1"]
    others = network.init(jax.random.key(2), OBS)
    assert np.abs(others["layers"]["0"]["kernel"] - params["layers"]["0"]["kernel"]).max() > 0.1
    gradient = jax.jit(jax.grad(lambda params: network.apply(params, OBS).sum()))(params)
    np.testing.assert_allclose(gradient["layers"]["1"]["bias"], 5.0)


def test_nnx_modules_that_do_not_fit_are_refused():
    with pytest.raises(rljax.UsageError, match="leave out batch statistics and dropout"):
        custom.adapted(lambda rngs: Stack(rngs=rngs, dropout=True)).init(jax.random.key(0), OBS)
    with pytest.raises(rljax.UsageError, match="must be a function that makes the nnx module"):
        ppo.Config(env="CartPole-v1", network=Stack(rngs=nnx.Rngs(0)))
    assert describe(ppo.Config(env="CartPole-v1", network=Stack).network) == f"{__name__}:Stack"


@pytest.mark.parametrize(("network", "part"), [(Linen(), "torso"), (Stack, "layers")])
def test_a_frozen_part_is_no_parameter_and_the_same_for_every_key(network, part):
    plain = custom.adapted(network)
    pretrained = plain.init(jax.random.key(0), OBS)
    parts = pretrained.get("params", pretrained)
    made = networks.frozen(network, {part: parts[part]})
    fresh = made.init(jax.random.key(1), OBS)
    assert part not in fresh.get("params", fresh)
    whole = plain.init(jax.random.key(1), OBS)
    whole.get("params", whole)[part] = parts[part]
    np.testing.assert_array_equal(made.apply(fresh, OBS), plain.apply(whole, OBS))
    assert not hasattr(made, "initial_hidden_state")
    assert f"{part}=" in describe(ppo.Config(env="CartPole-v1", network=made).network)
    with pytest.raises(rljax.UsageError, match=f"'{part}' does not fit"):
        networks.frozen(network, {part: {"kernel": jnp.zeros((1, 1))}}).init(jax.random.key(1), OBS)
