"""The loops: rollouts, minibatches, training in chunks, evaluation."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import core, evaluation, rollout
from rljax.types import Metrics


def counter(limit=5):
    """Observes its own time; the reward is the action; ends after `limit` steps."""

    def reset(key, params):
        return jnp.zeros(1), jnp.int32(0)

    def step(key, state, action, params):
        state = state + 1
        return rljax.timestep(state[None].astype(jnp.float32), action, state >= limit), state

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0.0, float(limit), (1,)),
        action_space=rljax.Discrete(4),
        name="counter",
    )


def test_a_rollout_carries_episodes_over_and_keeps_true_successors():
    env = counter(limit=5)
    collector = rollout.reset(jax.random.key(0), env, num_envs=2)

    def policy(noise, obs):
        return jnp.full(2, 2, jnp.int32), obs[:, 0]

    play = jax.jit(
        lambda key, collector: rollout.rollout(key, policy, jnp.zeros((4, 2)), collector, env, 4),
    )
    collector, first, metrics = play(jax.random.key(1), collector)
    np.testing.assert_array_equal(first.obs[:, 0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(first.next_obs[:, 0, 0], [1, 2, 3, 4])
    assert int(metrics["episodes"]) == 0
    assert np.isnan(metrics["episode_return"])
    collector, second, metrics = play(jax.random.key(2), collector)
    np.testing.assert_array_equal(second.obs[:, 1, 0], [4, 0, 1, 2])
    np.testing.assert_array_equal(second.next_obs[:, 1, 0], [5, 1, 2, 3])
    np.testing.assert_array_equal(second.terminated[:, 1], [True, False, False, False])
    np.testing.assert_array_equal(second.action, second.obs[..., 0])
    assert int(metrics["episodes"]) == 2
    assert float(metrics["episode_return"]) == 10.0
    assert float(metrics["episode_length"]) == 5.0
    np.testing.assert_array_equal(collector.episode_return, [6.0, 6.0])


def lottery():
    """Episodes of one to three steps that observe, from beginning to end, the number that their reset drew."""

    def reset(key, params):
        number = jax.random.randint(key, (), 0, 2**30)
        return number, (number, jnp.int32(0))

    def step(key, state, action, params):
        number, time = state
        return rljax.timestep(number, 1.0, time + 1 > number % 3), (number, time + 1)

    space = rljax.Discrete(2**30)
    return rljax.Env(reset=reset, step=step, observation_space=space, action_space=rljax.Discrete(2))


def play_lottery(key, num_envs=3, num_steps=40):
    collector = rollout.reset(jax.random.key(0), lottery(), num_envs)
    noise = jnp.zeros((num_steps, num_envs), jnp.int32)
    return rollout.rollout(key, lambda noise, obs: (noise, ()), noise, collector, lottery(), num_steps)


def test_every_episode_begins_with_a_reset_of_its_own():
    _, seen, metrics = jax.jit(play_lottery)(jax.random.key(1))
    begun = np.roll(seen.terminated, 1, axis=0)
    begun[0] = True
    numbers = np.asarray(seen.obs)[begun]
    assert len(numbers) > 50  # many more than are drawn at a time
    assert len(np.unique(numbers)) == len(numbers)
    lengths = np.asarray(seen.obs)[np.asarray(seen.terminated)] % 3 + 1
    assert float(metrics["episode_length"]) == pytest.approx(lengths.mean(), rel=1e-6)


@pytest.mark.parametrize("stock", [1, 3, 40])
def test_how_many_resets_are_drawn_at_a_time_changes_no_bit(monkeypatch, stock):
    expected = jax.jit(play_lottery)(jax.random.key(1))
    monkeypatch.setattr(rollout, "_RESETS_PER_DRAW", stock)
    jax.clear_caches()
    jax.tree.map(np.testing.assert_array_equal, jax.jit(play_lottery)(jax.random.key(1)), expected)


def test_runs_side_by_side_share_no_resets_and_draw_them_in_a_branch():
    keys = jax.random.split(jax.random.key(1), 4)
    program = jax.jit(jax.vmap(play_lottery)).lower(keys).compile()
    assert re.search(r"\bconditional\(", program.as_text())  # a select would draw at every step
    _, together, _ = program(keys)
    alone = [jax.jit(play_lottery)(key)[1].obs for key in keys]
    np.testing.assert_array_equal(together.obs, np.stack(alone))
    assert len(np.intersect1d(together.obs[0, 3:], together.obs[1, 3:])) == 0


def test_where_any_computes_only_where_something_asks_for_it():
    def halved(mask, x):
        return rollout.where_any(mask, lambda: x / 2, x)

    x, mask = jnp.arange(6.0).reshape(2, 3), jnp.array([[False, True, False], [False, False, False]])
    expected = np.where(mask, x / 2, x)
    np.testing.assert_array_equal(halved(mask, x), expected)
    np.testing.assert_array_equal(jax.vmap(halved)(mask, x), expected)  # in one run and not in the other
    np.testing.assert_array_equal(halved(jnp.zeros_like(mask), x), x)
    program = jax.jit(jax.vmap(halved)).lower(mask, x).compile()
    assert re.search(r"\bconditional\(", program.as_text())  # a select would compute at every call


def test_minibatches_visit_every_sample_once_an_epoch():
    indices = np.asarray(core.minibatches(jax.random.key(0), 60, 4, 3))
    assert indices.shape == (12, 15)
    epochs = indices.reshape(3, 60)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(60), (3, 1)))
    assert (epochs[0] != epochs[1]).mean() > 0.8


def test_minibatches_are_uniform():
    """Where sample 0 lands, over many keys: chi-square over 8 places, and independent of where sample 1 lands."""
    from scipy import stats

    keys = jax.random.split(jax.random.key(0), 4000)
    order = np.asarray(jax.jit(jax.vmap(lambda key: core.minibatches(key, 8, 1, 1)[0]))(keys))
    place = np.argsort(order, axis=1)
    assert stats.chisquare(np.bincount(place[:, 0], minlength=8)).pvalue > 1e-3
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (place[:, 0], place[:, 1]), 1)
    assert stats.chisquare(pairs[~np.eye(8, dtype=bool)]).pvalue > 1e-3


def test_gradient_step_descends_and_reports_the_norm():
    import optax

    optimizer = optax.sgd(0.1)
    params = jnp.array([3.0, 4.0])
    stepped, _, aux, norm = core.gradient_step(
        lambda p, scale: (scale * 0.5 * jnp.sum(p**2), "aux"), params, optimizer, optimizer.init(params), 2.0
    )
    np.testing.assert_allclose(stepped, [2.4, 3.2], rtol=1e-6)
    assert float(norm) == pytest.approx(10.0)
    assert aux == "aux"


def test_evaluate_counts_each_episode_once():
    """Episodes of different lengths side by side: the return is that of the first episode of each."""

    def reset(key, params):
        length = jax.random.randint(key, (), 1, 9)
        return length[None].astype(jnp.float32), (length, jnp.int32(0))

    def step(key, state, action, params):
        length, time = state
        return rljax.timestep(length[None].astype(jnp.float32), 1.0, time + 1 >= length), (length, time + 1)

    env = rljax.Env(reset=reset, step=step, observation_space=rljax.Box(0, 9, (1,)), action_space=rljax.Discrete(2))
    seen = []

    def policy(key, obs):
        seen.append(obs.shape)
        return jnp.zeros(50, jnp.int32)

    returns = jax.jit(lambda key: evaluation.evaluate(key, env, policy, 50))(jax.random.key(0))
    lengths = jax.vmap(lambda key: env.reset(key, ())[1][0])(
        jax.random.split(jax.random.split(jax.random.key(0))[0], 50)
    )
    np.testing.assert_array_equal(returns, lengths)
    assert len(np.unique(returns)) == 8
    assert seen == [(50, 1)]


def test_an_episode_that_does_not_end_gives_nan():
    env = counter(limit=10)
    returns = evaluation.evaluate(jax.random.key(0), env, lambda key, obs: jnp.ones(3, jnp.int32), 3, max_steps=4)
    assert np.isnan(returns).all()
    with pytest.raises(rljax.UsageError, match="num_episodes must be a whole number of at least 1"):
        evaluation.evaluate(jax.random.key(0), env, lambda key, obs: obs, 0)


# --- training in chunks --------------------------------------------------------------------------------------------


class Branching(NamedTuple):
    """A state whose counter decides between two expensive branches."""

    weights: jax.Array
    step: jax.Array


def branching_init(key: jax.Array, config: Any) -> Branching:
    return Branching(jax.random.normal(key, (16, 16)), jnp.int32(0))


def branching_update(key: jax.Array, state: Branching, config: Any) -> tuple[Branching, Metrics]:
    noise = 0.01 * jax.random.normal(key, (16, 16))
    weights = jax.lax.cond(
        state.step % 3 == 2, lambda w: jnp.linalg.matrix_power(w, 5) / 1e3, lambda w: w + noise, state.weights
    )
    return Branching(weights, state.step + 1), {"sum": weights.sum(), "env_steps": state.step}


@rljax.config.config
class Seven:
    env: Any = rljax.traced(default=())
    scale: float = rljax.traced(default=1.0)

    @property
    def num_updates(self) -> int:
        return 7


def test_chunks_of_any_length_give_the_same_bits():
    key = jax.random.key(0)
    _, key_updates, _ = core.training_keys(key)
    whole, history = jax.jit(lambda key: core.train(branching_init, branching_update, key, Seven()))(key)

    @jax.jit
    def advance(state, first, count):
        return core.advance(branching_update, key_updates, state, Seven(), first, count, 4)

    state = jax.jit(branching_init)(core.training_keys(key)[0], Seven())
    rows = []
    for first, count in ((0, 3), (3, 1), (4, 3)):
        state, metrics = advance(state, first, count)
        rows.append(metrics["sum"][:count])
    np.testing.assert_array_equal(state.weights, whole.weights)
    np.testing.assert_array_equal(np.concatenate(rows), history["sum"])


def test_a_branch_on_the_counter_stays_a_branch_under_vmap():
    """A select would run both sides for every seed at every step."""
    keys = jax.random.split(jax.random.key(0), 4)

    def train(key, config):
        return core.train(branching_init, branching_update, key, config)

    program = jax.jit(jax.vmap(train, (0, None))).lower(keys, Seven()).compile().as_text()
    assert re.search(r"\bconditional\(", program)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (rljax.ppo, rljax.ppo.Config(env=rljax.make("Pendulum-v1"), total_steps=512)),
        lambda: (rljax.reinforce, rljax.reinforce.Config(env=rljax.make("Pendulum-v1"))),
        lambda: (rljax.dqn, rljax.dqn.Config(env=rljax.make("CartPole-v1"), total_steps=1100, prioritized=True)),
    ],
)
def test_training_takes_numbers_of_64_bits(make):
    """What a loop carries keeps its types: parameters, moments and priorities stay of 32 bits."""
    with jax.enable_x64(True):
        algorithm, config = make()
        state, _ = jax.eval_shape(algorithm.train, jax.random.key(0), config)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
