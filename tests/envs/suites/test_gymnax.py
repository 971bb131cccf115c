"""Environments: every id, `make`, one's own, parity with gymnax and Gymnasium, the automatic reset, spaces."""

import functools
import importlib
import urllib.error

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnax.environments import spaces as gymnax_spaces
from gymnax.wrappers import purerl

import rljax
from rljax import envs, ppo, rollout, running_statistics
from rljax.envs.suites.gymnax import space_of

TINY = {"num_envs": 2, "num_steps": 8, "num_epochs": 1, "num_minibatches": 2, "hidden_sizes": (8,), "total_steps": 32}
NEEDS_DATA = "MNISTBandit-bsuite"
TRAINABLE = [name for name in envs.registered() if name != NEEDS_DATA]

train_two_seeds = jax.jit(jax.vmap(ppo.train, (0, None)))
module = importlib.import_module("rljax.envs.suites.gymnax")


def two_keys():
    return jax.random.split(jax.random.key(0), 2)


def same_static_parts(left, right):
    left, right = jax.tree.structure(left), jax.tree.structure(right)
    return left == right and hash(left) == hash(right)


def assert_finite_losses(metrics, updates=2, seeds=2):
    for name in ("loss", "policy_loss", "value_loss", "entropy", "gradient_norm"):
        assert metrics[name].shape == (seeds, updates)
        assert np.all(np.isfinite(metrics[name])), name
    assert np.all(metrics["gradient_norm"] > 0)


def reset_own(key, params):
    obs = params["start"] * jax.random.uniform(key, (), minval=0.5, maxval=1.0)
    return obs, (obs, jnp.int32(0), key)


def step_own(key, state, action, params):
    """A drift on the line, with a scalar observation, a scalar action and a key of its own in the state."""
    x, time, own_key = state
    own_key, key_drift = jax.random.split(own_key)
    drift = params["noise"].sum() * jax.random.normal(key_drift)
    x = jnp.clip(x + 0.1 * jnp.tanh(action) + 0.01 * drift, -2.0, 2.0)
    return rljax.timestep(x, -(x**2), x > 1.9, time + 1 >= 5), (x, time + 1, own_key)


def own_env():
    return rljax.Env(
        reset=reset_own,
        step=step_own,
        observation_space=rljax.Box(-2.0, 2.0, ()),
        action_space=rljax.Box(-np.inf, np.inf, ()),
        params={"start": jnp.float32(1.0), "noise": jnp.array([0.5, 0.25, 0.25])},
    )


def image_env(side=4):
    """Bytes that brighten from step to step."""

    def reset(key, params):
        del key, params
        return jnp.zeros((side, side, 1), jnp.uint8), jnp.int32(0)

    def step(key, state, action, params):
        del key, params
        obs = jnp.full((side, side, 1), 50 * (state + 1), jnp.uint8)
        return rljax.timestep(obs, action == 0, state + 1 >= 5), state + 1

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0, 255, (side, side, 1), np.uint8),
        action_space=rljax.Discrete(2),
    )


# Every id


def test_there_are_ids_to_test():
    assert len(envs.registered()) >= 26
    assert len(TRAINABLE) == len(envs.registered()) - 1
    assert set(TRAINABLE) >= {"CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "FrozenLake-misc"}


# Breakout stands for its kin by default: each of them takes a minute to compile.
LONG = {f"{name}-MinAtar" for name in ("Asterix", "Freeway", "Seaquest", "SpaceInvaders")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TRAINABLE]
)
def test_id_resets_steps_and_trains(name):
    env = rljax.make(name)
    assert env.name == name
    space = env.observation_space

    def reset_and_step(key):
        obs, state = env.reset(key, env.params)
        result, next_state = env.step(key, state, env.action_space.sample(key), env.params)
        return obs, state, result, next_state

    # Traced only: the training below compiles and runs the same functions, and compiling is what takes the time.
    obs, state, result, next_state = jax.eval_shape(reset_and_step, jax.random.key(0))
    assert (obs.shape, obs.dtype) == (space.shape, space.dtype)
    for successor in (result.obs, result.next_obs):
        assert (successor.shape, successor.dtype) == (obs.shape, obs.dtype)
    assert (result.reward.shape, result.reward.dtype) == ((), jnp.float32)
    for flag in (result.terminated, result.truncated):
        assert (flag.shape, flag.dtype) == ((), jnp.bool_)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), next_state)

    final, metrics = train_two_seeds(two_keys(), ppo.Config(env=env, **TINY))
    assert_finite_losses(metrics)
    assert metrics["env_steps"].tolist() == [[16, 32]] * 2
    seen = np.asarray(final.collector.obs)
    assert seen.shape == (2, 2, *space.shape)
    assert np.all(np.isfinite(seen))
    if isinstance(space, rljax.Discrete):
        assert np.all((seen >= 0) & (seen < space.n))


def test_mnist_without_its_data_is_one_sentence(monkeypatch):
    def no_network(*arguments):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("gymnax.utils.load_mnist._download", no_network)
    monkeypatch.setattr(module, "_construct", functools.cache(module._construct.__wrapped__))
    with pytest.raises(rljax.UsageError, match="MNIST") as caught:
        rljax.make(NEEDS_DATA)
    message = str(caught.value)
    assert NEEDS_DATA in message
    assert "no route to host" in message
    assert "\n" not in message
    assert message.endswith(".")


# make


def count_traces():
    traces = []

    @jax.jit
    def first_observation(key, env):
        traces.append(env.name)
        return env.reset(key, env.params)[0]

    return first_observation, traces


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"gravity": 5.0}),
        ("DeepSea-bsuite", {"size": 5}),
        ("DeepSea-bsuite", {"size": 5, "unscaled_move_cost": 0.02}),
        ("FrozenLake-misc", {"is_slippery": False, "map_name": "8x8"}),
    ],
)
def test_made_twice_is_compiled_once(name, settings):
    first, second = rljax.make(name, **settings), rljax.make(name, **settings)
    assert same_static_parts(first, second)
    function, traces = count_traces()
    for env in (first, second):
        function(jax.random.key(0), env)
    assert traces == [name]


def test_params_are_not_static_but_constructor_arguments_are():
    function, traces = count_traces()
    for gravity in (1.0, 2.0, 3.0):
        function(jax.random.key(0), rljax.make("CartPole-v1", gravity=gravity))
    assert len(traces) == 1
    for size in (4, 5, 4):
        assert function(jax.random.key(0), rljax.make("DeepSea-bsuite", size=size)).shape == (size, size)
    assert len(traces) == 3


def test_gymnax_object_made_twice_is_compiled_once():
    environment = gymnax.make("CartPole-v1")[0]
    first, second = rljax.make(environment), rljax.make(environment, gravity=5.0)
    assert same_static_parts(first, second)
    assert (first.params.gravity, second.params.gravity) == (9.8, 5.0)
    function, traces = count_traces()
    for env in (first, second):
        function(jax.random.key(0), env)
    assert traces == ["CartPole-v1"]


def test_settings_reach_params_and_constructor():
    env = rljax.make("DeepSea-bsuite", size=5, unscaled_move_cost=0.5)
    assert env.observation_space.shape == (5, 5)
    assert env.params.max_steps_in_episode == 5
    assert env.params.unscaled_move_cost == 0.5
    assert rljax.make("FrozenLake-misc", map_name="8x8").observation_space == rljax.Discrete(64)


def test_settings_need_not_be_hashable():
    lake = rljax.make("FrozenLake-misc", desc=["SFF", "FHG"])
    assert lake.observation_space == rljax.Discrete(6)
    sea = rljax.make("DeepSea-bsuite", size=3, action_mapping_key=jax.random.key(7))

    @jax.jit
    def mappings():
        expected = jax.random.bernoulli(jax.random.key(7), 0.5, (3, 3))
        return sea.reset(jax.random.key(0), sea.params)[1].action_mapping, expected

    assert np.array_equal(*mappings())


def test_env_is_returned_as_it_is():
    env = own_env()
    assert rljax.make(env) is env
    with pytest.raises(rljax.UsageError, match=r"env\.replace"):
        rljax.make(env, gravity=5.0)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: rljax.make("CartPole"), "CartPole-v1"),
        (lambda: rljax.make("cartpole-v2"), "CartPole-v1"),
        (lambda: rljax.make("Breakout-MinAtari"), "Breakout-MinAtar"),
        (lambda: ppo.Config(env="Pendulum"), "Pendulum-v1"),
        (lambda: rljax.make("CartPole-v1", gravty=5.0), "gravity"),
        (lambda: rljax.make("DeepSea-bsuite", sise=5), "size"),
        (lambda: rljax.make(gymnax.make("CartPole-v1")[0], gravty=5.0), "gravity"),
    ],
)
def test_unknown_names_suggest_the_nearest(call, nearest):
    with pytest.raises(rljax.UsageError) as caught:
        call()
    assert nearest in str(caught.value).split(":")[-1]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [3, None, object(), gymnasium.spaces.Discrete(2)])
def test_make_refuses_what_is_no_environment(thing):
    with pytest.raises(rljax.UsageError, match=type(thing).__name__):
        rljax.make(thing)


def test_make_refuses_a_class():
    with pytest.raises(rljax.UsageError):
        rljax.make(type(gymnax.make("CartPole-v1")[0]))


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
def test_make_inside_a_traced_function(name, monkeypatch):
    monkeypatch.setattr(module, "_construct", functools.cache(module._construct.__wrapped__))

    def first_observation(key):
        env = rljax.make(name)
        return env.reset(key, env.params)[0]

    inside = jax.eval_shape(first_observation, jax.random.key(0))
    assert first_observation(jax.random.key(0)).shape == inside.shape  # no tracer stayed in the cache


# Ways to name an environment in a config


def test_config_by_name_is_config_by_env():
    by_name, by_env = ppo.Config(env="CartPole-v1", **TINY), ppo.Config(env=rljax.make("CartPole-v1"), **TINY)
    assert isinstance(by_name.env, rljax.Env)
    assert same_static_parts(by_name, by_env)
    assert by_name.env.params == by_env.env.params


def evaluate(config, state, episodes=3, max_steps=1000):
    return np.asarray(
        jax.jit(lambda key: rljax.evaluate(key, config.env, ppo.act(state, config), episodes, max_steps))(
            jax.random.key(1)
        )
    )


def test_gymnax_object_trains_and_evaluates():
    config = ppo.Config(env=gymnax.make("MountainCar-v0")[0], **TINY)
    states, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics)
    # An untrained policy does not climb the hill: each of the 200 steps costs one.
    assert evaluate(config, jax.tree.map(lambda x: x[0], states)).tolist() == [-200.0] * 3


def test_own_env_trains_and_evaluates():
    """Scalar observation and action, an unbounded action, arrays in the params, a key in the state."""
    config = ppo.Config(env=own_env(), **TINY)
    states, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics)
    assert np.all(metrics["episode_length"] == 5.0)
    returns = evaluate(config, jax.tree.map(lambda x: x[0], states))
    assert returns.shape == (3,)
    # Five steps of at most 0.1 and some noise from a start between 0.5 and 1: minus five squares.
    assert np.all((returns > -5 * 1.8**2) & (returns < 0))
    assert len(set(returns.tolist())) == 3
    assert np.all(np.isnan(evaluate(config, jax.tree.map(lambda x: x[0], states), max_steps=4)))


def test_byte_images_stay_bytes():
    env = envs.normalize_observations(envs.frame_stack(image_env(), 2))
    assert env.observation_space.dtype == np.uint8
    state, metrics = jax.eval_shape(ppo.train, jax.random.key(0), ppo.Config(env=env, **TINY))
    assert (state.collector.obs.shape, state.collector.obs.dtype) == ((2, 4, 4, 2), jnp.uint8)
    assert metrics["loss"].shape == (2,)

    def idle(noise, obs):
        del noise, obs
        return jnp.zeros(2, int), ()

    run = jax.jit(lambda key: rollout.rollout(key, idle, jnp.zeros(16), rollout.reset(key, env, 2), env, 16))
    collector, trajectory, _ = run(jax.random.key(0))
    assert collector.obs.dtype == jnp.uint8
    assert trajectory.obs.dtype == jnp.float32
    # 16 steps of [0, 50, 100, 150, 200] over and over, the newest frame last; an episode starts with two alike.
    newest, oldest = np.resize([0.0, 50, 100, 150, 200], 16), np.resize([0.0, 0, 50, 100, 150], 16)
    assert np.allclose(collector.obs_moments.mean, [oldest.mean(), newest.mean()], rtol=1e-5)
    assert np.allclose(running_statistics.deviation(collector.obs_moments), [oldest.std(), newest.std()], rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_small_images_reach_the_network(side):
    state = jax.eval_shape(ppo.init, jax.random.key(0), ppo.Config(env=image_env(side), **TINY))
    empty = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(state.params) if x.size == 0]
    assert empty == []


# A sweep over the environment's params


def with_gravity(config, gravity):
    return rljax.replace(config, env=config.env.replace(params=config.env.params.replace(gravity=gravity)))


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


# The automatic reset

NUM_STEPS, NUM_ENVS, LIMIT = 100, 256, 30


def coin_flips(key, obs):
    actions = jax.random.randint(key, (NUM_ENVS,), 0, 2)
    return actions, actions


@pytest.fixture(scope="module")
def ours():
    env = rljax.make("CartPole-v1", max_steps_in_episode=LIMIT)

    def run(key):
        key_reset, key_policy, key_rollout = jax.random.split(key, 3)
        start = rollout.reset(key_reset, env, NUM_ENVS)
        noise = jax.random.split(key_policy, NUM_STEPS)
        return start, *rollout.rollout(key_rollout, coin_flips, noise, start, env, NUM_STEPS)

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(3)))


@pytest.fixture(scope="module")
def gymnaxs():
    """Observations, `[T + 1, N, 4]`, and ends `[T, N]`, of gymnax's own loop with its own automatic reset."""
    environment, params = gymnax.make("CartPole-v1")
    params = params.replace(max_steps_in_episode=LIMIT)

    def run(key):
        key_reset, key_loop = jax.random.split(key)
        obs, state = jax.vmap(environment.reset, (0, None))(jax.random.split(key_reset, NUM_ENVS), params)

        def step(state, key):
            key_policy, key_step = jax.random.split(key)
            actions, _ = coin_flips(key_policy, None)
            keys = jax.random.split(key_step, NUM_ENVS)
            following, state, _, terminated, truncated, _ = jax.vmap(environment.step, (0, 0, 0, None))(
                keys, state, actions, params
            )
            return state, (following, terminated, truncated)

        _, (following, terminated, truncated) = jax.lax.scan(step, state, jax.random.split(key_loop, NUM_STEPS))
        return jnp.concatenate([obs[None], following]), terminated, truncated

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(4)))


def episode_lengths(ended):
    """Lengths of all whole episodes in flags `[T, N]`."""
    return np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in ended.T])


def test_automatic_reset_is_distributed_as_gymnaxs(ours, gymnaxs):
    _, _, trajectory, _ = ours
    ended = trajectory.terminated | trajectory.truncated
    their_obs, terminated, truncated = gymnaxs
    theirs_ended = terminated | truncated

    lengths, theirs = episode_lengths(ended), episode_lengths(theirs_ended)
    assert min(len(lengths), len(theirs)) > 800
    assert lengths.max() == theirs.max() == LIMIT
    assert scipy.stats.ks_2samp(lengths, theirs).pvalue > 1e-3

    firsts, their_firsts = trajectory.obs[1:][ended[:-1]], their_obs[1:][theirs_ended]
    assert np.all(np.abs(firsts) <= 0.05)
    for dimension in range(4):
        assert scipy.stats.ks_2samp(firsts[:, dimension], their_firsts[:, dimension]).pvalue > 1e-3
        assert scipy.stats.kstest(firsts[:, dimension], "uniform", args=(-0.05, 0.1)).pvalue > 1e-3

    # Of the episodes that end, as many end by the time limit.
    counts = [[trajectory.terminated.sum(), trajectory.truncated.sum()], [terminated.sum(), truncated.sum()]]
    assert min(counts[0]) > 50
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_all_resets_differ(ours):
    start, collector, trajectory, _ = ours
    ended = trajectory.terminated | trajectory.truncated
    resets = np.concatenate([start.obs, trajectory.obs[1:][ended[:-1]], collector.obs[ended[-1]]])
    assert len(resets) == NUM_ENVS + ended.sum()
    assert len(np.unique(resets, axis=0)) == len(resets)
    # The numbers differ too, in every single dimension: no reset is another one shifted.
    for dimension in range(4):
        assert len(np.unique(resets[:, dimension])) > 0.99 * len(resets)


def test_next_obs_is_the_true_successor(ours):
    start, collector, trajectory, _ = ours
    obs, next_obs = trajectory.obs, trajectory.next_obs
    ended = trajectory.terminated | trajectory.truncated
    assert np.array_equal(obs[0], start.obs)
    # Euler's step moves positions by the velocities before it, also in the step that ends an episode.
    assert np.allclose(next_obs[..., [0, 2]], obs[..., [0, 2]] + 0.02 * obs[..., [1, 3]], atol=1e-5)
    limits = np.array([2.4, 12 * 2 * np.pi / 360])
    beyond = np.any(np.abs(next_obs[..., [0, 2]]) > limits, axis=-1)
    assert np.array_equal(beyond, trajectory.terminated)

    following = np.concatenate([obs[1:], collector.obs[None]])
    assert np.allclose(following[~ended], next_obs[~ended], rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(following[ended]) <= 0.05)
    assert not np.any(np.all(following[ended] == next_obs[ended], axis=-1))


def test_episode_statistics_count_whole_episodes(ours):
    _, collector, trajectory, metrics = ours
    ended = trajectory.terminated | trajectory.truncated
    lengths = episode_lengths(ended)
    assert metrics["episodes"] == len(lengths)
    assert np.isclose(metrics["episode_length"], lengths.mean(), rtol=1e-5)
    assert np.isclose(metrics["episode_return"], lengths.mean(), rtol=1e-5)  # a reward of one a step
    running = [NUM_STEPS - 1 - (np.flatnonzero(column)[-1] if column.any() else -1) for column in ended.T]
    assert collector.episode_length.tolist() == running
    assert collector.env_state.time.tolist() == running
    assert np.array_equal(collector.episode_return, np.array(running, np.float32))


def test_begin_next_episode_of_one_and_of_many():
    result = rljax.timestep(jnp.array([1.0, 2.0]), 0.0, False, True)
    chosen, state = envs.begin_next_episode(result, {"x": jnp.ones(3)}, jnp.zeros(2), {"x": jnp.zeros(3)})
    assert chosen.obs.tolist() == [0.0, 0.0]
    assert chosen.next_obs.tolist() == [1.0, 2.0]
    assert state["x"].tolist() == [0.0, 0.0, 0.0]

    flags = jnp.array([False, True])
    result = rljax.timestep(jnp.ones((2, 2, 1)), jnp.zeros(2), flags)
    chosen, state = envs.begin_next_episode(result, jnp.ones((2, 3)), jnp.zeros((2, 2, 1)), jnp.zeros((2, 3)))
    assert chosen.obs[..., 0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert state.tolist() == [[1.0] * 3, [0.0] * 3]


# Step parity


def act_on(space, key, num_steps):
    return jax.vmap(space.sample)(jax.random.split(key, num_steps))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_step_is_gymnaxs_step(name):
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
def test_step_is_gymnasiums_step(name, start, place, actions):
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


# What a step gives


def test_timestep_has_the_engines_dtypes():
    obs = jnp.array([1, 2])
    for step in (rljax.timestep(obs, 1, 0), rljax.timestep(obs, np.float64(1), np.bool_(False), 0)):
        assert isinstance(step, rljax.TimeStep)
        assert step.obs is obs
        assert step.next_obs is obs
        assert (step.reward.shape, step.reward.dtype) == ((), jnp.float32)
        assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool_, jnp.bool_)
        assert (float(step.reward), bool(step.terminated), bool(step.truncated)) == (1.0, False, False)
    assert bool(rljax.timestep(obs, 0.0, False, True).truncated)
    assert bool(rljax.timestep(obs, 0.0, True).terminated)


def test_replace_changes_a_copy():
    env = rljax.make("CartPole-v1")
    other = env.replace(params=env.params.replace(gravity=1.0), name="moon")
    assert (other.name, other.params.gravity) == ("moon", 1.0)
    assert (env.name, env.params.gravity) == ("CartPole-v1", 9.8)
    assert other.step is env.step
    assert same_static_parts(env, env.replace(params=other.params))
    assert not same_static_parts(env, other)
    with pytest.raises(rljax.UsageError, match="params"):
        rljax.replace(env, parms=())


@pytest.mark.parametrize("name", ["MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc"])
def test_bounds_that_gymnax_declares_wrongly_are_not_believed(name):
    env = rljax.make(name)
    declared = gymnax.make(name)[0].observation_space(env.params)
    assert np.isfinite(np.asarray(declared.high)).all()
    assert not env.observation_space.bounded.any()
    assert (env.observation_space.shape, env.observation_space.dtype) == (declared.shape, np.float32)
    assert rljax.make(gymnax.make(name)[0]).observation_space == env.observation_space


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE)
def test_every_id_keeps_the_contract(name):
    assert envs.check(rljax.make(name)) == []


def test_a_gymnax_environment_that_declares_another_shape_has_the_one_it_returns():
    class Wider(type(gymnax.make("CartPole-v1")[0])):
        def observation_space(self, params):
            return gymnax_spaces.Box(-1.0, 1.0, (5,), jnp.float32)

    assert rljax.make(Wider()).observation_space == rljax.Box(-np.inf, np.inf, (4,))


# Spaces


def test_spaces_compare_and_hash_by_value():
    box = rljax.Box(-1.0, [1.0, 2.0], (2,))
    alike = rljax.Box(np.array([-1.0, -1.0]), np.array([1.0, 2.0]), (2,), "float32")
    assert box == alike
    assert hash(box) == hash(alike)
    others = [
        rljax.Box(-1.0, 1.0, (2,)),
        rljax.Box(-1.0, [1.0, 2.0], (1, 2)),
        rljax.Box(-1.0, [1.0, 2.0], (2,), np.int32),
        rljax.Discrete(2),
    ]
    assert all(box != other for other in others)
    assert rljax.Discrete(3) == rljax.Discrete(3)
    assert hash(rljax.Discrete(3)) == hash(rljax.Discrete(3))
    assert rljax.Discrete(3) != rljax.Discrete(4)
    assert rljax.Box(-jnp.finfo(jnp.float32).max, 1e30, ()) == rljax.Box(-np.inf, np.inf, ())


def draw(space, number=2000):
    return np.asarray(jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), number)))


def test_box_samples_uniformly_within_its_bounds():
    space = rljax.Box([-1.0, 10.0, 0.0], [1.0, 30.0, 0.0], (3,))
    samples = draw(space)
    assert (samples.shape, samples.dtype) == ((2000, 3), np.float32)
    assert np.all((samples >= space.low) & (samples <= space.high))
    assert scipy.stats.kstest(samples[:, 0], "uniform", args=(-1, 2)).pvalue > 1e-3
    assert scipy.stats.kstest(samples[:, 1], "uniform", args=(10, 20)).pvalue > 1e-3
    assert np.all(samples[:, 2] == 0)
    assert abs(np.corrcoef(samples[:, 0], samples[:, 1])[0, 1]) < 0.1


def test_box_samples_without_a_bound_are_gymnasiums():
    """Normal without bounds, exponential from the only one: no mass piles up on a bound."""
    space = rljax.Box([-np.inf, 5.0, -np.inf], [np.inf, np.inf, -0.5], (3,))
    samples = draw(space)
    assert scipy.stats.kstest(samples[:, 0], "norm").pvalue > 1e-3
    assert scipy.stats.kstest(samples[:, 1] - 5.0, "expon").pvalue > 1e-3
    assert scipy.stats.kstest(-0.5 - samples[:, 2], "expon").pvalue > 1e-3
    assert np.all(np.abs(np.corrcoef(samples.T) - np.eye(3)) < 0.1)
    theirs = gymnasium.spaces.Box(space.low, space.high, dtype=np.float32, seed=0)
    drawn = np.stack([theirs.sample() for _ in range(2000)])
    for mine, other in zip(samples.T, drawn.T, strict=True):
        assert scipy.stats.ks_2samp(mine, other).pvalue > 1e-3


def test_whole_numbers_with_one_bound_stay_within_it():
    space = rljax.Box([3, -np.inf, -np.inf], [np.inf, -3, np.inf], (3,), np.int32)
    samples = draw(space)
    assert samples.dtype == np.int32
    assert samples[:, 0].min() == 3
    assert samples[:, 1].max() == -3
    assert abs(samples[:, 2].mean() + 0.5) < 0.1  # the floor of a standard normal
    assert all(samples[:, i].std() > 0.5 for i in range(3))


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (rljax.Discrete(4), [0, 1, 2, 3]),
        (rljax.Box(-2, 2, (), np.int32), [-2, -1, 0, 1, 2]),
        (rljax.Box(0, 3, (), np.uint8), [0, 1, 2, 3]),
        (rljax.Box(0, 1, (), bool), [False, True]),
    ],
)
def test_whole_numbers_are_sampled_evenly(space, values):
    samples = draw(space)
    assert samples.dtype == space.dtype
    counts = [int((samples == value).sum()) for value in values]
    assert sum(counts) == len(samples)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_contains():
    box = rljax.Box([-1.0, -np.inf], [1.0, 5.0], (2,))
    inside = [[0.0, 0.0], [1.0, 5.0], [-1.0, -1e9]]
    outside = [[1.1, 0.0], [0.0, 5.1], [-1.1, 9.0], [np.nan, 0.0]]
    assert all(bool(box.contains(jnp.array(x))) for x in inside)
    assert not any(bool(box.contains(jnp.array(x))) for x in outside)
    assert bool(rljax.Box(0.0, 1.0, ()).contains(jnp.float32(0.5)))
    assert [bool(rljax.Discrete(3).contains(jnp.int32(i))) for i in (-1, 0, 2, 3)] == [False, True, True, False]


def test_from_unit_maps_each_dimension_onto_its_bounds():
    space = rljax.Box([-2.0, 0.0, 10.0], [2.0, 1.0, 30.0], (3,))
    units = jnp.array([[-1.0] * 3, [0.0] * 3, [1.0] * 3, [0.5] * 3, [-3.0] * 3, [3.0] * 3])
    expected = [[-2, 0, 10], [0, 0.5, 20], [2, 1, 30], [1, 0.75, 25], [-2, 0, 10], [2, 1, 30]]
    mapped = space.from_unit(units)
    assert np.allclose(mapped, expected)
    assert mapped.dtype == jnp.float32
    assert np.all((mapped >= space.low) & (mapped <= space.high))


def test_from_unit_passes_unbounded_dimensions():
    space = rljax.Box([-np.inf, 0.0, -np.inf, -4.0], [np.inf, np.inf, 1.0, 4.0], (4,))
    assert space.bounded.tolist() == [False, False, False, True]
    mapped = space.from_unit(jnp.array([[7.0, 7.0, 7.0, 0.5], [-7.0, -7.0, -7.0, -0.5]]))
    assert mapped.tolist() == [[7.0, 7.0, 1.0, 2.0], [-7.0, 0.0, -7.0, -2.0]]
    huge = rljax.Box(-1e29, 1e29, ())
    assert np.allclose(huge.from_unit(jnp.array([-1.0, 0.0, 1.0])), [-1e29, 0.0, 1e29])


@pytest.mark.parametrize(
    "bad",
    [
        lambda: rljax.Box(1.0, -1.0, (2,)),
        lambda: rljax.Box([0.0, 2.0], [1.0, 1.0], (2,)),
        lambda: rljax.Box([0.0, 0.0, 0.0], 1.0, (2,)),
        lambda: rljax.Box(np.zeros((2, 2)), 1.0, (2,)),
        lambda: rljax.Box(np.nan, 1.0, (2,)),
        lambda: rljax.Box(0.0, 1.0, 2),
        lambda: rljax.Discrete(0),
        lambda: rljax.Discrete(-3),
        lambda: rljax.Discrete(2.5),
    ],
)
def test_bad_spaces_are_refused(bad):
    with pytest.raises(rljax.UsageError):
        bad()


def test_from_gymnax():
    assert space_of(gymnax_spaces.Discrete(3)) == rljax.Discrete(3)
    assert space_of(gymnax_spaces.Box(-1.0, jnp.array([1.0, 2.0]), (2,))) == rljax.Box(-1.0, [1.0, 2.0], (2,))
    assert space_of(rljax.Discrete(3)) == rljax.Discrete(3)
    discrete = gymnax_spaces.Discrete(3)
    for space in (gymnax_spaces.Dict({"a": discrete}), gymnax_spaces.Tuple([discrete, discrete])):
        with pytest.raises(rljax.UsageError, match=f"{type(space).__name__} spaces are not supported"):
            space_of(space)


def test_features_are_one_hot_or_floats():
    assert envs.as_features(rljax.Discrete(3), jnp.array([2, 0])).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert envs.observation_shape(rljax.Discrete(3)) == (3,)
    for dtype in (np.uint8, np.int32, bool, np.float32):
        features = envs.as_features(rljax.Box(0, 1, (2,), dtype), jnp.array([[0, 1]], dtype))
        assert features.dtype == jnp.float32
        assert features.tolist() == [[0.0, 1.0]]
