"""TD3 and DDPG: whole updates against NumPy, exploration noise, and known values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import off_policy_reference as reference
import pytest
from reference import Adam, assert_metrics, extremes
from toys import optimized

import rljax
from rljax import algos, replay, td3

SMALL = {
    "total_steps": 200, "num_envs": 2, "num_steps": 5, "gradient_steps": 4, "batch_size": 32, "buffer_size": 60,
    "prefill_steps": 40, "hidden_sizes": (8, 6), "target_rate": 0.1, "noise_std": 0.3,
    "learning_rate": "linear(2e-3, 0)",
}  # fmt: skip
VARIANTS = {
    "td3": {"actor_period": 3, "smoothing_std": 0.4, "smoothing_clip": 0.3},
    "ddpg": algos.VARIANTS["ddpg"][1],
}


@pytest.fixture(scope="module", params=["td3", pytest.param("ddpg", marks=pytest.mark.slow)])
def learned(request):
    """A config, a state with different targets and noise, a key, the result of one update, and the compiled update."""
    config = td3.Config(env=reference.wander(), **{**SMALL, **VARIANTS[request.param]})
    state = jax.jit(td3.init)(jax.random.key(0), config)
    other = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(7), x.shape), state.target_params)
    state = state._replace(step=jnp.int32(8))  # half of the run
    state = state._replace(target_params=other, noise=jnp.linspace(-0.4, 0.4, 8).reshape(2, 4))
    key = jax.random.key(1)
    update = jax.jit(td3.update)
    return config, state, key, update(key, state, config), update


# --- one whole update against NumPy -------------------------------------------------------------------------------


def numpy_learn(config, state, stored, key):
    """The gradient steps of Fujimoto et al. 2018, algorithm 1: parameters, targets, losses, norms."""
    params, targets = state.params, state.target_params
    adams = td3.Pair(*(Adam(part, 1e-3) for part in params))
    measured, action_values, actor_norms = [], [], [0.0]
    _, key_batches, key_smoothing = jax.random.split(key, 3)
    shape = (config.gradient_steps, config.batch_size)
    words, normals = jax.random.bits(key_batches, shape), jax.random.normal(key_smoothing, (*shape, 4))
    for number, (bits, normal) in enumerate(zip(words, normals, strict=True), start=8 * config.gradient_steps + 1):
        batch = replay.sample(bits, stored, config.discount)
        actor, critics = reference.FeedForward(params.actor), reference.Ensemble(params.critics)
        noise = config.smoothing_std * np.asarray(normal, np.float64)
        limit = config.smoothing_clip
        action = np.tanh(reference.FeedForward(targets.actor).forward(batch.next_obs)) + np.clip(noise, -limit, limit)
        next_values = reference.Ensemble(targets.critics).forward(batch.next_obs, np.clip(action, -1, 1))[:, 0].min(-1)
        target = np.asarray(batch.reward) + np.asarray(batch.discount) * next_values
        values = critics.forward(batch.obs, batch.action)[:, 0]
        error = values - target[:, None]
        gradient, _ = critics.backward(error[:, None] / config.batch_size)
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        measured.append((0.5 * (error**2).sum(-1).mean(), np.abs(error).mean(), norm))
        action_values.append(values)
        params = params._replace(critics=adams.critics.step(params.critics, gradient))
        if number % config.actor_period == 0:
            critics = reference.Ensemble(params.critics)
            action = np.tanh(actor.forward(batch.obs))
            values = critics.forward(batch.obs, action)
            first = np.zeros_like(values)
            first[..., 0] = -1.0 / config.batch_size
            d_action = critics.backward(first)[1][:, 3:]
            gradient, _ = actor.backward(d_action * (1 - action**2))
            actor_norms.append(np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
            params = params._replace(actor=adams.actor.step(params.actor, gradient))
            targets = td3.Pair(
                *(reference.polyak(n, o, config.target_rate) for n, o in zip(params, targets, strict=True))
            )
    means = dict(zip(("critic_loss", "td_error", "gradient_norm"), np.mean(measured, axis=0), strict=True))
    means |= extremes(action_values) | {"actor_gradient_norm_max": max(actor_norms)}
    return params, targets, means


def test_one_update_equals_numpy(learned):
    config, state, key, (after, metrics), _ = learned
    params, targets, means = numpy_learn(config, state, after.replay, key)
    episodes = {name: metrics[name] for name in ("episodes", "episode_return", "episode_length", "reward")}
    scheduled = {"learning_rate": 1e-3, "noise_std": config.noise_std}
    assert_metrics(metrics, means | episodes | scheduled | {"lost_successors": 0.0, "env_steps": 40 + 9 * 10})
    reference.assert_close(after.params, params, state.params)
    reference.assert_close(after.target_params, targets, state.target_params)
    assert (np.asarray(after.replay.end) >= 0).any()  # some transitions were truncated


def test_exploration_noise_is_correlated_and_reset_with_the_episode(learned):
    config, state, key, _, update = learned
    state = jax.jit(td3.init)(jax.random.key(2), config)._replace(noise=state.noise)  # an episode of it is about to end
    after, _ = update(key, state, config)
    normal = np.asarray(jax.random.normal(jax.random.split(jax.random.split(key, 3)[0])[0], (5, 2, 4)), np.float64)
    kept, noise = 1 - config.noise_reversion, np.asarray(state.noise, np.float64)
    actor, began = reference.FeedForward(state.params.actor), 0
    for t in range(5):
        noise = kept * noise + config.noise_std * np.sqrt(1 - kept**2) * normal[t]
        expected = np.clip(np.tanh(actor.forward(after.replay.obs[20 + t])) + noise, -1, 1)
        np.testing.assert_allclose(after.replay.action[20 + t], expected, atol=1e-5)
        ended = np.asarray(after.replay.end[20 + t]) != -1
        noise, began = np.where(ended[:, None], 0.0, noise), began + ended.sum()
    assert began > 0
    np.testing.assert_allclose(after.noise, noise, atol=1e-5)


def test_actor_and_targets_are_updated_every_actor_period(learned):
    config, state, key, *_ = learned
    one = dataclasses.replace(config, gradient_steps=1)
    update = jax.jit(td3.update)
    for step in range(3):
        following, _ = update(key, state._replace(step=jnp.int32(step)), one)
        moves = (step + 1) % config.actor_period == 0
        for got, want in ((following.params.actor, state.params.actor), (following.target_params, state.target_params)):
            same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)]
            assert not any(same) if moves else all(same)
        assert not np.array_equal(
            following.params.critics["params"]["output"]["kernel"], state.params.critics["params"]["output"]["kernel"]
        )


def test_each_loss_has_the_slope_of_a_finite_difference(learned):
    config, state, *_ = learned
    batch = replay.sample(jax.random.bits(jax.random.key(2), (16,)), state.replay, config.discount)
    with jax.enable_x64(True):
        batch = reference.as_float64(batch._replace(weight=jnp.linspace(0.0, 1.0, 16)))
        params, targets = reference.as_float64(state.params), reference.as_float64(state.target_params)
        normal = jax.random.normal(jax.random.key(3), (16, 4))
        losses = {
            "critics": lambda critics: td3.loss(critics, targets, batch, normal, config)[0],
            "actor": lambda actor: td3.actor_loss(actor, params.critics, batch.obs, config)[0],
        }
        for name, loss in losses.items():
            reference.assert_slope(loss, getattr(params, name))


# --- values that are known ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corridors():
    """One program trains in all corridors side by side: critics' values `[3 corridors, 3 places]`, greedy actions."""
    cases = [
        td3.Config(
            env=env, discount=0.5, noise_std=0.3, num_envs=4, total_steps=12_000,
            prefill_steps=400, gradient_steps=2, batch_size=64, hidden_sizes=(64, 64), learning_rate="linear(3e-3, 0)",
            target_rate=0.05, buffer_size=8_000,
        )
        for env in reference.corridors()
    ]  # fmt: skip
    stacked = reference.stack(cases)
    with optimized():
        states, metrics = jax.jit(jax.vmap(td3.train, (None, 0)))(jax.random.key(0), stacked)
    obs = jnp.eye(3)
    greedy = jax.vmap(lambda state, config: td3.act(state, config)(jax.random.key(0), obs))(states, stacked)
    critics = td3.default_network(cases[0].env, cases[0]).critics
    unit = ((greedy - reference.LOW) / (reference.HIGH - reference.LOW) * 2 - 1).reshape(3, 3, 4)
    values = jax.vmap(lambda params, action: critics.apply(params, obs, action))(states.params.critics, unit)
    return values.mean(-1), greedy, metrics


def test_bootstrap_is_cut_at_termination_but_not_at_truncation(corridors):
    """Reward one a step, discount a half: worth 2 for ever; 1.75, 1.5 and 1 before an end."""
    values, _, metrics = corridors
    np.testing.assert_allclose(values[0], 2.0, rtol=0.03)
    np.testing.assert_allclose(values[1], [1.75, 1.5, 1.0], rtol=0.03)
    assert metrics["lost_successors"].max() == 0.0


def test_the_best_action_is_found_inside_the_bounds(corridors):
    values, greedy, _ = corridors
    unit = (np.asarray(greedy[2, 0]) - reference.LOW) / (reference.HIGH - reference.LOW) * 2 - 1
    np.testing.assert_allclose(unit, reference.GOAL, atol=0.15)
    assert float(values[2, 0]) == pytest.approx(1.0, abs=0.05)


# --- options ------------------------------------------------------------------------------------------------------


def test_the_delayed_actor_is_a_branch_under_vmap(learned):
    config, state, key, *_ = learned
    text = jax.jit(jax.vmap(td3.update, (0, None, None))).lower(jax.random.split(key, 2), state, config).as_text()
    assert "stablehlo.case" in text


def test_ddpg_is_a_variant():
    config = rljax.preset("ddpg", reference.wander())
    assert algos.algorithm("ddpg") is td3
    assert (config.num_critics, config.smoothing_std, config.actor_period) == (1, 0.0, 1)
    assert config.noise_reversion < 1.0
