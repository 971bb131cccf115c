"""The default networks: their shapes for every kind of space, their first weights, what they share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import rljax
from rljax import Box, Discrete, networks
from rljax.networks import ActorCritic, Torso, activation, actor_critic

KEY = jax.random.key(0)


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_a_shared_recurrent_torso_gives_a_sequence_what_it_gives_step_by_step(core):
    network = actor_critic(rljax.make("CartPole-v1"), (8,), shared_torso=True, recurrent=core)
    obs, began = jax.random.normal(KEY, (3, 5, 4)), jnp.zeros((3, 5), bool).at[1, 2].set(True)
    state = network.initial_hidden_state(3)
    params = network.init(KEY, obs[:, 0], state)
    assert set(params["params"]) == {"torso", "Dense_0", "Dense_1"}
    outputs, values, last = network.apply(params, obs, state, began)
    for t in range(5):
        state = networks.reset_hidden_state(state, began[:, t])
        step_outputs, step_values, state = network.apply(params, obs[:, t], state)
        np.testing.assert_allclose(outputs[:, t], step_outputs, atol=1e-6)
        np.testing.assert_allclose(values[:, t], step_values, atol=1e-6)
    for got, want in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def make_env(observation_space, action_space):
    """An environment of those spaces that no test here steps."""
    return rljax.Env(reset=len, step=len, observation_space=observation_space, action_space=action_space)


def obs_of(space, *batch, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, Discrete):
        return jnp.asarray(rng.integers(space.n, size=batch), jnp.int32)
    return jnp.asarray(rng.normal(size=(*batch, *space.shape)), jnp.float32)


def first_weights(network, space):
    return jax.jit(network.init)(KEY, obs_of(space, 2))


def any_weights(network, space):
    """Weights of the right shapes, without the compile that the first ones cost."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, KEY, obs_of(space, 2))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


VECTOR, IMAGE = Box(-1, 1, (4,)), Box(0, 1, (5, 6, 2))


@pytest.mark.parametrize(
    ("space", "first_kernel"),
    [
        (VECTOR, (4, 8)),
        (Box(-1, 1, ()), (1, 8)),
        (Discrete(5), (5, 8)),
        (Box(0, 1, (3, 2)), (6, 8)),
        (IMAGE, (3 * 4 * 16, 8)),
        (Box(0, 1, (2, 2, 1, 3)), (12, 8)),
    ],
    ids=["vector", "scalar", "discrete", "two axes", "image", "four axes"],
)
@pytest.mark.parametrize("shared_torso", [False, True])
def test_shapes_for_any_leading_axes(space, first_kernel, shared_torso):
    network = ActorCritic(space, 6, (8, 5), shared_torso=shared_torso)
    params = jax.eval_shape(network.init, KEY, obs_of(space, 2))
    for batch in [(), (7,), (3, 2), (2, 3, 4)]:
        outputs, value = jax.eval_shape(network.apply, params, obs_of(space, *batch))
        assert outputs.shape == (*batch, 6)
        assert value.shape == batch
    torsos = params["params"]
    assert set(torsos) - {"Dense_0", "Dense_1"} == ({"torso"} if shared_torso else {"actor", "critic"})
    torso = torsos["torso" if shared_torso else "actor"]
    assert torso["Dense_0"]["kernel"].shape == first_kernel
    assert torso["Dense_1"]["kernel"].shape == (8, 5)
    assert ("convolution" in torso) == (len(space.shape) == 3)


def test_leading_axes_do_not_mix_samples():
    network = ActorCritic(IMAGE, 3, (8,))
    params = any_weights(network, IMAGE)
    obs = obs_of(IMAGE, 2, 3)
    apply = jax.jit(network.apply)
    outputs, value = apply(params, obs)
    flat_outputs, flat_value = apply(params, obs.reshape(6, *IMAGE.shape))
    np.testing.assert_allclose(outputs.reshape(6, 3), flat_outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value.reshape(6), flat_value, rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.round(value, 5))) == 6


def test_discrete_observations_are_one_hot():
    space = Discrete(5)
    torso = Torso(space, (8,))
    params = any_weights(torso, space)
    features = jax.jit(torso.apply)(params, jnp.array([0, 3]))
    layer = params["params"]["Dense_0"]
    np.testing.assert_allclose(features, np.tanh(layer["kernel"][[0, 3]] + layer["bias"]), rtol=1e-5, atol=1e-6)


def test_images_pass_a_convolution_of_three_by_three():
    torso = Torso(IMAGE, (8,), "relu")
    params = any_weights(torso, IMAGE)
    obs = obs_of(IMAGE, 1)
    convolution, layer = params["params"]["convolution"], params["params"]["Dense_0"]
    assert convolution["kernel"].shape == (3 * 3 * 2, 16)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(obs[0]), (3, 3), axis=(0, 1))
    pixels = np.einsum("xycij,ijcf->xyf", windows, convolution["kernel"].reshape(3, 3, 2, 16)) + convolution["bias"]
    expected = np.maximum(np.maximum(pixels, 0).reshape(-1) @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(jax.jit(torso.apply)(params, obs)[0], expected, rtol=1e-4, atol=1e-4)


def test_images_smaller_than_the_filter_are_padded():
    space = Box(0, 1, (2, 2, 3))
    network = ActorCritic(space, 3, (8,))
    try:
        params = any_weights(network, space)
    except rljax.UsageError:
        return
    _, value = jax.jit(network.apply)(params, obs_of(space, 2))
    assert value[0] != value[1]


@pytest.mark.parametrize("shared_torso", [False, True])
def test_value_loss_moves_the_actor_only_through_a_shared_torso(shared_torso):
    network = ActorCritic(VECTOR, 3, (8,), shared_torso=shared_torso)
    params, obs = any_weights(network, VECTOR), obs_of(VECTOR, 4)

    @jax.jit
    def slopes(params):
        value_loss = jax.grad(lambda p: jnp.square(network.apply(p, obs)[1] - 1.0).sum())(params)
        policy_loss = jax.grad(lambda p: network.apply(p, obs)[0][:, 0].sum())(params)
        return value_loss["params"], policy_loss["params"]

    def size(tree):
        return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))

    value_loss, policy_loss = slopes(params)
    if shared_torso:
        assert size(value_loss["torso"]) > 0.1
        assert size(policy_loss["torso"]) > 1e-4
    else:
        assert size(value_loss["critic"]) > 0.1
        assert size(value_loss["actor"]) == 0
        assert size(policy_loss["actor"]) > 1e-4
        assert size(policy_loss["critic"]) == 0
    # The policy's last layer, and the value's.
    assert size(value_loss["Dense_0"]) == size(policy_loss["Dense_1"]) == 0


def test_first_weights_are_orthogonal_with_their_gain_and_biases_zero():
    network = actor_critic(make_env(IMAGE, Box(-1, 1, (3,))), (16, 40))
    variables = first_weights(network, IMAGE)
    params, torso = variables["params"], variables["params"]["torso"]
    gains = [
        (torso["convolution"], math.sqrt(2)),
        (torso["Dense_0"], math.sqrt(2)),
        (torso["Dense_1"], math.sqrt(2)),
        (params["Dense_0"], 0.01),
        (params["Dense_1"], 1.0),
    ]
    for layer, gain in gains:
        kernel = np.asarray(layer["kernel"], np.float64).reshape(-1, layer["kernel"].shape[-1])
        # A layer that widens cannot have orthogonal columns: there it is the rows.
        product = kernel @ kernel.T if kernel.shape[0] < kernel.shape[1] else kernel.T @ kernel
        np.testing.assert_allclose(product, gain**2 * np.eye(len(product)), atol=1e-5 * gain**2)
        np.testing.assert_array_equal(layer["bias"], 0.0)
    assert torso["Dense_1"]["kernel"].shape == (16, 40)
    # So the first Gaussian is close to the standard one.
    outputs, _ = jax.jit(network.apply)(variables, 100 * obs_of(IMAGE, 2))
    assert 0 < np.abs(outputs[:, :3]).max() < 0.1
    np.testing.assert_array_equal(outputs[:, 3:], 0.0)


def test_first_policy_is_close_to_uniform():
    network = ActorCritic(VECTOR, 6, shared_torso=True)
    outputs, value = jax.jit(network.apply)(first_weights(network, VECTOR), 100 * obs_of(VECTOR, 300))
    probs = np.asarray(jax.nn.softmax(outputs))
    assert np.abs(probs - 1 / 6).max() < 0.02
    assert np.ptp(probs) > 1e-4
    assert np.std(value) > 0.1


def test_a_gaussians_deviation_does_not_depend_on_the_observation():
    network = actor_critic(make_env(VECTOR, Box(-1, 1, (3,))), (16,))
    params = any_weights(network, VECTOR)
    outputs = np.asarray(jax.jit(network.apply)(params, obs_of(VECTOR, 300))[0])
    np.testing.assert_array_equal(outputs[:, 3:], np.tile(params["params"]["log_std"], (300, 1)))
    assert np.all(np.std(outputs[:, :3], axis=0) > 0.1)


def test_defaults_follow_the_environments_spaces():
    vector = actor_critic(make_env(VECTOR, Discrete(3)), [32], "relu")
    assert (vector.num_outputs, vector.hidden_sizes, vector.activation) == (3, (32,), "relu")
    assert not vector.shared_torso
    assert not vector.state_independent_std
    image = actor_critic(make_env(IMAGE, Box(-1, 1, (2, 3))))
    assert image.num_outputs == 12
    assert image.shared_torso
    assert image.state_independent_std
    assert not actor_critic(make_env(IMAGE, Discrete(2)), shared_torso=False).shared_torso
    assert hash(vector) == hash(actor_critic(make_env(VECTOR, Discrete(3)), (32,), "relu"))


def test_activations_match_their_names():
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    expected = {
        "tanh": np.tanh(x),
        "relu": np.maximum(x, 0),
        "elu": np.where(x > 0, x, np.expm1(x)),
        "silu": x / (1 + np.exp(-x)),
        "gelu": x * np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]),
    }
    for name, values in expected.items():
        # Flax's gelu is the tanh approximation.
        np.testing.assert_allclose(activation(name)(x), values, atol=1e-3 if name == "gelu" else 1e-6)


def test_an_unknown_activation_is_a_usage_error():
    with pytest.raises(rljax.UsageError, match=r"'tahn'.*tanh, relu"):
        activation("tahn")
    network = ActorCritic(VECTOR, 3, (8,), activation="tahn")
    with pytest.raises(rljax.UsageError, match="'tahn'"):
        jax.eval_shape(network.init, KEY, obs_of(VECTOR, 2))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float16])
def test_observations_of_any_dtype_are_cast(dtype):
    network = ActorCritic(IMAGE, 3, (8,))
    obs = np.random.default_rng(0).integers(2, size=(2, *IMAGE.shape))
    params = jax.eval_shape(network.init, KEY, jnp.zeros((2, *IMAGE.shape), dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    outputs, value = jax.eval_shape(network.apply, params, jnp.asarray(obs, dtype))
    assert outputs.dtype == value.dtype == jnp.float32


def test_a_cast_keeps_the_numbers():
    space = Box(0, 255, (3,), np.uint8)
    obs = np.array([[0, 255, 7], [1, 2, 200]])
    for dtype in (np.uint8, np.int32, np.float32):
        features = rljax.envs.as_features(space, jnp.asarray(obs, dtype))
        assert features.dtype == jnp.float32
        np.testing.assert_array_equal(features, obs)


@pytest.mark.parametrize(
    ("n", "dtype"), [(2, np.bool_), (5, np.uint8), (300, np.uint8), (200, np.int8), (5, np.int32), (3, np.float32)]
)
def test_discrete_observations_of_any_dtype_are_one_hot(n, dtype):
    features = functools.partial(rljax.envs.as_features, Discrete(n))
    np.testing.assert_array_equal(features(jnp.asarray([0, 1], dtype)), np.eye(n)[:2])


class Own:
    """No Flax: zeros of given shapes behind the batch's."""

    def __init__(self, *shapes):
        self.shapes = shapes

    def init(self, key, obs):
        return jnp.zeros(3)

    def apply(self, params, obs):
        outputs = tuple(params.sum() * jnp.zeros((*obs.shape[:-1], *shape)) for shape in self.shapes)
        return outputs if len(outputs) > 1 else outputs[0]


@pytest.mark.parametrize(
    ("algorithm", "changes", "right", "wrong", "sentence"),
    [
        (rljax.dqn, {}, [(2, 1)], [(3, 1)], r"must give \(4, 2, 1\) for .* \(4, 4\), but gives \(4, 3, 1\)"),
        (rljax.dqn, {}, [(2, 1)], [(2,)], r"must give \(4, 2, 1\) for .* \(4, 4\), but gives \(4, 2\)"),
        (rljax.dqn, {"head": "quantile", "num_atoms": 5}, [(2, 5)], [(2, 1)], r"must give \(4, 2, 5\) for"),
        (rljax.pqn, {}, [(2, 1)], [(2,)], r"must give \(32, 2, 1\) for .* \(32, 4\), but gives \(32, 2\)"),
        (rljax.ppo, {}, [(2,), ()], [(3,), ()], r"\(\(4, 2\), \(4,\)\) for .*, but gives \(\(4, 3\), \(4,\)\)"),
        (rljax.ppo, {}, [(2,), ()], [(2,), (1,)], r"\(\(4, 2\), \(4,\)\) for .*, but gives \(\(4, 2\), \(4, 1\)\)"),
        (rljax.ppo, {}, [(2,), ()], [(2,)], r"\(\(4, 2\), \(4,\)\) for .*, but gives \(4, 2\)"),
    ],
)
def test_a_custom_network_must_return_what_the_algorithm_reads(algorithm, changes, right, wrong, sentence):
    config = algorithm.Config(env="CartPole-v1", network=Own(*right), **changes)
    state = jax.eval_shape(algorithm.init, KEY, config)
    assert state.params.shape == (3,)
    with pytest.raises(rljax.UsageError, match=sentence):
        jax.eval_shape(algorithm.init, KEY, rljax.replace(config, network=Own(*wrong)))
    with pytest.raises(rljax.UsageError, match=sentence):
        rljax.run(algorithm, rljax.replace(config, network=Own(*wrong)), progress=False)


@pytest.mark.parametrize("features", [1, 2, 3, 6, 7])
def test_a_layer_of_few_outputs_equals_the_product(features):
    layer = networks.dense(features)
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    params = layer.init(jax.random.key(1), x)
    out = jax.random.normal(jax.random.key(2), (3, 5, features))

    def plain(params, x):
        return x @ params["params"]["kernel"] + params["params"]["bias"]

    values, gradients = jax.vjp(layer.apply, params, x)
    expected, expected_gradients = jax.vjp(plain, params, x)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(compare, gradients(out), expected_gradients(out))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5)])
def test_output_of_an_action_does_not_depend_on_the_others(shape):
    outputs = jax.random.normal(jax.random.key(0), shape)
    action = jnp.array([2, 0, 1, 2])
    bad = outputs.at[0, 1].set(jnp.nan).at[3, 0].set(jnp.inf)
    expected = np.asarray(outputs)[np.arange(4), np.asarray(action)]
    np.testing.assert_array_equal(networks.of_action(bad, action), expected)
    slope = jax.grad(lambda x: jnp.sum(networks.of_action(x, action) * expected))(bad)
    np.testing.assert_array_equal(np.asarray(slope)[np.arange(4), np.asarray(action)], expected)
    assert np.count_nonzero(slope) == expected.size


def products_of(function, *arguments):
    """Of each of a function's layers whether it multiplies in mixed precision, in the order of tracing."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "product":
                yield equation.params["mixed"]
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {}),
        ("ppo", {"recurrent": "gru"}),
        ("a2c", {}),
        ("a2c", {"recurrent": "lstm"}),
        ("reinforce", {}),
        ("dqn", {}),
        ("rainbow", {"value_low": 0, "value_high": 1}),
        ("pqn", {}),
        ("sac", {}),
        ("td3", {}),
    ],
)
def test_mixed_precision_applies_to_every_layer(algo, changes):
    env = "Pendulum-v1" if algo == "td3" else "Breakout-MinAtar"
    algorithm, config = rljax.algos.algorithm(algo), rljax.preset(algo, env, **changes)
    mixed = rljax.replace(config, mixed_precision=True)
    of_training, of_mixed = (products_of(algorithm.train, KEY, one) for one in (config, mixed))
    assert of_training
    assert not any(of_training)
    assert of_mixed == [True] * len(of_training)
    states = [jax.eval_shape(algorithm.train, KEY, one)[0] for one in (config, mixed)]
    assert states[0] == states[1]
