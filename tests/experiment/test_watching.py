"""Policies of a run are animated: seeds, and points of training."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import toys

import rljax
from rljax.experiment import placement, watching
from rljax.experiment.history import Kept
from rljax.experiment.results import Parts, Result
from rljax.report import animation, maps

PARAMS = np.arange(1.0, 11.0, dtype=np.float32).reshape(5, 2)


@pytest.fixture(scope="module")
def result():
    """The result of five seeds that kept what they act with, a tenth of the final parameters for each two updates."""
    config = toys.Config(env=rljax.envs.time_limit(toys.walk, 9), num_updates=6)
    positions = placement.acting(toys.own, config)
    assert positions == [0]
    updates = [np.full(5, update) for update in (0, 2, 4, 6)]
    kept = [Kept(update, PARAMS[:, 0] * update, [PARAMS * update[:, None] / 10]) for update in updates]
    states = toys.State(jnp.asarray(PARAMS), jnp.full(5, 6))
    metrics = {"env_steps": np.tile(np.arange(10, 70, 10), (5, 1))}
    return Result(
        parts=lambda: Parts(states, metrics, kept),
        eval_steps=np.zeros(0),
        eval_returns=np.zeros((5, 0)),
        eval_measures={},
        summary={},
        algorithm=toys.own,
        config=config,
        seeds=np.arange(5),
    )


@pytest.fixture
def titles(monkeypatch):
    """The titles and last captions of the panels that are drawn, in order; drawing is left out."""
    found = []

    def side_by_side(panels, fps, columns=None):
        found.extend((panel.title, panel.captions[-1]) for panel in panels)
        return animation.Animation(np.zeros((1, 4, 4, 3), np.uint8), fps)

    monkeypatch.setattr(animation, "side_by_side", side_by_side)
    return found


def returns(titles):
    return [float(caption.split("return ")[1].split()[0]) for _, caption in titles]


def test_seeds_are_side_by_side(result, titles):
    result.watch()
    assert [title for title, _ in titles] == [f"seed {seed}, 60 env steps" for seed in range(4)]
    assert all(caption.endswith("   step 3   end") for _, caption in titles)
    # In three steps all take the same random rewards, on top of what their policies reach.
    np.testing.assert_allclose(np.diff(returns(titles)), 3 * np.diff(PARAMS.sum(axis=1)[:4]), atol=0.02)


def test_one_seed_is_shown_at_points_of_its_training(result, titles):
    result.watch(max_steps=2, seeds=2)
    assert [title for title, _ in titles] == [f"seed 2, {steps} env steps" for steps in (0, 20, 40, 60)]
    assert all(caption.endswith("   step 2") for _, caption in titles)
    np.testing.assert_allclose(np.diff(returns(titles)), 2 * 0.2 * PARAMS[2].sum(), atol=0.02)


def test_checkpoints_and_episodes_are_chosen(result, titles):
    result.watch(seeds=[1, 0], checkpoints=["best", 2, "last"], episodes=2)
    steps = ["60 env steps, its best", "20 env steps", "60 env steps"]
    assert [title for title, _ in titles] == [f"seed {seed}, {text}" for seed in (1, 0) for text in steps]
    assert all(caption.startswith("episode 2   return ") for _, caption in titles)


def test_the_animation_is_written(result, tmp_path):
    whole = result.watch(tmp_path / "x.gif", seeds=0, checkpoints="last", fps=5)
    assert (tmp_path / "x.gif").read_bytes() == whole.gif()
    assert whole.pictures.shape[0] == 4  # the start and three steps
    assert whole.fps == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": 5}, "There is no seed 5"),
        ({"seeds": []}, "shows 1 to 16 policies, and these are 0"),
        ({"seeds": range(5), "checkpoints": "all"}, "these are 20"),
        ({"checkpoints": 7}, "checkpoint is 'last', 'best' or one of 0, 2, 4, 6, got 7"),
        ({"policy": "lazy"}, "policy must be greedy or stochastic, got 'lazy'"),
        ({"policy": "stochastic"}, "The algorithm has no stochastic policy"),
        ({"fps": 0}, "fps must be an integer in"),
        ({"episodes": 0}, "episodes must be an integer in"),
        ({"max_steps": 0}, "max_steps must be an integer in"),
        ({"out": "x.png"}, "must end with .gif or .mp4"),
    ],
)
def test_mistakes_are_sentences(result, settings, words):
    with pytest.raises(rljax.UsageError, match=words):
        result.watch(**settings)


def test_a_map_has_the_learned_and_the_exact_values(monkeypatch):
    drawn = []
    monkeypatch.setattr(maps, "plot_maps", lambda *arguments: drawn.append(arguments))
    env = rljax.make("GridWorld-misc", desc=("S.", "#G"))
    learned = np.zeros((1, 1, 4, 4), np.float32)
    learned[0, 0, 0] = [-3, -2, -1, -4]
    tabular = SimpleNamespace(
        config=SimpleNamespace(env=env, discount=0.5),
        policy=lambda seed: lambda key, obs: jnp.where(obs == 0, 2, 1),  # right, then down
        row=lambda seed: seed,
        states=rljax.q_learning.State(rljax.q_learning.Tables(learned, learned, learned), None, jnp.zeros(1)),
    )
    watching.plot_map(tabular, "map.png", 0)
    path, _, model, actions, discount, title, table = drawn[0]
    assert (path, discount, title) == ("map.png", 0.5, "GridWorld-misc(desc=('S.', '#G')), seed 0")
    assert model.rewards.shape == (4, 4)
    assert actions.tolist() == [2, 1, 1, 1]
    np.testing.assert_array_equal(table, learned[0, 0])
    tabular.policy = lambda seed: rljax.types.RecurrentPolicy(lambda n: (), lambda key, obs, hidden: (obs, hidden))
    with pytest.raises(rljax.UsageError, match="A recurrent policy has no map"):
        watching.plot_map(tabular, None, 0)


def test_a_map_needs_a_model(result):
    with pytest.raises(rljax.UsageError, match=r"walk.* has no exact model to compare with"):
        result.map()
