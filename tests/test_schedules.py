"""Schedules follow their formulas, with numbers that may be traced, swept and written to files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import core, ppo, q_learning, schedules
from rljax.config import with_values
from rljax.experiment import sweeps

PROGRESS = np.linspace(0.0, 1.0, 21)
HALF = np.minimum(PROGRESS / 0.5, 1.0)
LATE = np.maximum(PROGRESS - 0.2, 0.0) / 0.8  # after a warm-up of a fifth
RISE = np.minimum(PROGRESS / 0.2, 1.0)
CASES = {
    "0.3": np.full(21, 0.3),
    "constant(0.3, warmup=0.2)": 0.3 * RISE,
    "linear(0.8, 0.2)": 0.8 - 0.6 * PROGRESS,
    "linear(0.8, 0)": 0.8 * (1 - PROGRESS),
    "linear(0.8, 0.2, fraction=0.5)": 0.8 - 0.6 * HALF,
    "linear(0.8, 0.2, 0)": np.full(21, 0.2),
    "linear(0.8, 0.2, warmup=0.2)": RISE * (0.8 - 0.6 * LATE),
    "exponential(0.8, 0.2)": 0.8 * 0.25**PROGRESS,
    "cosine(0.8, 0.2)": 0.2 + 0.3 * (1 + np.cos(np.pi * PROGRESS)),
    "piecewise((0.8, 0.4, 0.1), (0.25, 0.5))": np.select([PROGRESS < 0.25, PROGRESS < 0.5], [0.8, 0.4], 0.1),
    "piecewise((0.8, 0.4), (0.3,), warmup=0.2)": RISE * np.where(LATE < 0.3, 0.8, 0.4),
    "per_episode(0.8, 0.05, 0.9)": np.full(21, 0.8 * 0.9**5),
}


@pytest.mark.parametrize("text", CASES)
def test_values_follow_the_formula_also_with_mapped_numbers(text):
    schedule = schedules.of("learning_rate", text)
    assert schedules.of("learning_rate", repr(schedule)) == schedule
    twice = jax.tree.map(lambda x: np.float32([x, x]), schedule)
    of_all = jax.vmap(lambda schedule: jax.vmap(lambda p: schedules.value(schedule, p, 5))(jnp.float32(PROGRESS)))
    values = of_all(twice)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, [CASES[text]] * 2, rtol=2e-6, atol=1e-7)


def test_a_decay_per_episode_stops_at_its_end():
    decay = schedules.per_episode(1.0, 0.05, 0.995)
    values = [float(schedules.value(decay, 0.0, episodes)) for episodes in (0, 1, 200, 5000)]
    assert values == pytest.approx([1.0, 0.995, 0.995**200, 0.05], rel=1e-5)


INVALID = {
    "linear(1)": "missing 1 required positional argument",
    "linear(1, 0": "learning_rate must be a number or a schedule",
    "linaer(1, 0)": "did you mean linear",
    "linear(-1, 0)": "start of learning_rate must be at least 0",
    "linear(1, 0, fraction=2)": r"fraction of learning_rate must be in \[0, 1\]",
    "linear(1, inf)": "learning_rate must be a number or a schedule",
    "exponential(1, 0)": "raise the end of learning_rate above 0",
    "piecewise((1, 2), (0.5, 0.6))": "one value more than boundaries",
    "visits(1, 0.5)": "only the step_size of tables can",
    "high": "learning_rate must be a number or a schedule",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_schedule_is_one_sentence(text):
    with pytest.raises(rljax.UsageError, match=INVALID[text]) as error:
        ppo.Config(env="CartPole-v1", learning_rate=text)
    assert "\n" not in str(error.value)


def test_fields_of_another_kind_are_refused():
    config = ppo.Config(env="CartPole-v1")
    assert with_values(config, {"learning_rate.kind": "cosine"}).learning_rate == schedules.cosine(2.5e-4, 0)
    with pytest.raises(rljax.UsageError, match="has no decay"):
        with_values(config, {"learning_rate.decay": 0.5})


def test_sweeps_vary_a_schedules_numbers_in_one_program_and_whole_schedules():
    config = ppo.Config(env="CartPole-v1")
    points = sweeps.points(config, {"learning_rate.start": [1e-3, 1e-4], "clip": [0.1, 0.3]})
    (group,) = sweeps.groups(points)
    np.testing.assert_allclose(group.config.learning_rate.start, [1e-3, 1e-3, 1e-4, 1e-4])
    assert group.axes.learning_rate.end is None
    points = sweeps.points(config, {"learning_rate": [1, "cosine(1e-3)", schedules.linear(2e-3, 0)]})
    assert [p.values["learning_rate"] for p in points] == [1.0, schedules.cosine(1e-3), schedules.linear(2e-3, 0)]
    assert len(sweeps.groups(points)) == 3


def test_metrics_have_the_current_values_of_all_scheduled_fields():
    config = ppo.Config(env="CartPole-v1", clip="linear(0.2, 0.1)", entropy_coefficient=0.01, total_steps=512 * 8)
    now, values = core.scheduled(config, 2)
    assert set(values) == {"learning_rate", "clip", "entropy_coefficient"}
    assert now.clip == values["clip"] == pytest.approx(0.175)
    assert values["learning_rate"] == pytest.approx(0.75 * 2.5e-4)


def test_epsilon_decays_with_the_episodes_of_all_environments():
    env = rljax.envs.time_limit("FrozenLake-misc", 5)
    config = q_learning.Config(env=env, total_steps=200, num_envs=2, num_steps=10, epsilon="per_episode(1, 0.1, 0.9)")
    _, metrics = jax.jit(q_learning.train)(jax.random.key(0), config)
    before = np.concatenate([[0], np.cumsum(metrics["episodes"])[:-1]])
    assert before[-1] >= 36
    np.testing.assert_allclose(metrics["epsilon"], np.maximum(0.1, 0.9**before), rtol=1e-5)
