"""Spaces: comparison, sampling, membership, and the maps from the unit interval."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import rljax
from rljax import envs
from rljax.envs import spaces


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


def test_a_box_is_shown_in_a_few_characters():
    assert repr(rljax.Box(0, 255, (84, 84, 4), np.uint8)) == "Box(0, 255, (84, 84, 4), uint8)"
    bounds = np.array([4.8, np.inf])
    assert repr(rljax.Box(-bounds, bounds, (2,))) == "Box([-4.8, -inf], [4.8, inf], (2,), float32)"
    assert len(repr(rljax.Box(-np.arange(10_000.0).reshape(100, 100), 0.5, (100, 100)))) < 100


def test_box_samples_uniformly_within_its_bounds():
    space = rljax.Box([-1.0, 10.0, 0.0], [1.0, 30.0, 0.0], (3,))
    samples = draw(space)
    assert (samples.shape, samples.dtype) == ((2000, 3), np.float32)
    assert np.all((samples >= space.low) & (samples <= space.high))
    assert scipy.stats.kstest(samples[:, 0], "uniform", args=(-1, 2)).pvalue > 1e-3
    assert scipy.stats.kstest(samples[:, 1], "uniform", args=(10, 20)).pvalue > 1e-3
    assert np.all(samples[:, 2] == 0)
    assert abs(np.corrcoef(samples[:, 0], samples[:, 1])[0, 1]) < 0.1


def test_unbounded_box_samples_match_gymnasium():
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


def test_integers_with_one_bound_stay_within_it():
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
def test_integers_are_sampled_uniformly(space, values):
    samples = draw(space)
    assert samples.dtype == space.dtype
    counts = [int((samples == value).sum()) for value in values]
    assert sum(counts) == len(samples)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_contains_checks_bounds():
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


def test_from_unit_passes_unbounded_dimensions_and_shifts_those_with_one_bound():
    space = rljax.Box([-np.inf, 5.0, -np.inf, -4.0], [np.inf, np.inf, 1.0, 4.0], (4,))
    assert space.bounded.tolist() == [False, False, False, True]
    mapped = space.from_unit(jnp.array([[7.0, 7.0, 7.0, 0.5], [-7.0, -7.0, -7.0, -0.5], [0.0, 0.0, 0.0, 0.0]]))
    assert mapped.tolist() == [[7.0, 13.0, 1.0, 2.0], [-7.0, 5.0, -7.0, -2.0], [0.0, 6.0, 0.0, 0.0]]
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
        lambda: rljax.Discrete(2, 0.5),
        lambda: rljax.MultiDiscrete((2, 0)),
        lambda: rljax.MultiDiscrete(3),
        lambda: rljax.MultiDiscrete(()),
        lambda: envs.Dict({}),
        lambda: envs.Dict({"a": 3}),
        lambda: envs.Dict({"a.b": rljax.Discrete(2)}),
        lambda: envs.Dict({1: rljax.Discrete(2)}),
        lambda: envs.Tuple(rljax.Discrete(2)),
    ],
)
def test_invalid_spaces_are_refused(bad):
    with pytest.raises(rljax.UsageError):
        bad()


def test_nested_spaces_compare_hash_sample_and_contain_by_value():
    several, box = rljax.MultiDiscrete([2, 3]), rljax.Box(0, 1, (2,))
    nested = envs.Dict({"a": envs.Tuple((rljax.Discrete(3, 1), several)), "b": box})
    alike = envs.Dict({"b": box, "a": envs.Tuple([rljax.Discrete(3, start=1), rljax.MultiDiscrete((2, 3))])})
    assert nested == alike
    assert hash(nested) == hash(alike)
    assert nested != envs.Dict({"a": rljax.Discrete(3)})
    assert list(spaces.by_path(envs.leaves_of(nested))) == ["a.0", "a.1", "b"]
    drawn = jax.vmap(nested.sample)(jax.random.split(jax.random.key(0), 300))
    assert set(np.asarray(drawn["a"][0]).tolist()) == {1, 2, 3}
    assert np.asarray(drawn["a"][1]).max(0).tolist() == [1, 2]
    assert bool(jax.vmap(nested.contains)(drawn).all())
    outside = {"a": (jnp.int32(0), jnp.zeros(2, jnp.int32)), "b": jnp.zeros(2)}
    assert not bool(nested.contains(outside))


def test_integers_are_counted_from_their_start():
    space = rljax.Discrete(3, start=-1)
    assert [bool(space.contains(jnp.int32(i))) for i in (-2, -1, 1, 2)] == [False, True, True, False]
    assert space.index(jnp.arange(-1, 2)).tolist() == [0, 1, 2]
    assert space.from_index(jnp.arange(3)).tolist() == [-1, 0, 1]
    assert envs.as_features(space, jnp.int32(1)).tolist() == [0.0, 0.0, 1.0]
    assert envs.as_features(rljax.MultiDiscrete((2, 3)), jnp.array([1, 0])).tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    pairs = jnp.array([[i, j] for i in range(2) for j in range(3)])
    assert rljax.MultiDiscrete((2, 3)).joint(pairs).tolist() == list(range(6))
