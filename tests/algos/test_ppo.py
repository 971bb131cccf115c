"""PPO: one update against plain NumPy, its options, and learning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from reference import (
    LIMIT,
    Adam,
    as_float64,
    assert_metrics,
    assert_moved,
    backward,
    clip_by_norm,
    drawn_fresh,
    episode_metrics,
    forward,
    generalized_advantages,
    legal_in_cartpole,
    log_softmax,
    masked,
    masked_cartpole,
    play,
    trained_returns,
)

import rljax
from rljax import core, on_policy, ppo, schedules
from rljax.distributions import policy_head
from rljax.envs.masks import plain


@pytest.fixture(scope="module")
def env():
    return rljax.make("CartPole-v1")


@pytest.fixture(scope="module")
def small(env):
    """A run of four updates that compiles fast."""
    return ppo.Config(env=env, total_steps=256, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(16,))


@pytest.fixture(scope="module")
def train():
    return jax.jit(ppo.train)


# --- one whole update against NumPy -------------------------------------------------------------------------------


def reference_update(params, config, obs, gumbel, fresh, indices, learning_rate, clip):
    """Schulman et al. 2017 on CartPole with a time limit of LIMIT steps, Adam as in Kingma and Ba 2015, in float64.

    Returns the parameters, and the metrics of each minibatch up to the one that stops the update.
    """
    actor, critic, pi, v = params["actor"], params["critic"], params["Dense_0"], params["Dense_1"]

    def legal(obs):
        return config.env.legal_actions is None or legal_in_cartpole(obs)

    rows = play(lambda obs, _: log_softmax(masked(forward(actor, pi, obs)[1], legal(obs))), obs, gumbel, fresh)
    values, next_values = (forward(critic, v, rows[name])[1][..., 0] for name in ("obs", "next_obs"))
    advantages = generalized_advantages(rows, values, next_values, config.discount, config.gae_lambda)
    targets = advantages + values
    collected = episode_metrics(rows) | {"explained_variance": 1 - (targets - values).var() / targets.var()}
    columns = (rows["obs"], rows["action"], rows["log_prob"], values, advantages, targets)
    flat = [a.reshape(-1, *a.shape[2:]) for a in columns]

    adam, measured = Adam(params, learning_rate, 1e-5), []
    for chosen in indices:
        x, action, old_log_prob, old_value, advantage, target = (a[chosen] for a in flat)
        if config.normalize_advantages:
            advantage = (advantage - advantage.mean()) / advantage.std()
        size = len(chosen)
        features, logits = forward(params["actor"], params["Dense_0"], x)
        critic_features, value = forward(params["critic"], params["Dense_1"], x)
        log_probs = log_softmax(masked(logits, legal(x)))
        probs = np.exp(log_probs)
        taken = np.eye(2)[action.astype(int)]
        ratio = np.exp((log_probs * taken).sum(1) - old_log_prob)
        clipped = np.clip(ratio, 1 - clip, 1 + clip)
        entropy = -(probs * log_probs).sum(1)
        policy_loss = -np.minimum(ratio * advantage, clipped * advantage).mean()
        limit = np.inf if config.value_clip is None else config.value_clip
        limited = old_value + np.clip(value[:, 0] - old_value, -limit, limit)
        errors, limited_errors = (value[:, 0] - target) ** 2, (limited - target) ** 2
        value_loss = 0.5 * np.maximum(errors, limited_errors).mean()
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy.mean()
        active = ratio * advantage <= clipped * advantage
        d_logits = (-(active * ratio * advantage)[:, None] * (taken - probs)) / size
        d_logits += config.entropy_coefficient * probs * (log_probs + entropy[:, None]) / size
        moves = (np.abs(value[:, 0] - old_value) <= limit) | (errors > limited_errors)
        d_value = config.value_coefficient * (moves * (value[:, 0] - target))[:, None] / size
        d_actor, d_pi = backward(params["actor"], params["Dense_0"], x, features, d_logits)
        d_critic, d_v = backward(params["critic"], params["Dense_1"], x, critic_features, d_value)
        gradient = {"actor": d_actor, "critic": d_critic, "Dense_0": d_pi, "Dense_1": d_v}
        divergence = (ratio - 1 - np.log(ratio)).mean()
        measured.append(
            {
                "log_prob": (log_probs * taken).sum(1).mean(),
                "loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean(),
                "approximate_kl": divergence, "clip_fraction": (np.abs(ratio - 1) > clip).mean(),
                "gradient_norm": np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient))), **collected,
            }
        )  # fmt: skip
        if config.target_kl is not None and divergence > config.target_kl:
            break
        params = adam.step(params, clip_by_norm(gradient, config.max_grad_norm))
    return params, measured


def assert_update(config, done=0):
    """One update, the `done + 1`-th of a run, equals NumPy in all metrics and parameters; the minibatches' metrics."""
    key_init, key = jax.random.split(jax.random.key(3))
    state = jax.jit(ppo.init)(key_init, config)._replace(step=jnp.int32(done))
    after, metrics = jax.jit(ppo.update)(key, state, config)

    key_noise, key_rollout, key_shuffle = jax.random.split(key, 3)
    gumbel = policy_head(config.env.action_space).noise(key_noise, (32, 3))
    fresh = drawn_fresh(config.env, key_rollout, 32, 3)
    indices = core.minibatches(key_shuffle, 96, 4, 3)
    start = as_float64(state.params["params"])
    inputs = as_float64((plain(state.collector.obs), gumbel, fresh))
    left = 1 - done / 10
    rate, clip = (
        getattr(field, "start", field) * (left if hasattr(field, "start") else 1.0)
        for field in (config.learning_rate, config.clip)
    )
    expected, measured = reference_update(start, config, *inputs, np.asarray(indices), rate, clip)

    assert_moved(after.params["params"], expected, start)
    means = {name: np.mean([row[name] for row in measured]) for name in measured[0]}
    scheduled = {"learning_rate": rate, "clip": clip, "entropy_coefficient": config.entropy_coefficient}
    assert_metrics(metrics, means | scheduled | {"env_steps": (done + 1) * 96})
    assert metrics["episodes"] >= 3 * (32 // LIMIT)
    assert int(after.step) == done + 1
    return measured


@pytest.fixture(scope="module")
def limited(env):
    return ppo.Config(
        env=rljax.envs.time_limit(env, LIMIT),
        total_steps=32 * 3 * 10,
        num_envs=3,
        num_steps=32,
        num_epochs=3,
        num_minibatches=4,
        hidden_sizes=(8,),
        learning_rate=3e-3,
        clip=0.02,  # narrow, so that it binds
        entropy_coefficient=0.01,
    )


def test_one_update_equals_numpy(limited):
    measured = assert_update(limited)
    assert measured[-1]["clip_fraction"] > 0.05


def test_one_update_with_masked_actions_equals_numpy(limited):
    """Entropies, ratios and gradients are those of a policy over the legal actions only."""
    config = rljax.replace(limited, env=rljax.envs.time_limit(masked_cartpole(), LIMIT), entropy_coefficient=0.1)
    measured = assert_update(config)
    assert 0 < measured[0]["entropy"] < 0.5  # many states have a single legal action


def test_one_update_with_limits_and_schedules_equals_numpy(limited):
    """It stops at the first minibatch whose divergence from the old policy is above `target_kl`, and not before."""
    config = rljax.replace(
        limited,
        clip=schedules.linear(0.02, 0),
        normalize_advantages=False,
        value_clip=0.01,
        target_kl=1e9,
        learning_rate=schedules.linear(6e-3, 0),
    )
    free = [row["approximate_kl"] for row in assert_update(config, done=3)]
    assert len(free) == 12
    middle = next(i for i in range(4, 12) if free[i] > max(free[:i]))
    stopped = assert_update(rljax.replace(config, target_kl=(max(free[:middle]) + free[middle]) / 2), done=3)
    assert len(stopped) == middle + 1


# --- options -------------------------------------------------------------------------------------------------------


def test_the_ratio_is_one_at_the_first_minibatch(small, env):
    one = dataclasses.replace(small, num_epochs=1, num_minibatches=1, total_steps=64)
    state = jax.jit(ppo.init)(jax.random.key(0), one)
    _, metrics = jax.jit(ppo.update)(jax.random.key(1), state, one)
    assert abs(float(metrics["approximate_kl"])) < 1e-6
    assert float(metrics["clip_fraction"]) == 0.0
    # With a ratio of one and normalised advantages the policy's loss is minus their mean: zero.
    assert abs(float(metrics["policy_loss"])) < 1e-5


def test_a_stacked_config_vmaps_and_a_static_mismatch_raises(small, train):
    rates = [1e-4, 1e-2]
    configs = [dataclasses.replace(small, learning_rate=rate) for rate in rates]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *configs)
    key = jax.random.key(0)
    states, _ = jax.jit(jax.vmap(ppo.train, (None, 0)))(key, stacked)
    for i, config in enumerate(configs):
        state, _ = train(key, config)
        for got, want in zip(jax.tree.leaves(states.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(got[i], want, atol=2e-5)
    with pytest.raises(ValueError, match=r"(?i)mismatch|custom node type|different"):
        jax.tree.map(lambda *leaves: jnp.stack(leaves), small, dataclasses.replace(small, num_epochs=1))


def test_schedule_steps_sets_the_annealing_horizon(small):
    """The rate falls linearly to zero over schedule_steps: then nothing moves any more."""
    config = dataclasses.replace(small, schedule_steps=128)
    key_init, key_updates, _ = core.training_keys(jax.random.key(0))
    state = jax.jit(ppo.init)(key_init, config)
    update = jax.jit(ppo.update)
    moved = []
    for i in range(4):
        following, _ = update(jax.random.fold_in(key_updates, i), state, config)
        pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(following.params), strict=True)
        moved.append(max(float(jnp.abs(a - b).max()) for a, b in pairs))
        state = following
    assert moved[0] > moved[1] > 0
    assert moved[2] == moved[3] == 0


def test_target_kl_stops_an_update(small):
    key = jax.random.key(0)
    state = jax.jit(ppo.init)(key, small)
    free = dataclasses.replace(small, learning_rate=0.05, num_epochs=8)
    _, unlimited = jax.jit(ppo.update)(key, state, free)
    stopped_state, stopped = jax.jit(ppo.update)(key, state, dataclasses.replace(free, target_kl=1e-4))
    assert float(unlimited["approximate_kl"]) > float(stopped["approximate_kl"]) > 1e-4
    never_state, never = jax.jit(ppo.update)(key, state, dataclasses.replace(free, target_kl=1e9))
    np.testing.assert_allclose(never["approximate_kl"], unlimited["approximate_kl"], rtol=1e-4)
    counts = [int(s.opt_state.count) for s in (stopped_state, never_state)]
    assert 1 <= counts[0] < counts[1] == 16


class Linear:
    """A network that is not Flax: any object with init and apply."""

    def init(self, key, obs):
        return {"policy": jnp.zeros((4, 2)), "value": jnp.zeros(4)}

    def apply(self, params, obs):
        return obs @ params["policy"], obs @ params["value"]


def test_metrics_of_ratios_far_from_one(small):
    """Half the probability then is thrice the ratio now, up to a twentieth of it."""
    config = dataclasses.replace(small, network=Linear(), clip=0.6)
    ratio = np.array([3.0, 1.5, 1.0, 0.5, 0.3, 0.05])
    obs, zeros = np.zeros((6, 4), np.float32), np.zeros(6, np.float32)
    old_log_prob = np.float32(np.log(0.5) - np.log(ratio))
    batch = on_policy.Samples((obs,), np.zeros(6, int), old_log_prob, zeros, np.float32([1, -1, 2, -2, 3, 0]), zeros)
    _, metrics = jax.jit(ppo.loss)(Linear().init(None, obs), batch, config)
    np.testing.assert_allclose(metrics["approximate_kl"], (ratio - 1 - np.log(ratio)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], 3 / 6)  # |log(0.5)| is above the clip, |0.5 - 1| is not
    np.testing.assert_allclose(metrics["log_prob"], np.log(0.5), rtol=1e-6)


def test_an_update_that_target_kl_stopped_stays_stopped(small):
    """Only the minibatch with the first sample is above the target, in each of the four epochs."""
    config = dataclasses.replace(small, network=Linear(), target_kl=1.0, num_minibatches=8)

    def loss(params, batch, config):
        has_first = (batch.inputs[0] == first).all(axis=-1).any()
        return params["value"].sum(), {"approximate_kl": 2.0 * has_first}

    state = ppo.init(jax.random.key(0), config)
    first = state.collector.obs[0]  # of environment 0 at the rollout's first step
    key = jax.random.key(1)
    after, _ = jax.jit(lambda *arguments: ppo.update(*arguments, loss=loss))(key, state, config)
    indices = np.asarray(core.minibatches(jax.random.split(key, 3)[2], 64, 8, 4))
    (holding,) = np.flatnonzero((indices[:8] == 0).any(axis=1))
    assert 0 < holding < 7
    assert after.opt_state.count == holding


def test_any_module_can_be_the_network(small):
    state, metrics = jax.jit(ppo.train)(jax.random.key(0), dataclasses.replace(small, network=Linear()))
    assert state.params["policy"].shape == (4, 2)
    assert np.abs(state.params["policy"]).max() > 0
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.slow
@toys.optimized()
def test_cartpole_is_learned():
    """A small budget: most seeds are near the top at 50k steps, none is at the random policy's 22."""
    config = rljax.preset("ppo", "CartPole-v1", total_steps=50_000)
    values = trained_returns(ppo, config, seeds=8, episodes=20)
    assert values[2:6].mean() > 450
    assert values[0] > 100
