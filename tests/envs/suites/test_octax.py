"""Octax: steps equal those of its own emulator, limits truncate, and what it takes to make a game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import same_structure

import rljax
from rljax import envs
from rljax.envs.suites.adapting import in_32_bits
from rljax.envs.wrappers import remake

pytest.importorskip("octax")

ID, LIMIT = "octax/pong", 50


def test_games_and_levels_are_listed():
    listed = [name for name in envs.registered() if name.startswith("octax/")]
    assert {ID, "octax/brix", "octax/tetris", "octax/cavern1", "octax/space_flight10"} <= set(listed)
    assert "octax/cavern" not in listed


def test_steps_equal_those_of_octax():
    """1,000 random steps of 8 environments; after 50 steps each, both begin again from our next reset."""
    from octax.environments import create_environment

    env = rljax.make(ID, max_steps_in_episode=LIMIT)
    theirs, _ = create_environment("pong", max_num_steps_per_episodes=LIMIT)
    actions = jax.random.randint(jax.random.key(1), (8, 1000), 0, env.action_space.n)
    keys = jax.random.split(jax.random.key(2), (8, 1001))

    def one(keys, actions):
        obs, state = env.reset(keys[0], env.params)
        other, first, _ = in_32_bits(theirs.reset(jax.random.key_data(keys[0])))

        def step(carry, inputs):
            state, other = carry
            action, key = inputs
            result, state = env.step(key, state, action, env.params)
            other, *seen, _ = in_32_bits(theirs.step(other, action))
            fresh = (env.reset(key, env.params)[1], in_32_bits(theirs.reset(jax.random.key_data(key))[0]))
            ended = result.terminated | result.truncated
            return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, (state, other)), (result, seen)

        return (obs, first), jax.lax.scan(step, (state, other), (actions, keys[1:]))[1]

    (obs, first), (ours, (frames, reward, terminated, truncated)) = jax.jit(jax.vmap(one))(keys, actions)
    np.testing.assert_array_equal(obs, jnp.moveaxis(first, 1, -1))
    np.testing.assert_array_equal(ours.next_obs, jnp.moveaxis(frames, 2, -1))
    np.testing.assert_array_equal(ours.reward, reward)
    np.testing.assert_array_equal(ours.terminated, terminated)
    np.testing.assert_array_equal(ours.truncated, truncated)
    assert ours.next_obs.shape == (8, 1000, 64, 32, 4)
    assert ours.next_obs.dtype == bool
    assert int(ours.truncated.sum()) >= 8 * 15
    assert float(jnp.abs(ours.reward).sum()) > 0


def test_the_contract_holds():
    assert envs.check(rljax.make(ID, max_steps_in_episode=20), num_steps=32) == []


def test_settings_limit_recipe_and_picture():
    env = rljax.make(ID, frame_skip=2)
    assert env.params.max_steps_in_episode == 4500
    assert env.observation_space.shape == (64, 32, 2)
    assert same_structure(remake(env.recipe), env)
    _, state = env.reset(jax.random.key(0), env.params)
    picture = env.render(state.replace(display=state.display.at[3, 5].set(True)), env.params)
    assert (picture.shape, picture.dtype) == ((256, 512, 3), np.uint8)
    lit = np.argwhere(picture.any(axis=-1))
    assert (lit.min(axis=0).tolist(), lit.max(axis=0).tolist()) == ([40, 24], [47, 31])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("octax/pongs", {}, "did you mean octax/pong"),
        (ID, {"frameskip": 3}, "did you mean frame_skip?"),
        (ID, {"frame_skip": "few"}, "cannot be made with these settings"),
        (ID, {"max_steps_in_episode": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name, settings, message):
    with pytest.raises(rljax.UsageError, match=message) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)
