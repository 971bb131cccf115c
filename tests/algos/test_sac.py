"""SAC for continuous and discrete actions: updates against NumPy, known values, and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import off_policy_reference as reference
import pytest
import scipy.special
from reference import Adam, assert_metrics, extremes, masked

import rljax
from rljax import networks, replay, sac
from rljax.distributions import Categorical, TanhGaussian
from rljax.envs.masks import plain

SMALL = {
    "total_steps": 200, "num_envs": 2, "num_steps": 5, "gradient_steps": 3, "batch_size": 32, "buffer_size": 60,
    "prefill_steps": 40, "hidden_sizes": (8, 6), "target_rate": 0.1, "learning_rate": "linear(2e-3, 0)",
    "temperature": 0.3, "target_entropy_fraction": 0.7,
}  # fmt: skip


def legal_actions(state):
    """Of three actions in `wander`, the last two are legal only on one side each."""
    return jnp.array([True, state.inner[0] > 0.0, state.inner[0] < 0.3])


@pytest.fixture(scope="module", params=["continuous", "discrete", "masked"])
def learned(request):
    """A config, a state with different target critics, a key, the result of one update, and the compiled update."""
    env = reference.wander(None if request.param == "continuous" else 3)
    if request.param == "masked":
        env = env.replace(legal_actions=legal_actions)
    config = sac.Config(env=env, **SMALL)
    state = jax.jit(sac.init)(jax.random.key(0), config)
    other = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(7), x.shape), state.target_params)
    state = state._replace(target_params=other, step=jnp.int32(8))  # half of the run
    key = jax.random.key(1)
    update = jax.jit(sac.update)
    return config, state, key, update(key, state, config), update


# --- one whole update against NumPy -------------------------------------------------------------------------------


def policy_outputs(actor, obs, noise):
    """Actions, log-densities `[B]`, and what their gradients need, of a tanh-Gaussian actor."""
    mean, squashed = np.split(actor.forward(obs), 2, axis=-1)
    log_std = -1.5 + 3.5 * np.tanh(squashed)
    raw = mean + np.exp(log_std) * noise
    action = np.tanh(raw)
    log_prob = (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)).sum(-1)
    return action, log_prob, np.exp(log_std) * noise, squashed


def legal(obs):
    """The masks of a batch, in NumPy, from its observations; all true without masks."""
    if not isinstance(obs, rljax.envs.Masked):
        return np.ones((len(obs), 3), bool)
    place = np.asarray(obs.observation)[:, 0]
    return np.stack([np.ones_like(place, bool), place > 0.0, place < 0.3], -1)


def numpy_loss(params, target_critics, batch, noise, next_noise, target_entropy, discrete):
    """Losses and gradients of Haarnoja et al. 2018 (equations 5, 7, 18) and Christodoulou 2019 (10 to 12)."""
    allowed, next_allowed = legal(batch.obs), legal(batch.next_obs)
    batch = batch._replace(obs=plain(batch.obs), next_obs=plain(batch.next_obs))
    actor, critics, targets = (
        reference.FeedForward(params.actor), reference.Ensemble(params.critics), reference.Ensemble(target_critics),
    )  # fmt: skip
    temperature, size, rows = np.exp(float(params.log_temperature)), len(batch.reward), np.arange(len(batch.reward))
    if discrete:
        log_probs = scipy.special.log_softmax(masked(actor.forward(batch.next_obs), next_allowed), -1)
        next_values = targets.forward(batch.next_obs).min(-1) - temperature * log_probs
        next_value = (np.exp(log_probs) * next_values).sum(-1)
        values = critics.forward(batch.obs)
        chosen = values[rows, batch.action]
    else:
        action, log_prob, _, _ = policy_outputs(actor, batch.next_obs, next_noise)
        next_value = targets.forward(batch.next_obs, action)[:, 0].min(-1) - temperature * log_prob
        chosen = critics.forward(batch.obs, batch.action)[:, 0]
    error = chosen - (np.asarray(batch.reward) + np.asarray(batch.discount) * next_value)[:, None]
    weight = np.asarray(batch.weight)[:, None]
    slope = np.zeros((size, actor.layers[-1]["bias"].size if discrete else 1, error.shape[1]))
    slope[rows, batch.action if discrete else 0] = weight * error / size
    d_critics, _ = critics.backward(slope)

    if discrete:
        log_probs = scipy.special.log_softmax(masked(actor.forward(batch.obs), allowed), -1)
        probs, worst = np.exp(log_probs), values.min(-1)
        entropy, expected = -(probs * log_probs).sum(-1), (probs * worst).sum(-1)
        policy_loss = -(expected + temperature * entropy).mean()
        d_outputs = -probs * (worst - expected[:, None]) + temperature * probs * (log_probs + entropy[:, None])
    else:
        action, log_prob, spread, squashed = policy_outputs(actor, batch.obs, noise)
        values = critics.forward(batch.obs, action)
        entropy, policy_loss = -log_prob, (temperature * log_prob - values[:, 0].min(-1)).mean()
        lowest = np.zeros_like(values)
        lowest[rows, 0, values[:, 0].argmin(-1)] = 1.0
        d_action = -critics.backward(lowest)[1][:, batch.obs.shape[-1] :]
        d_raw = d_action * (1 - action**2) + temperature * 2 * action
        d_log_std = d_raw * spread - temperature
        d_outputs = np.concatenate([d_raw, d_log_std * 3.5 * (1 - np.tanh(squashed) ** 2)], axis=-1)
    d_actor, _ = actor.backward(d_outputs / size)
    excess = entropy.mean() - target_entropy
    gradient = sac.Params(d_actor, d_critics, np.float64(temperature * excess))
    critic_loss = (weight * 0.5 * error**2).sum(-1).mean()
    metrics = {
        "loss": critic_loss + policy_loss + temperature * excess, "critic_loss": critic_loss,
        "td_error": np.abs(error).mean(), **extremes(chosen), "log_prob": -entropy.mean(), "policy_loss": policy_loss,
        "entropy": entropy.mean(), "temperature": temperature, "lost_successors": (weight == 0).mean(),
        "gradient_norm": np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient))),
    }  # fmt: skip
    return gradient, metrics


def test_one_update_equals_numpy(learned):
    config, state, key, (after, metrics), _ = learned
    discrete = hasattr(config.env.action_space, "n")
    target_entropy = 0.7 * np.log(3) if discrete else -4.0
    params, targets, adam = state.params, state.target_params, Adam(state.params, 1e-3)
    measured = []
    _, _, key_batches, key_loss = jax.random.split(key, 4)
    for bits, noises in zip(
        jax.random.bits(key_batches, (3, 32)), TanhGaussian.noise(key_loss, (3, 2, 32), 4), strict=True
    ):
        batch = replay.sample(bits, after.replay, config.discount)
        if config.env.legal_actions is not None:
            target_entropy = 0.7 * np.log(legal(batch.obs).sum(-1)).mean()
        gradient, metrics_of_step = numpy_loss(
            params, targets, batch, *(np.asarray(n, np.float64) for n in noises), target_entropy, discrete
        )
        measured.append(metrics_of_step)
        params = adam.step(params, gradient)
        targets = reference.polyak(params.critics, targets, 0.1)
    means = {name: np.mean([row[name] for row in measured]) for name in measured[0]}
    means["action_value_min"] = min(row["action_value_min"] for row in measured)
    means["action_value_max"] = max(row["action_value_max"] for row in measured)
    episodes = {name: metrics[name] for name in ("episodes", "episode_return", "episode_length", "reward")}
    assert_metrics(metrics, means | episodes | {"env_steps": 40 + 9 * 10, "learning_rate": 1e-3})
    reference.assert_close(after.params, params, state.params)
    reference.assert_close(after.target_params, targets, state.target_params)
    assert int(after.step) == 9
    ends = np.asarray(after.replay.end)
    assert (ends == -2).any()  # among the transitions some terminated
    assert (ends >= 0).any()  # and some were truncated


def test_a_given_target_entropy_takes_the_place_of_the_default(learned):
    """It is in the loss as minus the temperature times the target."""
    config, state, *_ = learned
    batch = replay.sample(jax.random.bits(jax.random.key(2), (16,)), state.replay, config.discount)
    inputs = (state.params, state.target_params, batch, jax.random.normal(jax.random.key(3), (2, 16, 4)))
    loss = jax.jit(lambda target: sac.loss(*inputs, rljax.replace(config, target_entropy=target))[0])
    losses = [loss(target) for target in (0.0, -2.0, 1.0)]
    np.testing.assert_allclose(np.diff(losses), [0.3 * 2.0, -0.3 * 3.0], rtol=1e-4)


def test_collecting_samples_the_policy_and_rescales_actions(learned):
    config, state, key, (after, _), _ = learned
    discrete = hasattr(config.env.action_space, "n")
    key_noise = jax.random.split(key, 4)[0]
    obs, action = jax.tree.map(lambda x: np.asarray(x[20:25]), (after.replay.obs, after.replay.action))
    actor = reference.FeedForward(state.params.actor)
    if discrete:
        noise = np.asarray(Categorical.noise(key_noise, (5, 2), 3))
        logits = actor.forward(plain(obs))
        logits = masked(logits, obs.legal) if isinstance(obs, rljax.envs.Masked) else logits
        np.testing.assert_array_equal(action, (logits + noise).argmax(-1))
    else:
        noise = np.asarray(TanhGaussian.noise(key_noise, (5, 2), 4))
        np.testing.assert_allclose(action, policy_outputs(actor, obs, noise)[0], atol=1e-5)
        # The reward that came back is that of the scaled action: its last dimension less the next first position.
        rewards, following = np.asarray(after.replay.reward[20:24]), np.asarray(after.replay.obs[21:25])
        goes_on = np.asarray(after.replay.end[20:24]) == -1
        np.testing.assert_allclose((action[:4, :, 3] - following[..., 0])[goes_on], rewards[goes_on], atol=1e-4)
        prefilled = np.asarray(after.replay.action[:20]).reshape(-1, 4)
        assert np.abs(prefilled).max() > 0.9
        assert np.abs(prefilled.mean(0)).max() < 0.3  # uniform in [-1, 1], for any bounds


def test_each_loss_has_the_slope_of_a_finite_difference(learned):
    """Along a random direction, each loss with respect to its own parameters and nothing else."""
    config, state, *_ = learned
    batch = replay.sample(jax.random.bits(jax.random.key(2), (16,)), state.replay, config.discount)
    with jax.enable_x64(True):
        batch = reference.as_float64(batch._replace(weight=jnp.linspace(0.0, 1.0, 16)))
        params, targets = reference.as_float64(state.params), reference.as_float64(state.target_params)
        noise = jax.random.normal(jax.random.key(3), (2, 16, 4))
        measured = jax.jit(lambda params: sac.loss(params, targets, batch, noise, config))
        gradient = jax.jit(jax.grad(lambda params: measured(params)[0]))(params)

        def temperature_loss(total, metrics):
            return total - metrics["critic_loss"] - metrics["policy_loss"]

        losses = {
            "critics": lambda total, metrics: metrics["critic_loss"],
            "actor": lambda total, metrics: metrics["policy_loss"],
            "log_temperature": temperature_loss,
        }
        for name, pick in losses.items():

            def loss(part, name=name, pick=pick):
                return pick(*measured(params._replace(**{name: part})))

            reference.assert_slope(loss, getattr(params, name), getattr(gradient, name))


# --- values that are known ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[pytest.param("continuous", marks=pytest.mark.slow), "discrete"])
def corridors(request):
    """One program trains in all corridors side by side: values of the critics `[3 corridors, 3 places, A]`, actions."""
    actions = 3 if request.param == "discrete" else None
    cases = [
        sac.Config(
            env=env, discount=0.5, temperature=temperature, tune_temperature=False,
            num_envs=4, total_steps=8_000, prefill_steps=400, gradient_steps=2, batch_size=64, hidden_sizes=(32,),
            learning_rate="linear(3e-3, 0)", target_rate=0.05, buffer_size=4_000,
        )
        for env, temperature in zip(reference.corridors(actions), (0.5, 0.5, 1e-3), strict=True)
    ]  # fmt: skip
    stacked = reference.stack(cases)
    states, metrics = jax.jit(jax.vmap(sac.train, (None, 0)))(jax.random.key(0), stacked)
    obs = jnp.eye(3)
    greedy = jax.vmap(lambda state, config: sac.act(state, config)(jax.random.key(0), obs))(states, stacked)
    critics = sac.default_network(cases[0].env, cases[0]).critics
    inputs = ()
    if not actions:
        unit = (greedy - reference.LOW) / (reference.HIGH - reference.LOW) * 2 - 1
        inputs = (unit.reshape(3, 3, 4),)
    values = jax.vmap(lambda params, *beside: critics.apply(params, obs, *beside))(states.params.critics, *inputs)
    np.testing.assert_allclose(states.params.log_temperature, np.log([0.5, 0.5, 1e-3]), rtol=1e-6)  # fixed, it stays
    return request.param, values.mean(-1), greedy, metrics


def test_bootstrap_is_cut_at_termination_but_not_at_truncation(corridors):
    """Reward one a step, discount a half, temperature a half: Q = 1 + (Q' + H / 2) / 2, H that of a uniform policy."""
    kind, values, _, metrics = corridors
    bonus = 0.5 * (np.log(3) if kind == "discrete" else 4 * np.log(2))
    by_place = values.mean(-1) if kind == "discrete" else values
    np.testing.assert_allclose(by_place[0], 2 + bonus, rtol=0.03)
    last = 1.0
    middle = 1 + 0.5 * (last + bonus)
    np.testing.assert_allclose(by_place[1], [1 + 0.5 * (middle + bonus), middle, last], rtol=0.03)
    assert metrics["lost_successors"].max() == 0.0
    np.testing.assert_allclose(metrics["entropy"][:2, -1], 2 * bonus, rtol=0.03)


def test_the_best_action_is_found_inside_the_bounds(corridors):
    kind, values, greedy, _ = corridors
    if kind == "discrete":
        assert int(greedy[2, 0]) == 2
        np.testing.assert_allclose(values[2, 0], [5 / 9, 8 / 9, 1.0], atol=0.05)
    else:
        unit = (np.asarray(greedy[2, 0]) - reference.LOW) / (reference.HIGH - reference.LOW) * 2 - 1
        np.testing.assert_allclose(unit, reference.GOAL, atol=0.15)
        assert float(values[2, 0]) == pytest.approx(1.0, abs=0.05)


# --- networks -----------------------------------------------------------------------------------------------------


def test_critics_are_independent_and_read_the_action():
    config = sac.Config(env=reference.wander(), **SMALL)
    network = sac.default_network(config.env, config)
    params = network.critics.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 4)))
    kernel = params["params"]["torso"]["Dense_0"]["kernel"]
    assert kernel.shape == (2, 7, 8)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    values = network.critics.apply(params, jnp.zeros((5, 2, 3)), jax.random.normal(jax.random.key(1), (5, 2, 4)))
    assert values.shape == (5, 2, 2)
    assert np.ptp(values[..., 0]) > 1e-3


def test_custom_networks():
    env = reference.wander()
    config = sac.Config(env=env, num_critics=3, network=networks.actor_and_critics(env, 8, 3, (5,), "tanh"), **SMALL)
    state = jax.eval_shape(sac.init, jax.random.key(0), config)
    assert state.params.critics["params"]["output"]["kernel"].shape == (3, 5, 1)
