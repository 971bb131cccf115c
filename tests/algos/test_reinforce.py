"""REINFORCE against NumPy, against an exact gradient, and every step of every episode counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_metrics, backward, forward, log_softmax

import rljax
from rljax import envs, planning, reinforce, rollout, schedules
from rljax.distributions import policy_head


@pytest.fixture(scope="module")
def small():
    """A run of four updates with whole and unfinished episodes, ended either way."""
    env = envs.time_limit(rljax.make("CartPole-v1"), 12)
    return reinforce.Config(
        env=env,
        total_steps=160,
        num_envs=4,
        num_steps=10,
        max_episode_steps=16,
        hidden_sizes=(8,),
        learning_rate=schedules.linear(1e-2, 0),
    )


class Table:
    """A row of logits and a value for each number that `index` makes of an observation; not Flax."""

    def __init__(self, index, policy, value):
        self.index, self.policy, self.value = index, policy, value

    def init(self, key, obs):
        return {"policy": self.policy, "value": self.value}

    def apply(self, params, obs):
        return params["policy"][self.index(obs)], params["value"][self.index(obs)]


@jax.jit
def replay(config, key, state):
    """What an update with that key plays: the actions and the trajectory."""
    key_noise, key_rollout = jax.random.split(key)
    head = policy_head(config.env.action_space)
    network = reinforce.default_network(config.env, config) if config.network is None else config.network

    def policy(noise, obs):
        action = head.distribution(network.apply(state.params, obs)[0]).transform(noise)
        return head.to_action(action), action

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    return rollout.rollout(key_rollout, policy, noise, state.collector, config.env, config.num_steps)[1]


def gradient(state):
    """The gradient that one step of Adam from nothing has seen."""
    return jax.tree.map(lambda moment: moment / 0.1, state.opt_state.mu)


# --- one whole update against NumPy -------------------------------------------------------------------------------


def reference_loss(params, obs, action, target, config):
    """Williams 1992 with a baseline (section 4) on samples in a row: the losses and the gradient, in float64."""
    features, logits = forward(params["actor"], params["Dense_0"], obs)
    critic_features, value = forward(params["critic"], params["Dense_1"], obs)
    value, size = value[:, 0], len(obs)
    log_probs = log_softmax(logits)
    probs, taken = np.exp(log_probs), np.eye(2)[action]
    advantage = target - value if config.baseline else target
    if config.normalize_returns:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    entropy = -(probs * log_probs).sum(1)
    policy_loss, value_loss = -(advantage * (log_probs * taken).sum(1)).mean(), 0.0
    d_logits = -advantage[:, None] * (taken - probs) / size
    d_logits += config.entropy_coefficient * probs * (log_probs + entropy[:, None]) / size
    d_value = np.zeros((size, 1))
    if config.baseline:
        value_loss = 0.5 * ((value - target) ** 2).mean()
        d_value = config.value_coefficient * (value - target)[:, None] / size
    d_actor, d_pi = backward(params["actor"], params["Dense_0"], obs, features, d_logits)
    d_critic, d_v = backward(params["critic"], params["Dense_1"], obs, critic_features, d_value)
    gradient = {"actor": d_actor, "critic": d_critic, "Dense_0": d_pi, "Dense_1": d_v}
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy.mean()
    metrics = {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean()}
    metrics["log_prob"] = (log_probs * taken).sum(1).mean()
    return metrics, gradient


@pytest.mark.parametrize(("baseline", "normalize"), [(True, True), (False, False)])
def test_one_update_equals_numpy(small, baseline, normalize):
    env = envs.normalize_rewards(envs.normalize_observations(small.env), 0.9) if normalize else small.env
    config = rljax.replace(
        small, env=env, baseline=baseline, normalize_returns=normalize, entropy_coefficient=0.01, max_grad_norm=0.1
    )
    update = jax.jit(reinforce.update)
    state, _ = update(jax.random.key(5), jax.jit(reinforce.init)(jax.random.key(4), config), config)
    state, _ = update(jax.random.key(6), state, config)
    key = jax.random.key(7)
    after, metrics = update(key, state, config)

    played = jax.tree.map(np.asarray, replay(config, key, state))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params["params"])
    samples, ended_both_ways = [], set()
    for env in range(config.num_envs):
        episode = []
        for row in range(config.max_episode_steps + config.num_steps):
            new = row - config.max_episode_steps
            if new < 0:
                old = state.history
                step = [np.asarray(x[row, env]) for x in (old.obs, old.action, old.reward)]
                terminated, truncated = bool(old.terminated[row, env]), bool(old.truncated[row, env])
            else:
                step = [x[new, env] for x in (played.obs, played.action, played.reward)]
                terminated, truncated = played.terminated[new, env], played.truncated[new, env]
            episode.append(step)
            if terminated or truncated:
                if new >= 0:
                    ended_both_ways.add(bool(terminated))
                    value = forward(params["critic"], params["Dense_1"], played.next_obs[new, env])[1][0]
                    following = 0.0 if terminated or not baseline else value
                    for obs, action, reward in reversed(episode):
                        following = float(reward) + config.discount * following
                        samples.append((obs, action, following))
                episode = []
    assert ended_both_ways == {True, False}
    obs, action, target = (np.array(column) for column in zip(*samples, strict=True))
    assert config.num_envs * config.num_steps != len(obs) == int(metrics["used_steps"])
    losses, gradient = reference_loss(params, obs.astype(np.float64), action, target, config)

    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    episodes = {name: metrics[name] for name in ("episodes", "episode_return", "episode_length", "reward")}
    counts = {"used_steps": len(obs), "lost_steps": 0, "env_steps": 3 * 40}
    scheduled = {
        "learning_rate": 1e-2 * (1 - 2 / config.num_updates),
        "entropy_coefficient": config.entropy_coefficient,
    }
    assert_metrics(metrics, losses | episodes | counts | scheduled | {"gradient_norm": norm})
    assert norm > config.max_grad_norm
    adam = state.opt_state
    rate = 1e-2 * (1 - 2 / config.num_updates)
    time = int(adam.count) + 1

    def step(p, g, first, second):
        g = g * config.max_grad_norm / norm
        first, second = (
            0.9 * np.asarray(first, np.float64) + 0.1 * g,
            0.999 * np.asarray(second, np.float64) + 1e-3 * g**2,
        )
        return p - rate * first / (1 - 0.9**time) / (np.sqrt(second / (1 - 0.999**time)) + 1e-5)

    expected = jax.tree.map(step, params, gradient, adam.mu["params"], adam.nu["params"])
    for got, want in zip(jax.tree.leaves(after.params["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params["actor"], expected["actor"])
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_gradient_of_the_loss_equals_finite_differences(small, env):
    """In 64 bits, on parameters scattered enough for every term to matter."""
    with jax.enable_x64(True):
        config = rljax.replace(small, env=env, entropy_coefficient=0.1, baseline=True, normalize_returns=False)
        key_params, key_obs, key_action, key_target, key_used = jax.random.split(jax.random.key(0), 5)
        network, head = reinforce.default_network(config.env, config), policy_head(config.env.action_space)
        shape = (6, 3)
        obs = jax.random.normal(key_obs, (*shape, *config.env.observation_space.shape), jnp.float64)
        params = jax.tree.map(lambda x: x.astype(jnp.float64) + 0.3, network.init(key_params, obs))
        action = head.distribution(network.apply(params, obs)[0]).transform(head.noise(key_action, shape))
        zero = jnp.zeros(shape)
        window = reinforce.Steps(obs, action, zero, zero, zero > 0, zero > 0)
        targets, used = jax.random.normal(key_target, shape), jax.random.bernoulli(key_used, 0.5, shape)
        # What the policy's term takes from the baseline is a constant of the gradient, so it is one here as well.
        fixed = targets - network.apply(params, obs)[1]

        def value_part(params):
            return config.value_coefficient * reinforce.loss(params, window, targets, used, config)[1]["value_loss"]

        def policy_part(params):
            bare = rljax.replace(config, baseline=False)
            return reinforce.loss(params, window, fixed, used, bare)[0]

        slope = jax.grad(lambda params: reinforce.loss(params, window, targets, used, config)[0])(params)
        flat, unflatten = jax.flatten_util.ravel_pytree(params)
        slope, _ = jax.flatten_util.ravel_pytree(slope)
        for number in range(0, len(flat), 7):
            nudge = jnp.zeros_like(flat).at[number].set(1e-6)
            up, down = (value_part(unflatten(x)) + policy_part(unflatten(x)) for x in (flat + nudge, flat - nudge))
            np.testing.assert_allclose(slope[number], (up - down) / 2e-6, rtol=1e-5, atol=1e-8)
        assert jnp.abs(slope).max() > 0.1


# --- every step once, with the return of its episode ----------------------------------------------------------------

IDS, LONGEST = 4096, 12


def numbered():
    """Episodes of 1 to LONGEST steps; the observation says which episode and step it is, every reward is its own."""

    def reset(key, params):
        episode = jax.random.randint(key, (), 0, IDS)
        return jnp.stack([episode, 0]).astype(jnp.float32), jnp.stack([episode, 0])

    def step(key, state, action, params):
        episode, time = state
        last = time + 1 >= episode % LONGEST + 1
        following = jnp.stack([episode, time + 1])
        reward = jnp.sin(1.0 + episode + 100.0 * time) + action
        odd = (episode // LONGEST) % 2 == 1
        return rljax.timestep(following.astype(jnp.float32), reward, last & odd, last & ~odd), following

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0.0, float(IDS), (2,)),
        action_space=rljax.Discrete(2),
        name="numbered",
    )


def number(obs):
    return (obs[..., 0] * (LONGEST + 1) + obs[..., 1]).astype(jnp.int32)


@pytest.mark.parametrize(("num_steps", "history", "loses"), [(5, 11, False), (5, 6, True), (20, 4, True)])
def test_every_step_is_used_once_with_its_return(num_steps, history, loses):
    """The gradient of a table with a row a step says how often each was used, and with which return."""
    rows, updates, num_envs = IDS * (LONGEST + 1), 300 // (3 * num_steps), 3
    config = reinforce.Config(
        env=numbered(), total_steps=updates * num_steps * num_envs, num_envs=num_envs, num_steps=num_steps,
        max_episode_steps=history, discount=0.9, learning_rate=0.0, max_grad_norm=1e9, baseline=False,
        normalize_returns=False, network=Table(number, jnp.zeros((rows, 2)), jnp.zeros(rows)),
    )  # fmt: skip
    update = jax.jit(reinforce.update)
    state = start = jax.jit(reinforce.init)(jax.random.key(0), config)
    seen, played = np.zeros((rows, 2)), []
    used, lost = [], []
    for i in range(updates):
        key = jax.random.key(i)
        played.append(replay(config, key, state))
        state, metrics = update(key, state._replace(opt_state=start.opt_state), config)
        seen -= np.asarray(gradient(state)["policy"], np.float64) * float(metrics["used_steps"])
        used.append(int(metrics["used_steps"]))
        lost.append(int(metrics["lost_steps"]))

    wanted, counts = np.zeros((rows, 2)), {"used": np.zeros(updates, int), "lost": np.zeros(updates, int), "open": 0}
    steps = jax.tree.map(lambda *x: np.concatenate(x), *played)
    for env in range(num_envs):
        begin = 0
        ends = [*np.flatnonzero(steps.terminated[:, env] | steps.truncated[:, env]), None]
        for end in ends:
            if end is not None:
                now, after = end // num_steps, end + 1
                following = 0.0
            else:
                now, after = updates, len(steps.reward)  # never: it has not ended yet
            for time in reversed(range(begin, after)):
                left = (time + history) // num_steps  # the update that moves it out of the window
                if end is not None:
                    following = steps.reward[time, env] + 0.9 * following
                if left < now:
                    counts["lost"][left] += 1
                elif end is None:
                    counts["open"] += 1
                else:
                    counts["used"][now] += 1
                    row, action = int(number(steps.obs[time, env])), steps.action[time, env]
                    wanted[row] += following * (np.eye(2)[action] - 0.5)
            begin = after
    np.testing.assert_allclose(seen, wanted, atol=1e-4)
    np.testing.assert_array_equal(used, counts["used"])
    np.testing.assert_array_equal(lost, counts["lost"])
    assert sum(used) + sum(lost) + counts["open"] == config.total_steps
    assert (sum(lost) > 0) == loses
    assert np.abs(wanted).max() > 1


# --- the exact gradient ---------------------------------------------------------------------------------------------


def two_states():
    """Two states, two actions; what is good to do now is not what is good for later, and episodes end by chance."""
    return envs.Model(
        transitions=jnp.array([[[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.1, 0.9]]]),
        rewards=jnp.array([[1.0, -0.5], [0.3, 2.0]]),
        terminated=jnp.array([[[False, True], [True, False]], [[False, True], [True, False]]]),
        start=jnp.array([0.7, 0.3]),
    )


LOGITS = jnp.array([[0.4, -0.3], [-0.5, 0.2]])


def estimates(baseline, seeds=32, updates=40):
    """Gradients of the expected return of an episode, one a seed, from updates that do not move: [seeds, 2, 2]."""
    config = reinforce.Config(
        env=envs.from_model(two_states()), total_steps=updates * 200, num_envs=4, num_steps=50, max_episode_steps=100,
        discount=1.0, learning_rate=0.0, max_grad_norm=1e9, baseline=baseline, normalize_returns=False,
        network=Table(lambda obs: obs, LOGITS, jnp.array([3.0, 5.0])),
    )  # fmt: skip

    def one(key):
        key_init, key_updates = jax.random.split(key)
        start = jax.jit(reinforce.init)(key_init, config)

        def step(state, key):
            state, metrics = reinforce.update(key, state._replace(opt_state=start.opt_state), config)
            slope = -gradient(state)["policy"] * metrics["used_steps"]
            return state, (slope, metrics["episodes"], metrics["lost_steps"])

        _, (slopes, episodes, lost) = jax.lax.scan(step, start, jax.random.split(key_updates, updates))
        return slopes.sum(0) / episodes.sum(), lost.sum()

    slopes, lost = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), seeds))
    assert lost.sum() == 0
    return np.asarray(slopes)


def exact_gradient():
    model = two_states()
    return np.asarray(jax.grad(lambda x: planning.expected_return(model, jax.nn.softmax(x), discount=1.0))(LOGITS))


def deviations(slopes):
    """How far the mean over seeds is from the exact gradient, in standard errors."""
    error = slopes.std(axis=0, ddof=1) / np.sqrt(len(slopes))
    assert (error < 0.04 * np.abs(exact_gradient()).max()).all()  # small enough to detect a bias
    return np.abs(slopes.mean(axis=0) - exact_gradient()) / error


@pytest.mark.parametrize("baseline", [False, True])
def test_the_estimate_is_the_exact_gradient(baseline):
    assert (deviations(estimates(baseline)) < 4).all()


def _own_reward_left_out(reward, *rest):
    return DISCOUNTED(reward, *rest) - reward


def _rewards_of_the_past(reward, next_value, terminated, truncated, discount):
    ended = jnp.roll(terminated, 1, axis=0).at[0].set(True)  # backwards, an episode ends where it began
    return DISCOUNTED(reward[::-1], next_value, ended[::-1], truncated, discount)[::-1] - reward


DISCOUNTED = reinforce.returns.discounted


@pytest.mark.parametrize("broken", [_own_reward_left_out, _rewards_of_the_past])
def test_a_wrong_return_gives_another_gradient(monkeypatch, broken):
    monkeypatch.setattr(reinforce.returns, "discounted", broken)
    assert deviations(estimates(False)).max() > 10


# --- ends of episodes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminates", "baseline", "expected"),
    [(False, True, [2.0, 2.0, 2.0]), (False, False, [1.75, 1.5, 1.0]), (True, True, [1.75, 1.5, 1.0])],
)
def test_truncated_episodes_bootstrap_from_the_baseline(terminates, baseline, expected):
    """Reward 1 for three steps at discount 0.5: worth 2 for ever beyond a time limit, if there is a baseline to say."""

    def reset(key, params):
        return jnp.int32(0), jnp.int32(0)

    def step(key, state, action, params):
        last = state == 2
        return rljax.timestep(state + 1, 1.0, last & terminates, last & (not terminates)), state + 1

    env = rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Discrete(4),
        action_space=rljax.Discrete(2),
        name="line",
    )
    # The value after the end is 2, and 0 elsewhere, so that a value read at the wrong place shows.
    table = Table(lambda obs: obs, jnp.zeros((4, 2)), jnp.array([0.0, 0.0, 0.0, 2.0]))
    config = reinforce.Config(
        env=env, total_steps=24, num_envs=2, num_steps=3, discount=0.5, baseline=baseline, normalize_returns=False,
        value_coefficient=1.0, learning_rate=0.0, max_grad_norm=1e9, max_episode_steps=3, network=table,
    )  # fmt: skip
    after, _ = jax.jit(reinforce.update)(jax.random.key(1), reinforce.init(jax.random.key(0), config), config)
    if baseline:  # 1/2 (v - G)^2 from v = 0, a third of the steps each
        np.testing.assert_allclose(-3 * gradient(after)["value"][:3], expected, rtol=1e-5)
    else:
        counts = np.asarray(after.history.action).mean(axis=1)  # of action 1
        np.testing.assert_allclose(-3 * gradient(after)["policy"][:3, 1], expected * (counts - 0.5), atol=1e-6)
        np.testing.assert_array_equal(gradient(after)["value"], 0.0)


def test_parameters_stay_if_no_episode_ends(small):
    """Adam's momentum neither."""
    config = rljax.replace(small, env="CartPole-v1", num_steps=4, max_episode_steps=500)
    update = jax.jit(reinforce.update)
    state, quiet = jax.jit(reinforce.init)(jax.random.key(0), config), 0
    for i in range(10):
        before, (state, metrics) = state, update(jax.random.key(i), state, config)
        assert all(np.isfinite(value) for name, value in metrics.items() if name[:8] != "episode_")
        pairs = zip(*map(jax.tree.leaves, (before[:2], state[:2])), strict=True)
        still = all(np.array_equal(a, b) for a, b in pairs)
        assert still == (int(metrics["used_steps"]) == 0)
        quiet += still
        assert int(state.step) == i + 1
    assert 3 < quiet < 10
    assert int(state.opt_state.count) == 10 - quiet
