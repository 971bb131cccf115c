"""Action masks: no algorithm takes an illegal action or bootstraps from one, however much it pays or is valued."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import algos, envs, networks, planning
from rljax.algos import VARIANTS

PAYS = 1e6  # for an illegal action
SEEDS = 20
PLACES = 3


def legal(place):
    """Of four actions two are legal at each place."""
    return (jnp.arange(4) + place) % 2 == 0


def parts(place):
    """Of `MultiDiscrete((2, 3))`, the first integer must be the place's parity, the second another than the place."""
    return jnp.arange(2) == place % 2, jnp.arange(3) != place


@functools.cache
def bait(actions=rljax.Discrete(4), tabular=False):  # noqa: B008 - spaces are values
    """A walk over places, in which the highest legal action pays 1 and every illegal action a fortune.

    Episodes end after five steps by termination, or after four by the wrapper time_limit, whose mask is the inner one.
    """

    def observed(place):
        return place if tabular else jax.nn.one_hot(place, PLACES)

    def reset(key, params):
        place = jax.random.randint(key, (), 0, PLACES, jnp.int32)
        return observed(place), (place, jnp.int32(0))

    def step(key, state, action, params):
        place, time = state
        index = action - getattr(actions, "start", 0)
        if isinstance(actions, rljax.MultiDiscrete):
            allowed = [mask[i] for mask, i in zip(parts(place), action, strict=True)]
            is_legal, pays = allowed[0] & allowed[1], action[1] == 2
        else:
            is_legal, pays = legal(place)[index], index >= 2
        reward = jnp.where(is_legal, pays.astype(jnp.float32), PAYS)
        place = jax.random.randint(key, (), 0, PLACES, jnp.int32)
        return rljax.timestep(observed(place), reward, time >= 4), (place, time + 1)

    masks = parts if isinstance(actions, rljax.MultiDiscrete) else legal
    space = rljax.Discrete(PLACES) if tabular else rljax.Box(0.0, 1.0, (PLACES,))
    env = rljax.Env(
        name="bait", reset=reset, step=step, observation_space=space, action_space=actions,
        legal_actions=lambda state: masks(state[0]),
    )  # fmt: skip
    return envs.time_limit(env, 4)


class Baited(nn.Module):
    """A network whose first output is 1e4 higher for every illegal action of `bait`; learned otherwise."""

    network: nn.Module
    is_value: bool = False  # outputs are [..., A, K], not [..., A]

    @nn.compact
    def __call__(self, obs, *inputs):
        outputs = self.network.copy(name="inside")(obs, *inputs)
        place = jnp.argmax(obs, axis=-1)
        bonus = jnp.where(jax.vmap(legal)(place.reshape(-1)).reshape(*place.shape, 4), 0.0, 1e4)
        if self.is_value:
            return outputs + bonus[..., None]
        return (outputs[0] + bonus, *outputs[1:]) if isinstance(outputs, tuple) else outputs + bonus


SMALL = {
    "ppo": {"num_envs": 4, "num_steps": 8, "num_minibatches": 2, "num_epochs": 2, "total_steps": 96},
    "a2c": {"num_envs": 4, "num_steps": 8, "total_steps": 96},
    "reinforce": {"num_envs": 4, "num_steps": 8, "max_episode_steps": 8, "total_steps": 96},
    "dqn": {"num_envs": 2, "prefill_steps": 20, "buffer_size": 60, "batch_size": 16, "total_steps": 100},
    "pqn": {"num_envs": 4, "num_steps": 8, "num_minibatches": 2, "total_steps": 96},
    "sac": {"num_envs": 2, "prefill_steps": 20, "buffer_size": 60, "batch_size": 16, "total_steps": 60},
    "q_learning": {"num_envs": 2, "num_steps": 20, "total_steps": 400},
}
C51 = {"value_low": 0.0, "value_high": 5.0, "num_atoms": 5}


def configured(name, env, **changes):
    base, values = VARIANTS.get(name, (name, {}))
    algorithm = algos.algorithm(base)
    small = SMALL[base] | ({} if base == "q_learning" else {"hidden_sizes": (8,)})
    return algorithm, algorithm.Config(env=env, **{**small, **values, **changes})


def trained(algorithm, config):
    """Final states and metrics of all seeds, and the returns of greedy episodes, by one program."""

    @jax.jit
    @jax.vmap
    def run(key):
        state, metrics = algorithm.train(key, config)
        returns = rljax.evaluate(key, config.env, algorithm.act(state, config), 4)
        return state, metrics, returns

    return run(jax.random.split(jax.random.key(0), SEEDS))


def assert_legal(state, metrics, returns):
    """No reward is a fortune, neither seen, stored nor learnt from, and all numbers are finite."""
    assert np.max(metrics["reward"]) <= 1.0
    assert np.max(returns) <= 5.0
    if hasattr(state, "replay"):
        assert np.max(state.replay.reward) <= 1.0  # of the prefill, too
    for name, values in metrics.items():
        if not name.startswith("episode_"):  # NaN in updates without an end
            assert np.all(np.isfinite(values)), name
    for name in ("action_value_max", "td_error", "critic_loss", "value_loss"):
        if name in metrics:
            assert np.max(metrics[name]) < 100.0, name
    if "entropy" in metrics:
        assert np.max(metrics["entropy"]) <= np.log(2) + 1e-5  # of two legal actions
    assert np.mean(returns) > 0.0


QUICK = ("ppo", "dqn", "expected_sarsa")
CASES = (
    *("ppo", "recurrent_ppo", "a2c", "reinforce", "dqn", "double_dqn", "dueling_dqn", "prioritized_dqn"),
    *("c51", "qr_dqn", "rainbow", "pqn", "sac", "q_learning", "sarsa", "expected_sarsa", "double_q_learning"),
)


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in CASES])
def test_no_illegal_action_is_taken_or_bootstrapped_from(name):
    """Over 20 seeds, with networks that value the illegal actions most."""
    base = VARIANTS.get(name, (name, {}))[0]
    env = bait(tabular=base == "q_learning")
    changes = C51 if name in ("c51", "rainbow") else {}
    algorithm, config = configured(name, env, **changes)
    if base == "q_learning":
        config = rljax.replace(config, epsilon=0.5)
    elif base == "sac":
        made = algorithm.default_network(env, config)
        baited = networks.ActorAndCritics(Baited(made.actor), Baited(made.critics, is_value=True))
        config = rljax.replace(config, network=baited)
    elif name != "recurrent_ppo" and not changes:  # recurrent ones have more inputs, and C51's values are bounded
        made = algorithm.default_network(env, config)
        config = rljax.replace(config, network=Baited(made, is_value=base in ("dqn", "pqn")))
    assert_legal(*trained(algorithm, config))


def test_a_table_is_not_read_at_illegal_entries():
    """Their values are a fortune from the start, and stay it."""
    env = bait(tabular=True)
    algorithm, config = configured("q_learning", env, epsilon=0.5, step_size=0.5)
    mask = np.array([legal(place) for place in range(PLACES)])

    @jax.jit
    @jax.vmap
    def run(key):
        state = algorithm.init(key, config)
        values = jnp.where(mask, 0.0, PAYS)[None]
        state = state._replace(tables=state.tables._replace(action_values=values))
        for i in range(3):
            state, metrics = algorithm.update(jax.random.fold_in(key, i), state, config)
        return state.tables.action_values[0], metrics

    values, metrics = run(jax.random.split(jax.random.key(0), SEEDS))
    assert np.all(values[:, ~mask] == PAYS)
    assert np.all(values[:, mask] < 100.0)
    assert np.max(metrics["action_value_max"]) < 100.0
    assert np.max(metrics["reward"]) <= 1.0


@pytest.mark.parametrize("name", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_every_part_of_several_actions_has_its_mask(name):
    algorithm, config = configured(name, bait(rljax.MultiDiscrete((2, 3))))
    assert_legal(*trained(algorithm, config))


def test_actions_with_a_start_are_masked_by_position():
    algorithm, config = configured("dqn", bait(rljax.Discrete(4, start=3)))
    assert_legal(*trained(algorithm, config))


def policy_of(logits, mask, head):
    """Log-probability of action 2, entropy, and their gradients."""

    def terms(logits):
        distribution = head.distribution(envs.masks.where_legal(logits, envs.Masked(None, mask)))
        return distribution.log_prob(jnp.int32(2)), distribution.entropy()

    return terms(logits), jax.jacobian(terms)(logits)


def test_a_masked_policy_equals_one_over_the_legal_actions():
    """Log-probabilities, entropies and gradients; those of illegal actions are exactly zero."""
    from rljax.distributions import policy_head

    logits = jnp.array([0.3, 50.0, -1.2, 2.0, 7.0])
    mask = jnp.array([True, False, True, True, False])
    kept = np.flatnonzero(mask)
    got, slopes = policy_of(logits, mask, policy_head(rljax.Discrete(5)))
    small = policy_head(rljax.Discrete(3))

    def terms(logits):
        distribution = small.distribution(logits)
        return distribution.log_prob(jnp.int32(1)), distribution.entropy()

    np.testing.assert_allclose(got, terms(logits[kept]), rtol=1e-6)
    for slope, expected in zip(slopes, jax.jacobian(terms)(logits[kept]), strict=True):
        np.testing.assert_allclose(slope[kept], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(slope[~mask], 0.0)
    probs = policy_head(rljax.Discrete(5)).distribution(jnp.where(mask, logits, -jnp.inf)).probs()
    np.testing.assert_array_equal(probs[~mask], 0.0)


def test_random_legal_actions_are_uniform_among_the_legal_ones():
    masks = jnp.array([[True, False, True, True], [False, True, False, False]])
    bits = jax.random.bits(jax.random.key(0), (6000, 2), jnp.uint32)
    drawn = np.asarray(envs.masks.random_legal(bits, masks))
    counts = np.bincount(drawn[:, 0], minlength=4)
    assert counts[1] == 0
    assert np.all(np.abs(counts[[0, 2, 3]] - 2000) < 150)
    assert np.all(drawn[:, 1] == 1)


def test_a_state_without_a_legal_action_is_found_and_counts_as_free():
    env = bait(tabular=True).replace(legal_actions=lambda state: jnp.zeros(4, bool))
    found = " ".join(envs.check(env))
    assert "no legal action" in found
    obs, _ = envs.masks.masked(env).reset(jax.random.key(0), env.params)
    assert obs.legal.all()
    assert envs.check(bait()) == []
    assert envs.check(bait(rljax.MultiDiscrete((2, 3)))) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"legal_actions": lambda state: jnp.ones(3, bool)}, r"must return bool\[4\], got bool\[3\]"),
        ({"legal_actions": lambda state: jnp.ones(4)}, r"must return bool\[4\], got float32\[4\]"),
        ({"legal_actions": lambda state: state.place}, r"does not trace: AttributeError"),
        ({"action_space": rljax.Box(-1, 1, (4,))}, "legal_actions needs a Discrete or MultiDiscrete"),
    ],
)
def test_a_wrong_mask_is_one_sentence(changes, words):
    with pytest.raises(rljax.UsageError, match=words):
        envs.require(bait(tabular=True).replace(**changes))


def test_sticky_actions_repeat_only_where_it_is_legal():
    env = envs.sticky_actions(bait(tabular=True), 1.0)
    step = jax.jit(env.step)
    _, state = env.reset(jax.random.key(0), env.params)
    repeated = set()
    for i in range(40):
        place = int(state.inner.inner[0])
        best = int(np.argmax(legal(place)))
        last = int(state.action)
        result, state = step(jax.random.key(i), state, jnp.int32(best), env.params)
        assert float(result.reward) <= 1.0
        if i:
            assert int(state.action) == (last if bool(legal(place)[last]) else best)
            repeated.add(bool(legal(place)[last]))
    assert repeated == {True, False}
    with pytest.raises(rljax.UsageError, match="repeat_action would repeat actions"):
        envs.repeat_action(bait(), 2)


def test_forbidden_actions_of_a_model_are_masks():
    """-inf forbids an action in planning, and in the model's environment."""
    rewards = jnp.array([[1.0, -jnp.inf, 0.0], [-jnp.inf, -jnp.inf, 2.0]])
    model = envs.Model(jnp.full((2, 3, 2), 0.5), rewards, jnp.zeros((2, 3, 2), bool), jnp.array([0.5, 0.5]))
    env = envs.time_limit(envs.from_model(model), 5)
    assert envs.check(env) == []
    _, config = configured("q_learning", env, epsilon=1.0, num_steps=50, total_steps=2000)
    _, metrics = jax.jit(rljax.q_learning.train)(jax.random.key(0), config)
    assert np.all(np.isfinite(metrics["reward"]))
    policy = planning.epsilon_greedy(rewards, 0.4)
    np.testing.assert_allclose(policy, [[0.8, 0.0, 0.2], [0.0, 0.0, 1.0]], rtol=1e-6)
    soft = planning.value_iteration(model, 0.5, epsilon=0.4)
    np.testing.assert_allclose(
        soft.values, planning.policy_values(model, planning.epsilon_greedy(soft.action_values, 0.4), 0.5), atol=1e-4
    )
