"""What every algorithm promises. Equations, probes and returns are tested in the file of each."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from off_policy_reference import wander
from resuming import same_results, stopped
from toys import check_key_reuse, same_bits

import rljax
from rljax import a2c, core, dqn, envs, networks, ppo, pqn, q_learning, reinforce, running_statistics, sac, td3
from rljax.config import with_values
from rljax.types import RecurrentPolicy


class Case(NamedTuple):
    """A run that compiles fast."""

    algorithm: Any
    env: Any
    fields: dict[str, Any]
    changes: dict[str, Any]  # traced numbers, each of which changes what is learned
    metrics: str = ""  # besides those of all algorithms

    @property
    def config(self) -> Any:
        return self.algorithm.Config(env=self.env(), **self.fields)


ON_POLICY = {
    "total_steps": 128,
    "num_envs": 4,
    "num_steps": 8,
    "hidden_sizes": (8,),
    "learning_rate": "linear(0.02, 0)",
}
OFF_POLICY = {
    "total_steps": 80, "num_envs": 2, "num_steps": 5, "gradient_steps": 1, "prefill_steps": 40, "batch_size": 8,
    "buffer_size": 60, "hidden_sizes": (8,),
}  # fmt: skip
OF_THE_LOSS = {"learning_rate.start": 1e-4, "discount": 0.5, "entropy_coefficient": 0.1, "max_grad_norm": 0.01}

VALUES = "td_error action_value action_value_min action_value_max"

CASES = {
    "ppo": Case(
        ppo,
        lambda: envs.normalize_rewards(envs.normalize_observations(rljax.make("CartPole-v1", gravity=5.0))),
        {**ON_POLICY, "num_minibatches": 2},
        {**OF_THE_LOSS, "gae_lambda": 0.5, "clip": 0.01, "gravity": 15.0},
        "policy_loss value_loss entropy log_prob approximate_kl clip_fraction explained_variance clip",
    ),
    "recurrent_ppo": Case(
        ppo,
        lambda: envs.time_limit(rljax.make("CartPole-v1"), 6),
        {**ON_POLICY, "num_minibatches": 2, "recurrent": "lstm"},
        {"learning_rate.start": 1e-4},
    ),
    "a2c": Case(
        a2c,
        lambda: envs.mask_observation(rljax.make("CartPole-v1"), (0, 2)),
        ON_POLICY,
        {**OF_THE_LOSS, "gae_lambda": 0.5, "value_coefficient": 0.1},
        "policy_loss value_loss entropy log_prob explained_variance entropy_coefficient",
    ),
    "reinforce": Case(
        reinforce,
        lambda: envs.time_limit(rljax.make("CartPole-v1"), 12),
        {**ON_POLICY, "max_episode_steps": 16},
        {**OF_THE_LOSS, "gravity": 15.0},
        "policy_loss value_loss entropy log_prob entropy_coefficient",
    ),
    "dqn": Case(
        dqn,
        lambda: envs.time_limit(rljax.make("CartPole-v1"), 9),
        {
            **OFF_POLICY, "learning_rate": jnp.float32(1e-2), "double": True, "noisy": True, "prioritized": True,
            "n_step": 2, "target_period": 3,
        },
        {"learning_rate": 1e-3, "discount": 0.5, "epsilon.end": 0.5, "target_period": 2, "target_rate": 0.5},
        f"{VALUES} epsilon priority_exponent importance_exponent",
    ),
    "pqn": Case(
        pqn,
        lambda: envs.time_limit(rljax.make("CartPole-v1"), 7),
        {**ON_POLICY, "num_minibatches": 2, "num_epochs": 2},
        {"learning_rate.start": 1e-3, "discount": 0.5, "trace_decay": 0.1, "epsilon.start": 0.5},
        f"{VALUES} epsilon",
    ),
    "sac": Case(
        sac,
        lambda: rljax.make("Pendulum-v1", max_steps_in_episode=9),
        OFF_POLICY,
        {"learning_rate": 1e-2, "discount": 0.5, "target_rate": 0.5},
        f"{VALUES} critic_loss policy_loss entropy log_prob",
    ),
    "td3": Case(
        td3,
        lambda: rljax.make("Pendulum-v1", max_steps_in_episode=9),
        {**OFF_POLICY, "noise_reversion": 0.15},
        {
            "learning_rate": 1e-2, "discount": 0.5, "target_rate": 0.5, "actor_period": 1, "noise_std": 0.5,
            "noise_reversion": 0.5, "smoothing_std": 0.1, "smoothing_clip": 0.1,
        },
        f"{VALUES} critic_loss noise_std actor_gradient_norm_max",
    ),
    "q_learning": Case(
        q_learning,
        lambda: rljax.make("Taxi-v3"),
        {"total_steps": 800, "num_envs": 2, "target": "double_q_learning"},
        {"step_size.start": 0.1, "discount": 0.5, "epsilon.start": 0.2},
        f"{VALUES} epsilon step_size value_change",
    ),
}  # fmt: skip
SEEDS = 2
OPTIONS = {"seeds": SEEDS, "evaluations": 1, "eval_episodes": 2, "progress": False, "devices": 1}


# A hidden state compiles for as long as two other cases; test_recurrent.py has its equations.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name == "recurrent_ppo" else name for name in CASES],
)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), SEEDS)


@pytest.fixture(scope="module")
def trained(case, keys):
    """Final states and metrics of a plain `jit(vmap(train))`."""
    return jax.jit(jax.vmap(case.algorithm.train, (0, None)))(keys, case.config)


@pytest.fixture(scope="module")
def driven(case):
    """The result of `rljax.run` with the same keys."""
    return rljax.run(case.algorithm, case.config, **OPTIONS)


@pytest.fixture(scope="module")
def train(case):
    """One run, compiled, and a list that grows with every trace of it."""
    traces = []

    def counted(key, config):
        traces.append(None)
        return case.algorithm.train(key, config)

    return jax.jit(counted), traces


def learned(state):
    return state.tables.action_values if hasattr(state, "tables") else state.params


def test_vmap_equals_a_single_run(case, keys, trained, train):
    states, metrics = trained
    state, single = train[0](keys[1], case.config)
    for got, want in zip(jax.tree.leaves(learned(states)), jax.tree.leaves(learned(state)), strict=True):
        np.testing.assert_allclose(got[1], want, atol=1e-4)
    for name, rows in single.items():
        np.testing.assert_allclose(metrics[name][1], rows, rtol=1e-2, atol=1e-4, err_msg=name)


def test_keys_are_used_once(case, monkeypatch):
    """By JAX's own check of the whole program: a run's `init`, an update, and an evaluation."""

    init = networks.init

    def consuming(network, key, *inputs, **named):  # Flax does not consume its key: it folds names into it
        return init(network, jax.random.split(key, 1)[0], *inputs, **named)

    monkeypatch.setattr(networks, "init", consuming)

    def everything(key):
        key_init, key_update, key_evaluation = core.training_keys(key)
        state, _ = case.algorithm.update(key_update, case.algorithm.init(key_init, case.config), case.config)
        policy, exploring = (case.algorithm.act(state, case.config, greedy=greedy) for greedy in (True, False))
        key_greedy, key_exploring = jax.random.split(key_evaluation)
        explored = rljax.evaluate(key_exploring, case.config.env, exploring, 2)
        if isinstance(policy, RecurrentPolicy):
            return explored, rljax.evaluate(key_greedy, case.config.env, policy, 2)

        def noisy(key, obs):  # so that the policy's key is used
            return jnp.where(jax.random.bernoulli(key), policy(key, obs), policy(key, obs))

        return explored, rljax.evaluate(key_greedy, case.config.env, noisy, 2)

    check_key_reuse(everything, jax.random.key(0))
    with pytest.raises(jax.errors.KeyReuseError):
        check_key_reuse(lambda key: (jax.random.split(key), jax.random.normal(key)), jax.random.key(0))


def test_policies_standardize_observations(case):
    """By the statistics in the state, if the environment says so: the actions for what is standardized by hand."""
    if not case.config.env.observation_space.shape:
        pytest.skip("discrete observations have no mean")
    state = jax.eval_shape(case.algorithm.init, jax.random.key(0), case.config)  # only the parameters need values
    rng = np.random.default_rng(2)
    scattered = {
        name: jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), getattr(state, name))
        for name in ("params", "averaged_params")
        if hasattr(state, name)
    }
    seen = (rng.normal(size=(300, *case.config.env.observation_space.shape)) * 3 + 10).astype(np.float32)
    moments = running_statistics.update_moments(running_statistics.init_moments(seen.shape[1:]), seen)
    state = state._replace(collector=state.collector._replace(obs_moments=moments), **scattered)

    def actions(obs, standardized):
        config = rljax.replace(case.config, env=case.config.env.replace(normalize_observations=standardized))
        policy, key = case.algorithm.act(state, config), jax.random.key(0)
        if isinstance(policy, RecurrentPolicy):
            return jax.jit(lambda obs: policy.step(key, obs, policy.initial_hidden_state(len(obs)))[0])(obs)
        return jax.jit(lambda obs: policy(key, obs))(obs)

    expected = actions((seen - seen.mean(0)) / seen.std(0), False)
    # Rounding may decide between actions of nearly equal values.
    assert np.mean(np.abs(actions(seen, True) - expected) > 1e-3) < 0.02
    assert np.mean(np.abs(actions(seen, False) - expected) > 1e-3) > 0.04


def test_seeds_differ(trained):
    states, metrics = trained
    assert max(np.abs(x[0] - x[1]).max() for x in jax.tree.leaves(learned(states))) > 0.05
    assert any(not np.array_equal(rows[0], rows[1], equal_nan=True) for rows in metrics.values())


def test_metrics_have_one_scalar_per_update(case, trained):
    _, metrics = trained
    common = {"env_steps", "reward", "episodes", "episode_return", "episode_length"}
    if case.algorithm is not q_learning:
        common |= {"gradient_norm", "learning_rate"}
    assert common | set(case.metrics.split()) <= set(metrics)
    updates = case.config.num_updates
    assert updates >= 4
    assert {name: rows.shape for name, rows in metrics.items()} == dict.fromkeys(metrics, (SEEDS, updates))
    prefilled = case.fields.get("prefill_steps", 0)
    per_update = case.config.num_envs * case.config.num_steps
    np.testing.assert_array_equal(metrics["env_steps"], [prefilled + per_update * np.arange(1, updates + 1)] * SEEDS)
    np.testing.assert_array_equal(np.isnan(metrics["episode_return"]), metrics["episodes"] == 0)
    if "action_value" in metrics:
        assert (metrics["action_value_min"] <= metrics["action_value"]).all()
        assert (metrics["action_value"] <= metrics["action_value_max"]).all()
    assert all(np.isfinite(rows).all() for name, rows in metrics.items() if not name.startswith("episode_"))


def changed(config, name, value):
    if name == "gravity":
        return rljax.replace(config, env=config.env.replace(params=config.env.params.replace(gravity=value)))
    return with_values(config, {name: value})


def test_changing_a_traced_number_does_not_recompile(case, keys, train):
    compiled, traces = train
    before = learned(compiled(keys[1], case.config)[0])
    for name, value in case.changes.items():
        after = learned(compiled(keys[1], changed(case.config, name, value))[0])
        assert not same_bits(after, before), name
    assert len(traces) == 1


def test_run_gives_the_same_bits_as_a_plain_vmap(driven, trained):
    states, metrics = trained
    assert same_bits(driven.states, states)
    assert set(driven.metrics) == set(metrics)
    for name, rows in metrics.items():
        np.testing.assert_array_equal(driven.metrics[name], rows, err_msg=name)


def first_action(policy, obs):
    key = jax.random.key(1)
    if isinstance(policy, RecurrentPolicy):
        return policy.step(key, obs, policy.initial_hidden_state(len(obs)))[0]
    return policy(key, obs)


def test_a_stopped_run_resumes_to_the_same_bits_from_its_folder(case, driven, tmp_path, monkeypatch, capsys):
    config, out = case.config, tmp_path / "x"
    stopped(monkeypatch, out, case.algorithm, config, 2, name="baseline", **OPTIONS)
    assert json.loads((out / "config.json").read_text())["algo"] == "baseline"
    same_results(rljax.resume(out, progress=False), driven)
    loaded = rljax.load(out)
    assert same_bits(loaded.states, driven.states)
    assert jax.tree.structure(loaded.config) == jax.tree.structure(config)
    best = int(np.argmax(driven.summary["final_return"]["per_seed"]))
    policy = case.algorithm.act(jax.tree.map(lambda x: x[best], driven.states), config)
    obs, _ = jax.vmap(config.env.reset, (0, None))(jax.random.split(jax.random.key(0), 5), config.env.params)
    np.testing.assert_array_equal(first_action(rljax.best(out), obs), first_action(policy, obs))
    if case in (CASES["ppo"], CASES["q_learning"]):
        extend(out, case)
        assert ("is annealed to zero" in capsys.readouterr().err) == (case is CASES["ppo"])


def extend(folder, case):
    """Half as many steps again, with schedules that end where they did."""
    steps = case.config.total_steps
    longer = rljax.replace(case.config, total_steps=steps * 3 // 2, schedule_steps=steps)
    whole = rljax.run(case.algorithm, longer, **OPTIONS)
    with pytest.raises(rljax.UsageError, match="already completed"):
        rljax.resume(folder, total_steps=steps // 2)
    extended = rljax.resume(folder, total_steps=steps * 3 // 2, progress=False)
    assert same_bits(extended.states, whole.states)
    for name, rows in whole.metrics.items():
        np.testing.assert_array_equal(rows, extended.metrics[name], err_msg=name)
    assert len(extended.eval_steps) == 3
    same_results(rljax.resume(folder, progress=False), extended)


def test_the_optimizer_can_be_replaced_by_name_or_function(case):
    """A function gets the traced rate."""
    if case.algorithm is q_learning:
        pytest.skip("has no optimiser")
    rates = []

    def lion(rate):
        rates.append(rate)
        return optax.chain(optax.scale_by_lion(), optax.scale_by_learning_rate(rate))

    for optimizer in ("lion", lion):
        config = rljax.replace(case.config, optimizer=optimizer)
        state = jax.eval_shape(case.algorithm.init, jax.random.key(0), config)
        found = [x for x in jax.tree.leaves(state.opt_state, is_leaf=is_lion) if is_lion(x)]
        assert len(found) == (2 if case.algorithm is td3 else 1)
    assert any(isinstance(rate, jax.core.Tracer) for rate in rates)


def is_lion(x):
    return isinstance(x, optax.ScaleByLionState)


VARIANTS = {
    "rainbow": ("dqn", {"dueling": True, "head": "categorical", "value_low": 0.0, "value_high": 9.0}),
    "qr_dqn": ("dqn", {"head": "quantile", "averaging": 0.5}),
    "sarsa": ("q_learning", {"target": "sarsa", "step_size": "exponential(1.0, 0.01)"}),
    "expected_sarsa": ("q_learning", {"target": "expected_sarsa"}),
    "a2c, adam": ("a2c", {"optimizer": "adam", "normalize_advantages": True}),
    "discrete sac": ("sac", {"env": "CartPole-v1"}),
}


@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
@pytest.mark.filterwarnings("error::FutureWarning")
def test_learners_stay_in_32_bits_where_numbers_have_64(name):
    base, changes = VARIANTS.get(name, (name, {}))
    case = CASES[base]
    config = rljax.replace(case.config, **changes)
    with jax.enable_x64(True):
        state, metrics = jax.eval_shape(case.algorithm.train, jax.random.key(0), config)
    state = state._replace(collector=state.collector._replace(env_state=()))  # an environment's own
    wide = [path for path, x in jax.tree.leaves_with_path((state, metrics)) if x.dtype in (np.float64, np.int64)]
    assert not wide


# --- invalid configs ------------------------------------------------------------------------------------------------


def unbounded():
    return wander().replace(action_space=rljax.Box(-1.0, np.inf, (2,)))


def remembering():
    return networks.RecurrentActorCritic(rljax.make("CartPole-v1").observation_space, 2)


# (algorithm, its environment): fields, and what the sentence says of them
INVALID = {
    (ppo, "CartPole-v1"): [
        ({"learning_rate": -1.0}, "learning_rate must be at least 0"),
        ({"discount": 1.5}, "discount must be at most 1"),
        ({"gae_lambda": "high"}, "gae_lambda must be a number"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_minibatches": 5}, "does not divide into 5 minibatches"),
        ({"total_steps": 10}, "total_steps=10 is less than one update"),
        ({"activation": "swish9"}, "activation must be one of tanh"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be"),
        ({"num_epochs": None}, "num_epochs must be"),
        ({"recurrent": "rnn"}, "gru, lstm"),
        ({"recurrent": "gru", "num_envs": 3, "num_minibatches": 2}, "sequences"),
        ({"recurrent": "gru", "hidden_sizes": ()}, "hidden_sizes"),
    ],
    (a2c, "CartPole-v1"): [
        ({"learning_rate": -1.0}, "learning_rate must be at least 0"),
        ({"gae_lambda": 2.0}, "gae_lambda must be at most 1"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"total_steps": 10}, "total_steps=10 is less than one update"),
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"optimizer": optax.sgd(0.1)}, "optimizer must be a string or a function from the learning rate"),
        ({"optimizer": "rljax:nothing"}, "optimizer='rljax:nothing' cannot be imported"),
        ({"recurrent": "rnn"}, "'rnn'"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be"),
    ],
    (reinforce, "CartPole-v1"): [
        ({"total_steps": 100}, "total_steps=100 is less than one update"),
        ({"discount": 1.1}, "discount must be at most 1"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1"),
        ({"num_envs": 2.5}, "num_envs must be"),
        ({"entropy_coefficient": "much"}, "entropy_coefficient must be a number"),
        ({"activation": "swish9"}, "activation must be one of tanh"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be"),
        ({"network": remembering}, "REINFORCE needs a feedforward network"),
    ],
    (dqn, "CartPole-v1"): [
        ({"learning_rate": 1e300}, "learning_rate must be finite in 32 bits"),
        ({"env": "Pendulum-v1"}, "needs discrete actions"),
        ({"head": "gaussian"}, "head must be one of expected"),
        ({"value_low": 3.0, "value_high": 3.0}, "value_low must be below value_high"),
        ({"head": "categorical"}, "needs value_low and value_high: set them to the lowest and the highest"),
        ({"head": "categorical", "value_high": 3.0}, "needs value_low and value_high"),
        ({"total_steps": 2**30, "gradient_steps": 33}, "updates of gradient_steps=33 cannot be counted in 32 bits"),
        ({"buffer_size": 100}, "buffer_size=100 cannot hold a rollout of 250 steps"),
        ({"prefill_steps": 4, "n_step": 3}, "less than n_step=3"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be"),
        ({"total_steps": 1_000}, "less than the prefill and one update"),
        ({"target_period": 0}, "target_period must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
    (pqn, "CartPole-v1"): [
        ({"env": "Pendulum-v1"}, "needs discrete actions"),
        ({"num_minibatches": 3}, "does not divide into 3 minibatches"),
        ({"total_steps": 100}, "total_steps=100 is less than one update"),
        ({"trace_decay": 1.1}, "trace_decay must be at most 1"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be"),
    ],
    (sac, "Pendulum-v1"): [
        ({"env": unbounded}, "bounded on both sides"),
        ({"buffer_size": 500, "num_steps": 600}, "buffer_size=500 cannot hold a rollout of 1000 steps"),
        ({"total_steps": 1_000}, "less than the prefill and one update"),
        ({"temperature": 0.0}, "temperature must be at least"),
        ({"target_rate": 2.0}, "target_rate must be at most 1"),
        ({"activation": "sine"}, "activation must be one of tanh"),
    ],
    (td3, "Pendulum-v1"): [
        ({"env": "CartPole-v1"}, "needs continuous actions, but the environment has 2 discrete ones"),
        ({"env": unbounded}, "bounded on both sides"),
        ({"buffer_size": 500, "num_steps": 600}, "buffer_size=500 cannot hold a rollout of 1000 steps"),
        ({"total_steps": 1_000}, "less than the prefill and one update"),
        ({"actor_period": 0}, "actor_period must be at least 1"),
        ({"noise_reversion": 1.5}, "noise_reversion must be at most 1"),
        ({"num_critics": 0}, "num_critics must be at least 1"),
        ({"activation": "sine"}, "activation must be one of tanh"),
    ],
    (q_learning, "Taxi-v3"): [
        ({"env": "CartPole-v1"}, "needs discrete observations"),
        ({"target": "sarsa_lambda"}, "target must be one of q_learning"),
        ({"step_size": "cosinus(1, 0)"}, "did you mean cosine"),
        ({"epsilon": "visits(1, 0.6)"}, "only the step_size of tables can"),
        ({"epsilon": "exponential(1, 0)"}, "raise the end of epsilon above 0"),
        ({"step_size": 1.5}, "step_size must be at most 1"),
        ({"total_steps": 99}, "total_steps=99 is less than one update"),
        ({"env": lambda: envs.normalize_rewards(rljax.make("Taxi-v3"), 0.99)}, "needs raw rewards"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "env", "fields", "words"),
    [(*key, fields, words) for key, cases in INVALID.items() for fields, words in cases],
    ids=lambda value: value.__name__.rpartition(".")[2] if hasattr(value, "Config") else None,
)
def test_an_invalid_config_raises_one_sentence(algorithm, env, fields, words):
    fields = {name: value() if callable(value) else value for name, value in {"env": env, **fields}.items()}
    with pytest.raises(rljax.UsageError) as error:
        algorithm.Config(**fields)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith((".", "?"))
