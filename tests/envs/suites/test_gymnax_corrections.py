"""gymnax's environments against the ones they are named after: Gymnasium step by step, bsuite's rules as tables."""

import math

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import rljax
from rljax import ppo


def florian(state, action, params):
    """The cart-pole's equations of motion (Florian 2007, equations 23 and 24), one Euler step."""
    _, speed, angle, turn = state
    total, moment = params["masscart"] + params["masspole"], params["masspole"] * params["length"]
    force = params["force_mag"] * (2 * action - 1)
    push = (force + moment * turn**2 * math.sin(angle)) / total
    inertia = params["length"] * (4 / 3 - params["masspole"] * math.cos(angle) ** 2 / total)
    turning = (params["gravity"] * math.sin(angle) - math.cos(angle) * push) / inertia
    change = np.array([speed, push - moment * turning * math.cos(angle) / total, turn, turning])
    return np.array(state) + params["tau"] * change


CART = {"gravity": 9.8, "masscart": 1.0, "masspole": 0.1, "length": 0.5, "force_mag": 10.0, "tau": 0.02}


def cart_pole_step(env, params, start, action):
    _, state = env.reset(jax.random.key(0), params)
    x, x_dot, theta, theta_dot = (jnp.float32(value) for value in start)
    state = state.replace(x=x, x_dot=x_dot, theta=theta, theta_dot=theta_dot)
    return env.step(jax.random.key(0), state, jnp.int32(action), params)[0].next_obs


@pytest.mark.parametrize("name", list(CART))
def test_every_param_of_cart_pole_follows_the_equations(name):
    start = (0.1, 0.3, 0.1, 0.5)
    for factor in (0.5, 1.0, 4.0):
        changed = {name: CART[name] * factor}
        made = rljax.make("CartPole-v1", **changed)
        from_object = rljax.make(gymnax.make("CartPole-v1")[0], **changed)
        default = rljax.make("CartPole-v1")
        for action in (0, 1):
            expected = florian(start, action, {**CART, **changed})
            for env in (made, from_object):
                np.testing.assert_allclose(cart_pole_step(env, env.params, start, action), expected, rtol=1e-5)

            def traced(value, action=action, env=default):
                return cart_pole_step(env, env.params.replace(**{name: value}), start, action)

            np.testing.assert_allclose(jax.jit(traced)(changed[name]), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["total_mass", "polemass_length"])
def test_a_param_that_follows_from_others_cannot_be_set(name):
    with pytest.raises(rljax.UsageError, match=name):
        rljax.make("CartPole-v1", **{name: 2.0})
    with pytest.raises(rljax.UsageError, match=name):
        rljax.make(gymnax.make("CartPole-v1")[0], **{name: 2.0})
    with pytest.raises(rljax.UsageError, match=name):
        rljax.config.with_values(ppo.Config(env="CartPole-v1"), {f"env.params.{name}": 2.0})


def test_cart_pole_made_twice_is_equal():
    assert toys.same_structure(rljax.make("CartPole-v1"), rljax.make("CartPole-v1", masscart=2.0))
    assert rljax.make("CartPole-v1", masscart=2.0).label == "CartPole-v1(masscart=2.0)"


PLACES = [(-1.19, -0.05), (-1.2, 0.0), (-1.2, -0.07), (-0.5, 0.0), (0.44, 0.07), (0.46, -0.01), (0.59, 0.069)]


@pytest.mark.parametrize("place", PLACES)
def test_the_continuous_mountain_car_is_gymnasiums(place):
    """At the left wall, at the goal in both directions, at the right end, and with forces beyond the bounds."""
    theirs = gymnasium.make("MountainCarContinuous-v0").unwrapped
    env = rljax.make("MountainCarContinuous-v0")
    step = jax.jit(env.step)
    for first in (-1.5, 0.0, 1.0):
        theirs.reset(seed=0)
        theirs.state = np.array(place, np.float32)
        _, state = env.reset(jax.random.key(0), env.params)
        state = state.replace(position=jnp.float32(place[0]), velocity=jnp.float32(place[1]))
        for action in (first, -1.0, 1.0, 0.3):
            obs, reward, terminated, _, _ = theirs.step(np.array([action], np.float32))
            result, state = step(jax.random.key(0), state, jnp.array([action], jnp.float32), env.params)
            np.testing.assert_allclose(result.next_obs, obs, atol=1e-6)
            np.testing.assert_allclose(result.reward, reward, atol=1e-5)
            assert result.terminated == terminated


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0", "Pendulum-v1", "Acrobot-v1"])
def test_random_states_step_as_in_gymnasium(name):
    """500 states, the boundaries among them, each with a random action."""
    theirs, env = gymnasium.make(name).unwrapped, rljax.make(name)
    theirs.reset(seed=0)
    fields = {
        "CartPole-v1": {"x": 2.41, "x_dot": 3, "theta": 0.21, "theta_dot": 3},
        "MountainCar-v0": {"position": (-1.2, 0.6), "velocity": 0.07},
        "Pendulum-v1": {"theta": 7.0, "theta_dot": 8.0},
        "Acrobot-v1": {"joint_angle1": np.pi, "joint_angle2": np.pi, "velocity_1": 12.0, "velocity_2": 28.0},
    }[name]
    rng = np.random.default_rng(0)
    low, high = np.transpose([end if isinstance(end, tuple) else (-end, end) for end in fields.values()])
    starts = np.float32(rng.uniform(low, high, (500, len(fields))))
    edges = rng.random(starts.shape) < 0.05
    starts = np.where(edges, np.float32(np.where(rng.random(starts.shape) < 0.5, low, high)), starts)
    actions = np.stack([np.asarray(env.action_space.sample(jax.random.key(i))) for i in range(500)])
    _, state = env.reset(jax.random.key(0), env.params)

    def run(start, action):
        placed = state.replace(**dict(zip(fields, start, strict=True)))
        return env.step(jax.random.key(0), placed, action, env.params)[0]

    result = jax.jit(jax.vmap(run))(starts, actions)
    for i, (start, action) in enumerate(zip(starts, actions, strict=True)):
        theirs.state = np.float64(start)
        if hasattr(theirs, "steps_beyond_terminated"):
            theirs.steps_beyond_terminated = None
        obs, reward, terminated, _, _ = theirs.step(action)
        np.testing.assert_allclose(result.next_obs[i], obs, rtol=2e-4, atol=2e-4, err_msg=str((start, action)))
        if name == "CartPole-v1" and (abs(start[0]) > 2.4 or abs(start[2]) > 12 * np.pi / 180):
            continue  # the episode had ended before
        assert result.terminated[i] == terminated
        np.testing.assert_allclose(result.reward[i], reward, rtol=1e-4, atol=1e-4)


def test_an_arm_of_the_simple_bandit_keeps_its_reward():
    for settings in ({}, {"mapping_seed": 3}, {"num_actions": 4, "mapping_seed": 1}):
        arms, seed = settings.get("num_actions", 11), settings.get("mapping_seed", 0)
        order = np.random.RandomState(seed).choice(range(arms), size=arms, replace=False)
        env = rljax.make("SimpleBandit-bsuite", **settings)
        for reset_seed in (0, 1):
            _, state = env.reset(jax.random.key(reset_seed), env.params)
            step = jax.vmap(env.step, (None, None, 0, None))
            result, _ = step(jax.random.key(0), state, jnp.arange(arms), env.params)
            np.testing.assert_allclose(result.reward, np.linspace(0, 1, arms)[order], rtol=1e-6)
            assert result.terminated.all()
    from_object = rljax.make(gymnax.make("SimpleBandit-bsuite")[0])
    rewards = [from_object.reset(jax.random.key(seed), from_object.params)[1].rewards for seed in (0, 1)]
    np.testing.assert_array_equal(*rewards)


@pytest.mark.parametrize("seed", [0, 3, 5, 12])
def test_the_discounting_chain_ends_and_pays_as_in_bsuite(seed):
    """The first action decides after how many steps 1 is paid, 1.1 for one of them; step 100 ends the task."""
    env = rljax.make("DiscountingChain-bsuite", mapping_seed=seed)
    step = jax.jit(env.step)
    for action, due in enumerate((1, 3, 10, 30, 100)):
        _, state = env.reset(jax.random.key(0), env.params)
        rewards, ends = [], []
        for time in range(100):
            result, state = step(jax.random.key(0), state, jnp.int32(action if time == 0 else 0), env.params)
            rewards.append(float(result.reward))
            ends.append((bool(result.terminated), bool(result.truncated)))
        assert rewards == pytest.approx([(1.1 if action == seed % 5 else 1.0) * (t + 1 == due) for t in range(100)])
        assert ends == [(False, False)] * 99 + [(True, False)]


def asterix(entities, **fields):
    """An Asterix whose rows hold (column, row, moves right, is gold, is there)."""
    env = rljax.make("Asterix-MinAtar")
    _, state = env.reset(jax.random.key(0), env.params)
    return env, state.replace(entities=jnp.asarray(entities, state.entities.dtype), **fields)


FULL = [[6 - i % 3, i + 1, i % 2, 1, 1] for i in range(8)]


def test_nothing_is_erased_from_a_full_board_of_asterix():
    env, state = asterix(FULL, spawn_timer=0, move_timer=3, player_x=0, player_y=8)
    step = jax.jit(jax.vmap(env.step, (0, None, None, None)))
    _, after = step(jax.random.split(jax.random.key(1), 50), state, 0, env.params)
    np.testing.assert_array_equal(after.entities, np.broadcast_to(FULL, (50, 8, 5)))
    np.testing.assert_array_equal(after.spawn_timer, 9)


@pytest.mark.parametrize("free", [(2,), (0, 7), tuple(range(8))])
def test_asterix_fills_a_random_free_row(free):
    entities = [[0] * 5 if i in free else row for i, row in enumerate(FULL)]
    env, state = asterix(entities, spawn_timer=0, move_timer=3, player_x=3, player_y=8)
    step = jax.jit(jax.vmap(env.step, (0, None, None, None)))
    _, after = step(jax.random.split(jax.random.key(1), 3_000), state, 0, env.params)
    after = np.asarray(after.entities)
    changed = np.any(after != entities, axis=-1)
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    rows = changed.argmax(axis=1)
    counts = np.bincount(rows, minlength=8)
    assert set(np.flatnonzero(counts)) == set(free)
    np.testing.assert_allclose(counts[list(free)] / 3_000, 1 / len(free), atol=0.03)
    column, row, right, gold, there = after[np.arange(3_000), rows].T
    np.testing.assert_array_equal(row, rows + 1)
    np.testing.assert_array_equal(column, np.where(right == 1, 0, 9))
    assert there.all()
    np.testing.assert_allclose([right.mean(), gold.mean()], [1 / 2, 1 / 3], atol=0.04)


def test_the_move_interval_of_asterix_does_not_ramp_below_one():
    env, state = asterix(FULL, move_speed=1, spawn_speed=5, ramp_index=1, ramp_timer=-1, spawn_timer=4, move_timer=0)
    state = state.replace(player_x=0, player_y=1)
    step = jax.jit(env.step)
    columns = []
    for _ in range(3):
        _, state = step(jax.random.key(0), state, 0, env.params)
        columns.append(int(state.entities[1, 0]))
        assert state.move_speed == 1
    assert len(set(columns)) > 1  # the entities still move
