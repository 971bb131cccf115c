"""gymnax: every id trains, steps equal those of gymnax and Gymnasium, and objects, wrappers and spaces convert."""

import urllib.error

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces as gymnax_spaces
from gymnax.wrappers import purerl
from tiny_ppo import TINY, assert_finite_losses, evaluate, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo
from rljax.envs.suites.adapting import space_of

NEEDS_DATA = "MNISTBandit-bsuite"
OURS = ("bandits/", "operations/")  # the other suites have tests of their own
TRAINABLE = [x for x in envs.registered() if x != NEEDS_DATA and ("/" not in x or x.startswith(OURS))]


def test_ids_are_registered():
    assert len(TRAINABLE) >= 37 - 1
    assert set(TRAINABLE) >= {"CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "FrozenLake-misc"}


# Breakout stands for its kin by default: each of them takes long to compile.
LONG = {f"{name}-MinAtar" for name in ("Asterix", "Freeway", "Seaquest", "SpaceInvaders")}
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TRAINABLE]


@pytest.mark.parametrize("name", QUICK)
def test_each_id_resets_and_steps(name):
    """Two environments take sixteen random actions, with automatic resets."""
    env = rljax.make(name)
    assert env.name == name
    space = env.observation_space

    def play(key):
        key_reset, key_steps = jax.random.split(key)
        obs, state = env.reset(key_reset, env.params)

        def step(state, key):
            key_action, key_step, key_next = jax.random.split(key, 3)
            result, stepped = env.step(key_step, state, env.action_space.sample(key_action), env.params)
            return envs.begin_next_episode(result, stepped, *env.reset(key_next, env.params))[::-1]

        return obs, jax.lax.scan(step, state, jax.random.split(key_steps, 16))[1]

    obs, result = jax.jit(jax.vmap(play))(two_keys())
    assert (obs.shape, obs.dtype) == ((2, *space.shape), space.dtype)
    for successor in (result.obs, result.next_obs):
        assert (successor.shape, successor.dtype) == ((2, 16, *space.shape), space.dtype)
        assert np.all(np.isfinite(successor))
        if isinstance(space, rljax.Discrete):
            assert np.all((np.asarray(successor) >= 0) & (np.asarray(successor) < space.n))
    assert (result.reward.shape, result.reward.dtype) == ((2, 16), jnp.float32)
    assert np.all(np.isfinite(result.reward))
    for flag in (result.terminated, result.truncated):
        assert (flag.shape, flag.dtype) == ((2, 16), jnp.bool_)


@pytest.mark.parametrize(
    "name",
    [name if name == "Breakout-MinAtar" else pytest.param(name, marks=pytest.mark.slow) for name in TRAINABLE],
)
def test_each_id_trains(name):
    """PPO of two tiny seeds; by default on observations of a grid and of an image."""
    env = rljax.make(name)
    final, metrics = train_two_seeds(two_keys(), ppo.Config(env=env, **TINY))
    assert_finite_losses(metrics)
    assert metrics["env_steps"].tolist() == [[16, 32]] * 2
    seen = np.asarray(final.collector.obs)
    assert seen.shape == (2, 2, *env.observation_space.shape)
    assert np.all(np.isfinite(seen))


def test_missing_mnist_data_raises_one_sentence(monkeypatch):
    def no_network(*arguments):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("gymnax.utils.load_mnist._download", no_network)
    with pytest.raises(rljax.UsageError, match="MNIST") as caught:
        rljax.make(NEEDS_DATA)
    message = str(caught.value)
    assert NEEDS_DATA in message
    assert "no route to host" in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: purerl.FlattenObservationWrapper(gymnax.make("Catch-bsuite")[0]),
        lambda: purerl.StickyActionWrapper(gymnax.make("CartPole-v1")[0], 0.5),
    ],
)
def test_make_refuses_gymnax_wrappers(wrapped):
    # They hand reset_env and step_env of the environment inside through, so that nothing would be wrapped.
    with pytest.raises(rljax.UsageError):
        rljax.make(wrapped())


@pytest.fixture
def register():
    added = []

    def add(name, factory):
        gymnax.register(name, factory)
        added.append(name)

    yield add
    for name in added:
        gymnax.registered_envs.remove(name)
        gymnax.registration._registry.pop(name)


def test_registered_factory_takes_settings(register):
    deep_sea = type(gymnax.make("DeepSea-bsuite")[0])
    register("Sea-test", lambda width=3: deep_sea(size=width))
    register("SeaOfAnySize-test", lambda width: deep_sea(size=width))
    assert "Sea-test" in envs.registered()
    assert rljax.make("Sea-test").observation_space.shape == (3, 3)
    assert rljax.make("Sea-test", width=4).observation_space.shape == (4, 4)
    assert rljax.make("SeaOfAnySize-test", width=4).observation_space.shape == (4, 4)
    with pytest.raises(rljax.UsageError, match="width"):
        rljax.make("Sea-test", with_=4)


@pytest.mark.parametrize("name", ["CartPole-v1", "DeepSea-bsuite"])
def test_make_works_inside_a_traced_function(name, register):
    register(f"{name}-test", type(gymnax.make(name)[0]))  # an id that has not been made before

    def first_observation(key):
        env = rljax.make(f"{name}-test")
        return env.reset(key, env.params)[0]

    inside = jax.eval_shape(first_observation, jax.random.key(0))
    assert first_observation(jax.random.key(0)).shape == inside.shape  # no tracer stayed in the cache


def test_gymnax_object_trains_and_evaluates():
    config = ppo.Config(env=gymnax.make("MountainCar-v0")[0], **TINY)
    states, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics)
    # An untrained policy does not climb the hill: each of the 200 steps costs one.
    assert evaluate(config, jax.tree.map(lambda x: x[0], states)).tolist() == [-200.0] * 3


def with_gravity(config, gravity):
    return rljax.replace(config, env=config.env.replace(params=config.env.params.replace(gravity=gravity)))


@pytest.mark.slow
def test_sweep_over_gravity_is_one_vmap():
    config = ppo.Config(env="CartPole-v1", **TINY)
    assert 9.8 in jax.tree.leaves(config)
    gravities = np.array([0.1, 1.0, 5.0, 9.8, 20.0, 50.0, 100.0, 200.0], np.float32)
    axes = with_gravity(jax.tree.map(lambda _: None, config), 0)
    sweep = jax.jit(jax.vmap(jax.vmap(ppo.train, (0, None)), in_axes=(None, axes)))
    states, metrics = sweep(two_keys(), with_gravity(config, gravities))
    assert metrics["loss"].shape == (8, 2, 2)
    for seed in (0, 1):
        assert len(np.unique(metrics["loss"][:, seed, 0])) == 8

    before = train_two_seeds._cache_size()
    for lane in (0, 3, 7):
        state, alone = train_two_seeds(two_keys(), with_gravity(config, float(gravities[lane])))
        for name, values in alone.items():
            assert np.allclose(metrics[name][lane], values, rtol=1e-3, atol=1e-4, equal_nan=True), (lane, name)
        assert np.allclose(states.collector.obs[lane], state.collector.obs, rtol=1e-3, atol=1e-4)
    assert train_two_seeds._cache_size() <= before + 1  # three gravities, one program


def act_on(space, key, num_steps):
    return jax.vmap(space.sample)(jax.random.split(key, num_steps))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_step_equals_that_of_gymnax(name):
    limit, num_steps = 25, 40
    env = rljax.make(name, max_steps_in_episode=limit)
    environment = gymnax.make(name)[0]

    def run(key, params):
        key_reset, key_actions = jax.random.split(key)
        obs, state = env.reset(key_reset, params)
        their_obs, their_state = environment.reset_env(key_reset, params)
        same_start = jnp.array_equal(obs, their_obs)

        def step(carry, action):
            state, their_state = carry
            result, state = env.step(key, state, action, params)
            obs, their_state, reward, terminated, _ = environment.step_env(key, their_state, action, params)
            truncated = environment.is_truncated(their_state, params)
            return (state, jax.tree.map(jnp.asarray, their_state)), (result, (obs, reward, terminated, truncated))

        carry = jax.tree.map(jnp.asarray, (state, their_state))
        _, steps = jax.lax.scan(step, carry, act_on(env.action_space, key_actions, num_steps))
        return same_start, steps

    same_start, (result, (obs, reward, terminated, truncated)) = jax.jit(run)(jax.random.key(5), env.params)
    assert same_start
    for ours, theirs in ((result.obs, obs), (result.next_obs, obs), (result.reward, reward)):
        assert np.allclose(ours, theirs, rtol=1e-6)
    assert np.array_equal(result.terminated, terminated)
    assert np.array_equal(result.truncated, truncated)
    assert result.truncated.tolist() == [t + 1 >= limit for t in range(num_steps)]
    assert len(np.unique(result.obs, axis=0)) > 10


def cart_pole_state(state, values):
    x, x_dot, theta, theta_dot = values
    return state.replace(x=x, x_dot=x_dot, theta=theta, theta_dot=theta_dot)


@pytest.mark.parametrize(
    ("name", "start", "place", "actions"),
    [
        ("CartPole-v1", [0.03, -0.02, 0.04, 0.01], cart_pole_state, np.resize([0, 1, 1, 0, 1], 20)),
        ("CartPole-v1", [0.0, 0.0, 0.1, 0.5], cart_pole_state, np.zeros(20, int)),
        (
            "Pendulum-v1",
            [2.5, -0.7],
            lambda state, values: state.replace(theta=values[0], theta_dot=values[1]),
            np.linspace(-2.5, 2.5, 20)[:, None],  # also beyond the bounds, where both clip
        ),
        (
            "MountainCar-v0",
            [-0.5, 0.01],
            lambda state, values: state.replace(position=values[0], velocity=values[1]),
            np.resize([2, 2, 1, 0, 2], 20),
        ),
        (
            "MountainCar-v0",
            [0.4, 0.06],
            lambda state, values: state.replace(position=values[0], velocity=values[1]),
            np.full(20, 2),
        ),
    ],
)
def test_step_equals_that_of_gymnasium(name, start, place, actions):
    theirs = gymnasium.make(name).unwrapped
    theirs.reset(seed=0)
    theirs.state = np.array(start, np.float64)
    expected = []
    for action in actions:
        obs, reward, terminated, _, _ = theirs.step(action)
        expected.append((obs, reward, terminated))
        if terminated:
            break
    actions = actions[: len(expected)]
    assert len(expected) >= 2

    env = rljax.make(name)

    def run(params):
        _, state = env.reset(jax.random.key(0), params)
        state = place(state, jnp.array(start, jnp.float32))

        def step(state, action):
            result, state = env.step(jax.random.key(0), state, action, params)
            return state, result

        return jax.lax.scan(step, state, jnp.asarray(actions, env.action_space.dtype))[1]

    result = jax.jit(run)(env.params)
    obs, rewards, terminated = (np.array(column) for column in zip(*expected, strict=True))
    assert np.allclose(result.next_obs, obs, rtol=1e-4, atol=1e-5)
    assert np.array_equal(result.terminated, terminated)
    # gymnax pays nothing for the step that tips the pole over only where a pole had fallen before it.
    assert np.allclose(result.reward, rewards, rtol=1e-4, atol=1e-5)
    assert not np.any(result.truncated)


@pytest.mark.parametrize("name", ["MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc"])
def test_wrong_bounds_of_gymnax_are_dropped(name):
    env = rljax.make(name)
    declared = gymnax.make(name)[0].observation_space(env.params)
    assert np.isfinite(np.asarray(declared.high)).all()
    assert not env.observation_space.bounded.any()
    assert (env.observation_space.shape, env.observation_space.dtype) == (declared.shape, np.float32)
    assert rljax.make(gymnax.make(name)[0]).observation_space == env.observation_space


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE)
def test_each_id_passes_the_checker(name):
    assert envs.check(rljax.make(name)) == []


def test_the_observed_shape_replaces_a_wrong_declared_one():
    class Wider(type(gymnax.make("CartPole-v1")[0])):
        def observation_space(self, params):
            return gymnax_spaces.Box(-1.0, 1.0, (5,), jnp.float32)

    assert rljax.make(Wider()).observation_space == rljax.Box(-np.inf, np.inf, (4,))


def test_gymnax_spaces_are_converted():
    assert space_of(gymnax_spaces.Discrete(3)) == rljax.Discrete(3)
    assert space_of(gymnax_spaces.Box(-1.0, jnp.array([1.0, 2.0]), (2,))) == rljax.Box(-1.0, [1.0, 2.0], (2,))
    assert space_of(rljax.Discrete(3)) == rljax.Discrete(3)
    assert space_of(gymnasium.spaces.Discrete(3)) == rljax.Discrete(3)
    for start in (-1, 1, 7):
        assert space_of(gymnasium.spaces.Discrete(3, start=start)) == rljax.Discrete(3, start)
    assert space_of(gymnasium.spaces.MultiDiscrete([2, 3])) == rljax.MultiDiscrete((2, 3))
    discrete = gymnax_spaces.Discrete(3)
    pair = envs.Tuple((rljax.Discrete(3), rljax.Discrete(3)))
    assert space_of(gymnax_spaces.Dict({"a": discrete, "b": gymnax_spaces.Tuple([discrete, discrete])})) == envs.Dict(
        {"a": rljax.Discrete(3), "b": pair}
    )
    with pytest.raises(rljax.UsageError, match="MultiBinary spaces are not supported"):
        space_of(gymnasium.spaces.MultiBinary(3))


class Pair(type(gymnax.make("CartPole-v1")[0])):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return (obs, obs), state


def test_an_observation_of_several_arrays_is_one_sentence():
    with pytest.raises(rljax.UsageError, match="observes a tuple, which is no element of its Box space"):
        rljax.make(Pair())


@pytest.mark.parametrize("name", TRAINABLE)
def test_no_number_has_64_bits_under_x64(name):
    """Reset and step then agree, so that episodes can be played."""
    with jax.enable_x64(True):
        env = rljax.make(name)
        obs, state = jax.eval_shape(env.reset, jax.random.key(0), env.params)
        action = jax.eval_shape(env.action_space.sample, jax.random.key(0))
        assert action.dtype == env.action_space.dtype
        result, next_state = jax.eval_shape(env.step, jax.random.key(0), state, action, env.params)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), (obs, state))
    assert kinds == jax.tree.map(lambda x: (x.shape, x.dtype), (result.next_obs, next_state))
    assert obs.dtype == env.observation_space.dtype
    assert all(np.dtype(x.dtype).itemsize <= 4 for x in jax.tree.leaves((obs, state, result)))


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "BernoulliBandit-misc", "Catch-bsuite", "Taxi-v3"])
def test_evaluation_under_x64_gives_the_returns_of_32_bits(name):
    def play():
        env = rljax.make(name)
        act = lambda key, obs: jnp.zeros(obs.shape[0], jnp.int32)  # noqa: E731
        return rljax.evaluate(jax.random.key(0), envs.time_limit(envs.flatten_observation(env), 5), act, 3)

    returns = play()
    with jax.enable_x64(True):
        wide = play()
    assert np.isfinite(wide).all()
    if name in ("CartPole-v1", "Acrobot-v1", "Taxi-v3"):  # the rewards of the others are drawn
        np.testing.assert_allclose(wide, returns)
