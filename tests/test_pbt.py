"""Population-based training: which run copies which, how values change, and a population that finds the best rate."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import own

import rljax
from rljax import core, pbt

EXPLORE = {"rate": (0.01, 1.0)}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk, num_updates=60)


@pytest.fixture(scope="module")
def trained(config):
    traces = []

    @jax.jit
    def train(key, config):
        traces.append(1)
        return pbt.train(own, key, config, EXPLORE, population=8, interval=5)

    result = train(jax.random.key(3), config)
    other = train(jax.random.key(4), rljax.replace(config, poison_at=10**5))
    assert len(traces) == 1
    assert not np.array_equal(result.scores, other.scores)
    return result


def test_shapes_of_population_based_training(trained):
    assert trained.states.params.shape == (8, 2)
    assert trained.states.step.shape == ()  # counters stay one for all
    assert int(trained.states.step) == 60
    assert trained.values["rate"].shape == (13, 8)
    assert trained.scores.shape == trained.parents.shape == (12, 8)
    assert trained.metrics["env_steps"].shape == (8, 60)


def test_the_worst_copy_the_best(trained):
    for scores, parents in zip(np.asarray(trained.scores), np.asarray(trained.parents), strict=True):
        order = np.argsort(scores)
        copied = np.flatnonzero(parents != np.arange(8))
        assert sorted(copied) == sorted(order[:2])
        assert set(parents[copied]) <= set(order[-2:])


def test_copies_are_perturbed_within_bounds(trained):
    rates, parents = np.asarray(trained.values["rate"]), np.asarray(trained.parents)
    assert rates.min() >= 0.01
    assert rates.max() <= 1.0
    assert rates[0].max() / rates[0].min() > 3
    for before, after, parent in zip(rates[:-1], rates[1:], parents, strict=True):
        own_place = parent == np.arange(8)
        np.testing.assert_array_equal(after[own_place], before[own_place])
        ratio = after / before[parent]
        moved = np.isclose(ratio, 1.25) | np.isclose(ratio, 0.8) | np.isin(after, np.float32([0.01, 1.0]))
        assert np.all(moved[~own_place])


def test_the_best_rate_is_found(trained):
    """The further a run goes the better it is, and the higher its rate the further it goes."""
    rates = np.asarray(trained.values["rate"])
    assert np.median(rates[-1]) > 1.5 * np.median(rates[0])
    assert trained.scores[-1].mean() > trained.scores[0].mean()


def test_a_copy_continues_from_the_state_of_its_parent(config):
    """One round, then another by hand: states and values as `parents` says, then ordinary updates."""
    one = pbt.train(own, jax.random.key(3), rljax.replace(config, num_updates=5), EXPLORE, population=8, interval=5)
    two = pbt.train(own, jax.random.key(3), rljax.replace(config, num_updates=10), EXPLORE, population=8, interval=5)
    np.testing.assert_array_equal(one.values["rate"], two.values["rate"][:2])
    key_runs = jax.random.split(jax.random.split(jax.random.key(3), 3)[1], 8)
    for i in range(8):
        key_updates = core.training_keys(key_runs[i])[1]
        state = type(one.states)(one.states.params[i], one.states.step)
        mine = rljax.replace(config, rate=one.values["rate"][1][i])
        _, metrics = core.advance(own.update, key_updates, state, mine, 5, 5, 5)
        np.testing.assert_allclose(metrics["episode_return"], two.metrics["episode_return"][i, 5:], rtol=1e-6)


def test_scores_parents_and_values_follow_from_metrics_and_keys(config):
    """Two fields, updates with different numbers of episodes, and states that hold the values they began with."""

    def init(key, config):
        return toys.State(jnp.stack([config.rate, config.env.params.height]), jnp.int32(0))

    def update(key, state, config):
        episodes, step = jax.random.randint(key, (), 0, 4), state.step + 1
        score = jnp.where(episodes > 0, jax.random.normal(jax.random.fold_in(key, 1)), jnp.nan)
        return state._replace(step=step), {"env_steps": step, "episodes": episodes, "episode_return": score}

    remembering = SimpleNamespace(init=init, update=update)
    explore = {"rate": (0.01, 1.0), "env.params.height": (-1.0, 3.0)}
    short = rljax.replace(config, num_updates=15)
    trained = pbt.train(remembering, jax.random.key(3), short, explore, population=8, interval=5)

    episodes, returns = (np.asarray(trained.metrics[name]).reshape(8, 3, 5) for name in ("episodes", "episode_return"))
    scores = (np.nansum(episodes * returns, axis=2) / episodes.sum(axis=2)).T
    np.testing.assert_allclose(trained.scores, scores, rtol=1e-5)
    key_rounds = jax.random.split(jax.random.key(3), 3)[2]
    began = np.arange(8)
    for index in range(3):
        key_parents, key_values = jax.random.split(jax.random.fold_in(key_rounds, index))
        parents = pbt.exploit(key_parents, trained.scores[index], 0.25)
        # JAX sorts the keys of a dict that it carries.
        before = {path: trained.values[path][index] for path in sorted(trained.values)}
        after = {path: values[index + 1] for path, values in trained.values.items()}
        np.testing.assert_array_equal(trained.parents[index], parents)
        assert toys.same_bits(after, pbt.perturb(key_values, before, parents, explore, 1.25))
        began = began[np.asarray(parents)]
    rates, heights = (np.asarray(values[0]) for values in trained.values.values())
    np.testing.assert_array_equal(trained.states.params, np.stack([rates, heights], axis=1)[began])
    assert np.abs(np.log(rates / 0.01) / np.log(100) - (heights + 1) / 4).max() > 0.1  # two draws, not one


def test_values_rise_or_fall_with_equal_chance_in_each_field():
    values = {"first": jnp.ones(2001), "second": jnp.ones(2001)}
    bounds = dict.fromkeys(values, (0.1, 10.0))
    after = pbt.perturb(jax.random.key(0), values, jnp.zeros(2001, jnp.int32), bounds, 2.0)
    risen = np.stack([after[name][1:] == 2.0 for name in values])
    assert all(set(np.unique(after[name][1:])) == {0.5, 2.0} for name in values)
    np.testing.assert_allclose(risen.mean(axis=1), 0.5, atol=0.05)
    assert np.mean(risen[0] == risen[1]) == pytest.approx(0.5, abs=0.05)


def test_a_diverged_run_is_replaced(config):
    """Whatever returns it still reports; here those without parameters get the highest."""
    proud = SimpleNamespace(
        init=own.init,
        act=own.act,
        update=lambda key, state, config: (
            own.update(key, state, config)[0],
            {"env_steps": state.step, "episode_return": jnp.nan_to_num(state.params.sum(), nan=1e9)},
        ),
    )
    poisoned = rljax.replace(config, num_updates=30, poison_at=7)
    trained = pbt.train(proud, jax.random.key(3), poisoned, EXPLORE, population=8, interval=5, fraction=0.5)
    first = np.asarray(trained.states.params[:, 0])
    assert (first > 0).sum() == 0  # the poisoned ones are those whose first parameter is positive
    assert np.isfinite(trained.states.params).all()


def test_a_run_whose_loss_is_nan_is_never_copied(config):
    """As in an experiment, though its parameters are finite and its return is the highest."""

    def update(key, state, config):
        following, metrics = own.update(key, state, config)
        lost = state.params[0] > 0
        return following, {**metrics, "loss": jnp.where(lost, jnp.nan, 0.0), "episode_return": 1.0 + 9.0 * lost}

    lossy = SimpleNamespace(init=own.init, update=update)
    short = rljax.replace(config, num_updates=5)
    trained = pbt.train(lossy, jax.random.key(3), short, EXPLORE, population=8, interval=5, fraction=0.5)
    lost = np.isnan(trained.metrics["loss"]).any(axis=1)
    np.testing.assert_array_equal(np.isnan(trained.scores[0]), lost)
    copies = np.asarray(trained.parents[0]) != np.arange(8)
    assert lost[copies].all()
    assert copies.sum() == 4
    assert not lost[trained.parents[0][copies]].any()


def test_a_metric_may_be_an_array(config, trained):
    def update(key, state, config):
        following, metrics = own.update(key, state, config)
        return following, {**metrics, "params": following.params}

    arrays = SimpleNamespace(init=own.init, update=update)
    short = rljax.replace(config, num_updates=10)
    metrics = pbt.train(arrays, jax.random.key(3), short, EXPLORE, population=8, interval=5).metrics
    assert metrics["params"].shape == (8, 10, 2)
    np.testing.assert_allclose(jnp.abs(metrics["params"]).sum(2), trained.metrics["episode_return"][:, :10], rtol=1e-6)


def test_runs_without_a_score_are_the_worst():
    scores = jnp.array([3.0, jnp.nan, 5.0, 1.0])
    for seed in range(5):
        assert pbt.exploit(jax.random.key(seed), scores, 0.25).tolist() == [0, 2, 2, 3]


def test_without_a_score_nothing_is_copied():
    own_places = list(range(8))
    for scores in (jnp.full(8, jnp.nan), jnp.full(8, -jnp.inf), jnp.ones(8)):
        assert pbt.exploit(jax.random.key(0), scores, 0.25).tolist() == own_places


def test_only_runs_with_a_score_are_copied():
    exploit = jax.jit(pbt.exploit, static_argnums=2)
    for seed in range(20):
        assert exploit(jax.random.key(seed), jnp.array([jnp.nan, jnp.nan, jnp.nan, 1.0]), 0.5).tolist() == [3, 3, 2, 3]
        parents = exploit(jax.random.key(seed), jnp.array([jnp.nan, 2.0, jnp.inf, 1.0, jnp.nan, jnp.nan]), 0.5).tolist()
        assert parents[1::2] == [1, 3, 5]
        assert set(parents[::2]) <= {1, 3}
    drawn = {tuple(exploit(jax.random.key(seed), jnp.array([1.0, 1, 1, 2]), 0.5).tolist()) for seed in range(50)}
    assert drawn == {(a, b, 2, 3) for a in (0, 3) for b in (1, 3)}  # of two that are as good none is copied


def test_a_population_without_finished_episodes_trains_unchanged(config):
    """All returns are NaN in every round: values and states stay those of each run."""

    def update(key, state, config):
        following, metrics = own.update(key, state, config)
        return following, {**metrics, "episode_return": jnp.nan}

    endless = SimpleNamespace(init=own.init, update=update)
    short = rljax.replace(config, num_updates=15)
    trained = pbt.train(endless, jax.random.key(3), short, EXPLORE, population=8, interval=5)
    assert trained.parents.tolist() == [list(range(8))] * 3
    assert np.isnan(trained.scores).all()
    np.testing.assert_array_equal(trained.values["rate"], np.broadcast_to(trained.values["rate"][0], (4, 8)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"explore": {}}, "dict"),
        ({"explore": {"rat": (0.1, 1.0)}}, "rate"),
        ({"explore": {"rate": (1.0, 0.1)}}, "low, high"),
        ({"explore": {"width": (2, 3)}}, "width cannot be explored"),
        ({"explore": {"poison_at": (2, 3)}}, "poison_at cannot be explored"),
        ({"explore": {"rate": (-1.0, 0.1)}}, "at least 0"),
        ({"explore": {"rate": (0.1, 0.1)}}, "with low below high"),
        ({"explore": {"rate": ("0.1", "1.0")}}, "low bound of rate must be a finite number, got '0.1'"),
        ({"explore": {"rate": (0.1, np.inf)}}, "high bound of rate must be a finite number"),
        ({"explore": {"rate": (-np.inf, 0.1)}}, "low bound of rate must be a finite number"),
        ({"explore": {"rate": (np.nan, 0.1)}}, "low bound of rate must be a finite number"),
        ({"explore": {"rate": (0.1, None)}}, "high bound of rate must be a finite number"),
        ({"explore": {"rate": (False, True)}}, "low bound of rate must be a finite number"),
        ({"explore": {"rate": (0.1, 1e300)}}, "high bound of rate must be a finite number"),
        ({"explore": {"rate": (1e-300, 0.1)}}, "numbers of 32 bits"),
        ({"explore": {"rate": (0.1, 0.5, 1.0)}}, "low, high"),
        ({"explore": {3: (0.1, 0.5)}}, "got the key 3"),
        ({"population": 1}, "population must be an integer of at least 2"),
        ({"population": 2.5}, "population must be an integer"),
        ({"population": "8"}, "population must be an integer"),
        ({"population": np.nan}, "population must be an integer"),
        ({"interval": 0}, "interval must be an integer in"),
        ({"interval": 2.5}, "interval must be an integer in"),
        ({"interval": 61}, "interval must be an integer in"),
        ({"interval": True}, "interval must be an integer in"),
        ({"interval": 7}, "interval=7 does not divide the run's 60 updates: choose 6 or 10"),
        ({"interval": 59}, "choose 30 or 60"),
        ({"fraction": 0.6}, "fraction"),
        ({"fraction": 0}, "fraction"),
        ({"fraction": np.nan}, "fraction must be a finite number"),
        ({"fraction": "0.5"}, "fraction must be a finite number"),
        ({"factor": 1.0}, "factor must be above 1"),
        ({"factor": np.nan}, "factor must be a finite number"),
        ({"factor": np.inf}, "factor must be a finite number"),
        ({"factor": "2"}, "factor must be a finite number"),
    ],
)
def test_invalid_arguments_are_refused(config, changes, words):
    options = {"explore": EXPLORE, **changes}
    with pytest.raises(rljax.UsageError, match=words) as error:
        pbt.train(own, jax.random.key(0), config, options.pop("explore"), **options)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_jax_are_numbers(config):
    short = rljax.replace(config, num_updates=6)
    options = {
        "population": np.int64(4),
        "interval": jnp.int32(3),
        "fraction": np.float32(0.25),
        "factor": jnp.asarray(2),
    }
    given = pbt.train(own, jax.random.key(3), short, {"rate": (np.float64(0.25), jnp.float32(1.0))}, **options)
    plain = pbt.train(own, jax.random.key(3), short, {"rate": (0.25, 1.0)}, population=4, interval=3, factor=2.0)
    assert toys.same_bits(given, plain)
