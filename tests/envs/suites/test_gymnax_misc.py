"""gymnax's miscellaneous environments against plain NumPy of what they are named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax

STEPS = 400


@jax.jit
def play(env, key, actions, changes):
    key_reset, key_steps = jax.random.split(key)
    _, start = env.reset(key_reset, env.params)
    start = start.replace(**changes)

    def step(state, inputs):
        result, state = env.step(*inputs[:1], state, inputs[1], env.params)
        return state, (result, state)

    return start, *jax.lax.scan(step, start, (jax.random.split(key_steps, len(actions)), actions))[1]


def played(env, actions, seed=0, **changes):
    """The first state, with changes, and what follows these actions without resets: time steps and states `[T]`."""
    return jax.tree.map(np.asarray, play(env, jax.random.key(seed), actions, changes))


def random_actions(n, seed=0):
    return np.random.default_rng(seed).integers(n, size=STEPS)


def assert_time_limit(env, result):
    np.testing.assert_array_equal(result.truncated, np.arange(1, STEPS + 1) >= env.params.max_steps_in_episode)


# --- grids ------------------------------------------------------------------------------------------------------------

ROOMS = """\
xxxxxxxxxxxxx
x     x     x
x     x     x
x           x
x     x     x
x     x     x
xx xxxx     x
x     xxx xxx
x     x     x
x     x     x
x           x
x     x     x
xxxxxxxxxxxxx"""
WALLS = np.array([[mark == "x" for mark in row] for row in ROOMS.splitlines()])
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])


def test_four_rooms_moves_and_pays_as_in_its_original():
    """Sutton et al. 1999, as in howardh/gym-fourrooms."""
    env = rljax.make("FourRooms-misc", fail_prob=0.0)
    actions = random_actions(4)
    start, result, _ = played(env, actions)
    place, goal = start.pos, start.goal
    for t, action in enumerate(actions):
        ahead = place + MOVES[action]
        place = place if WALLS[tuple(ahead)] else ahead
        np.testing.assert_array_equal(result.next_obs[t], [*place, *goal])
        is_reached = np.array_equal(place, goal)
        assert (result.reward[t], result.terminated[t]) == (is_reached, is_reached)
    _, result, _ = played(env, actions[:1] * 0 + 1, pos=goal - [0, 1])
    assert (result.reward[0], result.terminated[0]) == (1.0, True)


def test_four_rooms_fails_a_third_of_the_time():
    """A move that fails goes in one of the three other directions, each equally often."""
    env = rljax.make("FourRooms-misc")

    @jax.jit
    def moved(keys):
        _, state = env.reset(keys[0], env.params)
        state = state.replace(pos=jnp.array([3, 3]))
        return jax.vmap(lambda key: env.step(key, state, jnp.int32(1), env.params)[0].next_obs[:2])(keys)

    moves = np.asarray(moved(jax.random.split(jax.random.key(0), 30_000))) - 3
    shares = [(moves == move).all(axis=1).mean() for move in MOVES]
    np.testing.assert_allclose(shares, [1 / 9, 2 / 3, 1 / 9, 1 / 9], atol=0.01)


def test_four_rooms_shows_the_agent_where_it_is():
    env = rljax.make("FourRooms-misc", use_visual_obs=True, fail_prob=0.0)
    obs, _ = env.reset(jax.random.key(0), env.params)
    _, result, states = played(env, random_actions(4)[:40])
    for t, image in enumerate([obs, *result.next_obs]):
        place = states.pos[t - 1] if t else [4, 1]
        np.testing.assert_array_equal(image[..., 0], WALLS)
        np.testing.assert_array_equal(np.argwhere(image[..., 1]), [place])


@pytest.mark.parametrize("size", [5, 9])
def test_meta_maze_moves_and_pays_as_in_its_original(size):
    """Miconi et al. 2019: pillars, a hidden goal that pays 10 and sends the agent to any other place, and no end."""
    env = rljax.make("MetaMaze-misc", maze_size=size, punishment=-0.5, max_steps_in_episode=300)
    walls = np.ones((size + 2, size + 2), int)
    walls[1:-1, 1:-1] = 0
    walls[2:-1:2, 2:-1:2] = 1
    actions = random_actions(4)
    start, result, states = played(env, actions)
    place, reached = start.pos, 0
    np.testing.assert_array_equal(place, [(size + 1) // 2] * 2)
    for t, action in enumerate(actions):
        ahead = place + MOVES[action]
        is_wall = walls[tuple(ahead)]
        place = place if is_wall else ahead
        is_reached = np.array_equal(place, start.goal)
        reached += is_reached
        assert result.reward[t] == 10.0 * is_reached - 0.5 * is_wall
        if is_reached:
            place = states.pos[t]
            assert not walls[tuple(place)]
            assert not np.array_equal(place, start.goal)
        around = walls[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2].ravel()
        np.testing.assert_array_equal(result.next_obs[t], [*around, *np.eye(4)[action], result.reward[t], t + 1])
    assert reached > 0
    assert not result.terminated.any()
    assert_time_limit(env, result)


def test_a_meta_maze_draws_any_place_but_the_start_and_the_goal():
    env = rljax.make("MetaMaze-misc", maze_size=5)

    @jax.jit
    @jax.vmap
    def draw(key):
        _, state = env.reset(key, env.params)
        _, reached = env.step(
            key, state.replace(pos=jnp.array([1, 2]), goal=jnp.array([1, 1])), jnp.int32(3), env.params
        )
        return state.pos, state.goal, reached.pos

    drawn = map(np.asarray, draw(jax.random.split(jax.random.key(0), 4000)))
    start, goals, places = drawn
    np.testing.assert_array_equal(start, 3)
    for cells, never in ((goals, [3, 3]), (places, [1, 1])):
        found, counts = np.unique(cells, axis=0, return_counts=True)
        assert len(found) == 5 * 5 - 4 - 1  # four pillars
        assert not (found == never).all(axis=1).any()
        np.testing.assert_allclose(counts / 4000, 1 / 20, atol=0.015)


# --- pong -------------------------------------------------------------------------------------------------------------


def pong_step(centers, ball, velocity, action):
    """BlackHC/batch_pong_poc in a field of 30 by 40, with paddles that stay in it and an opponent that follows."""
    step = {0: 0, 1: -1, 2: 1}[action]
    up, down = (np.abs(ball[0] - np.clip(centers[1] + move, 2, 27)) for move in (-1, 1))
    opponent = -1 if up < down else 1
    centers = np.array([np.clip(int(c) + move, 2, 27) for c, move in zip(centers, (step, opponent), strict=True)])
    ball, velocity = ball + velocity, velocity.copy()
    if ball[0] < 0:
        ball[0], velocity[0] = -ball[0], -velocity[0]
    if ball[0] >= 30:
        ball[0], velocity[0] = 2 * 29 - ball[0], -velocity[0]
    hits = (ball[1] <= 1 and abs(ball[0] - centers[0]) <= 2, ball[1] > 38 and abs(ball[0] - centers[1]) < 3)
    for is_hit, center, edge in zip(hits, centers, (1, 38), strict=True):
        if is_hit:
            velocity = np.array([np.round(np.clip(velocity[0] + (ball[0] - center) / 2, -3, 3)), -velocity[1]])
            ball = np.array([ball[0], 2 * edge - ball[1]])
    return centers, ball, velocity, bool(ball[1] < 0 or ball[1] >= 40)


def pong_image(centers, ball, before):
    image = np.zeros((30, 40, 3))
    for channel, (row, column) in ((1, ball), (2, before)):
        image[int(np.clip(np.floor(row), 0, 29)), int(np.clip(np.floor(column), 0, 39)), channel] = 1
    for center, column in zip(centers, (0, 39), strict=True):
        image[np.clip(int(center) + np.arange(-2, 3), 0, 29), column, 0] = 1
    return image


@pytest.mark.parametrize("velocity", [(0, 1), (-3, -1), (3, -1), (-2, 1)])
def test_pong_moves_and_bounces_as_in_its_original(velocity):
    env = rljax.make("Pong-misc")
    actions = np.repeat(random_actions(3), 4)[:100]  # no ball is in play for longer
    start, result, _ = played(env, actions, ball_velocity=jnp.array(velocity))
    centers, ball, velocity = start.paddle_centers, start.ball_position, np.array(velocity)
    bounced = 0
    for t, action in enumerate(actions):
        before = ball
        bounced += ball[0] + velocity[0] < 0
        centers, ball, velocity, is_over = pong_step(centers, ball, velocity, int(action))
        np.testing.assert_array_equal(result.next_obs[t], pong_image(centers, ball, before))
        assert (result.reward[t], result.terminated[t]) == (1.0 - is_over, is_over)
        if is_over:
            break
    assert 15 < t < len(actions) - 1
    assert bounced or start.ball_velocity[0] >= 0


# --- points and bandits -----------------------------------------------------------------------------------------------


def test_a_point_robot_is_paid_near_its_goal():
    """Dorfman et al. 2021; the payment is for the position before the step, and the robot then starts anew."""
    env = rljax.make("PointRobot-misc", max_steps_in_episode=300)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (STEPS, 2)).astype(np.float32)
    start, result, states = played(env, actions, pos=jnp.array([0.5, 0.5]))
    place, paid = start.pos, 0
    np.testing.assert_allclose(np.linalg.norm(start.goal), 1.0, rtol=1e-6)
    for t, action in enumerate(actions):
        is_near = np.linalg.norm(start.goal - place) <= 0.2
        paid += is_near
        place = states.pos[t] if is_near else place + np.clip(action, -0.1, 0.1)
        time = 2 * (t + 1) / 100 - 1
        np.testing.assert_allclose(result.next_obs[t], [*place, is_near, *action, time], atol=1e-5)
        assert result.reward[t] == is_near
    assert paid > 0
    assert np.linalg.norm(place) < 100
    assert_time_limit(env, result)
    dense = rljax.make("PointRobot-misc", dense_reward=True)
    start, result, _ = played(dense, actions[:1])
    np.testing.assert_allclose(result.reward[0], -np.linalg.norm(start.goal - start.pos), rtol=1e-6)


def test_a_reacher_integrates_its_torques():
    """ivy_gym: joints of length 1, velocity first, paid by the distance of the hand from the goal."""
    env = rljax.make("Reacher-misc", torque_scale=2.0)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2)).astype(np.float32)
    start, result, _ = played(env, actions)
    angles, speeds = start.angles.astype(float), start.angle_vels.astype(float)
    for t, action in enumerate(actions[:60]):
        speeds = speeds + 0.05 * 2.0 * action
        angles = angles + 0.05 * speeds
        hand = np.array([np.cos(angles).sum(), np.sin(angles).sum()])
        np.testing.assert_allclose(result.reward[t], np.exp(-((hand - start.goal_xy) ** 2).sum()), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            result.next_obs[t], [*np.cos(angles), *np.sin(angles), *speeds, *start.goal_xy], atol=1e-4
        )
    assert not result.terminated.any()
    assert_time_limit(env, result)


def test_a_swimmer_avoids_urchins():
    """ivy_gym: acceleration by the action, paid near the goal and away from urchins."""
    env = rljax.make("Swimmer-misc", max_steps_in_episode=350)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2)).astype(np.float32)
    start, result, _ = played(env, actions)
    place, speed = start.xy.astype(float), np.zeros(2)
    for t, action in enumerate(actions[:60]):
        speed = speed + 0.05 * action
        place = place + 0.05 * speed
        near = np.exp(-0.5 * ((place - start.goal_xy) ** 2).sum())
        near *= np.prod(1 - np.exp(-30 * ((place - start.urchin_xys) ** 2).sum(axis=1)))
        np.testing.assert_allclose(result.reward[t], near, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            result.next_obs[t], [*start.urchin_xys.ravel(), *place, *speed, *start.goal_xy], atol=1e-4
        )
    assert not result.terminated.any()
    assert_time_limit(env, result)


def test_a_bernoulli_bandit_pays_one_arm_often():
    """Wang et al. 2017: the arms pay with probabilities p and 1 - p, in an order drawn at each reset."""
    env = rljax.make("BernoulliBandit-misc", reward_prob=0.2)
    actions = random_actions(2)
    start, result, _ = played(env, actions)
    np.testing.assert_allclose(sorted(start.reward_probs), [0.2, 0.8], rtol=1e-6)
    for arm in (0, 1):
        np.testing.assert_allclose(result.reward[actions == arm].mean(), start.reward_probs[arm], atol=0.08)
    time = 2 * np.arange(1, STEPS + 1) / 100 - 1
    expected = np.column_stack([result.reward, np.eye(2)[actions], time])
    np.testing.assert_allclose(result.next_obs, expected, atol=1e-5)
    assert_time_limit(env, result)
    reset = jax.vmap(lambda key: env.reset(key, env.params)[1].reward_probs[0])
    assert abs(np.mean(np.asarray(reset(jax.random.split(jax.random.key(0), 1000))) > 0.5) - 0.5) < 0.06


def test_a_gaussian_bandit_has_one_safe_arm():
    """Lange and Sprekeler 2022: 0, or normal around a mean drawn at each reset."""
    env = rljax.make("GaussianBandit-misc", mean_mu=1.0, sigma_p=2.0, sigma_l=0.5)
    actions = random_actions(2)
    start, result, _ = played(env, actions)
    assert np.all(result.reward[actions == 0] == 0.0)
    paid = result.reward[actions == 1] - start.mu
    np.testing.assert_allclose([paid.mean(), paid.std()], [0.0, 0.5], atol=0.1)
    time = 2 * np.arange(1, STEPS + 1) / 100 - 1
    np.testing.assert_allclose(
        result.next_obs, np.column_stack([result.reward, np.eye(2)[actions], time]), rtol=1e-5, atol=1e-5
    )
    assert_time_limit(env, result)
    reset = jax.vmap(lambda key: env.reset(key, env.params)[1].mu)
    means = np.asarray(reset(jax.random.split(jax.random.key(0), 2000)))
    np.testing.assert_allclose([means.mean(), means.std()], [1.0, 2.0], atol=0.15)
