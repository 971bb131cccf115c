"""The numbers that the pictures of a course plot."""

import importlib.util
import pathlib

import numpy as np
import pytest
import toys

PICTURES = pathlib.Path(__file__).parent.parent / "examples/pictures"


@pytest.fixture(autouse=True)
def _off_screen(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")


def drawn(name, folder, **arguments):
    """What an example returns; its picture is in the folder."""
    spec = importlib.util.spec_from_file_location(name, PICTURES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.main(str(folder / "picture.png"), **arguments)
    assert (folder / "picture.png").stat().st_size > 10_000
    return found


def test_the_clip_of_ppo_stops_gains_of_either_sign(tmp_path):
    found = drawn("ppo_clip", tmp_path)
    ratio = found["ratio"]
    np.testing.assert_allclose(found["positive"], np.minimum(ratio, 1.2), atol=1e-6)
    np.testing.assert_allclose(found["negative"], -np.maximum(ratio, 0.8), atol=1e-6)
    away = np.abs(np.abs(ratio - 1.0) - 0.2) > 1e-3  # from the kinks
    np.testing.assert_allclose(found["positive gradient"][away], np.where(ratio < 1.2, 1, 0)[away], atol=1e-5)
    np.testing.assert_allclose(found["negative gradient"][away], np.where(ratio > 0.8, -1, 0)[away], atol=1e-5)


def test_exploration_schedules_go_from_their_start_to_their_end(tmp_path):
    found = {text.partition("(")[0]: values for text, values in drawn("exploration_schedules", tmp_path).items()}
    done = np.linspace(0, 1, 201)
    np.testing.assert_allclose(found["constant"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(found["linear"], np.maximum(1 - 0.95 * 2 * done, 0.05), atol=1e-5)
    np.testing.assert_allclose(found["exponential"], 0.05**done, rtol=1e-4)
    np.testing.assert_allclose(found["cosine"], 0.05 + 0.475 * (1 + np.cos(np.pi * done)), atol=1e-5)
    np.testing.assert_allclose(found["piecewise"][[0, 49, 51, 119, 121, 200]], [1, 1, 0.3, 0.3, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(found["per_episode"], np.maximum(0.99 ** (500 * done), 0.05), rtol=1e-3)


def test_values_spread_from_the_goal_sweep_by_sweep(tmp_path):
    found = drawn("value_iteration", tmp_path)
    errors, values = found["errors"], found["values"]
    assert (np.diff(errors[:15]) < 0).all()
    assert (errors[1:] <= 0.95 * errors[:-1] + 1e-5).all()  # a contraction by the discount
    assert errors[13] > 0.4
    assert errors[14] < 1e-4  # the goal is at most 15 steps away
    start = values[:, 18]
    np.testing.assert_allclose(start[13:], -(1 - 0.95**14) / 0.05, rtol=1e-5)  # it is 14 steps from the start
    np.testing.assert_allclose(start[:13], -(1 - 0.95 ** np.arange(1, 14)) / 0.05, rtol=1e-5)


@pytest.mark.slow
@toys.optimized()
def test_baselines_reduce_the_variance_and_leave_the_mean(tmp_path):
    found = drawn("reinforce_variance", tmp_path)
    none, mean, exact = (found[name] for name in ("no baseline", "mean return", "exact values"))
    assert 10 * exact["variance"][0] < 3 * mean["variance"][0] < none["variance"][0]
    for one in found.values():
        np.testing.assert_allclose(one["variance"] * one["sizes"], one["variance"][0], rtol=0.5)
        error = np.sqrt(none["variance"][0] / 4096)  # at least of the whole vector
        assert np.linalg.norm(one["mean"] - exact["mean"]) < 3 * error


@pytest.mark.slow
@toys.optimized()
def test_the_density_moves_to_the_best_action_and_narrows(tmp_path):
    found = drawn("gaussian_policy", tmp_path)
    assert (np.diff(found["deviations"]) < 0).all()
    assert found["deviations"][0] == pytest.approx(1.0)
    assert found["deviations"][-1] < 0.2
    assert abs(found["means"][0]) < 0.1
    assert abs(found["means"][-1] - 0.7) < 0.1
    spacing = found["actions"][1] - found["actions"][0]
    np.testing.assert_allclose(found["density"][1:].sum(axis=1) * spacing, 1.0, atol=0.05)
    best = found["actions"][found["density"].argmax(axis=1)]
    np.testing.assert_allclose(best, found["means"], atol=spacing)
