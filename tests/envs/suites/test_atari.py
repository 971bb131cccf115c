"""Games through our loop equal those of ale-py stepped directly."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from host_reference import random_actions
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys
from toys import optimized

import rljax
from rljax import dqn, ppo, rollout
from rljax.envs.suites import atari
from rljax.errors import UsageError

pytest.importorskip("ale_py")
STEPS, GAMES = 200, 2


def in_our_loop(env, actions):
    key_reset, key_steps = jax.random.split(jax.random.key(1))

    @jax.jit
    def run(actions):
        collector = rollout.reset(key_reset, env, actions.shape[1])
        _, trajectory, _ = rollout.rollout(
            key_steps, lambda a, _: (a, a), actions, collector, env, len(actions), raw=True
        )
        return collector.env_state.inner.seed, trajectory

    with optimized():  # or every step copies the whole trajectory
        return jax.device_get(run(actions))


def of_ale(game, seed, actions, **settings):
    """The steps of one game: ale-py resets in the step after an end, which takes no action."""
    from ale_py.vector_env import AtariVectorEnv

    games = AtariVectorEnv(game, 1, stack_num=4, reward_clipping=False, **settings)
    obs, info = games.reset(seed=np.array([seed], np.int32))
    rows = []
    for action in actions:
        lives = info["lives"]
        next_obs, reward, terminated, truncated, info = games.step(np.array([action], np.int64))
        is_over = truncated[0] or (terminated[0] and not 0 < info["lives"][0] < lives[0])
        rows.append((obs[0], reward[0], terminated[0], truncated[0], next_obs[0]))
        obs = next_obs
        if is_over:
            obs, _, _, _, info = games.step(np.array([0], np.int64))
    games.close()
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("game", "settings", "theirs"),
    [
        ("breakout", {}, {}),
        (
            "pong",
            {"max_frames": 403, "sticky": 0.25},
            {"max_num_frames_per_episode": 403, "repeat_action_probability": 0.25},
        ),
        ("breakout", {"life_loss": True, "fire_reset": False}, {"life_loss_info": True, "use_fire_reset": False}),
        (
            "breakout",
            {"frame_skip": 6, "noop_max": 0, "full_actions": True},
            {"frameskip": 6, "noop_max": 0, "full_action_space": True},
        ),
    ],
)
def test_frames_rewards_and_ends_equal_those_of_ale(game, settings, theirs):
    env = rljax.make(f"atari/{game}", **settings)
    actions = random_actions(env, STEPS, GAMES)
    seeds, trajectory = in_our_loop(env, actions)
    ends = np.asarray(trajectory.terminated | trajectory.truncated)
    for i in range(GAMES):
        obs, reward, terminated, truncated, next_obs = of_ale(game, seeds[i], np.asarray(actions)[:, i], **theirs)
        np.testing.assert_array_equal(trajectory.reward[:, i], reward)
        np.testing.assert_array_equal(trajectory.terminated[:, i], terminated)
        np.testing.assert_array_equal(trajectory.truncated[:, i], truncated)
        np.testing.assert_array_equal(trajectory.obs[:, i, ..., -1], obs[:, -1])
        np.testing.assert_array_equal(trajectory.next_obs[:, i, ..., -1], next_obs[:, -1])
        for t in range(4, STEPS):  # ale-py begins a stack with black frames, and we with the first one
            if not ends[t - 4 : t, i].any():
                np.testing.assert_array_equal(np.moveaxis(trajectory.obs[t, i], -1, 0), obs[t])
    assert ends.any()
    assert trajectory.truncated.any() == ("max_frames" in settings)


def test_a_lost_life_terminates_while_the_game_goes_on():
    """Five lives end within a game that would end once."""
    env, whole = rljax.make("atari/breakout", life_loss=True), rljax.make("atari/breakout")
    actions = random_actions(env, STEPS, 1)
    lives, games = (in_our_loop(one, actions)[1] for one in (env, whole))
    assert lives.terminated.sum() >= 4 * games.terminated.sum() > 0
    np.testing.assert_array_equal(lives.reward, games.reward)
    began = int(np.argmax(lives.terminated[:, 0])) + 1
    frames = np.moveaxis(lives.obs[began, 0], -1, 0)
    np.testing.assert_array_equal(frames[0], frames[3])
    np.testing.assert_array_equal(frames[3], lives.next_obs[began - 1, 0, ..., -1])


def test_spaces_label_recipe_and_limit():
    env = rljax.make("atari/breakout", life_loss=True)
    assert env.observation_space == rljax.Box(0, 255, (84, 84, 4), np.uint8)
    assert env.action_space == rljax.Discrete(4)
    assert rljax.make("atari/pong", full_actions=True).action_space == rljax.Discrete(18)
    assert (env.num_frames, env.label) == (4, "atari/breakout(life_loss=True)")
    assert rljax.envs.remake(env.recipe) == env
    assert rljax.envs.host.maker_of(env).time_limit == 27_000
    assert rljax.envs.check(rljax.make("atari/pong", num_frames=1), 10) == []


def test_dqn_stores_single_frames_and_clips_rewards_of_the_learner():
    env = rljax.envs.clip_reward(rljax.make("atari/breakout"))
    config = dqn.Config(
        env=env, total_steps=48, num_envs=2, num_steps=4, buffer_size=64, prefill_steps=32, batch_size=4,
        gradient_steps=1, hidden_sizes=(8,),
    )  # fmt: skip
    states, metrics = jax.jit(jax.vmap(dqn.train, (0, None)))(two_keys(), config)
    assert states.replay.obs.shape[2:] == (2, 84, 84, 1)
    assert np.all(np.isfinite(metrics["loss"]))


@pytest.mark.slow
def test_ppo_trains():
    config = ppo.Config(env=rljax.make("atari/pong"), **TINY)
    _, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics)


def test_pictures_are_the_newest_frames():
    env = rljax.make("atari/pong")
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(two_keys(), ())
    inner = jax.tree.map(lambda x: np.asarray(x)[0], state.inner)
    picture = env.render(inner, ())
    assert picture.shape == (168, 168, 3)
    np.testing.assert_array_equal(picture[::2, ::2, 1], inner.obs[..., 0])


def test_human_normalized_scores():
    np.testing.assert_allclose(atari.human_normalized("atari/breakout", np.array([1.7, 30.5, 59.3])), [0, 1, 2])
    assert atari.human_normalized("pong", -20.7) == 0.0
    with pytest.raises(UsageError, match="atari/adventure has no human score here"):
        atari.human_normalized("atari/adventure", 1)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("atari/brekout", {}, "There is no environment 'atari/brekout': did you mean atari/breakout?"),
        ("atari/pong", {"stiky": 0.1}, "atari/pong has no setting 'stiky': did you mean sticky?"),
        ("atari/pong", {"sticky": 2.0}, r"sticky of atari/pong must be a finite number in \[0, 1\], got 2.0."),
        ("atari/pong", {"life_loss": 1}, "life_loss of atari/pong must be True or False, got 1."),
        ("atari/pong", {"frame_skip": 0}, r"frame_skip of atari/pong must be an integer in \[1, 2147483647\], got 0."),
    ],
)
def test_mistakes_are_one_sentence(name, settings, message):
    with pytest.raises(UsageError, match=message):
        rljax.make(name, **settings)


def test_the_package_is_imported_only_for_its_games():
    code = (
        "import sys, rljax; names = rljax.envs.registered(); rljax.make('CartPole-v1'); "
        "print('atari/pong' in names, 'ale_py' in sys.modules); rljax.make('atari/pong'); "
        "print('ale_py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == ["True", "False", "True"]
