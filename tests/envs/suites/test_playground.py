"""MuJoCo Playground: steps equal those of its tasks with its wrapper's limit, and what it takes to make one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import same_structure

import rljax
from rljax import envs
from rljax.envs.suites.adapting import in_32_bits
from rljax.envs.wrappers import remake

pytest.importorskip("mujoco_playground")

ID = "playground/CartpoleBalance"


def test_the_tasks_of_the_control_suite_are_listed():
    listed = [name for name in envs.registered() if name.startswith("playground/")]
    assert len(listed) == 25
    assert {ID, "playground/CheetahRun", "playground/WalkerWalk"} <= set(listed)


def test_steps_equal_those_of_playground():
    """1,000 random steps of 8 environments; after 50 steps each, both continue from our next reset."""
    from brax.envs.wrappers.training import EpisodeWrapper

    env = rljax.make(ID, max_steps_in_episode=50)
    theirs = EpisodeWrapper(env.step.arguments[0], 50, action_repeat=1)
    actions = jax.random.uniform(jax.random.key(1), (8, 1000, 1), minval=-1.0)
    keys = jax.random.split(jax.random.key(2), (8, 1001))

    def one(keys, actions):
        obs, state = env.reset(keys[0], env.params)
        first = in_32_bits(theirs.reset(keys[0]))

        def step(carry, inputs):
            state, other = carry
            action, key = inputs
            result, state = env.step(key, state, action, env.params)
            other = in_32_bits(theirs.step(other, action))
            out = (result, (other.obs, other.reward, other.done, other.info["truncation"]))
            fresh = (env.reset(key, env.params)[1], in_32_bits(theirs.reset(key)))
            carry = jax.tree.map(lambda new, old: jnp.where(result.truncated, new, old), fresh, (state, other))
            return carry, out

        return (obs, first.obs), jax.lax.scan(step, (state, first), (actions, keys[1:]))[1]

    (obs, first), (ours, (next_obs, reward, done, truncation)) = jax.jit(jax.vmap(one))(keys, actions)
    np.testing.assert_array_equal(obs, first)
    np.testing.assert_array_equal(ours.next_obs, next_obs)
    np.testing.assert_array_equal(ours.reward, reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, done == 1.0)
    np.testing.assert_array_equal(ours.truncated & ~ours.terminated, truncation == 1.0)
    assert int(ours.truncated.sum()) == 8 * 20
    assert np.all(np.isfinite(ours.next_obs))


def test_the_contract_holds():
    assert envs.check(rljax.make(ID, max_steps_in_episode=20)) == []


def test_settings_limit_and_recipe():
    env = rljax.make(ID, ctrl_dt=0.02)
    assert env.params.max_steps_in_episode == 1000
    assert env.action_space == rljax.Box(-1.0, 1.0, (1,), np.float32)
    assert same_structure(remake(env.recipe), env)
    assert not same_structure(rljax.make(ID), env)
    assert rljax.make(ID, max_steps_in_episode=7).params.max_steps_in_episode == 7


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("playground/CartpoleBalanced", {}, "did you mean playground/CartpoleBalance"),
        ("playground/Go1JoystickFlatTerrain", {}, "There is no environment"),
        (ID, {"vision": True}, "no setting 'vision'"),
        (ID, {"ctrl_dt": "fast"}, "cannot be made with these settings"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name, settings, message):
    with pytest.raises(rljax.UsageError, match=message) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)
