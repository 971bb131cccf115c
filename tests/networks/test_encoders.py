"""Encoders: each leaf by its space, images by name, and custom ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nested import nested_cartpole, robot

import rljax
from rljax import networks
from rljax.networks import ActorCritic, QNetwork, Torso
from rljax.networks.encoders import Encoder

KEY = jax.random.key(0)


def sample(space, count=2):
    return jax.vmap(space.sample)(jax.random.split(KEY, count))


def shapes(module, obs):
    return jax.tree.map(lambda x: x.shape, jax.eval_shape(module.init, KEY, obs)["params"])


def test_leaves_are_encoded_by_their_spaces_and_joined_in_order():
    """Integers become one-hot, numbers stay; leaves come in the order of JAX's pytrees."""
    space = nested_cartpole().observation_space
    obs = sample(space, 3)
    features = Encoder(space).apply({}, obs)
    expected = np.concatenate([np.eye(3)[obs["context"]], obs["position"], obs["velocity"]], -1)
    np.testing.assert_allclose(features, expected)


def test_a_nested_observation_gives_what_the_flat_one_gives():
    """With the same parameters, since the encoder of numbers has none."""
    space = nested_cartpole().observation_space
    obs = sample(space, 3)
    nested, flat = Torso(space, (8, 6)), Torso(rljax.Box(-np.inf, np.inf, (7,)), (8, 6))
    vector = Encoder(space).apply({}, obs)
    params = nested.init(KEY, obs)
    jax.tree.map(np.testing.assert_array_equal, params, flat.init(KEY, vector))
    np.testing.assert_array_equal(nested.apply(params, obs), flat.apply(params, vector))


def test_pixels_of_bytes_are_divided_by_255_once_and_boards_of_ones_are_not():
    pixels, board = rljax.Box(0, 255, (4, 4, 1), np.uint8), rljax.Box(0, 1, (4, 4, 1), np.uint8)
    floats = rljax.Box(0, 1, (4, 4, 1))
    obs = sample(pixels)
    torso = Torso(pixels, (8,))
    params = torso.init(KEY, obs)
    same = Torso(floats, (8,)).apply(params, obs.astype(jnp.float32) / 255.0)
    np.testing.assert_allclose(torso.apply(params, obs), same, rtol=1e-6)
    ones = sample(board)
    np.testing.assert_array_equal(
        Torso(board, (8,)).apply(params, ones), Torso(floats, (8,)).apply(params, ones.astype(jnp.float32))
    )


def test_nature_has_the_layers_of_mnih_et_al():
    space = rljax.Box(0, 255, (84, 84, 4), np.uint8)
    made = shapes(Torso(space, (32,), encoder="nature"), jnp.zeros((1, 84, 84, 4), jnp.uint8))
    layers = made["encoder"]["nature"]
    kernels = [layers[f"Conv_{i}"]["kernel"] for i in range(3)] + [layers["Dense_0"]["kernel"]]
    assert kernels == [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64), (7 * 7 * 64, 512)]
    assert made["Dense_0"]["kernel"] == (512, 32)


def test_without_hidden_layers_the_q_network_is_the_one_of_mnih_et_al():
    """1,686,180 numbers for four actions (Mnih et al. 2015, figure 1 and Methods)."""
    space = rljax.Box(0, 255, (84, 84, 4), np.uint8)

    def count(**options):
        made = jax.eval_shape(QNetwork(space, 4, hidden_sizes=(), encoder="nature", **options).init, KEY, obs)
        return sum(x.size for x in jax.tree.leaves(made))

    obs = jnp.zeros((1, 84, 84, 4), jnp.uint8)
    assert count() == 1_686_180
    assert count(dueling=True) == 1_686_180 + 513  # a second stream, to one value
    flat = QNetwork(rljax.Box(-1.0, 1.0, (3,)), 2, hidden_sizes=())
    params = flat.init(KEY, jnp.ones((1, 3)))
    kernel, bias = params["params"]["value"]["kernel"], params["params"]["value"]["bias"]
    found = flat.apply(params, jnp.array([[0.5, -1.0, 2.0]]))
    np.testing.assert_allclose(found[..., 0], jnp.array([[0.5, -1.0, 2.0]]) @ kernel + bias, rtol=1e-6)


def test_impala_has_the_stacks_of_espeholt_et_al():
    space = rljax.Box(0, 255, (16, 12, 3), np.uint8)
    made = shapes(Torso(space, (32,), encoder="impala"), jnp.zeros((1, 16, 12, 3), jnp.uint8))
    layers = made["encoder"]["impala"]
    kernels = [layers[f"Conv_{i}"]["kernel"][2:] for i in range(15)]
    stacks = [(3, 16), *[(16, 16)] * 4, (16, 32), *[(32, 32)] * 4, (32, 32), *[(32, 32)] * 4]
    assert kernels == stacks
    assert layers["Dense_0"]["kernel"] == (2 * 2 * 32, 256)  # halved three times


def test_impala_equals_its_definition():
    """A residual block adds two convolutions, each after a relu, to its input."""
    space = rljax.Box(0, 1, (4, 4, 1))
    image = jax.random.uniform(KEY, (1, 4, 4, 1))
    encoder = Encoder(space, "impala")
    params = encoder.init(KEY, image)["params"]["impala"]
    index = iter(range(15))

    def convolution(x):
        layer = params[f"Conv_{next(index)}"]
        padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
        size = x.shape[1]
        taps = [np.einsum("hwc,cf->hwf", padded[i : i + size, j : j + size], layer["kernel"][i, j])
                for i in range(3) for j in range(3)]  # fmt: skip
        return (sum(taps) + layer["bias"])[None]

    def pooled(x):
        size = x.shape[1]
        half = -(-size // 2)
        before = (2 * (half - 1) + 3 - size) // 2
        places = [range(max(2 * i - before, 0), min(2 * i - before + 3, size)) for i in range(half)]
        return np.array([[x[0][np.ix_(rows, columns)].max((0, 1)) for columns in places] for rows in places])[None]

    x = np.asarray(image)
    for _ in range(3):
        x = pooled(convolution(x))
        for _ in range(2):
            x = x + convolution(np.maximum(convolution(np.maximum(x, 0)), 0))
    features = np.maximum(np.maximum(x, 0).reshape(1, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    np.testing.assert_allclose(encoder.apply({"params": {"impala": params}}, image), features, rtol=1e-4, atol=1e-5)


def test_integers_can_be_embedded():
    space = robot().observation_space
    obs = sample(space)
    torso = Torso(space, (8,), encoder=networks.encoder("impala", embedding=5))
    made = shapes(torso, obs)["encoder"]
    assert {name: layer["embedding"] for name, layer in made.items() if "embedding" in name} == {
        "joints_1_embedding_0": (2, 5), "joints_1_embedding_1": (3, 5),
    }  # fmt: skip
    assert "camera_impala" in made
    assert torso.encoder == networks.encoder("impala", embedding=5)
    assert hash(torso.encoder) == hash(networks.encoder("impala", embedding=5))
    params = torso.init(KEY, obs)
    assert torso.apply(params, obs).shape == (2, 8)
    assert torso.apply(params, jax.tree.map(lambda x: x[None], obs)).shape == (1, 2, 8)


class Sums(nn.Module):
    """The sum of all numbers, times a parameter."""

    @nn.compact
    def __call__(self, obs):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * sum(x.reshape(x.shape[0], -1).sum(-1, keepdims=True) for x in jax.tree.leaves(obs))


def sums(space):
    return Sums()


def test_a_custom_encoder_replaces_the_default_one_and_keeps_the_heads():
    env = nested_cartpole()
    obs = sample(env.observation_space)
    for network in (
        networks.actor_critic(env, (8,), encoder=sums),
        networks.actor_critic(env, (8,), encoder=sums, recurrent="gru"),
        QNetwork(env.observation_space, 2, hidden_sizes=(8, 8), encoder=sums),
        networks.actor_and_critics(env, 2, 2, (8,), "relu", encoder=sums).critics,
    ):
        state = (network.initial_hidden_state(2),) if hasattr(network, "initial_hidden_state") else ()
        names = jax.tree.leaves_with_path(jax.eval_shape(network.init, KEY, obs, *state))
        found = ["/".join(str(part.key) for part in path) for path, _ in names]
        scales = [name for name in found if name.endswith("encoder/scale")]
        assert len(scales) == (2 if isinstance(network, ActorCritic | networks.RecurrentActorCritic) else 1), found
        assert any("Dense_0/kernel" in name for name in found)


def test_the_encoder_is_a_field_of_every_config_with_a_network():
    for algorithm in (rljax.ppo, rljax.a2c, rljax.reinforce, rljax.dqn, rljax.pqn, rljax.sac):
        config = algorithm.Config(env=robot(), encoder="impala")
        assert "impala" in str(jax.eval_shape(lambda c=config, a=algorithm: a.init(KEY, c)).params)
    for given, words in (
        ("natur", "encoder must be one of minatar, nature, impala, history_none, .*, got 'natur'"),
        ("nature", "images 'camera' of at least 36 x 36 pixels"),
        (Sums(), "encoder must be a function that makes the module"),
        (3, "encoder must be a string or a function from a space to a linen module"),
    ):
        with pytest.raises(rljax.UsageError, match=words):
            rljax.ppo.Config(env=robot(), encoder=given)
    with pytest.raises(rljax.UsageError, match="There is no encoder"):
        networks.encoder("cnn")
    with pytest.raises(rljax.UsageError, match="embedding must be an integer of at least 1"):
        networks.encoder(embedding=-1)
