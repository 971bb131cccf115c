"""Results as they are shown, plotted and tabulated."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from resuming import OPTIONS
from toys import own

import rljax


@pytest.fixture(scope="module")
def sweep(config):
    options = {**OPTIONS, "seeds": 10}
    return rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, **options)


def test_results_are_short_in_text_and_complete_in_html(whole, sweep):
    for result, words in (
        (whole, "3 seeds x 500 env steps"),
        (sweep, "2 configurations"),
        (sweep.results[1], "rate 0.2"),
    ):
        assert len(repr(result)) < 1000
        assert words in repr(result)
        page = result._repr_html_()
        assert "own on walk" in page
        assert "data:image/png;base64," in page
        assert ">IQM return</th>" in page


def test_a_frame_has_a_row_for_each_update_and_run(whole):
    pytest.importorskip("pandas")
    frame = whole.frame()
    assert list(frame.columns) == ["run", "update", "env_steps", "episode_return"]
    assert len(frame) == 150
    np.testing.assert_array_equal(
        frame.pivot(index="run", columns="update", values="episode_return"), whole.metrics["episode_return"]
    )
    evaluations = whole.frame(evaluations=True)
    np.testing.assert_array_equal(
        evaluations.pivot(index="run", columns="env_steps", values="return"), whole.eval_returns
    )


def test_a_sweep_names_the_result_that_can_be_watched(sweep):
    place = sweep.best_configuration
    for name in ("watch", "evaluate", "policy"):
        with pytest.raises(AttributeError, match=rf"A sweep has no {name}.*sweep\.results\[{place}\]\.{name}\.$"):
            getattr(sweep, name)
    assert not hasattr(sweep, "unknown")


def test_a_sweeps_frame_has_the_swept_values(sweep):
    pytest.importorskip("pandas")
    frame = sweep.frame()
    assert list(frame.columns[:3]) == ["run", "configuration", "seed"]
    assert frame.groupby("configuration")["rate"].first().tolist() == [0.1, 0.2]
    one = frame[(frame["configuration"] == 1) & (frame["seed"] == 7)]
    assert one["run"].unique().tolist() == [17]
    np.testing.assert_array_equal(one["episode_return"], sweep.results[1].metrics["episode_return"][7])


def test_a_frame_without_pandas_is_one_sentence(whole, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(rljax.UsageError, match="pip install pandas"):
        whole.frame()


def test_plots_are_figures_and_files(whole, sweep, tmp_path):
    for result, lines, seeds in ((whole, 1 + 1, 3), (sweep, 2, 0)):
        figure = result.plot(tmp_path / "x.png")
        assert (tmp_path / "x.png").stat().st_size > 5_000
        assert len(figure.axes[0].lines) == lines
        thin = [one for one in figure.axes[0].collections if isinstance(one, LineCollection)]
        assert sum(len(one.get_segments()) for one in thin) == seeds


def test_the_best_configuration_and_the_best_seed_are_two_things(sweep):
    """The toy is better the larger its rate."""
    assert sweep.best_configuration == 1 == sweep.summary["best"]["configuration"]
    best = sweep.results[1]
    assert best.best_seed == int(np.argmax(best.summary["final_return"]["per_seed"]))
