"""Wrappers: what each does, in numbers, on environments small enough to work out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import toys
from toys import check_key_reuse

import rljax
from rljax import dqn, envs, ppo, q_learning, rollout
from rljax.experiment.description import describe

# What is tested here is the same at every optimisation level, and this one compiles in half the time.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def reset_counter(key, params):
    del key
    return jnp.stack([jnp.float32(0.0), params["mark"]]), jnp.int32(0)


def step_counter(key, state, action, params):
    """Observe `[time, action carried out]`, earn `scale * time`, end at `length`."""
    del key
    time = state + 1
    obs = jnp.stack([time.astype(jnp.float32), jnp.float32(action)])
    return rljax.timestep(obs, params["scale"] * time, time >= params["length"]), time


COUNTER = rljax.Env(
    reset=reset_counter,
    step=step_counter,
    observation_space=rljax.Box([0.0, -1.0], [1e6, 1e6], (2,)),
    action_space=rljax.Box(-1.0, 1e6, ()),
    params={"length": jnp.int32(4), "scale": jnp.float32(1.0), "mark": jnp.float32(-1.0)},
    name="counter",
)


def lasting(env, length):
    return env.replace(params={**env.params, "length": jnp.int32(length)})


def walk(env, actions, seed=0):
    """The first observation and the steps that follow, without any automatic reset."""

    def run(params):
        key_reset, key_steps = jax.random.split(jax.random.key(seed))
        obs, state = env.reset(key_reset, params)

        def step(state, inputs):
            result, state = env.step(*inputs[:1], state, inputs[1], params)
            return state, result

        return obs, jax.lax.scan(step, state, (jax.random.split(key_steps, len(actions)), actions))[1]

    obs, steps = quick_jit(run)(env.params)
    return np.asarray(obs), jax.tree.map(np.asarray, steps)


def collect(env, num_envs, num_steps, updates=1, seed=0):
    """Some rollouts in which environment i does action `100 i + t`; also the collectors in between."""

    def policy(noise, obs):
        actions = noise + 100.0 * jnp.arange(num_envs)
        return actions, (actions, obs)

    def run(key):
        collectors, trajectories, metrics = [rollout.reset(key, env, num_envs)], [], []
        for number in range(updates):
            noise = jnp.arange(num_steps, dtype=jnp.float32)
            result = rollout.rollout(jax.random.fold_in(key, number), policy, noise, collectors[-1], env, num_steps)
            for kept, new in zip((collectors, trajectories, metrics), result, strict=True):
                kept.append(new)
        return collectors, trajectories, metrics

    return jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(seed)))


# time_limit


def test_time_limit_truncates_and_does_not_change_termination():
    _, steps = walk(envs.time_limit(lasting(COUNTER, 5), 3), jnp.zeros(6))
    assert steps.truncated.tolist() == [False, False, True, True, True, True]
    assert steps.terminated.tolist() == [False, False, False, False, True, True]
    assert steps.reward.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("name", "own_limit"), [("CartPole-v1", 500), ("Pendulum-v1", 200)])
def test_time_limit_replaces_the_environments_own(name, own_limit):
    # A pole that never counts as fallen, so that only limits end an episode.
    settings = {"theta_threshold_radians": 1e9, "x_threshold": 1e9} if name == "CartPole-v1" else {}
    env = rljax.make(name, **settings)
    assert env.params.max_steps_in_episode == own_limit
    actions = jnp.zeros((own_limit + 60, *env.action_space.shape), env.action_space.dtype)
    for limited, expected in (
        (envs.time_limit(env, own_limit - 50), own_limit - 50),
        (envs.time_limit(env, own_limit + 50), own_limit + 50),
        (envs.time_limit(envs.time_limit(env, 7), 9), 9),
    ):
        _, steps = walk(limited, actions)
        assert np.flatnonzero(steps.truncated)[0] + 1 == expected
        assert not steps.terminated.any()


def test_time_limit_restarts_at_a_reset():
    _, (trajectory,), (metrics,) = collect(envs.time_limit(lasting(COUNTER, 99), 3), 2, 8)
    assert trajectory.truncated.tolist() == [[t % 3 == 2] * 2 for t in range(8)]
    assert trajectory.obs[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert trajectory.next_obs[:, 0, 0].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert (metrics["episodes"], metrics["episode_length"], metrics["episode_return"]) == (4, 3.0, 6.0)


# sticky_actions


def test_sticky_actions_repeat_with_their_probability():
    probability = 0.25
    length, num_envs, num_steps = 20, 64, 200
    _, (trajectory,), _ = collect(envs.sticky_actions(lasting(COUNTER, length), probability), num_envs, num_steps)
    asked, _ = trajectory.action
    done = trajectory.next_obs[..., 1]
    first = trajectory.obs[..., 0] == 0
    assert np.array_equal(first, np.tile((np.arange(num_steps) % length == 0)[:, None], num_envs))
    assert np.array_equal(done[first], asked[first])

    stuck = done != asked
    later = ~first[1:]
    assert np.array_equal(done[1:][stuck[1:]], done[:-1][stuck[1:]])
    test = scipy.stats.binomtest(int(stuck[1:][later].sum()), int(later.sum()), probability)
    assert later.sum() == num_envs * num_steps * 19 // 20
    assert test.pvalue > 1e-3
    # Independent from step to step and from copy to copy.
    pairs = stuck[1:-1] & stuck[2:]
    both = ~first[1:-1] & ~first[2:]
    assert scipy.stats.binomtest(int(pairs[both].sum()), int(both.sum()), probability**2).pvalue > 1e-3
    assert len(np.unique(stuck, axis=1).T) == num_envs


def test_sticky_actions_at_the_extremes():
    for probability, expected in ((0.0, [0, 1, 2, 3, 4, 5, 6]), (1.0, [0, 0, 0, 3, 3, 3, 6])):
        _, (trajectory,), _ = collect(envs.sticky_actions(lasting(COUNTER, 3), probability), 1, 7)
        assert trajectory.next_obs[:, 0, 1].tolist() == expected


def test_sticky_actions_and_the_environment_have_different_keys():
    env = envs.sticky_actions(toys.walk)
    _, state = env.reset(jax.random.key(0), env.params)
    check_key_reuse(lambda key: env.step(key, state, 1, env.params)[0].reward, jax.random.key(1))


# scale_reward


def test_scale_reward():
    _, steps = walk(envs.scale_reward(COUNTER, -0.5), jnp.zeros(4))
    assert steps.reward.tolist() == [-0.5, -1.0, -1.5, -2.0]
    assert steps.reward.dtype == np.float32
    _, _, (metrics,) = collect(envs.scale_reward(COUNTER, -0.5), 2, 4)
    assert metrics["episode_return"] == -5.0  # reported in the scaled unit


# flatten_observation, mask_observation, frame_stack


def grid_env():
    """A 2 x 3 x 1 image of bytes in which entry k of the k-th observation is on."""
    space = rljax.Box(0, 255, (2, 3, 1), np.uint8)

    def see(time):
        return (jax.nn.one_hot(time % 6, 6) * 255).astype(jnp.uint8).reshape(2, 3, 1)

    def reset(key, params):
        del key, params
        return see(0), jnp.int32(0)

    def step(key, state, action, params):
        del key, action, params
        return rljax.timestep(see(state + 1), 0.0, state + 1 >= 6), state + 1

    return rljax.Env(reset=reset, step=step, observation_space=space, action_space=rljax.Discrete(1))


def test_flatten_observation_of_an_image_and_of_a_number():
    env = envs.flatten_observation(grid_env())
    assert env.observation_space == rljax.Box(0.0, 255.0, (6,))
    obs, steps = walk(env, jnp.zeros(3, int))
    assert obs.dtype == np.float32
    assert obs.tolist() == [255, 0, 0, 0, 0, 0]
    assert steps.next_obs.tolist() == [[255.0 * (i == t) for i in range(6)] for t in (1, 2, 3)]
    assert np.array_equal(steps.obs, steps.next_obs)

    lake = envs.flatten_observation(rljax.make("FrozenLake-misc", is_slippery=False))
    assert lake.observation_space == rljax.Box(0.0, 1.0, (16,))
    obs, steps = walk(lake, jnp.array([1, 2]))  # down, right
    assert np.flatnonzero(obs).tolist() == [0]
    assert [np.flatnonzero(row).tolist() for row in steps.next_obs] == [[4], [5]]


def test_flatten_observation_of_a_scalar():
    scalar = rljax.Env(
        reset=lambda key, params: (jnp.float32(0.5), jnp.int32(0)),
        step=lambda key, state, action, params: (rljax.timestep(jnp.float32(0.25), 0.0, False), state),
        observation_space=rljax.Box(0.0, 1.0, ()),
        action_space=rljax.Discrete(2),
    )
    env = envs.flatten_observation(scalar)
    assert env.observation_space == rljax.Box(0.0, 1.0, (1,))
    obs, steps = walk(env, jnp.zeros(1, int))
    assert obs.tolist() == [0.5]
    assert steps.next_obs.tolist() == [[0.25]]


def test_mask_observation_keeps_entries_in_the_order_given():
    env = envs.mask_observation(COUNTER, (1, 0, 1))
    assert env.observation_space == rljax.Box([-1.0, 0.0, -1.0], 1e6, (3,))
    obs, steps = walk(env, jnp.array([7.0, 8.0]))
    assert obs.tolist() == [-1, 0, -1]
    assert steps.next_obs.tolist() == [[7, 1, 7], [8, 2, 8]]
    assert np.array_equal(steps.obs, steps.next_obs)
    cart = envs.mask_observation(rljax.make("CartPole-v1"), (0, 2))
    assert np.allclose(cart.observation_space.high, [4.8, 0.41887903])


def test_frame_stack_repeats_the_first_and_shifts():
    env = envs.frame_stack(COUNTER, 3)
    assert env.observation_space == rljax.Box([0.0, -1.0] * 3, 1e6, (6,))
    obs, steps = walk(env, jnp.array([7.0, 8.0, 9.0, 10.0]))
    assert obs.tolist() == [0, -1, 0, -1, 0, -1]
    expected = [[0, -1, 0, -1, 1, 7], [0, -1, 1, 7, 2, 8], [1, 7, 2, 8, 3, 9], [2, 8, 3, 9, 4, 10]]
    assert steps.next_obs.tolist() == expected
    assert steps.obs.tolist() == expected


def test_frame_stack_across_an_automatic_reset():
    collectors, (trajectory,), _ = collect(envs.frame_stack(lasting(COUNTER, 2), 2), 1, 4)
    assert trajectory.obs[:, 0].tolist() == [[0, -1, 0, -1], [0, -1, 1, 0], [0, -1, 0, -1], [0, -1, 1, 2]]
    assert trajectory.next_obs[:, 0].tolist() == [[0, -1, 1, 0], [1, 0, 2, 1], [0, -1, 1, 2], [1, 2, 2, 3]]
    assert collectors[-1].obs.tolist() == [[0, -1, 0, -1]]


def test_frame_stack_joins_images_along_channels():
    env = envs.frame_stack(grid_env(), 2)
    assert env.observation_space == rljax.Box(0, 255, (2, 3, 2), np.uint8)
    _, steps = walk(env, jnp.zeros(2, int))
    frames = steps.next_obs[1].reshape(6, 2)
    assert steps.next_obs.dtype == np.uint8
    assert [np.flatnonzero(frames[:, i]).tolist() for i in (0, 1)] == [[1], [2]]
    assert walk(envs.frame_stack(COUNTER, 1), jnp.array([7.0]))[1].next_obs.tolist() == [[1, 7]]


# shape_reward

DISCOUNT = 0.9
_random = np.random.default_rng(8)
SUCCESSORS = np.concatenate([_random.integers(0, 5, (4, 2)), np.full((1, 2), 4)])
REWARDS = np.concatenate([_random.normal(size=(4, 2)), np.zeros((1, 2))]).astype(np.float32)
POTENTIALS = np.array([6.0, -5.0, 3.0, -4.0, 7.0], np.float32)  # not zero where the episode terminates


def reset_states(key, params):
    del key
    return params["start"], params["start"]


def step_states(key, state, action, params):
    del key, params
    successor = jnp.asarray(SUCCESSORS, jnp.int32)[state, action]
    return rljax.timestep(successor, jnp.asarray(REWARDS)[state, action], successor == 4), successor


STATES = rljax.Env(
    reset=reset_states,
    step=step_states,
    observation_space=rljax.Discrete(5),
    action_space=rljax.Discrete(2),
    params={"start": jnp.int32(0)},
)


def table_potential(obs):
    return jnp.asarray(POTENTIALS)[obs]


def solve(env):
    """Optimal values `[4]` and policy `[4]` of the model `env` shows when stepped once from every state."""

    def one(start, action):
        params = {"start": start}
        _, state = env.reset(jax.random.key(0), params)
        result, _ = env.step(jax.random.key(1), state, action, params)
        return result.next_obs, result.reward, result.terminated

    starts, actions = jnp.meshgrid(jnp.arange(4), jnp.arange(2), indexing="ij")
    successors, rewards, terminated = map(np.asarray, quick_jit(jax.vmap(jax.vmap(one)))(starts, actions))
    assert np.array_equal(successors, SUCCESSORS[:4])
    values = np.zeros(5)
    for _ in range(1000):
        action_values = rewards.astype(np.float64) + DISCOUNT * ~terminated * values[successors]
        values[:4] = action_values.max(axis=1)
    gaps = np.abs(action_values[:, 0] - action_values[:, 1])
    assert gaps.min() > 1e-3  # the optimal policy is unique
    return values[:4], action_values.argmax(axis=1).tolist()


def test_shape_reward_keeps_the_optimal_policy():
    assert np.any(SUCCESSORS[:4] == 4)
    values, policy = solve(STATES)
    shaped_values, shaped_policy = solve(envs.shape_reward(STATES, table_potential, DISCOUNT))
    assert shaped_policy == policy
    assert set(policy) == {0, 1}
    # Equation 3 of Ng, Harada and Russell; it needs a potential of zero where the task has ended.
    assert np.allclose(shaped_values, values - POTENTIALS[:4], atol=1e-4)

    # A bonus that is no difference of potentials does change what is best, so the above can fail.
    def step_with_bonus(key, state, action, params):
        result, state = STATES.step(key, state, action, params)
        return result._replace(reward=result.reward + table_potential(result.next_obs)), state

    assert solve(STATES.replace(step=step_with_bonus))[1] != policy


def squared_time(obs):
    return obs[0] ** 2 + 1.0


def test_shaped_returns_telescope():
    discount, length = 0.8, 4
    raw = np.arange(1, length + 1.0)
    discounts = discount ** np.arange(length)
    potentials = np.arange(length + 1.0) ** 2 + 1
    for env, last in ((COUNTER, 0.0), (envs.time_limit(lasting(COUNTER, 99), length), potentials[-1])):
        _, steps = walk(envs.shape_reward(env, squared_time, discount), jnp.zeros(length))
        following = np.append(potentials[1:-1], last)
        assert np.allclose(steps.reward, raw + discount * following - potentials[:-1])
        assert np.isclose(discounts @ steps.reward, discounts @ raw + discount**length * last - potentials[0])
        assert steps.terminated[-1] != steps.truncated[-1]


def test_shaping_restarts_at_a_reset():
    _, (trajectory,), _ = collect(envs.shape_reward(lasting(COUNTER, 2), squared_time, 0.5), 1, 5)
    # Potentials 1, 2 and then zero: 1 + 0.5 * 2 - 1 = 1, then 2 + 0 - 2 = 0.
    assert trajectory.reward[:, 0].tolist() == [1, 0, 1, 0, 1]


# normalize_observations, normalize_rewards


def test_observation_statistics_equal_numpys_one_rollout_later():
    num_envs, num_steps, updates = 3, 5, 3
    env = lasting(COUNTER, 4)
    collectors, trajectories, _ = collect(envs.normalize_observations(env), num_envs, num_steps, updates)
    _, raws, _ = collect(env, num_envs, num_steps, updates)
    assert collectors[0].obs_moments.samples == 0
    for number in range(updates):
        before, after = collectors[number].obs_moments, collectors[number + 1].obs_moments
        seen = np.concatenate([raw.obs.reshape(-1, 2) for raw in raws[: number + 1]]).astype(np.float64)
        assert after.samples == len(seen) == num_envs * num_steps * (number + 1)
        assert np.allclose(after.mean, seen.mean(0), rtol=1e-5)
        assert np.allclose(after.squared / after.samples, seen.var(0), rtol=1e-5)

        # What the policy saw and what is kept is normalised by the statistics before this rollout.
        past = seen[: -num_envs * num_steps]
        mean, std = (past.mean(0), past.std(0)) if number else (np.zeros(2), np.ones(2))
        trajectory, raw = trajectories[number], raws[number]
        for ours, theirs in ((trajectory.obs, raw.obs), (trajectory.next_obs, raw.next_obs)):
            assert np.allclose(ours, np.clip((theirs - mean) / std, -10, 10), rtol=1e-4, atol=1e-4)
        assert np.array_equal(trajectory.action[1], trajectory.obs)
        assert before.samples == num_envs * num_steps * number
    assert np.max(trajectories[0].obs) == 10.0  # actions up to 202, clipped while there are no statistics
    assert np.max(raws[0].obs) == 202.0


def test_reward_scale_is_the_deviation_of_the_discounted_return():
    discount, num_envs, num_steps, updates = 0.7, 2, 5, 3
    env = lasting(COUNTER, 4)
    collectors, trajectories, metrics = collect(envs.normalize_rewards(env, discount), num_envs, num_steps, updates)
    _, raws, raw_metrics = collect(env, num_envs, num_steps, updates)
    running, sums = np.zeros(num_envs), []
    for number in range(updates):
        for reward, ended in zip(raws[number].reward, raws[number].terminated, strict=True):
            running = discount * running + reward
            sums.append(running)
            running = np.where(ended, 0.0, running)
        moments = collectors[number + 1].reward_moments
        assert moments.samples == np.size(sums)
        assert np.isclose(moments.mean, np.mean(sums), rtol=1e-5)
        assert np.allclose(trajectories[number].reward, raws[number].reward / np.std(sums), rtol=1e-5)
        assert np.allclose(collectors[number + 1].discounted_reward, running, rtol=1e-5)
        for name, value in raw_metrics[number].items():
            assert np.array_equal(metrics[number][name], value)
    assert metrics[0]["episode_return"] == 10.0


def test_scaled_rewards_are_clipped():
    # One reward of 50 in 200 steps: with no discount the deviation is 3.53, and 50 / 3.53 is beyond 10.
    def step(key, state, action, params):
        return rljax.timestep(jnp.zeros(2), jnp.where(state == 149, 50.0, 0.0), False), state + 1

    _, (trajectory,), _ = collect(envs.normalize_rewards(COUNTER.replace(step=step), 0.0), 1, 200)
    assert trajectory.reward[149].tolist() == [10.0]
    assert np.count_nonzero(trajectory.reward) == 1


def bandit_reset(key, params):
    del params
    obs = 1e3 + jax.random.normal(key, (2,))
    return obs, obs


def bandit_step(key, state, action, params):
    """One step an episode, and the action is the return."""
    del key, params
    return rljax.timestep(state, action, True), state


@pytest.fixture(scope="module")
def trained():
    """PPO on a one-step environment with observations around 1000, both normalisations on."""
    env = rljax.Env(
        reset=bandit_reset,
        step=bandit_step,
        observation_space=rljax.Box(-np.inf, np.inf, (2,)),
        action_space=rljax.Box(-np.inf, np.inf, ()),
    )
    config = ppo.Config(
        env=envs.normalize_rewards(envs.normalize_observations(env)),
        num_envs=4,
        num_steps=16,
        total_steps=256,
        num_epochs=1,
        num_minibatches=1,
        hidden_sizes=(8,),
    )
    state, metrics = quick_jit(ppo.train)(jax.random.key(0), config)
    return config, state, metrics


def test_statistics_are_kept_in_the_training_state(trained):
    _, state, metrics = trained
    moments = state.collector.obs_moments
    assert moments.samples == 256
    assert np.allclose(moments.mean, 1e3, atol=0.4)
    assert np.allclose(moments.squared / moments.samples, 1.0, atol=0.4)
    assert state.collector.reward_moments.samples == 256
    assert metrics["episodes"].tolist() == [64] * 4
    # Actions have mean zero and deviation one, and so have the returns, with any observation.
    assert np.all(np.abs(metrics["episode_return"]) < 0.5)
    assert np.all(np.isfinite(metrics["loss"]))


def test_evaluation_uses_the_statistics_without_changing_them(trained):
    config, state, _ = trained
    moments = state.collector.obs_moments
    numbers = jax.tree.map(np.array, moments)
    key = jax.random.key(5)

    evaluate = quick_jit(lambda key, state: rljax.evaluate(key, config.env, ppo.act(state, config), 6))
    returns = np.asarray(evaluate(key, state))

    key_reset, _ = jax.random.split(key)
    obs, _ = jax.vmap(config.env.reset, (0, None))(jax.random.split(key_reset, 6), ())
    std = np.sqrt(numbers.squared / numbers.samples)
    whitened = np.clip((np.asarray(obs) - numbers.mean) / std, -10, 10)
    assert np.all(np.abs(whitened) < 5)
    actor = ppo.default_network(config.env, config)
    expected = actor.apply(state.params, jnp.asarray(whitened))[0][:, 0]
    assert np.allclose(returns, expected, rtol=1e-3, atol=1e-4)
    assert len(np.unique(returns)) == 6

    assert jax.tree.all(jax.tree.map(np.array_equal, numbers, state.collector.obs_moments))
    shifted = state._replace(collector=state.collector._replace(obs_moments=moments._replace(mean=moments.mean + 1.0)))
    assert np.all(np.abs(np.asarray(evaluate(key, shifted)) - returns) > 1e-6)


# clip_reward


def test_clipped_rewards_are_learnt_from_and_raw_returns_reported():
    raw = np.arange(1, 5.0)
    for bounds, expected in (((-1.0, 2.5), [1, 2, 2.5, 2.5]), ((None, 3.0), [1, 2, 3, 3]), ((2.0, None), [2, 2, 3, 4])):
        env = envs.clip_reward(COUNTER, *bounds)
        assert env.clip_reward == bounds
        _, (trajectory,), (metrics,) = collect(env, 2, 4)
        assert trajectory.reward.tolist() == [[r, r] for r in expected]
        assert metrics["episode_return"] == raw.sum()
    assert walk(env, jnp.zeros(4))[1].reward.tolist() == raw.tolist()
    returns = rljax.evaluate(jax.random.key(0), env, lambda key, obs: jnp.zeros(len(obs)), num_episodes=2)
    assert returns.tolist() == [10.0, 10.0]


def test_clipped_rewards_are_normalised_by_their_own_deviation():
    env = envs.normalize_rewards(envs.clip_reward(COUNTER, 0.0, 2.0), 0.7)
    collectors, (trajectory,), (metrics,) = collect(env, 2, 4)
    clipped, running, sums = np.array([1, 2, 2, 2.0]), 0.0, []
    for reward in clipped:
        running = 0.7 * running + reward
        sums.append(running)
    assert np.isclose(collectors[1].reward_moments.mean, np.mean(sums), rtol=1e-5)
    assert np.allclose(trajectory.reward, clipped[:, None] / np.std(sums), rtol=1e-5)
    assert metrics["episode_return"] == 10.0


def reset_race(key, params):
    del key, params
    return jnp.int32(0), jnp.int32(0)


def step_race(key, state, action, params):
    """Earn 3 for action 1, minus the time, up to a limit; end after four steps."""
    del key
    time = state + 1
    reward = jnp.clip(3.0 * action - time, -params["limit"], params["limit"])
    return rljax.timestep(time, reward, time >= 4), time


def race(limit):
    return rljax.Env(
        reset=reset_race,
        step=step_race,
        observation_space=rljax.Discrete(5),
        action_space=rljax.Discrete(2),
        params={"limit": jnp.float32(limit)},
    )


SMALL = {"num_envs": 2, "num_steps": 8, "total_steps": 64}
DQN = {"prefill_steps": 16, "buffer_size": 64, "batch_size": 8, "gradient_steps": 2, "n_step": 2}


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {"hidden_sizes": (8,), "num_epochs": 1, "num_minibatches": 2}),
        (dqn, {"hidden_sizes": (8,), **DQN}),
        (q_learning, {}),
    ],
    ids=["ppo", "dqn", "q_learning"],
)
def test_training_clips_rewards_and_reports_raw_returns(algorithm, fields):
    """Rewards beyond the bounds are learnt from as if the environment kept within them, but the returns differ."""
    train = quick_jit(algorithm.train)
    configs = [algorithm.Config(env=envs.clip_reward(race(limit)), **SMALL, **fields) for limit in (99.0, 1.0)]
    (state, metrics), (expected, small) = (train(jax.random.key(0), config) for config in configs)
    learnt = "tables" if algorithm is q_learning else "params"
    assert jax.tree.all(jax.tree.map(np.array_equal, getattr(state, learnt), getattr(expected, learnt)))
    # With k times action 1 the raw return is 3 k - 10.
    raw = np.asarray(metrics["episode_return"] * metrics["episodes"])
    assert not np.any(np.round(raw + 10 * metrics["episodes"]) % 3)
    assert np.all(metrics["episode_return"] != small["episode_return"])


# Composition


def a_stack(env):
    env = envs.sticky_actions(envs.mask_observation(env, (0, 2)), 0.1)
    env = envs.scale_reward(envs.shape_reward(env, squared_time, 0.99), 0.5)
    return envs.normalize_rewards(envs.normalize_observations(envs.time_limit(envs.frame_stack(env, 4), 50)), 0.99)


def test_wrappers_compose():
    env = a_stack(rljax.make("CartPole-v1"))
    assert env.wrappers == (
        "mask_observation",
        "sticky_actions",
        "shape_reward",
        "scale_reward",
        "frame_stack",
        "time_limit",
        "normalize_observations",
        "normalize_rewards",
    )
    assert env.observation_space.shape == (8,)
    assert (env.normalize_observations, env.normalize_rewards) == (True, 0.99)
    assert env.name == "CartPole-v1"
    assert env.action_space == rljax.Discrete(2)

    inner = rljax.make("CartPole-v1")
    first, _ = inner.reset(jax.random.split(jax.random.key(0))[0], inner.params)
    obs, steps = walk(env, jnp.ones(50, int))
    # The wrappers' own resets draw nothing, so that the first observation is the one inside.
    assert np.allclose(obs, np.tile(np.asarray(first)[[0, 2]], 4))
    frames = steps.next_obs.reshape(50, 4, 2)
    assert np.array_equal(frames[1:, :-1], frames[:-1, 1:])
    assert np.flatnonzero(steps.truncated).tolist() == [49]
    upright = ~steps.terminated
    seen = np.concatenate([obs[None, -2:], frames[:, -1]])
    potentials = seen[:, 0] ** 2 + 1
    expected = 0.5 * (1 + 0.99 * potentials[1:] - potentials[:-1])
    assert upright.sum() > 5
    assert np.allclose(steps.reward[upright], expected[upright], rtol=1e-4)


def test_time_limit_and_shaping_commute():
    actions = jnp.arange(3.0)
    one = envs.shape_reward(envs.time_limit(COUNTER, 2), squared_time, 0.9)
    other = envs.time_limit(envs.shape_reward(COUNTER, squared_time, 0.9), 2)
    for left, right in zip(jax.tree.leaves(walk(one, actions)), jax.tree.leaves(walk(other, actions)), strict=True):
        assert np.array_equal(left, right)


def test_equal_wrappers_compile_once():
    traces = []

    @jax.jit
    def first_observation(key, env):
        traces.append(1)
        return env.reset(key, env.params)[0]

    one, other = (a_stack(rljax.make("CartPole-v1", gravity=g)) for g in (9.8, 5.0))
    left, right = jax.tree.structure(one), jax.tree.structure(other)
    assert left == right
    assert hash(left) == hash(right)
    for env in (one, other):
        first_observation(jax.random.key(0), env)
    assert len(traces) == 1
    assert jax.tree.structure(envs.time_limit(COUNTER, 3)) != jax.tree.structure(envs.time_limit(COUNTER, 4))
    assert envs.scale_reward(COUNTER, 3).recipe[-1] == ("scale_reward", (3.0,))
    assert isinstance(envs.scale_reward(COUNTER, 3).recipe[-1][1][0], float)
    assert repr(envs.clip_reward(COUNTER, None, 3).recipe[-1]) == "('clip_reward', (None, 3.0))"
    assert jax.tree.structure(envs.scale_reward(COUNTER, 3)) != jax.tree.structure(envs.scale_reward(COUNTER, 4))


def test_recipe_and_label_describe_how_an_environment_was_made():
    lake = envs.time_limit(rljax.make("FrozenLake-misc", map_name="8x8"), max_steps=50)
    assert lake.recipe == (("FrozenLake-misc", (("map_name", "8x8"),)), ("time_limit", (50,)))
    assert lake.label == "FrozenLake-misc(map_name=8x8)+time_limit(50)"
    own = envs.sticky_actions(envs.mask_observation(envs.shape_reward(COUNTER, squared_time, 0.9), np.array([1])))
    assert own.recipe == (None, ("shape_reward", (squared_time, 0.9)), ("mask_observation", ((1,),)), own.recipe[3])
    assert own.label == "counter+shape_reward(squared_time, 0.9)+mask_observation((1,))+sticky_actions(0.25)"
    heavy = rljax.make("CartPole-v1", gravity=5.0)
    array = heavy.replace(params=heavy.params.replace(gravity=np.float32(5.1)))
    assert heavy.recipe == rljax.make("CartPole-v1").recipe  # params are not part of it
    assert [env.label for env in (heavy, envs.time_limit(array, 9), rljax.make("CartPole-v1"), COUNTER)] == [
        "CartPole-v1(gravity=5.0)",
        "CartPole-v1(gravity=5.1)+time_limit(9)",
        "CartPole-v1",
        "counter",
    ]
    described = describe(heavy)  # for a run's files and tables
    assert described["label"] == heavy.label


def test_wrappers_keep_the_params_of_the_environment():
    inner = rljax.make("CartPole-v1", gravity=5.0)
    env = a_stack(inner)
    assert env.params is inner.params
    assert jax.tree.leaves(env) == jax.tree.leaves(inner)
    heavy = env.replace(params=env.params.replace(gravity=500.0))
    plain, bent = (walk(e, jnp.ones(8, int))[1] for e in (env, heavy))
    assert not np.allclose(plain.next_obs, bent.next_obs)
    assert np.argmax(bent.terminated) < 8
    assert bent.terminated.any()


def test_wrappers_accept_an_id():
    assert envs.frame_stack("CartPole-v1", 4) == envs.frame_stack(rljax.make("CartPole-v1"), 4)
    limited = envs.time_limit("CartPole-v1", jnp.int32(3))
    assert limited == envs.time_limit(rljax.make("CartPole-v1"), 3)
    returns = rljax.evaluate(jax.random.key(0), "CartPole-v1", lambda key, obs: jnp.ones(len(obs), int), num_episodes=2)
    assert np.all((returns >= 8) & (returns <= 11))  # always to the right


# Refusals

APPLY = {
    "normalize_observations": envs.normalize_observations,
    "normalize_rewards": envs.normalize_rewards,
    "time_limit": lambda env: envs.time_limit(env, 5),
    "frame_stack": lambda env: envs.frame_stack(env, 2),
    "flatten_observation": envs.flatten_observation,
    "sticky_actions": envs.sticky_actions,
    "scale_reward": lambda env: envs.scale_reward(env, 2.0),
    "mask_observation": lambda env: envs.mask_observation(env, (0,)),
    "shape_reward": lambda env: envs.shape_reward(env, squared_time, 0.9),
    "clip_reward": envs.clip_reward,
    "repeat_action": lambda env: envs.repeat_action(env, 3),
}


REFUSED = {
    ("mask_observation", "frame_stack"),
    ("mask_observation", "normalize_observations"),
    ("frame_stack", "normalize_observations"),
    ("flatten_observation", "normalize_observations"),
    ("normalize_observations", "normalize_observations"),
    ("normalize_rewards", "normalize_rewards"),
    ("scale_reward", "normalize_rewards"),
    ("shape_reward", "normalize_rewards"),
    ("clip_reward", "clip_reward"),
    ("clip_reward", "normalize_rewards"),
    ("scale_reward", "clip_reward"),
    ("shape_reward", "clip_reward"),
    ("repeat_action", "clip_reward"),
    ("repeat_action", "normalize_rewards"),
    ("repeat_action", "normalize_observations"),
    ("repeat_action", "shape_reward"),
    ("time_limit", "repeat_action"),
}


@pytest.mark.parametrize(("outer", "inner"), sorted(REFUSED))
def test_refused_pairs_name_the_right_order(outer, inner):
    for between in ((), ("time_limit", "sticky_actions")):
        env = APPLY[inner](COUNTER)
        for name in between:
            if (name, inner) not in REFUSED:
                env = APPLY[name](env)
        with pytest.raises(rljax.UsageError) as caught:
            APPLY[outer](env)
        message = str(caught.value)
        assert message.startswith(outer)
        assert message.endswith(".")
        assert "\n" not in message
        if outer == inner:
            assert "applied twice" in message
        else:
            assert f"{inner}({outer}(env, ...))" in message
            assert APPLY[inner](APPLY[outer](COUNTER)).wrappers == (outer, inner)


def test_all_other_pairs_are_allowed():
    allowed = [(outer, inner) for outer in APPLY for inner in APPLY if (outer, inner) not in REFUSED]
    assert len(allowed) == len(APPLY) ** 2 - len(REFUSED)
    for outer, inner in allowed:
        env = APPLY[outer](APPLY[inner](COUNTER))
        assert env.wrappers == (inner, outer)
        obs, state = jax.eval_shape(env.reset, jax.random.key(0), env.params)
        result, following = jax.eval_shape(env.step, jax.random.key(0), state, jnp.float32(0), env.params)
        assert obs.shape == result.next_obs.shape == env.observation_space.shape, (outer, inner)
        assert jax.tree.structure(state) == jax.tree.structure(following)


LAKE = "FrozenLake-misc"


@pytest.mark.parametrize(
    ("wrap", "word"),
    [
        (
            lambda: envs.time_limit(COUNTER, 0),
            r"time_limit's max_steps must be an integer in \[1, 2147483647\], got 0",
        ),
        (lambda: envs.time_limit(COUNTER, "5"), "max_steps must be an integer .*, got '5'"),
        (lambda: envs.time_limit(COUNTER, 5.7), "integer .*, got 5.7"),
        (lambda: envs.frame_stack(COUNTER, 0), "frame_stack's num_frames must be an integer in"),
        (lambda: envs.frame_stack(COUNTER, 2.5), "got 2.5"),
        (lambda: envs.sticky_actions(COUNTER, "0.25"), "finite number in .*, got '0.25'"),
        (lambda: envs.scale_reward(COUNTER, "a"), "factor must be a finite number, got 'a'"),
        (lambda: envs.scale_reward(COUNTER, float("nan")), "got nan"),
        (lambda: envs.scale_reward(COUNTER, True), "got True"),
        (lambda: envs.scale_reward(COUNTER, np.ones(2)), "got array"),
        (
            lambda: envs.shape_reward(COUNTER, squared_time, 1.5),
            r"discount must be a finite number in \[0, 1\], got 1.5",
        ),
        (lambda: envs.mask_observation(COUNTER, 2), "indices to keep, such as .0, 2., got 2"),
        (lambda: envs.time_limit(5, 5), "takes an environment's id, .* got int"),
        (lambda: rljax.make("CartPole-v1", gravity="abc"), "gravity of CartPole-v1 must be a number, got 'abc'"),
        (lambda: rljax.make("CartPole-v1", gravity=np.nan), "gravity of CartPole-v1 must be a number, got nan"),
        (lambda: rljax.make("CartPole-v1", gravity=True), "gravity of CartPole-v1 must be a number, got True"),
        (lambda: rljax.make("Pong-misc", max_steps_in_episode=0), "a number of at least 1, got 0"),
        (lambda: envs.sticky_actions(COUNTER, 1.5), r"\[0, 1\]"),
        (lambda: envs.sticky_actions(COUNTER, float("nan")), r"\[0, 1\]"),
        (lambda: envs.normalize_rewards(COUNTER, -0.1), r"\[0, 1\]"),
        (lambda: envs.clip_reward(COUNTER, "a"), "clip_reward's low must be a finite number, got 'a'"),
        (lambda: envs.clip_reward(COUNTER, 0.0, np.inf), "clip_reward's high must be a finite number, got inf"),
        (lambda: envs.clip_reward(COUNTER, 1, 1), "low must be below its high, got low=1.0 and high=1.0"),
        (lambda: envs.clip_reward(COUNTER, None, None), "needs a bound"),
        (lambda: envs.mask_observation(COUNTER, ()), "between 0 and 1"),
        (lambda: envs.mask_observation(COUNTER, (0, 2)), "between 0 and 1"),
        (lambda: envs.mask_observation(COUNTER, (-1,)), "between 0 and 1"),
        (lambda: envs.mask_observation(COUNTER, (True, False)), "indices to keep, such as .0, 2., got True"),
        (lambda: envs.mask_observation(COUNTER, np.array([False, True])), "indices to keep"),
        (lambda: envs.mask_observation(COUNTER, (0.5,)), "got 0.5"),
        (lambda: envs.mask_observation(grid_env(), (0,)), "flatten_observation"),
        (lambda: envs.mask_observation(rljax.make(LAKE), (0,)), "flatten_observation"),
        (lambda: envs.frame_stack(rljax.make(LAKE), 2), "flatten_observation"),
        (lambda: envs.normalize_observations(rljax.make(LAKE)), "flatten_observation"),
    ],
)
def test_invalid_arguments_are_refused(wrap, word):
    with pytest.raises(rljax.UsageError, match=word):
        wrap()
