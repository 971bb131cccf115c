"""Where runs go: devices, and lanes."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from toys import own, walk

import rljax
from rljax.experiment import placement, sweeps
from rljax.experiment.history import Runs


def test_no_more_devices_than_runs_are_used():
    if len(jax.devices()) < 2:
        pytest.skip("JAX shows one device only")
    assert placement.mesh(1, None).size == 1
    assert placement.mesh(5, None).size == min(5, len(jax.devices()))
    assert placement.mesh(5, 1).size == 1
    with pytest.raises(rljax.UsageError, match="devices=1000 requested"):
        placement.mesh(5, 1000)


def test_the_environments_of_all_configs_divide_over_the_devices():
    configs = [SimpleNamespace(num_envs=number) for number in (8, 12)]
    assert [placement.max_devices(configs, most) for most in (1, 3, 4, 11)] == [1, 2, 4, 4]


def test_each_lane_has_the_key_of_its_seed_and_the_values_of_its_configuration():
    """Of the second group of a sweep, whose points are not numbered from zero; the last lane is a copy of the first."""
    config = own.Config(env=walk)
    points = sweeps.points(config, {"width": [2, 3], "rate": [0.1, 0.2, 0.3]})
    group = sweeps.groups(points)[1]
    keys = jax.random.split(jax.random.key(0), 2)
    lanes = placement.lanes(group, Runs.of([(5, 1), (3, 0), (4, 1)]), 4, keys)
    np.testing.assert_array_equal(jax.random.key_data(lanes.keys), jax.random.key_data(keys)[np.array([1, 0, 1, 1])])
    np.testing.assert_allclose(lanes.config.rate, [0.3, 0.1, 0.2, 0.3], rtol=1e-6)
    assert lanes.config.width == 3
