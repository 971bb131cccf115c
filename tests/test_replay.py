"""Replay against a plain Python model: wrap-around, time limits, n steps, priorities, the draw's distribution."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import rljax
from rljax import replay, rollout

DISCOUNT = 0.9


class Step(collections.namedtuple("Step", "obs action reward terminated truncated next_obs")):
    pass


class World:
    """N environments that end at random; every observation has a different number."""

    def __init__(self, seed, num_envs, ends=0.3):
        self.random, self.num_envs, self.ends = np.random.default_rng(seed), num_envs, ends
        self.shown = 0
        self.obs = [self.fresh() for _ in range(num_envs)]

    def fresh(self):
        self.shown += 1
        return self.shown

    def rollout(self, num_steps):
        rows = []
        for _ in range(num_steps):
            row = []
            for env in range(self.num_envs):
                terminated, truncated = self.random.random(2) < self.ends / 2
                step = Step(self.obs[env], self.shown % 7, self.random.normal(), terminated, truncated, self.fresh())
                self.obs[env] = self.fresh() if terminated or truncated else step.next_obs
                row.append(step)
            rows.append(row)
        return rows


def trajectory(rows):
    def field(name, dtype):
        return jnp.array([[getattr(step, name) for step in row] for row in rows], dtype)

    obs, following = field("obs", jnp.float32)[..., None], field("next_obs", jnp.float32)[..., None]
    ends = field("terminated", bool), field("truncated", bool)
    return rollout.Trajectory(obs, field("action", jnp.int32), field("reward", jnp.float32), *ends, following)


def expected_of(steps, n_step):
    """What a transition of the environment's `steps`, from the first of them, has to say."""
    total, discount = 0.0, 1.0
    for step in steps[:n_step]:
        total, discount, last = total + discount * step.reward, discount * DISCOUNT, step
        if step.terminated or step.truncated:
            break
    return total, 0.0 if last.terminated else discount, last.next_obs


def filled(world, pieces, capacity, n_step=1, **options):
    """A replay fed with rollouts of the given lengths, and the steps of each environment that it should hold."""
    memory = replay.init(jnp.zeros(1), jnp.int32(0), world.num_envs, capacity, **options)
    kept = [collections.deque(maxlen=capacity // world.num_envs) for _ in range(world.num_envs)]
    add = jax.jit(replay.add, static_argnums=2)
    for length in pieces:
        rows = world.rollout(length)
        memory = add(memory, trajectory(rows), n_step)
        for row in rows:
            for env, step in enumerate(row):
                kept[env].append(step)
    return memory, kept


def expected_samples(kept, n_step):
    """Every transition that can be drawn, by the number of its observation."""
    table = {}
    for steps in map(list, kept):
        for start in range(len(steps) - n_step + 1):
            table[steps[start].obs] = (steps[start].action, *expected_of(steps[start:], n_step))
    return table


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    "pieces",
    [[3], [4, 4, 4], [1] * 30, [8, 8, 8], [5, 1, 7, 2, 6, 3, 8, 4, 4, 4, 4]],
    ids=["part", "full", "ones", "whole", "mixed"],
)
def test_samples_equal_those_of_a_plain_list(pieces, n_step, prioritized):
    world = World(0, num_envs=3)
    memory, kept = filled(world, pieces, 24, n_step, prioritized=prioritized, truncations=24)
    table = expected_samples(kept, n_step)
    assert replay.size(memory, n_step) == len(table)
    batch = replay.sample(jax.random.bits(jax.random.key(1), (3_000,)), memory, DISCOUNT, n_step)
    assert {int(obs) for obs in batch.obs[:, 0]} == set(table)
    expected = [table[int(obs)] for obs in batch.obs[:, 0]]
    actions, rewards, discounts, following = map(np.array, zip(*expected, strict=True))
    np.testing.assert_array_equal(batch.action, actions)
    np.testing.assert_allclose(batch.reward, rewards, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount, discounts, rtol=1e-6)
    alive = discounts > 0  # what follows a termination is undefined
    np.testing.assert_array_equal(batch.next_obs[alive, 0], following[alive])
    np.testing.assert_array_equal(batch.weight, 1.0)


@pytest.mark.parametrize("prioritized", [False, True])
def test_the_draw_is_uniform_if_priorities_are_equal(prioritized):
    memory, kept = filled(World(1, num_envs=4), [5] * 9, 40, prioritized=prioritized, truncations=40)
    table = expected_samples(kept, 1)
    keys = jax.random.split(jax.random.key(0), 500)
    batch = jax.jit(jax.vmap(lambda key: replay.sample(jax.random.bits(key, (40,)), memory, DISCOUNT)))(keys)
    counts = collections.Counter(np.asarray(batch.obs).ravel().tolist())
    assert len(counts) == len(table) == 40
    if not prioritized:  # with priorities the parts of a batch are stratified, hence more even than chance
        assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-4
    assert max(counts.values()) < 1.25 * min(counts.values())


@pytest.mark.parametrize("n_step", [1, 2])
def test_priorities_last_as_long_as_their_transition(n_step):
    """Random additions and changes; after each, every transition's chance is its priority over the sum."""
    world, random = World(2, num_envs=2), np.random.default_rng(0)
    memory = replay.init(jnp.zeros(1), jnp.int32(0), 2, 14, prioritized=True, truncations=14)
    add, change = jax.jit(replay.add, static_argnums=2), jax.jit(replay.reprioritize)
    draw = jax.jit(lambda key, memory: replay.sample(jax.random.bits(key, (16,)), memory, DISCOUNT, n_step, 0.7))
    kept = [collections.deque(maxlen=7) for _ in range(2)]
    priorities, highest = {}, 1.0
    for turn in range(40):
        rows = world.rollout(int(random.integers(1, 5)) if turn else 3)
        memory = add(memory, trajectory(rows), n_step)
        for row in rows:
            for env, step in enumerate(row):
                kept[env].append(step)
        table = expected_samples(kept, n_step)
        priorities = {obs: priorities.get(obs, highest) for obs in table}
        batch = draw(jax.random.key(turn), memory)
        drawn = [int(obs) for obs in batch.obs[:, 0]]
        total = sum(priorities.values())
        leaves = np.asarray(memory.priorities.tree)[len(memory.priorities.tree) // 2 :]
        assert memory.priorities.tree[1] == pytest.approx(total, rel=1e-5)
        assert np.count_nonzero(leaves) == len(table)
        np.testing.assert_allclose(leaves[batch.position], [priorities[obs] for obs in drawn], rtol=1e-6)
        raw = np.array([(len(table) * priorities[obs] / total) ** -0.7 for obs in drawn])
        np.testing.assert_allclose(batch.weight, raw / raw.max(), rtol=1e-4)
        new = random.uniform(0.1, 3.0, 16)
        new = np.array([new[drawn.index(obs)] for obs in drawn])  # a transition drawn twice has one error
        memory = change(memory, batch.position, jnp.asarray(new, jnp.float32))
        priorities.update(dict(zip(drawn, new, strict=True)))
        highest = max(highest, new.max())


def test_the_draw_follows_the_priorities():
    memory, _ = filled(World(3, num_envs=2), [10], 20, prioritized=True)
    positions = jnp.arange(20)
    wanted = np.linspace(0.0, 1.9, 20)
    memory = replay.reprioritize(memory, positions, jnp.asarray(wanted, jnp.float32))
    keys = jax.random.split(jax.random.key(0), 4_000)
    drawn = jax.jit(jax.vmap(lambda key: replay.sample(jax.random.bits(key, (5,)), memory, DISCOUNT).position))(keys)
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=22)[:20]
    assert counts[0] == 0
    np.testing.assert_allclose(counts / 20_000, wanted / wanted.sum(), atol=0.005)


def test_a_truncated_episode_keeps_its_true_successor():
    world = World(4, num_envs=2, ends=1.0)  # three in four steps end
    memory, kept = filled(world, [3] * 20, 20, truncations=20)
    batch = replay.sample(jax.random.bits(jax.random.key(0), (500,)), memory, DISCOUNT)
    truth = {step.obs: step for steps in kept for step in steps}
    checked = 0
    for obs, following, discount, weight in zip(batch.obs, batch.next_obs, batch.discount, batch.weight, strict=True):
        step = truth[int(obs[0])]
        assert weight == 1.0
        assert discount == pytest.approx(0.0 if step.terminated else DISCOUNT)
        if step.truncated and not step.terminated:
            checked += 1
            assert int(following[0]) == step.next_obs
    assert checked > 50


def test_a_lost_successor_has_weight_zero():
    memory, kept = filled(World(5, num_envs=2, ends=1.0), [4] * 10, 20, truncations=3)
    batch = replay.sample(jax.random.bits(jax.random.key(0), (1_000,)), memory, DISCOUNT)
    truth = {step.obs: step for steps in kept for step in steps}
    lost = set()
    for obs, following, weight in zip(batch.obs, batch.next_obs, batch.weight, strict=True):
        step = truth[int(obs[0])]
        if weight == 0.0:
            assert step.truncated
            lost.add(step.obs)
        elif not step.terminated:
            assert int(following[0]) == step.next_obs
    truncated = {step.obs for step in truth.values() if step.truncated and not step.terminated}
    assert len(truncated - lost) == 3  # as many as there is room for


def test_weights_are_normalized_by_the_largest_that_is_not_lost():
    """Lost transitions have a tiny priority once drawn, and so would have the largest weight of all."""
    memory = replay.init(jnp.zeros(1), jnp.int32(0), 1, 40, prioritized=True, truncations=1)
    zeros = jnp.zeros((40, 1))
    cut = jnp.arange(40)[:, None] % 2 == 0
    never, obs = jnp.zeros((40, 1), bool), zeros[..., None]
    steps = rollout.Trajectory(obs, zeros.astype(jnp.int32), zeros, never, cut, obs)
    memory = replay.add(memory, steps)
    lost = jnp.arange(0, 38, 2)  # the last truncation keeps its successor
    memory = replay.reprioritize(memory, lost, jnp.full(len(lost), 0.1))
    batch = replay.sample(jax.random.bits(jax.random.key(0), (512,)), memory, 0.9, importance_exponent=1.0)
    is_lost = np.isin(batch.position, lost)
    assert 0 < is_lost.sum() < 512
    np.testing.assert_array_equal(batch.weight, np.where(is_lost, 0.0, 1.0))


def test_sixty_four_buffers_of_cartpole_fit_in_two_gibibytes():
    def memories(prioritized):
        init = lambda _: replay.init(jnp.zeros(4), jnp.int32(0), 4, 100_000, prioritized)  # noqa: E731
        shapes = jax.eval_shape(jax.vmap(init), jnp.arange(64))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

    assert memories(False) < 2**28  # a second copy of only the observations would add 100 MiB
    assert memories(True) < 2**29


@pytest.mark.parametrize("prioritized", [False, True])
def test_nothing_as_large_as_the_buffer_is_computed_to_sample_from_it(prioritized):
    def largest(capacity):
        memory = replay.init(jnp.zeros(4), jnp.int32(0), 2, capacity, prioritized)
        bits = jnp.zeros(32, jnp.uint32)
        jaxpr = jax.make_jaxpr(lambda memory: replay.sample(bits, memory, 0.9, 3))(memory)
        sizes = []

        def visit(jaxpr):
            for equation in jaxpr.eqns:
                sizes.extend(int(np.prod(out.aval.shape)) for out in equation.outvars if hasattr(out.aval, "shape"))
                for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                    visit(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else None

        visit(jaxpr.jaxpr)
        return max(sizes)

    assert largest(50_000) == largest(500) < 2_000


@pytest.mark.parametrize(
    ("algorithm", "env", "changes"),
    [
        pytest.param(rljax.td3, "Pendulum-v1", {}, marks=pytest.mark.slow),
        (rljax.sac, "Pendulum-v1", {}),
        pytest.param(rljax.dqn, "CartPole-v1", {}, marks=pytest.mark.slow),
        (rljax.dqn, "CartPole-v1", {"prioritized": True, "n_step": 3, "gradient_steps": 2}),
    ],
)
def test_an_update_copies_no_part_of_the_buffer(algorithm, env, changes):
    """Written and read in the same pass of a loop, a ring is copied whole if the compiler fuses one with the other."""

    def working_memory(capacity):
        config = algorithm.Config(
            env=rljax.make(env),
            num_envs=1,
            num_steps=1,
            gradient_steps=1,
            batch_size=16,
            hidden_sizes=(8,),
            buffer_size=capacity,
        )
        config = rljax.replace(config, **changes)
        key = jax.random.key(0)
        state = jax.eval_shape(algorithm.init, key, config)
        update = lambda i, state: algorithm.update(jax.random.fold_in(key, i), state, config)[0]  # noqa: E731
        loop = jax.jit(lambda state: jax.lax.fori_loop(0, 10, update, state), donate_argnums=0)
        return loop.lower(state).compile().memory_analysis().temp_size_in_bytes

    assert working_memory(100_000) == working_memory(1_000)


def test_invalid_sizes_are_refused():
    with pytest.raises(rljax.UsageError, match="cannot hold a step of 8"):
        replay.init(jnp.zeros(1), jnp.int32(0), 8, 7)
    memory = replay.init(jnp.zeros(1), jnp.int32(0), 2, 8)
    with pytest.raises(rljax.UsageError, match="A rollout of 5 steps does not fit"):
        replay.add(memory, trajectory(World(0, 2).rollout(5)))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_terminal_observations_are_never_sampled(spoiled, n_step, prioritized):
    """Also not from the newest step, whose successor is in the slot that the next step will overwrite."""
    world = World(0, num_envs=3, ends=0.8)
    memory = replay.init(jnp.zeros(1), jnp.int32(0), 3, 24, prioritized=prioritized, truncations=24)
    add, draw = jax.jit(replay.add, static_argnums=2), jax.jit(replay.sample, static_argnums=3)
    newest_terminated = 0
    for number in range(8):
        steps = trajectory(world.rollout(3))
        steps = steps._replace(next_obs=jnp.where(steps.terminated[..., None], spoiled, steps.next_obs))
        memory = add(memory, steps, n_step)
        newest_terminated += int(steps.terminated[-1].sum())
        batch = draw(jax.random.bits(jax.random.key(number), (200,)), memory, DISCOUNT, n_step)
        assert np.isfinite(batch.obs).all()
        assert np.isfinite(batch.next_obs).all()
    assert newest_terminated > 3


def test_a_lost_successor_is_not_another_transitions():
    """Its weight is zero, and what takes its place is not a stored successor, which may be NaN."""
    world = World(2, num_envs=2, ends=0.9)
    memory, _ = filled(world, [4] * 5, 16, truncations=1)
    memory = memory._replace(successors=jnp.full_like(memory.successors, jnp.nan))
    batch = replay.sample(jax.random.bits(jax.random.key(0), (100,)), memory, DISCOUNT)
    lost = np.asarray(batch.weight == 0.0)
    assert 0 < lost.sum() < 100
    assert np.isfinite(batch.next_obs[lost]).all()


def sum_tree(priorities):
    leaves = 2 ** int(np.ceil(np.log2(len(priorities))))
    levels = [np.pad(priorities, (0, leaves - len(priorities)))]
    while len(levels[-1]) > 1:
        levels.append(levels[-1][::2] + levels[-1][1::2])
    return jnp.asarray(np.concatenate([np.zeros(1, np.float32), *levels[::-1]]))


@pytest.mark.parametrize(("size", "tail"), [(1, 0), (3, 0), (1000, 0), (1_000_000, 0), (1_000_000, 3), (2**23, 0)])
def test_every_transition_is_drawn_with_its_chance(size, tail):
    """The number of 32-bit words that draw a leaf, found by bisection: draws are in the leaves' order."""
    random = np.random.default_rng(0)
    priorities = (random.exponential(size=size) + 1e-2).astype(np.float32) ** np.float32(0.6 + tail)
    tree = sum_tree(priorities)
    total = priorities.astype(np.float64).sum()
    leaves = np.unique(np.r_[0, size - 1, random.integers(0, size, 3000)])
    leaves = leaves[priorities[leaves] / total > 1e-8]

    @jax.jit
    def first_word(leaves):
        """The lowest word that draws one of the leaves or a later one, minus 1."""
        draw = jax.vmap(lambda word: replay._draw_leaves(word[None], tree)[0][0])

        def halve(i, low):
            middle = low + (jnp.uint32(2**31) >> i)
            return jnp.where(draw(middle) < leaves, middle, low)

        return jax.lax.fori_loop(0, 32, halve, jnp.zeros(leaves.shape, jnp.uint32))

    first, after = (np.asarray(first_word(jnp.asarray(leaves + i)), np.float64) for i in (0, 1))
    chances = (after - first) / 2.0**32
    np.testing.assert_allclose(chances, priorities[leaves] / total, rtol=1e-4, atol=2.0**-30)


@pytest.mark.parametrize("count", [2, 7, 64, 1000])
def test_each_draw_of_a_batch_is_from_its_part_of_the_sum(count):
    priorities = np.random.default_rng(1).exponential(size=100_000).astype(np.float32)
    tree, cumulated = sum_tree(priorities), np.cumsum(priorities, dtype=np.float64)
    draw = jax.jit(replay._draw_leaves)
    for word in (0, 2**20 + 3, 2**31 - 1, 2**32 - 1):
        leaves, chances = draw(jnp.full(count, word, jnp.uint32), tree)
        position = (np.arange(count) + word / 2**32) / count * cumulated[-1]
        assert (cumulated[leaves] - priorities[leaves] <= position + 0.1).all()
        assert (position <= cumulated[leaves] + 0.1).all()
        np.testing.assert_allclose(chances, priorities[leaves] / cumulated[-1], rtol=1e-5)
