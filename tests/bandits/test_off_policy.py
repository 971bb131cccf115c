"""Estimates from logs against the numbers of obp 0.4.1 on the same rows, and what is wrong with a file."""

import pathlib
import runpy

import numpy as np
import pytest

import rljax
from rljax import bandits

# Of obp 0.4.1's estimators (Saito et al. 2021) on the log and with the model of `a_log`.
OBP = {
    "ips": 0.39537566295547244,
    "snips": 0.4047810704764922,
    "direct_method": 0.30044890066314417,
    "doubly_robust": 0.3828950216921111,
    "switch_dr": 0.31122237521974017,
}
# The same of the uniform policy, from the log of Bernoulli Thompson sampling in its wheel, all items, tau = 10.
OBP_OF_THE_DATASET = {
    "ips": 0.0023596395168460037,
    "snips": 0.002333713893161806,
    "direct_method": 0.004320129049967377,
    "doubly_robust": 0.0033096731414123427,
    "switch_dr": 0.004370050941059492,
}


def a_log():
    """A log of 300 impressions of 4 items in 2 positions, another policy, and a model of the reward."""
    rng = np.random.default_rng(0)
    behaviour, policy = rng.dirichlet(np.ones(4), 2), rng.dirichlet(np.ones(4), 2)
    position = rng.integers(0, 2, 300)
    action = np.array([rng.choice(4, p=behaviour[place]) for place in position])
    reward = (rng.random(300) < 0.1 + 0.2 * action).astype(float)
    log = bandits.Log(action, position, reward, behaviour[position, action], 4)
    return log, policy, bandits.mean_rewards(log)


def test_estimates_agree_with_obp():
    log, policy, model = a_log()
    found = bandits.off_policy_estimate(log, policy, model, tau=1.5)
    assert {name: one.value for name, one in found.items()} == pytest.approx(OBP, rel=1e-12)
    assert all(low < value < high for value, low, high in found.values())


def test_intervals_are_those_of_a_mean():
    log, policy, model = a_log()
    found = bandits.off_policy_estimate(log, policy, model)["ips"]
    terms = policy[log.position, log.action] / log.propensity * log.reward
    assert found.high - found.low == pytest.approx(2 * 1.96 * terms.std() / np.sqrt(300), rel=0.15)
    narrow = bandits.off_policy_estimate(log, policy, model, confidence=0.5)["ips"]
    assert narrow.high - narrow.low == pytest.approx((found.high - found.low) * 0.6745 / 1.96, rel=0.15)


def test_the_model_is_a_mean_drawn_towards_the_logs():
    log = bandits.Log(np.array([0, 0, 1]), np.array([0, 0, 0]), np.array([1.0, 1.0, 0.0]), np.ones(3), 3)
    np.testing.assert_allclose(bandits.mean_rewards(log, 2.0), [[(2 + 4 / 3) / 4, (4 / 3) / 3, 2 / 3]])
    np.testing.assert_allclose(bandits.uniform_policy(log), np.full((1, 3), 1 / 3))


HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"


def test_a_file_is_read(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(HEADER + "0,2019-11-24,14,3,0,0.0125,x\n1,2019-11-25,2,1,1,0.5,y\n")
    log = bandits.read_open_bandit(path)
    assert (log.action.tolist(), log.position.tolist(), log.num_actions) == ([14, 2], [1, 0], 15)
    assert (log.reward.tolist(), log.propensity.tolist()) == ([0.0, 1.0], [0.0125, 0.5])
    assert bandits.read_open_bandit(path, 80).num_actions == 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,click\n", "line 1: the columns position, propensity_score are missing"),
        (HEADER + "0,t,14,3,0,0.0125\n", "line 2: it has 6 fields and the header 7"),
        (HEADER + "0,t,1,3,0,0.1,x\n1,t,a,3,0,0.1,x\n", "line 3: item_id must be an integer at least 0, got 'a'"),
        (HEADER + "0,t,1,3,2,0.1,x\n", r"line 2: click must be a number in \[0, 1\], got '2'"),
        (HEADER + "0,t,1,3,1,0,x\n", "line 2: propensity_score must be a number in"),
        (HEADER + "0,t,1,3,1,nan,x\n", "line 2: propensity_score must be a number in"),
        (HEADER, "has no impressions"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, message):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(rljax.UsageError, match=message) as error:
        bandits.read_open_bandit(path)
    assert str(path) in str(error.value)


def test_tables_are_checked(tmp_path):
    log, policy, model = a_log()
    for arguments, message in [
        ((policy[:1], model), r"policy must be a table of finite numbers \(2, 4\)"),
        ((policy, model[:, :3]), "model must be a table"),
        ((2 * policy, model), "each row must sum to one"),
    ]:
        with pytest.raises(rljax.UsageError, match=message):
            bandits.off_policy_estimate(log, *arguments)
    with pytest.raises(rljax.UsageError, match="cannot be read"):
        bandits.read_open_bandit(tmp_path / "missing.csv")


@pytest.mark.slow
def test_the_uniform_policys_click_rate_is_covered_from_thompsons_log(tmp_path):
    """Every interval covers its own mean except the direct method's, which has no part from the model's error."""
    fetch = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "examples" / "off_policy.py"))["fetch"]
    logs = {name: bandits.read_open_bandit(path) for name, path in fetch(tmp_path).items()}
    thompson, random = logs["bts"], logs["random"]
    found = bandits.off_policy_estimate(thompson, bandits.uniform_policy(thompson), bandits.mean_rewards(thompson))
    assert {name: one.value for name, one in found.items()} == pytest.approx(OBP_OF_THE_DATASET, rel=1e-12)
    covers = [name for name, (_, low, high) in found.items() if low <= random.reward.mean() <= high]
    assert covers == ["ips", "snips", "doubly_robust", "switch_dr"]
