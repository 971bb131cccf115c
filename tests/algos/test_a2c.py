"""A2C: one update against plain NumPy, gradients against finite differences, and learning."""

import jax
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
    check_gradient,
    clip_by_norm,
    drawn_fresh,
    episode_metrics,
    forward,
    log_softmax,
    play,
    trained_returns,
)

import rljax
from rljax import a2c, on_policy, schedules
from rljax.distributions import policy_head


@pytest.fixture(scope="module")
def env():
    return rljax.make("CartPole-v1")


def reference_gradient(params, config, obs, gumbel, fresh):
    """Mnih et al. 2016, algorithm S3 with its workers in one batch, in float64: clipped gradient and metrics."""
    actor, critic, pi, v = params["actor"], params["critic"], params["Dense_0"], params["Dense_1"]
    rows = play(lambda obs, _: log_softmax(forward(actor, pi, obs)[1]), obs, gumbel, fresh)
    old_values, next_values = (forward(critic, v, rows[name])[1][..., 0] for name in ("obs", "next_obs"))
    horizon, num_envs = rows["reward"].shape
    targets = np.zeros((horizon, num_envs))
    for n in range(num_envs):
        for t in reversed(range(horizon)):
            if rows["terminated"][t, n]:
                following = 0.0
            elif rows["truncated"][t, n] or t == horizon - 1:
                following = next_values[t, n]
            else:
                following = targets[t + 1, n]
            targets[t, n] = rows["reward"][t, n] + config.discount * following

    x, action, target = (a.reshape(-1, *a.shape[2:]) for a in (rows["obs"], rows["action"], targets))
    features, logits = forward(actor, pi, x)
    critic_features, value = forward(critic, v, x)
    log_probs = log_softmax(logits)
    probs, taken, size = np.exp(log_probs), np.eye(2)[action.astype(int)], len(x)
    advantage = target - value[:, 0]  # a constant in the policy's gradient
    value_loss = 0.5 * (advantage**2).mean()
    if config.normalize_advantages:
        advantage = (advantage - advantage.mean()) / advantage.std()
    entropy = -(probs * log_probs).sum(1)
    policy_loss = -(advantage * (log_probs * taken).sum(1)).mean()
    loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy.mean()
    d_logits = -advantage[:, None] * (taken - probs) / size
    d_logits += config.entropy_coefficient * probs * (log_probs + entropy[:, None]) / size
    d_value = config.value_coefficient * (value - target[:, None]) / size
    d_actor, d_pi = backward(actor, pi, x, features, d_logits)
    d_critic, d_v = backward(critic, v, x, critic_features, d_value)
    gradient = {"actor": d_actor, "critic": d_critic, "Dense_0": d_pi, "Dense_1": d_v}
    metrics = {
        "log_prob": (log_probs * taken).sum(1).mean(),
        "loss": loss, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean(),
        "gradient_norm": np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient))),
        "explained_variance": 1 - (targets - old_values).var() / targets.var(), **episode_metrics(rows),
    }  # fmt: skip
    return clip_by_norm(gradient, config.max_grad_norm), metrics


@pytest.mark.parametrize(("optimizer", "rate"), [("rmsprop", 0.1), ("adam", 0.01)])
def test_one_update_equals_numpy(env, optimizer, rate):
    """The second update of a run, so that the optimiser has a past and the step size has fallen."""
    limited = rljax.envs.time_limit(env, LIMIT)
    config = a2c.Config(
        env=limited, total_steps=3 * 16 * 4, num_envs=3, num_steps=16, hidden_sizes=(8,),
        optimizer=None if optimizer == "rmsprop" else optimizer, normalize_advantages=optimizer == "adam",
        learning_rate=schedules.linear(rate, 0),
    )  # fmt: skip
    key_init, key_first, key = jax.random.split(jax.random.key(3), 3)
    update = jax.jit(a2c.update)
    state, _ = update(key_first, jax.jit(a2c.init)(key_init, config), config)
    # The reference starts from a reset, so the environments do too.
    state = state._replace(collector=jax.jit(a2c.init)(key_init, config).collector)
    after, metrics = update(key, state, config)

    key_noise, key_rollout = jax.random.split(key)
    gumbel = policy_head(env.action_space).noise(key_noise, (16, 3))
    fresh = drawn_fresh(limited, key_rollout, 16, 3)
    start = as_float64(state.params["params"])
    inputs = as_float64((state.collector.obs, gumbel, fresh))
    gradient, means = reference_gradient(start, config, *inputs)
    if optimizer == "adam":
        adam = Adam(start, rate * 3 / 4, 1e-5)
        adam.steps, past = 1, as_float64(state.opt_state)
        adam.first, adam.second = past.mu["params"], past.nu["params"]
        expected = adam.step(start, gradient)
    else:  # section 4 of the paper
        past = as_float64(state.opt_state[1][0].nu["params"])
        squares = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g**2, past, gradient)
        expected = jax.tree.map(lambda p, s, g: p - rate * 3 / 4 * g / np.sqrt(s + 1e-5), start, squares, gradient)
    assert_moved(after.params["params"], expected, start)
    assert_metrics(
        metrics,
        means
        | {"env_steps": 2 * 3 * 16, "learning_rate": rate * 3 / 4, "entropy_coefficient": config.entropy_coefficient},
    )
    assert int(after.step) == 2


@pytest.mark.parametrize(("name", "recurrent"), [("CartPole-v1", None), ("Pendulum-v1", "gru")])
def test_the_gradient_of_the_loss_is_its_finite_difference(name, recurrent):
    config = a2c.Config(env=rljax.make(name), num_envs=3, num_steps=6, hidden_sizes=(5,), recurrent=recurrent)
    key_init, key_noise, key_rollout = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(a2c.init)(key_init, config)
    *_, batch, _ = on_policy.collect(key_noise, key_rollout, a2c.default_network(config.env, config), state, config)
    check_gradient(lambda params, batch: a2c.loss(params, batch, config), state.params, batch)


@pytest.mark.slow
@toys.optimized()
def test_cartpole_is_learned():
    """A small budget: most seeds are far above the random policy's 22."""
    config = rljax.preset("a2c", "CartPole-v1", total_steps=100_000, learning_rate="linear(3e-3, 0)")  # large steps
    values = trained_returns(a2c, config, seeds=4, episodes=20)
    assert values[1:3].mean() > 250
    assert values[0] > 60
