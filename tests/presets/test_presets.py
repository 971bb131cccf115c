"""Presets and variants: what a name stands for."""

import dataclasses

import jax
import pytest

import rljax
from rljax import algos, envs, presets, schedules


@pytest.mark.parametrize("algo", algos.algorithms())
def test_every_tuned_preset_makes_a_config_of_its_algorithm(algo):
    installed = set(envs.registered())
    for env in (name.replace("/*", "/pong") for name in presets.tuned_for(algo)):
        if "/" in env and env not in installed:
            continue
        config = rljax.preset(algo, env)
        assert isinstance(config, algos.algorithm(algo).Config)
        assert config.env.name == env
        assert config.num_updates >= 1


def test_a_variant_changes_values_of_its_base_preset():
    base, double = rljax.preset("dqn", "CartPole-v1"), rljax.preset("double_dqn", "CartPole-v1")
    assert algos.algorithm("double_dqn") is rljax.dqn
    assert double == dataclasses.replace(base, double=True)
    assert rljax.preset("double_dqn", "CartPole-v1", double=False) == base


def test_all_games_share_the_presets_of_their_suite():
    pytest.importorskip("ale_py")
    pong, breakout = (rljax.preset("dqn", f"atari/{game}") for game in ("pong", "breakout"))
    assert pong.buffer_size == breakout.buffer_size == 1_000_000
    assert pong.env.clip_reward == (-1.0, 1.0)
    assert rljax.preset("dqn", rljax.make("atari/pong")) == pong
    assert rljax.preset("n_step_dqn", "atari/pong").double
    assert presets.is_tuned("ppo", "atari/pong")
    assert not presets.is_tuned("sac", "atari/pong")


def test_rainbow_combines_all_extensions():
    config = rljax.preset("rainbow", "Breakout-MinAtar", value_low=0, value_high=20)
    assert config.double
    assert config.dueling
    assert config.prioritized
    assert config.noisy
    assert config.head == "categorical"
    assert config.n_step == 3
    assert config.epsilon == 0.0


@pytest.mark.parametrize("algo", ["c51", "rainbow"])
def test_a_categorical_head_needs_its_support(algo):
    assert rljax.preset(algo, "CartPole-v1").value_high == 100.0
    with pytest.raises(rljax.UsageError, match="needs value_low and value_high"):
        rljax.preset(algo, "Acrobot-v1")
    assert rljax.preset(algo, "Acrobot-v1", value_low=-100, value_high=0).value_low == -100


def test_a_variant_uses_the_base_wrappers():
    assert rljax.preset("prioritized_dqn", "MountainCar-v0").env.normalize_observations


@pytest.mark.parametrize("algo", ["ppo", "prioritized_dqn"])
def test_tuned_values_apply_to_ids_and_to_what_make_returns(algo):
    tuned = rljax.preset(algo, "CartPole-v1")
    made = rljax.make("CartPole-v1")
    assert rljax.preset(algo, made) == tuned
    assert tuned.learning_rate == schedules.linear(2e-3, 0)
    others = (
        rljax.make("CartPole-v1", gravity=5.0),
        rljax.envs.time_limit(made, 50),
        made.replace(name="mine"),
        rljax.Env(
            name="CartPole-v1",
            reset=len,
            step=len,
            observation_space=made.observation_space,
            action_space=made.action_space,
        ),
    )
    for other in others:
        config = rljax.preset(algo, other)
        assert config.env == other
        assert config.learning_rate == algos.algorithm(algo).Config(env=other).learning_rate != tuned.learning_rate
    heavier = jax.jit(lambda gravity: rljax.preset(algo, rljax.make("CartPole-v1", gravity=gravity)).env.params.gravity)
    assert heavier(20.0) == 20.0


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(rljax.UsageError, match="did you mean rainbow"):
        rljax.preset("rainbw", "CartPole-v1")
