"""Measures of an episode: sums, means, last numbers and outcomes, in rollouts, evaluations and wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import rljax
from rljax import core, envs, rollout

NUM_STEPS, NUM_ENVS = 7, 5


def test_a_rollout_reports_means_over_the_episodes_that_ended_also_those_begun_before():
    """Three rollouts of 7 steps cut episodes of 1 to 3 steps: compared with NumPy over the lengths of all episodes."""
    env = toys.game
    collector = rollout.reset(jax.random.key(0), env, NUM_ENVS)
    fours = jnp.full((NUM_STEPS, NUM_ENVS), 4, jnp.int32)
    play = jax.jit(
        lambda key, collector: rollout.rollout(key, lambda noise, obs: (noise, ()), fours, collector, env, NUM_STEPS)
    )
    begun, carried = np.zeros(NUM_ENVS, int), 0
    for number in range(3):
        collector, seen, metrics = play(jax.random.key(number + 1), collector)
        lengths, ended = [], np.asarray(seen.terminated)
        for t in range(NUM_STEPS):
            begun += 1
            lengths += begun[ended[t]].tolist()
            begun[ended[t]] = 0
        carried += (begun > 0).sum()
        assert metrics["episodes"] == len(lengths)
        for name, values in toys.game_measures(lengths, action=4).items():
            np.testing.assert_allclose(metrics[f"episode_{name}"], values.mean(), rtol=1e-6, err_msg=name)
    assert carried > 3
    assert {"episode_outcome", "episode_length", "episode_return"} - set(metrics) == {"episode_outcome"}


def test_without_an_ended_episode_measures_are_nan_and_no_run_counts_as_diverged():
    env = toys.game.replace(info={**dict(toys.game.info), "speed": "sum"}, step=endless)
    collector = rollout.reset(jax.random.key(0), env, 2)
    _, _, metrics = rollout.rollout(
        jax.random.key(1), lambda noise, obs: (noise, ()), jnp.zeros((3, 2), jnp.int32), collector, env, 3
    )
    assert np.isnan([metrics["episode_speed"], metrics["episode_loss"]]).all()
    assert core.finite_metrics(metrics)
    assert not core.finite_metrics({**metrics, "loss": jnp.float32(jnp.nan)})


def endless(key, state, action, params):
    result, state = toys.game.step(key, state, action, params)
    return result._replace(terminated=jnp.bool_(False)), state


def test_an_evaluation_measures_each_episode_once():
    key = jax.random.key(2)
    episodes = jax.jit(lambda: rljax.play(key, toys.game, lambda key, obs: jnp.full(40, 3, jnp.int32), 40))()
    lengths = np.asarray(episodes.measures["length"])
    np.testing.assert_array_equal(lengths, episodes.returns)  # a reward of one a step
    assert set(lengths.tolist()) == {1, 2, 3}
    expected = toys.game_measures(lengths, action=3)
    assert set(episodes.measures) == {"length", *expected}
    for name, values in expected.items():
        np.testing.assert_allclose(episodes.measures[name], values, rtol=1e-6, err_msg=name)
    assert episodes.ended.all()


def test_the_outcome_of_a_truncated_episode_counts():
    env = envs.time_limit(toys.game.replace(step=endless), 2)
    episodes = rljax.play(jax.random.key(2), env, lambda key, obs: jnp.zeros(30, jnp.int32), 30)
    total = sum(np.asarray(episodes.measures[name]) for name in ("win", "draw", "loss"))
    np.testing.assert_array_equal(total, 1.0)
    # After two steps an episode of three would still report its loss so far.
    assert 0 < episodes.measures["loss"].mean() < 1
    np.testing.assert_array_equal(episodes.measures["length"], 2)


def test_a_fair_coin_is_won_half_of_the_time():
    def flip(key, state, action, params):
        side = 2.0 * jax.random.bernoulli(key) - 1.0
        return rljax.timestep(jnp.zeros(1), side, True, info={"outcome": side}), state

    coin = rljax.Env(
        reset=lambda key, params: (jnp.zeros(1), ()),
        step=flip,
        observation_space=rljax.Box(0, 1, (1,)),
        action_space=rljax.Discrete(2),
        info={"outcome": "last"},
    )
    episodes = rljax.play(jax.random.key(0), coin, lambda key, obs: jnp.zeros(10_000, jnp.int32), 10_000)
    found = {name: float(values.mean()) for name, values in episodes.measures.items()}
    assert abs(found["win"] - 0.5) < 4 * 0.005  # four standard errors
    assert found["draw"] == 0
    assert found["win"] + found["loss"] == 1
    np.testing.assert_array_equal(episodes.returns, episodes.measures["win"] - episodes.measures["loss"])


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_repeated_action_reports_the_sum_the_mean_and_the_last_of_its_steps(times):
    env = envs.repeat_action(toys.game.replace(params=3), times)
    step = jax.jit(env.step)
    for length in (1, 2, 3):
        state, time, ended = (jnp.int32(0), jnp.int32(length)), 0, False
        while not ended:
            result, state = step(jax.random.key(0), state, jnp.int32(2), env.params)
            taken = np.arange(time + 1, min(time + times, length) + 1)
            assert result.info["bumps"] == 2 * len(taken)
            np.testing.assert_allclose(result.info["speed"], taken.mean(), rtol=1e-6)
            assert result.info["distance"] == 10 * taken[-1]
            time, ended = int(taken[-1]), bool(result.terminated)
        assert time == length
        assert result.info["outcome"] == np.sign(length - 2)


def test_other_wrappers_pass_the_info_on():
    env = envs.clip_reward(envs.scale_reward(envs.sticky_actions(envs.frame_stack(toys.game, 2), 0.0), 3.0))
    assert env.info == toys.game.info
    episodes = rljax.play(jax.random.key(2), env, lambda key, obs: jnp.full(20, 3, jnp.int32), 20)
    lengths = np.asarray(episodes.measures["length"])
    np.testing.assert_array_equal(episodes.measures["bumps"], 3 * lengths)
    np.testing.assert_array_equal(episodes.returns, 3 * lengths)


def test_an_environment_without_info_has_no_array_for_it():
    collector = rollout.reset(jax.random.key(0), toys.walk, 2)
    assert collector.info_sums == {}
    assert rljax.timestep(jnp.zeros(1), 0.0, False).info == {}


def info_step(**info):
    """A step that reports just that."""

    def step(key, state, action, params):
        return rljax.timestep(jnp.zeros(1), 0.0, True, info=info), state

    return step


BROKEN = {
    "undeclared": ({}, info_step(speed=1.0), "step reports the info speed and the environment declares nothing"),
    "missing": ({"speed": "sum"}, info_step(), "reports the info nothing and the environment declares speed: make"),
    "vector": ({"speed": "sum"}, info_step(speed=jnp.zeros(3)), r"info speed must be one number, got float32\[3\]"),
    "nan": ({"speed": "sum"}, info_step(speed=jnp.nan), "info speed is NaN or infinite"),
    "outcome": ({"outcome": "last"}, info_step(outcome=2.0), "the outcome at the last step of an episode must be 1, 0"),
    "a list": (
        {"speed": "sum"},
        lambda key, state, action, params: (rljax.timestep(jnp.zeros(1), 0.0, True)._replace(info=[1.0]), state),
        "step must return its info as a dict of numbers, got list",
    ),
    "integers": (
        {"speed": "sum"},
        lambda key, state, action, params: (
            rljax.timestep(jnp.zeros(1), 0.0, True)._replace(info={"speed": jnp.int32(1)}),
            state,
        ),
        "info speed must be a float32 number, got int32: build steps with",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_names_what_is_wrong_with_the_info(case):
    info, step, message = BROKEN[case]
    env = toys.walk.replace(info=info, step=step, reset=lambda key, params: (jnp.zeros(1), ()))
    found = envs.check(env)
    assert len(found) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0])
    assert envs.check(toys.game) == []


def test_training_without_a_check_says_what_is_wrong_too():
    env = toys.walk.replace(step=info_step(speed=1.0), reset=lambda key, params: (jnp.zeros(1), ()))
    with pytest.raises(rljax.UsageError, match=r"^Step reports the info speed and .*Env\(info=\{'speed': 'mean'\}\)"):
        rljax.evaluate(jax.random.key(0), env, lambda key, obs: jnp.zeros(2, jnp.int32), 2)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"speed": "median"}, "info speed must be 'mean', 'sum' or 'last', got 'median'"),
        ({"length": "sum"}, "needs a name like a variable's, except return, length, win, draw, loss, got 'length'"),
        ({"a b": "sum"}, "needs a name like a variable's"),
        ({"outcome": "sum"}, "outcome is that of the last step: declare it as 'last', got 'sum'"),
        ("speed", "info must be a dict such as"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(info, message):
    with pytest.raises(rljax.UsageError, match=message):
        toys.walk.replace(info=info)


def test_the_order_of_a_declaration_does_not_matter():
    ones = [toys.walk.replace(info=info) for info in ({"a": "sum", "b": "mean"}, {"b": "mean", "a": "sum"})]
    assert toys.same_structure(*ones)
