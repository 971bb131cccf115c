"""Gymnasium's environments through our loop equal the same ones stepped in plain Python."""

import gymnasium
import host_worlds  # noqa: F401 - registers Walk-v0 and Failing-v0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_reference import assert_equal, in_our_loop, in_plain_python, random_actions
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import dqn, ppo
from rljax.envs import host
from rljax.errors import UsageError

# Ids, and whether random steps end episodes by termination and by truncation.
NAMES = {
    "CartPole-v1": (True, False),
    "Pendulum-v1": (False, True),
    "Walk-v0": (True, True),
    "Taxi-v4": (False, True),
    "Blackjack-v1": (True, False),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_random_steps_of_eight_environments_equal_those_in_plain_python(name):
    env = rljax.make(f"gymnasium/{name}")
    actions = random_actions(env, 1000, 8)
    seeds, trajectory, metrics = in_our_loop(env, jax.random.key(1), actions, 8)
    reference, returns = in_plain_python([gymnasium.make(name) for _ in range(8)], seeds, actions)
    assert_equal(trajectory, reference)
    assert (np.any(trajectory.terminated), np.any(trajectory.truncated)) == NAMES[name]
    assert metrics["episodes"] == len(returns)
    np.testing.assert_allclose(metrics["episode_return"], np.mean(returns), rtol=1e-4)


def test_returns_of_a_policy_equal_those_of_a_plain_loop():
    env = rljax.make("gymnasium/CartPole-v1")
    key = jax.random.key(7)

    def policy(_, obs):
        return (obs[:, 2] + 0.3 * obs[:, 3] > 0).astype(jnp.int32)

    episodes = jax.jit(lambda: rljax.evaluation.play(key, env, policy, 12))()
    keys = jax.random.split(jax.random.split(key)[0], 12)
    seeds = jax.vmap(lambda key: env.reset(key, ())[1].seed)(keys).tolist()
    returns = []
    for seed in seeds:
        world = gymnasium.make("CartPole-v1")
        obs, ended, total = world.reset(seed=seed)[0], False, 0.0
        while not ended:
            obs, reward, terminated, truncated, _ = world.step(int(policy(None, obs[None])[0]))
            total, ended = total + reward, terminated or truncated
        returns.append(total)
    np.testing.assert_array_equal(episodes.returns, returns)
    np.testing.assert_array_equal(episodes.measures["length"], returns)


def test_spaces_have_at_most_32_bits_and_keep_their_starts():
    env = rljax.make("gymnasium/Walk-v0")
    assert env.observation_space.spaces["place"].dtype == np.float32
    assert env.observation_space.spaces["side"] == rljax.Discrete(3, -1)
    assert env.action_space == rljax.Discrete(3, 3)
    assert rljax.make("gymnasium/Pendulum-v1").action_space == rljax.Box(-2.0, 2.0, (1,))


@pytest.mark.parametrize("name", ["CartPole-v1", "Walk-v0"])
def test_the_contract_holds(name):
    assert rljax.envs.check(rljax.make(f"gymnasium/{name}"), 40) == []


def test_ppo_trains_two_seeds_side_by_side_as_alone():
    config = ppo.Config(env=rljax.make("gymnasium/CartPole-v1"), **TINY | {"total_steps": 64})
    _, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics, updates=4)
    assert np.any(metrics["loss"][0] != metrics["loss"][1])
    for seed, key in enumerate(two_keys()):
        _, alone = jax.jit(ppo.train)(key, config)
        np.testing.assert_allclose(alone["loss"], metrics["loss"][seed], rtol=1e-4)
        np.testing.assert_array_equal(alone["episode_length"], metrics["episode_length"][seed])


def test_dqn_trains_two_seeds_with_frames_and_normalized_rewards():
    env = rljax.envs.normalize_rewards(rljax.envs.frame_stack(rljax.make("gymnasium/CartPole-v1"), 2), 0.99)
    config = dqn.Config(
        env=env, total_steps=160, num_envs=2, num_steps=8, buffer_size=64, prefill_steps=32, hidden_sizes=(8,)
    )
    _, metrics = jax.jit(jax.vmap(dqn.train, (0, None)))(two_keys(), config)
    assert metrics["loss"].shape == (2, 8)
    assert np.all(np.isfinite(metrics["loss"]))
    assert metrics["episodes"].sum() > 0


def test_a_stack_of_frames_starts_anew_with_the_next_episode():
    plain = rljax.make("gymnasium/CartPole-v1")
    env = rljax.envs.frame_stack(plain, 3)
    actions = random_actions(plain, 60, 2)
    key_reset, key_steps = jax.random.split(jax.random.key(3))

    @jax.jit
    def run():
        collector = rljax.rollout.reset(key_reset, env, 2)
        return rljax.rollout.rollout(key_steps, lambda a, _: (a, a), actions, collector, env, 60, raw=True)[1]

    trajectory = run()
    began = np.argwhere(np.asarray(trajectory.terminated)[:-1])
    assert len(began)
    for t, i in began.tolist():
        frames = np.split(np.asarray(trajectory.obs[t + 1, i]), 3)
        np.testing.assert_array_equal(frames[0], frames[2])
        assert np.any(frames[2] != np.asarray(trajectory.next_obs[t, i])[-4:])
        np.testing.assert_array_equal(np.asarray(trajectory.next_obs[t, i])[:8], np.asarray(trajectory.obs[t, i])[4:])


@pytest.mark.slow
def test_processes_give_the_same_numbers():
    actions = random_actions(rljax.make("gymnasium/CartPole-v1"), 60, 2)
    results = [
        in_our_loop(rljax.make("gymnasium/CartPole-v1", **settings), jax.random.key(1), actions, 2)
        for settings in ({}, {"processes": True})
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_the_time_limit_can_be_set_and_is_shown(capsys):
    from rljax.cli import main

    env = rljax.make("gymnasium/CartPole-v1", max_episode_steps=7)
    assert env.label == "gymnasium/CartPole-v1(max_episode_steps=7)"
    assert host.maker_of(rljax.envs.frame_stack(env, 2)).time_limit == 7
    _, trajectory, _ = in_our_loop(env, jax.random.key(1), random_actions(env, 14, 2), 2)
    np.testing.assert_array_equal(trajectory.truncated[6], [True, True])
    assert main(["envs", "gymnasium/CartPole-v1"]) == 0
    assert "time limit    500" in capsys.readouterr().out


def test_an_environment_is_made_again_from_its_recipe():
    env = rljax.make("gymnasium/Pendulum-v1", g=5.0)
    assert rljax.envs.remake(env.recipe) == env
    assert rljax.make("gymnasium/Pendulum-v1") != env


def test_registered_ids_are_those_whose_packages_are_installed():
    names = rljax.envs.registered()
    assert {"gymnasium/CartPole-v1", "gymnasium/Taxi-v4"} <= set(names)
    assert "gymnasium/GymV21Environment-v0" not in names


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gymnasium/CartPole-v9", {}, "Gymnasium cannot make CartPole-v9: "),
        ("gymnasium/CartPole-v1", {"gravity_of": 3}, "Gymnasium cannot make CartPole-v1: TypeError: "),
        ("gymnasium/CartPole-v1", {"processes": 3}, "processes of gymnasium/CartPole-v1 must be True or False, got 3"),
    ],
)
def test_mistakes_are_one_sentence(name, settings, message):
    with pytest.raises(UsageError) as mistake:
        rljax.make(name, **settings)
    assert str(mistake.value).startswith(message)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    "wrapper", [lambda env: rljax.envs.time_limit(env, 9), lambda env: rljax.envs.repeat_action(env, 2)]
)
def test_wrappers_that_end_episodes_without_the_pool_are_refused(wrapper):
    with pytest.raises(UsageError, match="does not suit gymnasium/CartPole-v1, which lives on the host"):
        wrapper(rljax.make("gymnasium/CartPole-v1"))
