"""Each agent's choices and updates against plain NumPy, and what regret is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import same_bits

import rljax
from rljax import algos, bandits
from rljax.bandits import learner, posterior, preferences, ucb

PLAYS = [(0, 1.0), (1, 0.0), (2, 1.0), (0, 0.0), (2, 1.0), (2, 0.0), (1, 1.0), (0, 1.0), (2, 1.0)]
ARMS, REWARDS = np.array([arm for arm, _ in PLAYS]), np.array([reward for _, reward in PLAYS])
N = np.array([3.0, 2.0, 4.0])
S = np.array([2.0, 1.0, 3.0])


def after_plays(algorithm, env="bandits/bernoulli-3", obs=None, **fields):
    """The agent's config and statistics after PLAYS."""
    config = algorithm.Config(env=env, total_steps=100, **fields)
    statistics, learn = algorithm.agent.init(config), jax.jit(algorithm.agent.learn)
    for time, (arm, reward) in enumerate(PLAYS):
        now = jnp.int32(0) if obs is None else obs[time]
        statistics = learn(statistics, now, jnp.int32(arm), jnp.float32(reward), jnp.int32(time), config)
    return config, statistics


def near(left, right):
    np.testing.assert_allclose(np.asarray(left), right, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("step_size", ["visits(1, 1)", 0.3])
def test_epsilon_greedy_and_softmax_estimate_values(step_size):
    expected, plays = np.full(3, 0.7), np.zeros(3)
    for arm, reward in PLAYS:
        plays[arm] += 1
        expected[arm] += (1 / plays[arm] if step_size != 0.3 else 0.3) * (reward - expected[arm])
    for algorithm in (bandits.epsilon_greedy, bandits.softmax):
        _, values = after_plays(algorithm, step_size=step_size, initial_value=0.7)
        near(values.estimates, expected)


def test_epsilon_greedy_explores_with_probability_epsilon():
    config, values = after_plays(bandits.epsilon_greedy, epsilon=0.3)
    choose = bandits.epsilon_greedy.agent.choose
    arms = jax.vmap(lambda u: choose(values, u, 0, 0, config))(jax.random.uniform(jax.random.key(0), (20_000, 3)))
    np.testing.assert_allclose(np.bincount(arms, minlength=3) / 20_000, [0.1, 0.1, 0.8], atol=0.012)


def test_indices_of_upper_confidence_bounds():
    for algorithm in (bandits.ucb1, bandits.ucb_v, bandits.kl_ucb):
        config, moments = after_plays(algorithm)
        near(moments.plays, N)
        near(moments.means, S / N)
        mean, t = S / N, np.log(9.0)
        if algorithm is bandits.ucb1:
            near(ucb.ucb1_index(moments, t, config), mean + np.sqrt(2 * t / N))
        elif algorithm is bandits.ucb_v:
            variance = [REWARDS[arm == ARMS].var() for arm in range(3)]
            bonus = 1.2 * t / N
            near(ucb.ucb_v_index(moments, t, config), mean + np.sqrt(2 * np.array(variance) * bonus) + 3 * bonus)
        else:
            grid = np.linspace(0, 1, 1_000_001)[1:-1]
            for arm, q in enumerate(np.asarray(ucb.kl_ucb_index(moments, t, config))):
                p = mean[arm]
                kl = p * np.log(p / grid) + (1 - p) * np.log((1 - p) / (1 - grid))
                assert q == pytest.approx(grid[kl <= t / N[arm]].max(), abs=3e-6)


def test_kl_ucb_bounds_means_of_zero_and_one():
    config = bandits.kl_ucb.Config(env="bandits/bernoulli-2")
    moments = ucb.Moments(jnp.array([4.0, 4.0]), jnp.array([0.0, 1.0]), jnp.zeros(2))
    near(ucb.kl_ucb_index(moments, jnp.log(9.0), config), [1 - 9.0**-0.25, 1.0])  # -ln(1 - q) = ln t / n


def test_posteriors():
    config, sums = after_plays(bandits.thompson, prior_successes=2.0)
    near(posterior.beta_parameters(sums, config), [2 + S, 1 + N - S])
    config, sums = after_plays(bandits.gaussian_thompson, prior_mean=0.5, prior_std=2.0, noise=0.5)
    precision = 1 / 4 + N / 0.25
    near(posterior.gaussian_posterior(sums, config), [(0.5 / 4 + S / 0.25) / precision, precision**-0.5])


@pytest.mark.parametrize("baseline", [True, False])
def test_gradient_bandit_climbs(baseline):
    expected, seen = np.zeros(3), []
    for arm, reward in PLAYS:
        policy = np.exp(expected) / np.exp(expected).sum()
        mean = (np.mean(seen) if seen else reward) if baseline else 0.0
        expected += 0.4 * (reward - mean) * (np.eye(3)[arm] - policy)
        seen.append(reward)
    _, statistics = after_plays(bandits.gradient_bandit, step_size=0.4, baseline=baseline)
    near(statistics.preferences, expected)


def test_exp3_weighs_by_inverse_probabilities():
    weights = np.ones(3)
    for arm, reward in PLAYS:
        probabilities = 0.8 * weights / weights.sum() + 0.2 / 3
        weights[arm] *= np.exp(0.2 / 3 * reward / probabilities[arm])
    config, log_weights = after_plays(bandits.exp3, gamma=0.2)
    near(preferences.exp3_probabilities(log_weights, config), 0.8 * weights / weights.sum() + 0.2 / 3)


def test_linear_agents_regress():
    x = np.random.default_rng(0).normal(size=(len(PLAYS), 3, 2)).astype(np.float32)
    played = x[np.arange(len(PLAYS)), ARMS].astype(np.float64)
    gram = 2.0 * np.eye(2) + played.T @ played
    theta = np.linalg.solve(gram, played.T @ REWARDS)
    obs = jnp.asarray(x)
    for algorithm, fields in ((bandits.lin_ucb, {"confidence": 0.5}), (bandits.linear_thompson, {"scale": 0.0})):
        env = rljax.make("bandits/linear-3", dimension=2)
        config, regression = after_plays(algorithm, env, obs, ridge=2.0, **fields)
        near(regression.inverse, np.linalg.inv(gram))
        near(algorithm.agent.values(regression, obs[0], config), x[0] @ theta)
        index = x[0] @ theta
        if algorithm is bandits.lin_ucb:
            index = index + 0.5 * np.sqrt(np.einsum("ad,de,ae->a", x[0], np.linalg.inv(gram), x[0]))
        noise = jnp.zeros(1) if algorithm is bandits.lin_ucb else jnp.ones(2)
        assert algorithm.agent.choose(regression, noise, obs[0], 0, config) == index.argmax()


def test_discounted_and_windowed_sums():
    weight = 0.9 ** np.arange(len(PLAYS))[::-1]
    chosen = ARMS[:, None] == np.arange(3)
    _, sums = after_plays(bandits.discounted_ucb, discount=0.9)
    near(sums, [weight @ chosen, (weight * REWARDS) @ chosen])
    _, window = after_plays(bandits.sliding_window_thompson, window=4)
    near(window.sums, [chosen[-4:].sum(0), REWARDS[-4:] @ chosen[-4:]])


def test_ties_are_broken_evenly():
    uniform = (jnp.arange(300) + 0.5) / 300
    arms = jax.vmap(lambda u: learner.argmax(jnp.array([1.0, 2.0, 0.0, 2.0, 2.0]), u))(uniform)
    assert np.bincount(arms, minlength=5).tolist() == [0, 100, 0, 100, 100]


def test_a_run_reports_its_regret_and_the_oracles_reward(capsys):
    env = rljax.make("bandits/bernoulli-3", means=(0.2, 0.9, 0.5))
    config = bandits.ucb1.Config(env=env, total_steps=200, num_steps=20)
    result = rljax.run(bandits.ucb1, config, seeds=6, evaluations=2, eval_episodes=3, devices=1)
    metrics, final = result.metrics, result.summary["final_measures"]
    assert metrics["regret"].shape == (6, 10)
    np.testing.assert_allclose(metrics["oracle_reward"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(final["oracle_return"]["mean"], 180.0, rtol=1e-5)
    np.testing.assert_allclose(final["regret"]["per_seed"], metrics["regret"][:, -1], rtol=1e-6)
    gained = 180.0 - 20 * metrics["reward"].sum(axis=1)
    np.testing.assert_allclose(metrics["realized_regret"][:, -1], gained, atol=1e-3)
    np.testing.assert_allclose(result.summary["final_return"]["per_seed"], 180.0 - gained, rtol=1e-5)
    np.testing.assert_allclose(result.eval_measures["regret"][:, 1], metrics["regret"][:, 4], rtol=1e-6)
    plays = np.asarray(result.states.statistics.plays)
    np.testing.assert_allclose(metrics["regret"][:, -1], plays @ [0.7, 0.0, 0.4], rtol=1e-4)
    assert plays.sum(axis=1).tolist() == [200.0] * 6
    low, high = final["regret"]["ci95"]
    assert low < final["regret"]["mean"] < high
    shown = " ".join(capsys.readouterr().out.split())
    assert "training return" in shown
    assert f"regret {final['regret']['mean']:.4g} ({low:.4g} to {high:.4g})" in shown
    alone = jax.jit(bandits.ucb1.train)(jax.random.split(jax.random.key(0), 6)[2], config)[0]
    assert same_bits(alone.statistics, jax.tree.map(lambda x: x[2], result.states.statistics))


def test_agents_refuse_what_they_cannot_play():
    for make, text in [
        (lambda: bandits.thompson.Config(env="bandits/gaussian-3"), "use gaussian_thompson"),
        (lambda: bandits.lin_ucb.Config(env="bandits/bernoulli-3"), "has no features"),
        (lambda: bandits.ucb1.Config(env="CartPole-v1"), "does not report"),
        (lambda: bandits.ucb1.Config(env="bandits/bernoulli-3", total_steps=2**24), "float32"),
        (lambda: rljax.run("ucb1", "bandits/bernoulli-3", eval_policy="stochastic"), "judged by what it gains"),
    ]:
        with pytest.raises(rljax.UsageError, match=text):
            make()


def test_agents_are_algorithms_with_names():
    assert set(bandits.ALGORITHMS) <= set(algos.algorithms())
    assert algos.name_of(bandits.kl_ucb) == "kl_ucb"
    assert rljax.preset("optimistic_greedy", "bandits/gaussian-10").initial_value == 5.0
