"""Learning on nested observations, on bytes, and with several discrete actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nested import nested_cartpole, robot
from reference import trained_returns
from toys import optimized

import rljax
from rljax import a2c, algos, dqn, envs, ppo, reinforce, sac

OFF_POLICY = {"num_envs": 2, "prefill_steps": 20, "buffer_size": 40, "batch_size": 8, "total_steps": 40}
ON_POLICY = {"num_envs": 2, "num_steps": 16, "total_steps": 64}


def trained(algorithm, env, **fields):
    config = algorithm.Config(env=env, hidden_sizes=(8,), **fields)
    return jax.jit(algorithm.train)(jax.random.key(0), config)


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {**ON_POLICY, "num_minibatches": 2}),
        pytest.param(dqn, {**OFF_POLICY, "n_step": 2}, marks=pytest.mark.slow),
        pytest.param(ppo, {**ON_POLICY, "num_minibatches": 2, "recurrent": "gru"}, marks=pytest.mark.slow),
        pytest.param(sac, OFF_POLICY, marks=pytest.mark.slow),
        pytest.param(a2c, ON_POLICY, marks=pytest.mark.slow),
        pytest.param(reinforce, {**ON_POLICY, "max_episode_steps": 20}, marks=pytest.mark.slow),
    ],
)
def test_a_run_on_nested_observations_equals_one_on_flat_ones(algorithm, fields):
    """Numbers and one-hot integers are joined by the network as by the wrapper, so that all parameters are equal."""
    env = envs.time_limit(nested_cartpole(), 9)
    nested, metrics = trained(algorithm, env, **fields)
    flat, expected = trained(algorithm, envs.flatten_observation(env), **fields)
    for got, want in zip(jax.tree.leaves(nested.params), jax.tree.leaves(flat.params), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(metrics["reward"], expected["reward"])
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4)


def pair_of_choices():
    """One step: `[2, 3]` rewards that depend on a coin; the best pairs are (1, 2) for heads and (0, 1) for tails."""
    rewards = jnp.array([[[0.0, 0.4, 0.2], [0.5, 0.1, 1.0]], [[0.3, 1.0, 0.2], [0.6, 0.0, 0.4]]])

    def reset(key, params):
        coin = jax.random.bernoulli(key).astype(jnp.int32)
        return {"coin": coin}, coin

    def step(key, coin, action, params):
        return rljax.timestep({"coin": coin}, rewards[coin, action[0], action[1]], True), coin

    return rljax.Env(
        name="choices", reset=reset, step=step, observation_space=envs.Dict({"coin": rljax.Discrete(2)}),
        action_space=rljax.MultiDiscrete((2, 3)),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {"num_envs": 16, "num_steps": 8, "total_steps": 30_000, "learning_rate": 1e-2}),
        (a2c, {"num_envs": 16, "num_steps": 8, "total_steps": 60_000, "learning_rate": 1e-2}),
        (reinforce, {"num_envs": 16, "num_steps": 8, "max_episode_steps": 2, "total_steps": 30_000}),
        # With little entropy the product settles before the values are known, on pairs that no single change improves.
        (sac, {"num_envs": 4, "total_steps": 6_000, "temperature": 0.2, "tune_temperature": False}),
    ],
)
def test_several_actions_are_chosen_together(algorithm, fields):
    """The known optimum pays 1; the best action of each part by itself does not."""
    config = algorithm.Config(env=pair_of_choices(), hidden_sizes=(32,), discount=0.9, **fields)
    with optimized():
        returns = trained_returns(algorithm, config, seeds=5)
    assert np.median(returns) > 0.99


def test_algorithms_of_single_actions_refuse_several_in_one_sentence():
    env = robot(rljax.MultiDiscrete((2, 3)))
    for algorithm in (dqn, rljax.pqn):
        with pytest.raises(rljax.UsageError, match=r"MultiDiscrete.*: use ppo, a2c, reinforce or sac"):
            algorithm.Config(env=env)
    with pytest.raises(rljax.UsageError, match="needs continuous actions"):
        rljax.td3.Config(env=env)


@pytest.mark.parametrize("algorithm", [ppo, dqn])
def test_integers_are_counted_from_their_start_in_the_environment(algorithm):
    """Actions are emitted with their start, observations encoded without it."""

    def reset(key, params):
        return jnp.int32(5), jnp.int32(0)

    def step(key, state, action, params):
        reward = jnp.where((action >= 7) & (action < 9), 1.0, -100.0)
        return rljax.timestep(jnp.int32(6), reward, True), state

    env = rljax.Env(
        reset=reset, step=step, observation_space=rljax.Discrete(2, start=5), action_space=rljax.Discrete(2, start=7)
    )
    fields = {**ON_POLICY, "num_minibatches": 2} if algorithm is ppo else OFF_POLICY
    state, metrics = trained(algorithm, env, **fields)
    assert np.all(metrics["reward"] == 1.0)
    policy = algorithm.act(state, algorithm.Config(env=env, hidden_sizes=(8,), **fields))
    assert set(np.asarray(policy(jax.random.key(0), jnp.array([5, 6]))).tolist()) <= {7, 8}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["impala", "nature"])
def test_bytes_are_learned_from(encoder):
    """Catch from pixels of bytes, stored as bytes, next to a vector."""
    catch = rljax.make("Catch-bsuite")
    size = 36 if encoder == "nature" else 10

    def shown(obs):
        board = jnp.round(obs * 255).astype(jnp.uint8)[..., None]
        image = jax.image.resize(board.astype(jnp.float32), (size, size, 1), "nearest").astype(jnp.uint8)
        return image, obs.sum(axis=1)

    def reset(key, params):
        obs, state = catch.reset(key, params)
        return shown(obs), state

    def step(key, state, action, params):
        result, state = catch.step(key, state, action, params)
        obs = shown(result.next_obs)
        return result._replace(obs=obs, next_obs=obs), state

    space = envs.Tuple((rljax.Box(0, 255, (size, size, 1), np.uint8), rljax.Box(0, 2, (10,))))
    env = catch.replace(reset=reset, step=step, observation_space=space, recipe=(None,), name="catch")
    config = ppo.Config(
        env=env, encoder=encoder, hidden_sizes=(32,), num_envs=16, num_steps=32, total_steps=40_000, learning_rate=1e-3
    )
    with optimized():
        returns = trained_returns(ppo, config, seeds=1)
    assert returns.mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo", "a2c", "dqn", "sac"])
def test_nested_cartpole_is_learned_as_the_flat_one(name):
    """With the tuned values of CartPole; the 95% intervals of 20 seeds overlap."""
    preset = rljax.preset(name, "CartPole-v1")
    finals = []
    with optimized():
        for env in (nested_cartpole(), envs.flatten_observation(nested_cartpole())):
            config = rljax.replace(preset, env=env)
            result = rljax.run(algos.algorithm(name), config, seeds=20, seed=100, evaluations=1, progress=False)
            finals.append(result.summary["final_return"])
    nested, flat = finals
    assert max(nested["ci95"][0], flat["ci95"][0]) <= min(nested["ci95"][1], flat["ci95"][1])
    assert nested["iqm"] > 400
