"""Recorded episodes: cut where they end, and animated with their returns."""

import jax.numpy as jnp
import numpy as np
from toys import walk

from rljax.evaluation import Episodes, Recording
from rljax.report import episodes
from rljax.report.episodes import Episode, Played


def test_what_follows_an_end_is_cut_off():
    states = jnp.arange(10).reshape(5, 2)
    rewards = jnp.arange(8.0).reshape(4, 2)
    actions = jnp.arange(8).reshape(4, 2) % 3
    measured = Episodes(jnp.zeros(2), {"length": jnp.array([2, 4])}, jnp.array([True, False]))
    first, second = episodes.split(Recording(states, actions, rewards, measured))
    np.testing.assert_array_equal(first.states, [0, 2, 4])
    np.testing.assert_array_equal(first.rewards, [0.0, 2.0])
    np.testing.assert_array_equal(first.actions, [0, 2])
    np.testing.assert_array_equal(second.states, [1, 3, 5, 7, 9])
    assert (first.has_ended, second.has_ended) == (True, False)


def test_captions_have_the_return_so_far():
    episode = Episode(np.arange(5), np.zeros(4), np.array([1.0, -0.5, 0.25, 1000.0]), True)
    assert list(episodes.captions(episode, np.array([0, 2, 3, 4]))) == [
        "return 0   step 0",
        "return 0.5   step 2",
        "return 0.75   step 3",
        "return 1,000.75   step 4   end",
    ]


def test_long_episodes_leave_out_steps_but_not_the_end():
    def draw(state, params):
        return np.full((2, 2, 3), state // 4, np.uint8)

    env = walk.replace(render=draw)
    long = Episode(np.arange(901), np.zeros(900), np.ones(900), True)
    shown = episodes.animate(
        [Played("long", env, [long]), Played("two", env, [Episode(np.arange(3), np.zeros(2), np.ones(2), True)] * 2)]
    )
    assert len(shown.pictures) == 226  # each fourth of 901
    corner = shown.pictures[:, 44, 6 + 112, 0]
    assert (corner[0], corner[1], corner[-1]) == (0, 1, 225)
