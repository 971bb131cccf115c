"""Returns and advantages against forward sums written from their definitions, one environment at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import returns

T, N = 12, 3
STEPS = (1, 2, 5, T, T + 5)
DISCOUNTS = (0.0, 0.6, 0.99, 1.0)
DECAYS = (0.0, 0.3, 0.95, 1.0)

discounted = jax.jit(returns.discounted)
n_step = jax.jit(returns.n_step, static_argnames="n")
lambda_returns = jax.jit(returns.lambda_returns)
gae = jax.jit(returns.gae)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def rollout(seed, dtype=np.float64, ends=0.2):
    """Rewards, values, next values, terminated, truncated; next values follow no pattern, some steps end both ways."""
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, T, N)).astype(dtype)
    terminated, truncated = rng.random((2, T, N)) < ends
    return rewards, values, next_values, terminated, truncated


def consistent(seed, dtype=np.float64):
    """A rollout in which a step's next value is the following row's value, unless the episode ended there."""
    rewards, values, next_values, terminated, truncated = rollout(seed, dtype)
    goes_on = ~(terminated | truncated)[:-1]
    next_values[:-1] = np.where(goes_on, values[1:], next_values[:-1])
    return rewards, values, next_values, terminated, truncated


def last_step(t, terminated, truncated):
    """The step at which the trace from `t` is cut."""
    return next((s for s in range(t, len(terminated)) if terminated[s] or truncated[s]), len(terminated) - 1)


def forward_n_step(t, rewards, next_values, terminated, truncated, discount, n):
    end = min(t + n - 1, last_step(t, terminated, truncated))
    total = sum(discount**k * rewards[t + k] for k in range(end - t + 1))
    return total if terminated[end] else total + discount ** (end - t + 1) * next_values[end]


def forward_discounted(t, rewards, next_values, terminated, truncated, discount):
    return forward_n_step(t, rewards, next_values, terminated, truncated, discount, len(rewards))


def forward_lambda(t, rewards, next_values, terminated, truncated, discount, decay):
    longest = last_step(t, terminated, truncated) - t + 1
    of_length = functools.partial(forward_n_step, t, rewards, next_values, terminated, truncated, discount)
    mixed = sum((1 - decay) * decay ** (n - 1) * of_length(n) for n in range(1, longest))
    return mixed + decay ** (longest - 1) * of_length(longest)


def forward_gae(t, rewards, values, next_values, terminated, truncated, discount, decay):
    total = 0.0
    for s in range(t, last_step(t, terminated, truncated) + 1):
        successor = 0.0 if terminated[s] else next_values[s]
        total += (discount * decay) ** (s - t) * (rewards[s] + discount * successor - values[s])
    return total


def each(forward, *arrays_and_scalars):
    """A forward sum for every step of every environment."""
    arrays = [x for x in arrays_and_scalars if isinstance(x, np.ndarray)]
    scalars = arrays_and_scalars[len(arrays) :]
    return np.array([[forward(t, *(x[:, i] for x in arrays), *scalars) for i in range(N)] for t in range(T)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_discounted_and_n_step_match_forward_sums(x64, seed, discount):
    rewards, _, *rest = rollout(seed)
    expected = each(forward_discounted, rewards, *rest, discount)
    np.testing.assert_allclose(discounted(rewards, *rest, discount), expected, atol=1e-12)
    for n in STEPS:
        expected = each(forward_n_step, rewards, *rest, discount, n)
        np.testing.assert_allclose(n_step(rewards, *rest, discount, n=n), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("decay", DECAYS)
def test_lambda_returns_and_gae_match_forward_sums(x64, seed, discount, decay):
    rewards, values, *rest = rollout(seed)
    expected = each(forward_lambda, rewards, *rest, discount, decay)
    np.testing.assert_allclose(lambda_returns(rewards, *rest, discount, decay), expected, atol=1e-12)
    expected = each(forward_gae, rewards, values, *rest, discount, decay)
    np.testing.assert_allclose(gae(rewards, values, *rest, discount, decay), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (
            {},
            {
                "discounted": [3.625, 5.25, 6.5],
                "two_step": [3.5, 5.25, 6.5],
                "lambda": [3.53125, 5.125, 6.5],
                "gae": [-0.46875, 0.125, 0.5],
            },
        ),
        (
            {"terminated": 1},
            {"discounted": [2, 2, 6.5], "two_step": [2, 2, 6.5], "lambda": [2.75, 2, 6.5], "gae": [-1.25, -3, 0.5]},
        ),
        (
            {"truncated": 1},
            {"discounted": [4, 6, 6.5], "two_step": [4, 6, 6.5], "lambda": [3.75, 6, 6.5], "gae": [-0.25, 1, 0.5]},
        ),
    ],
    ids=["goes on", "terminated", "truncated"],
)
def test_numbers_worked_by_hand(ends, expected):
    rewards, values = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0])
    # Where the time limit ends the episode, the true successor is worth 8, and the next episode's first state 6.
    next_values = jnp.array([5.0, 8.0 if "truncated" in ends else 6.0, 7.0])
    terminated, truncated = (jnp.arange(3) == ends.get(name, -1) for name in ("terminated", "truncated"))
    cut = (terminated, truncated)
    # Halves and quarters of small integers: every number here is exact in float32.
    np.testing.assert_array_equal(discounted(rewards, next_values, *cut, 0.5), expected["discounted"])
    np.testing.assert_array_equal(n_step(rewards, next_values, *cut, 0.5, n=2), expected["two_step"])
    np.testing.assert_array_equal(lambda_returns(rewards, next_values, *cut, 0.5, 0.5), expected["lambda"])
    np.testing.assert_array_equal(gae(rewards, values, next_values, *cut, 0.5, 0.5), expected["gae"])


@pytest.mark.parametrize("seed", range(3))
def test_special_cases_reduce_to_each_other(x64, seed):
    rewards, values, next_values, terminated, truncated = rollout(seed)
    rest, discount = (next_values, terminated, truncated), 0.9
    whole = discounted(rewards, *rest, discount)
    one_step = rewards + discount * np.where(terminated, 0.0, next_values)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    close(lambda_returns(rewards, *rest, discount, 1.0), whole)
    close(lambda_returns(rewards, *rest, discount, 0.0), one_step)
    close(n_step(rewards, *rest, discount, n=1), one_step)
    close(n_step(rewards, *rest, discount, n=T), whole)
    close(n_step(rewards, *rest, discount, n=T + 5), whole)
    close(gae(rewards, values, *rest, discount, 0.0), one_step - values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decay", DECAYS)
def test_gae_and_values_are_lambda_returns_where_values_are_consistent(x64, seed, decay):
    rewards, values, *rest = consistent(seed)
    targets = lambda_returns(rewards, *rest, 0.9, decay)
    np.testing.assert_allclose(gae(rewards, values, *rest, 0.9, decay) + values, targets, atol=1e-12)


def every_function(rewards, values, *rest):
    """The results of each function on one rollout, by name."""
    return {
        "discounted": discounted(rewards, *rest, 0.9),
        "one_step": n_step(rewards, *rest, 0.9, n=1),
        "n_step": n_step(rewards, *rest, 0.9, n=5),
        "lambda_returns": lambda_returns(rewards, *rest, 0.9, 0.8),
        "gae": gae(rewards, values, *rest, 0.9, 0.8),
    }


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_nothing_leaks_across_episodes_or_environments(kind):
    rewards, values, next_values, _, _ = rollout(0, np.float32)
    ends = {"terminated": np.zeros((T, N), bool), "truncated": np.zeros((T, N), bool)}
    ends[kind][6, 1] = True
    cut = (ends["terminated"], ends["truncated"])
    plain = every_function(rewards, values, next_values, *cut)
    later = [x.copy() for x in (rewards, values, next_values)]
    for x in later:
        x[7:, 1] += 100.0
    changed = every_function(*later, *cut)
    uncut = every_function(*later, *(np.zeros((T, N), bool),) * 2)
    for name in plain:
        old, new = np.asarray(plain[name]), np.asarray(changed[name])
        np.testing.assert_array_equal(new[:7], old[:7], err_msg=name)
        np.testing.assert_array_equal(new[:, [0, 2]], old[:, [0, 2]], err_msg=name)
        assert np.all(new[7:, 1] != old[7:, 1]), name
        if name != "one_step":
            assert np.any(np.abs(np.asarray(uncut[name])[:7, 1] - old[:7, 1]) > 1.0), name


def test_both_ends_at_once_count_as_terminated():
    rewards, values, next_values, terminated, truncated = rollout(1, np.float32, ends=0.4)
    assert np.any(terminated & truncated)
    both = every_function(rewards, values, next_values, terminated, truncated)
    one = every_function(rewards, values, next_values, terminated, truncated & ~terminated)
    for name in both:
        np.testing.assert_array_equal(both[name], one[name], err_msg=name)


def test_truncation_bootstraps_from_the_successor_and_not_from_the_following_row():
    rewards, values, next_values, _, _ = rollout(2, np.float32)
    terminated, truncated = np.zeros((2, T, N), bool)
    truncated[4] = True
    expected = rewards[4] + 0.9 * next_values[4]
    for name, result in every_function(rewards, values, next_values, terminated, truncated).items():
        target = result[4] + values[4] if name == "gae" else result[4]
        np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_last_row_is_completed_by_its_successor():
    rewards, values, next_values, _, _ = rollout(2, np.float32)
    never = np.zeros((T, N), bool)
    for name, result in every_function(rewards, values, next_values, never, never).items():
        target = result[-1] + values[-1] if name == "gae" else result[-1]
        np.testing.assert_allclose(target, rewards[-1] + 0.9 * next_values[-1], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["discounted", "one_step", "n_step", "lambda_returns", "gae"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_terminated_steps_ignore_their_successor(name, bad):
    rewards, values, next_values, terminated, truncated = rollout(3, np.float32)
    terminated[-1, 0] = True
    clean = every_function(rewards, values, np.where(terminated, 0.0, next_values), terminated, truncated)[name]
    dirty = every_function(rewards, values, np.where(terminated, bad, next_values), terminated, truncated)[name]
    np.testing.assert_array_equal(dirty, clean)


def test_gradients_ignore_the_successor_of_a_terminated_step():
    rewards, _, next_values, terminated, truncated = rollout(3, np.float32)
    next_values = np.where(terminated, np.nan, next_values)

    def total(discount):
        return returns.lambda_returns(rewards, next_values, terminated, truncated, discount, 0.8).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(0.9))


def test_discounted_reads_next_values_only_where_a_trace_is_cut():
    rewards, _, next_values, terminated, truncated = rollout(4, np.float32)
    read = truncated & ~terminated
    read[-1] = ~terminated[-1]
    clean = discounted(rewards, next_values, terminated, truncated, 0.9)
    other = discounted(rewards, np.where(read, next_values, 123.0), terminated, truncated, 0.9)
    np.testing.assert_array_equal(other, clean)
    dirty = discounted(rewards, np.where(read, next_values, np.nan), terminated, truncated, 0.9)
    np.testing.assert_array_equal(dirty, clean)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_constant_reward_has_its_geometric_sum(x64, decay):
    discount, steps = 0.9, np.arange(T)[:, None]
    ones, never = np.ones((T, N)), np.zeros((T, N), bool)
    forever = np.full((T, N), 1 / (1 - discount))
    limited = never.copy()
    limited[5] = limited[-1] = True
    # With a time limit the true values are those of going on for ever: nothing is better or worse than expected.
    np.testing.assert_allclose(gae(ones, forever, forever, never, limited, discount, decay), 0.0, atol=1e-12)
    np.testing.assert_allclose(lambda_returns(ones, forever, never, limited, discount, decay), forever, atol=1e-12)
    # With a terminal state they are those of the k steps left.
    last = never.copy()
    last[-1] = True
    left = np.broadcast_to((1 - discount ** (T - steps)) / (1 - discount), (T, N))
    successor = np.broadcast_to((1 - discount ** (T - 1 - steps)) / (1 - discount), (T, N))
    np.testing.assert_allclose(discounted(ones, forever, last, never, discount), left, atol=1e-12)
    np.testing.assert_allclose(lambda_returns(ones, successor, last, never, discount, decay), left, atol=1e-12)
    np.testing.assert_allclose(gae(ones, left, successor, last, never, discount, decay), 0.0, atol=1e-12)
    surprise = gae(ones, forever, forever, last, never, discount, decay)
    np.testing.assert_allclose(surprise[-1], 1 - forever[-1], atol=1e-12)


@pytest.mark.parametrize("wrong", range(5))
def test_mismatched_shapes_raise(wrong):
    arrays = list(rollout(0, np.float32))
    arrays[wrong] = arrays[wrong][:, :1]
    rewards, values, *rest = arrays
    with pytest.raises(AssertionError):
        returns.gae(rewards, values, *rest, 0.9, 0.9)
    if wrong != 1:
        with pytest.raises(AssertionError):
            returns.discounted(rewards, *rest, 0.9)
        with pytest.raises(AssertionError):
            returns.n_step(rewards, *rest, 0.9, 2)
        with pytest.raises(AssertionError):
            returns.lambda_returns(rewards, *rest, 0.9, 0.9)


def test_any_trailing_axes():
    rewards, values, *rest = rollout(5, np.float32)
    expected = np.asarray(gae(rewards, values, *rest, 0.9, 0.8))
    alone = gae(*(x[:, 0] for x in (rewards, values, *rest)), 0.9, 0.8)
    np.testing.assert_allclose(alone, expected[:, 0], rtol=1e-6, atol=1e-6)
    more = [x.reshape(T, 1, N, 1) for x in (rewards, values, *rest)]
    assert jax.eval_shape(gae, *more, 0.9, 0.8).shape == (T, 1, N, 1)


def test_scalars_of_any_kind_and_stacks_of_them_give_the_same_numbers():
    rewards, values, *rest = rollout(6, np.float32)
    plain = np.asarray(gae(rewards, values, *rest, 1.0, 0.0))
    for kind in (int, np.float32, np.float64, jnp.float32):
        result = gae(rewards, values, *rest, kind(1), kind(0))
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, plain)
    assert jax.eval_shape(lambda_returns, rewards, *rest, 1, 0).dtype == jnp.float32
    assert jax.eval_shape(functools.partial(n_step, n=2), rewards, *rest, 1).dtype == jnp.float32
    sweep = jax.jit(jax.vmap(returns.gae, (None,) * 5 + (0, 0)))
    swept = sweep(rewards, values, *rest, jnp.array([1.0, 0.9]), jnp.array([0.0, 0.8]))
    np.testing.assert_allclose(swept[0], plain, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(swept[1], gae(rewards, values, *rest, 0.9, 0.8), rtol=1e-6, atol=1e-6)


# --- what is not read may be anything ---------------------------------------------------------------------------------

SPOILED = [np.nan, np.inf, -np.inf, 3e38]


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("trace_decay", [0.0, 0.7, 1.0])
def test_an_episode_does_not_read_beyond_its_end(spoiled, n, trace_decay):
    """The first episode terminates at step 3. Its value there and everything after it may be NaN."""
    random = np.random.default_rng(0)
    rewards, values, next_values = random.normal(size=(3, 8, 2)).astype(np.float32)
    terminated, truncated = np.zeros((2, 8, 2), bool)
    terminated[3] = True
    rewards2, values2, next_values2 = rewards.copy(), values.copy(), next_values.copy()
    rewards2[4:], values2[4:], next_values2[3:] = spoiled, spoiled, spoiled
    for function, rest in (
        (returns.gae, (0.9, trace_decay)),
        (returns.lambda_returns, (0.9, trace_decay)),
        (returns.n_step, (0.9, n)),
        (returns.discounted, (0.9,)),
    ):
        is_gae = function is returns.gae
        clean = function(*((rewards, values) if is_gae else (rewards,)), next_values, terminated, truncated, *rest)
        dirty = function(*((rewards2, values2) if is_gae else (rewards2,)), next_values2, terminated, truncated, *rest)
        np.testing.assert_array_equal(dirty[:4], clean[:4])


@pytest.mark.parametrize("trace_decay", [0.0, 0.5, 1.0])
def test_the_slope_by_the_trace_decay_is_that_of_differences(trace_decay):
    rewards, next_values = np.random.default_rng(1).normal(size=(2, 6))
    ends = np.zeros((2, 6), bool)
    ends[0, 2] = True

    def total(trace_decay):
        return returns.lambda_returns(rewards, next_values, *ends, 0.9, trace_decay).sum()

    with jax.enable_x64(True):
        difference = (total(trace_decay + 1e-5) - total(trace_decay - 1e-5)) / 2e-5
    for slope in (jax.grad(total)(trace_decay), jax.jvp(total, (trace_decay,), (1.0,))[1]):
        np.testing.assert_allclose(slope, difference, rtol=1e-3)


@pytest.mark.parametrize("spoiled", SPOILED)
def test_one_step_targets_do_not_read_terminal_values(spoiled):
    got = returns.one_step(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.5]), jnp.array([spoiled, 4.0]))
    np.testing.assert_array_equal(got, [1.0, 4.0])
