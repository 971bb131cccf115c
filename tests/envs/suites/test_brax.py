"""Brax: steps equal those of its own wrappers, time limits truncate, and what it takes to train and resume."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from resuming import same_results, stopped
from toys import same_structure

import rljax
from rljax import envs, ppo
from rljax.envs.suites.adapting import in_32_bits
from rljax.envs.wrappers import remake

pytest.importorskip("brax")

ID = "brax/inverted_pendulum"
OTHERS = [(f"brax/{name}", "generalized") for name in ("reacher", "inverted_double_pendulum", "swimmer")]
OTHERS += [(f"brax/{name}", "spring") for name in ("ant", "halfcheetah", "hopper", "humanoid", "walker2d", "pusher")]
OTHERS += [("brax/humanoidstandup", "positional"), (ID, "mjx")]


def both(name, settings, num_steps, limit, num_envs=8):
    """Random steps of our environment, and of Brax's with its limit and without its reset, from the same states.

    Where an episode ends, both continue from our next reset, so that many ends are seen.
    """
    from brax import envs as brax_envs
    from brax.envs.wrappers.training import EpisodeWrapper

    env = rljax.make(name, max_steps_in_episode=limit, **settings)
    kind = brax_envs.get_environment(name.removeprefix("brax/"), **settings)
    theirs = EpisodeWrapper(kind, limit, action_repeat=1)
    key_actions, key_run = jax.random.split(jax.random.key(1))
    actions = jax.random.uniform(key_actions, (num_steps, num_envs, kind.action_size), minval=-1.0)

    def one(keys, actions):
        obs, state = env.reset(keys[0], env.params)
        first = theirs.reset(keys[0])

        def step(carry, inputs):
            state, other = carry
            action, key = inputs
            result, state = env.step(key, state, action, env.params)
            other = in_32_bits(theirs.step(other, action))
            out = (result, (other.obs, other.reward, other.done, other.info["truncation"], other.metrics))
            fresh = (env.reset(key, env.params)[1], in_32_bits(theirs.reset(key)))
            carry = jax.tree.map(
                lambda new, old: jnp.where(result.terminated | result.truncated, new, old), fresh, (state, other)
            )
            return carry, out

        start = (state, in_32_bits(first))
        return (obs, first.obs), jax.lax.scan(step, start, (actions, keys[1:]))[1]

    keys = jax.vmap(lambda key: jax.random.split(key, num_steps + 1))(jax.random.split(key_run, num_envs))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one, (0, 1)))(keys, actions))


def assert_equal(name, settings, num_steps, limit):
    (obs, first), (ours, (next_obs, reward, done, truncation, metrics)) = both(name, settings, num_steps, limit)
    np.testing.assert_array_equal(obs, first)
    np.testing.assert_array_equal(ours.next_obs, next_obs)
    np.testing.assert_array_equal(ours.reward, reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, done == 1.0)
    np.testing.assert_array_equal(ours.truncated & ~ours.terminated, truncation == 1.0)
    assert ours.info.keys() == metrics.keys()
    jax.tree.map(np.testing.assert_array_equal, ours.info, metrics)
    return ours


def test_steps_equal_those_of_brax_with_its_own_limit():
    """Random episodes fall after about 10 steps, so that a limit of 12 is reached by some and not by others."""
    ours = assert_equal(ID, {}, 1000, 12)
    assert ours.reward.shape == (8, 1000)
    assert ours.terminated.sum() > 50
    assert (ours.truncated & ~ours.terminated).sum() > 50


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), OTHERS)
def test_other_steps_equal_those_of_brax(name, backend):
    ours = assert_equal(name, {"backend": backend}, 1000, 100)
    assert ours.truncated.sum() > 0
    assert np.all(np.isfinite(ours.next_obs))


def test_the_contract_holds():
    assert envs.check(rljax.make(ID, max_steps_in_episode=20)) == []


TINY = {"num_envs": 2, "num_steps": 8, "num_epochs": 1, "num_minibatches": 2, "hidden_sizes": (8,), "total_steps": 64}


def test_a_stopped_run_resumes_to_the_same_bits(monkeypatch, tmp_path):
    """PPO of two seeds and four updates; the manifest rebuilds the environment with its settings."""
    env = rljax.make(ID, backend="spring", max_steps_in_episode=6)
    config = ppo.Config(env=rljax.envs.normalize_observations(env), **TINY)
    options = {"seeds": 2, "evaluations": 2, "eval_episodes": 2}
    whole = rljax.run(ppo, config, progress=False, **options)
    stopped(monkeypatch, tmp_path / "run", ppo, config, saves=2, **options)
    resumed = rljax.resume(tmp_path / "run", progress=False)
    same_results(resumed, whole)
    assert np.all(np.isfinite(whole.metrics["loss"]))
    assert np.all(whole.metrics["episode_length"] <= 6.0)


def test_ids_are_listed_without_making_one():
    listed = [name for name in envs.registered() if name.startswith("brax/")]
    assert len(listed) >= 11
    assert {"brax/ant", "brax/reacher", ID} <= set(listed)
    assert "brax/fast" not in listed


def test_making_it_twice_needs_no_new_program():
    one, other = rljax.make(ID, backend="spring"), rljax.make(ID, backend="spring", max_steps_in_episode=7)
    assert same_structure(one, other)
    assert not same_structure(one, rljax.make(ID))
    assert other.params.max_steps_in_episode == 7
    assert other.label == f"{ID}(backend=spring, max_steps_in_episode=7)"
    assert remake(other.recipe).label == f"{ID}(backend=spring)"


def test_spaces_measures_and_limit():
    env = rljax.make("brax/ant", backend="spring")
    assert env.params.max_steps_in_episode == 1000
    assert env.observation_space.shape == (27,)
    assert env.action_space == rljax.Box(-1.0, 1.0, (8,), np.float32)
    assert env.expensive
    measures = dict(env.info)
    assert measures["reward_survive"] == "sum"
    assert measures["x_velocity"] == "mean"
    assert measures["distance_from_origin"] == "last"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("brax/ants", {}, "did you mean brax/ant"),
        ("brax/ant", {"bakend": "spring"}, "did you mean backend?"),
        ("brax/ant", {"backend": "bullet"}, "backend should be in"),
        ("brax/swimmer", {"backend": "spring"}, "Unsupported backend: spring"),
        ("brax/ant", {"reset_noise_scale": "much", "backend": "spring"}, "cannot be reset with these settings"),
        ("brax/ant", {"max_steps_in_episode": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name, settings, message):
    with pytest.raises(rljax.UsageError, match=message) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)


def test_importing_and_making_print_nothing(capfd):
    with warnings.catch_warnings(action="error"):
        rljax.make("brax/reacher", backend="spring")
    assert capfd.readouterr() == ("", "")


def test_states_have_32_bits_and_no_weak_types_under_x64():
    env = rljax.make(ID, backend="spring")
    with jax.enable_x64(True):
        key = jax.random.key(0)
        obs, state = jax.eval_shape(env.reset, key, env.params)
        action = jax.ShapeDtypeStruct((1,), jnp.float32)
        result, stepped = jax.eval_shape(env.step, key, state, action, env.params)
    for before, after in ((state, stepped), (obs, result.obs)):
        assert jax.tree.structure(before) == jax.tree.structure(after)
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, False)
            assert x.dtype.itemsize <= 4


def test_a_step_does_not_change_the_state_that_it_is_given():
    """Brax's Reacher writes new metrics into the dict of the old state."""
    env = rljax.make("brax/reacher", backend="spring")
    _, state = jax.eval_shape(env.reset, jax.random.key(0), env.params)
    before = dict(state.inner.metrics)
    jax.eval_shape(lambda state: env.step(jax.random.key(1), state, jnp.ones(2), env.params), state)
    assert state.inner.metrics == before
