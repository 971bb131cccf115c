"""Every line of the learning table, on 20 fresh seeds. Long: `make test-slow`."""

import learning
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("claim", learning.CLAIMS, ids=lambda claim: "-".join(claim.what))
def test_the_preset_reaches_its_bar(claim):
    summary = learning.measure(claim)
    assert learning.is_met(claim, summary), summary["final_return"]


FINAL = {"iqm": 495.0, "min": 450.0, "max": 500.0, "per_seed": [450.0, 489.0, 495.0, 500.0]}


@pytest.mark.parametrize(
    ("claim", "met"),
    [
        ({"bar": 490}, True),
        ({"bar": 496}, False),
        ({"bar": 490, "floor": 400}, True),
        ({"bar": 490, "floor": 451}, False),
        ({"bar": 490, "solved": 2}, True),
        ({"bar": 490, "solved": 3}, False),
        ({"bar": -float("inf"), "ceiling": 495}, True),
        ({"bar": -float("inf"), "ceiling": 494}, False),
    ],
)
def test_a_claim_is_met_if_all_of_its_conditions_hold(claim, met):
    claim = learning.Claim("dqn", "CartPole-v1", reference="", **claim)
    assert learning.is_met(claim, {"final_return": FINAL, "diverged": []}) == met
    assert not learning.is_met(claim, {"final_return": FINAL, "diverged": [3]})
    assert (
        "**no**" in learning.row(claim, {"final_return": FINAL | {"ci95": [1, 2]}, "diverged": [], "env_steps": 9})
    ) != met
