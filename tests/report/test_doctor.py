"""The doctor: every finding in numbers that show it, none in healthy ones, and one sentence for bad input."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import toys
from made_runs import made
from toys import own

import rljax
from rljax import cli
from rljax.report import doctor, findings, remedies, runs
from rljax.report.evidence import Evidence, finding
from rljax.report.probing import Probe

UPDATES, SEEDS = 100, 4
DOCS = pathlib.Path(rljax.__file__).parents[1] / "docs" / "doctor.md"


def curve(start, end):
    """A metric of all seeds that changes evenly."""
    return np.linspace(start, end, UPDATES)[None].repeat(SEEDS, axis=0)


HEALTHY = {
    "env_steps": curve(100, 10_000),
    "episodes": curve(4, 4),
    "episode_return": curve(20, 400),
    "episode_length": curve(20, 400),
    "reward": curve(1, 1),
    "entropy": curve(0.69, 0.3),
    "approximate_kl": curve(0.01, 0.001),
    "clip_fraction": curve(0.1, 0.01),
    "explained_variance": curve(0, 0.9),
    "gradient_norm": curve(10, 0.1),
    "action_value": curve(5, 90),
    "epsilon": curve(1, 0.05),
    "lost_successors": curve(0, 0),
}
CONFIG = {
    "env": {"wrappers": [], "recipe": [["CartPole-v1", []]]},
    "discount": 0.99,
    "num_envs": 4,
    "num_steps": 25,
    "gradient_steps": 4,
    "batch_size": 64,
    "buffer_size": 10_000,
    "target_rate": 1.0,
    "target_period": 100,
}


def evidence(config=None, metrics=None, **changes):
    given = {
        "config": {**CONFIG, **(config or {})},
        "seeds": np.arange(SEEDS) + 3,
        "metrics": {**HEALTHY, **(metrics or {})},
        "num_updates": UPDATES,
        "eval_returns": np.full((SEEDS, 8), 400.0),
        "final": np.full(SEEDS, 480.0),
        "random": 22.0,
        "reference": 500.0,
        "dimensions": 0,
    }
    return Evidence(**{**given, **changes})


HIGH = {"eval_returns": np.full((SEEDS, 8), 400_000.0)}
FAILED = np.full(SEEDS, 20.0)
CASES = {
    "diverged": ({"diverged": (4,)}, (4,)),
    "reward-not-finite": (
        {
            "metrics": {
                "reward": np.where(np.arange(UPDATES) < 9, 1.0, curve(np.nan, np.nan)),
                "env_steps": np.minimum(np.arange(1.0, UPDATES + 1), 10.0) * np.ones((SEEDS, 1)),
            },
            "diverged": (3, 4, 5, 6),
        },
        None,
    ),
    "entropy-collapse": ({"metrics": {"entropy": 0.69 * np.exp(curve(0, -20))}, "final": FAILED}, None),
    "entropy-stuck": ({"metrics": {"entropy": curve(0.69, 0.68)}}, None),
    "kl-high": ({"metrics": {"approximate_kl": curve(0.01, 0.13)}}, None),
    "clip-fraction-high": ({"metrics": {"clip_fraction": curve(0.1, 0.6)}}, None),
    "policy-still": ({"metrics": {"approximate_kl": curve(1e-8, 1e-8)}}, None),
    "overestimation": ({"metrics": {"action_value": curve(5, 400)}}, None),
    "gradient-vanishing": ({"metrics": {"gradient_norm": curve(1e-8, 1e-8)}}, None),
    "gradient-exploding": ({"metrics": {"gradient_norm": 1e-3 * np.exp(curve(0, 20))}}, None),
    "critic-explains-nothing": ({"metrics": {"explained_variance": curve(-3, 0.02)}, "final": FAILED}, None),
    "reward-scale": (
        {"metrics": {"episode_return": curve(2_000, 400_000), "action_value": curve(0, 1000)}, **HIGH},
        None,
    ),
    "no-reward": ({"metrics": {"reward": curve(0, 0)}}, None),
    "epsilon-early": ({"metrics": {"epsilon": curve(0.05, 0.05)}, "final": FAILED}, None),
    "replay-small": ({"config": {"buffer_size": 600}}, ()),
    "replay-stale": ({"config": {"gradient_steps": 20_000, "buffer_size": 100_000}}, ()),
    "lost-successors": ({"metrics": {"lost_successors": curve(0, 0.1)}}, None),
    "target-still": ({"config": {"target_rate": 0.0}}, ()),
    "episodes-endless": (
        {
            "metrics": {
                "episodes": curve(0, 0),
                "env_steps": curve(100, 20_000),
                "episode_return": curve(np.nan, np.nan),
                "episode_length": curve(np.nan, np.nan),
            }
        },
        None,
    ),
    "evaluation-far-from-training": ({"eval_returns": np.full((SEEDS, 8), 9.0)}, None),
    "hardly-better-than-random": ({"final": np.array([480.0, 480.0, 30.0, 480.0])}, (5,)),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_show_a_fault_are_found(name):
    changes, seeds = CASES[name]
    found = {one.name: one for one in findings.of(evidence(**changes))}
    assert name in found
    assert set(found) <= {name, "hardly-better-than-random", *(("diverged",) if "diverged" in changes else ())}
    assert found[name].seeds == ((3, 4, 5, 6) if seeds is None else seeds)
    assert found[name].evidence.endswith(".")
    assert "nan" not in found[name].evidence


def test_the_update_at_which_rewards_stop_being_finite_is_named():
    changes, _ = CASES["reward-not-finite"]
    found = {one.name: one.evidence for one in findings.of(evidence(**changes))}
    assert found["reward-not-finite"] == "The rewards of update 10 were not finite."
    every_third = {**changes["metrics"], "update": curve(3, 3 * UPDATES)}
    thinned = {one.name: one.evidence for one in findings.of(evidence(metrics=every_third, diverged=(3, 4, 5, 6)))}
    assert thinned["reward-not-finite"] == "The rewards of update 30 were not finite."
    rewards = np.where(np.arange(UPDATES) < 10, 1.0, curve(np.nan, np.nan))  # finite in the update that diverged
    metrics = {**changes["metrics"], "reward": rewards}
    assert "reward-not-finite" not in {one.name for one in findings.of(evidence(metrics=metrics, diverged=(3, 4)))}


def test_healthy_numbers_are_silent():
    assert findings.of(evidence()) == []
    assert findings.so_far(evidence(final=None)) == []
    for name in HEALTHY:  # a custom algorithm may record less
        assert findings.of(evidence(metrics={})) == []
        few = {other: values for other, values in HEALTHY.items() if other == name}
        assert findings.of(dataclasses.replace(evidence(), metrics=few)) == []


def test_rewards_of_a_diverged_seed_are_not_zero():
    """Its metrics are NaN from then on."""
    rewards = np.concatenate([np.zeros((SEEDS, 1)), np.full((SEEDS, UPDATES - 1), np.nan)], axis=1)
    found = {one.name for one in findings.of(evidence(metrics={"reward": rewards}, diverged=(3, 4, 5, 6)))}
    assert "diverged" in found
    assert "no-reward" not in found
    assert "no-reward" in {one.name for one in findings.of(evidence(metrics={"reward": rewards}))}


def test_the_first_values_of_a_run_are_not_too_high():
    """A reward may have been seen before the first episode that has one ends."""
    none = {"episode_return": curve(0, 0), "action_value": curve(0.1, 0.2)}
    early = evidence(metrics=none, final=None, eval_returns=np.zeros((SEEDS, 2)))
    assert "overestimation" not in {one.name for one in findings.so_far(early)}


def test_without_a_random_policy_no_critic_is_blamed():
    assert findings.of(evidence(metrics={"explained_variance": curve(0, 0)}, random=None)) == []


def test_only_seeds_that_show_a_fault_are_named():
    kl = curve(0.01, 0.001)
    kl[1] = 0.2
    (found,) = findings.of(evidence(metrics={"approximate_kl": kl}))
    assert (found.name, found.seeds) == ("kl-high", (4,))
    assert "0.2 on average" in found.evidence


def test_two_groups_of_seeds_are_found():
    final = np.array([480.0, 490, 485, 200, 500, 190, 495, 488])
    eight = {"seeds": np.arange(8), "metrics": {}, "eval_returns": np.zeros((8, 0))}
    given = dataclasses.replace(evidence(final=final, **{k: v for k, v in eight.items() if k != "metrics"}), metrics={})
    (found,) = findings.of(given)
    assert (found.name, found.seeds) == ("seeds-in-two-groups", (3, 5))
    assert "2 seeds have final returns of 190 to 200, and 6 of 480 to 500" in found.evidence
    near = dataclasses.replace(given, final=500 - final / 100)
    assert findings.of(near) == []  # the gap is too small to matter


def test_clipped_rewards_are_found():
    env = {"wrappers": ["clip_reward"], "recipe": [["a", []], ["clip_reward", [-1.0, 1.0]]]}
    (found,) = findings.of(evidence(config={"env": env}, metrics={"reward": curve(3, 5)}))
    assert (found.name, found.seeds) == ("reward-clipped", (3, 4, 5, 6))
    assert findings.of(evidence(config={"env": env})) == []


def test_normalized_rewards_have_no_scale():
    env = {"wrappers": ["normalize_rewards"], "recipe": [["a", []]]}
    metrics = {"action_value": curve(5, 400), "episode_return": curve(2_000, 400_000)}
    assert findings.of(evidence(config={"env": env}, metrics=metrics, **HIGH)) == []


def test_continuous_actions_collapse_by_their_deviation():
    low = {"entropy": curve(1.4, -20), "episode_return": curve(20, 30)}
    for dimensions, expected in ((1, ["entropy-collapse"]), (6, [])):
        found = findings.so_far(evidence(metrics=low, dimensions=dimensions, final=None))
        assert [one.name for one in found] == expected


def test_a_part_that_is_not_complete_is_not_judged():
    early = {name: values[:, :10] for name, values in HEALTHY.items()} | {"approximate_kl": curve(1e-8, 1e-8)[:, :10]}
    assert findings.so_far(dataclasses.replace(evidence(final=None), metrics=early)) == []


SOUND = Probe(
    low=np.full((SEEDS, 3), -1.0),
    high=np.full((SEEDS, 3), 1.0),
    deviation=np.full((SEEDS, 3), 0.5),
    is_vector=True,
    most_frequent=np.full(SEEDS, 0.6),
    at_bounds=np.zeros(SEEDS),
    dead={"torso": np.full(SEEDS, 0.2)},
    lengths=[np.array([10, 12, 9, 30, 22, 17, 8, 19, 21])] * SEEDS,
    unusual=np.zeros(SEEDS),
    truncated_lengths=[np.array([40, 40])] * SEEDS,
)
PROBES = {
    "observations-unscaled": {"high": np.full((SEEDS, 3), 500.0)},
    "observations-constant": {"low": np.zeros((SEEDS, 3)), "high": np.zeros((SEEDS, 3)), "deviation": np.zeros((4, 3))},
    "actions-same": {"most_frequent": np.ones(SEEDS)},
    "actions-at-bounds": {"at_bounds": np.ones(SEEDS)},
    "dead-units": {"dead": {"torso": np.full(SEEDS, 0.2), "critic": np.full(SEEDS, 0.9)}},
    "ends-mixed-up": {"lengths": [np.array([40] * 9 + [12])] * SEEDS},
}


@pytest.mark.parametrize("name", PROBES)
def test_what_policies_do_shows_faults(name):
    found = list(doctor.of_probe(SOUND._replace(**PROBES[name]), evidence(final=FAILED)))
    assert [one.name for one in found] == [name]
    assert found[0].seeds == (3, 4, 5, 6)


def test_sound_policies_are_silent():
    assert list(doctor.of_probe(SOUND, evidence())) == []
    learned = SOUND._replace(most_frequent=np.ones(SEEDS), at_bounds=np.ones(SEEDS))
    assert list(doctor.of_probe(learned, evidence())) == []  # one action may be best
    known = SOUND._replace(lengths=[np.array([40] * 10)] * SEEDS, unusual=np.ones(SEEDS))
    assert list(doctor.of_probe(known, evidence())) == []  # the observation shows the end


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"high": np.array([[1, 1, 5e4]] * SEEDS)}, "reached 50,000"),
        ({"low": np.full((SEEDS, 3), -1e-3), "high": np.full((SEEDS, 3), 1e-3)}, "was above 0.001"),
        ({"deviation": np.array([[0.5, 0.5, 1e-5]] * SEEDS)}, "50,000 times as much"),
    ],
)
def test_scales_of_observations(changes, words):
    (found,) = doctor.of_probe(SOUND._replace(**changes), evidence())
    assert found.name == "observations-unscaled"
    assert words in found.evidence


def test_truncations_at_many_lengths_are_found():
    many = SOUND._replace(truncated_lengths=[np.array([9, 12, 30, 31])] * SEEDS)
    (found,) = doctor.of_probe(many, evidence())
    assert (found.name, found.evidence) == ("ends-mixed-up", "Episodes were truncated at 4 lengths.")


def test_every_finding_is_documented_and_tested():
    text = DOCS.read_text()
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) == set(remedies.ABOUT)
    tested = {*CASES, *PROBES, "seeds-in-two-groups", "reward-clipped", "parameters-still"}
    assert tested == set(remedies.ABOUT)


def test_a_folder_of_a_custom_run_is_read_and_its_policies_are_not_played(template, capsys):
    assert rljax.doctor(template) == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "were not played: This run's algorithm is a custom one" in said
    assert rljax.doctor(template, plays=False) == []


def test_the_command_prints_findings_with_their_numbers(template, tmp_path, capsys):
    final = np.array([480.0, 490, 485, 200, 500, 190, 495, 488])
    folder = made(template, tmp_path / "two", final)
    (folder / "metrics.csv").unlink()
    assert cli.main(["doctor", str(folder), "--no-play"]) == 0
    text = capsys.readouterr().out
    assert "two: 1 finding" in text
    assert "seeds-in-two-groups (seeds 3, 5)" in text
    assert "docs/doctor.md#seeds-in-two-groups" in text
    assert cli.main(["doctor", f"name={template}", "--no-play"]) == 0
    assert "name: nothing is found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name the folder of at least one run"),
        (["missing"], "There is no folder missing"),
        (["."], "is not the folder of a run"),
        (["--strict"], "--strict"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_only_an_algorithm_is_taken_for_one(template):
    with pytest.raises(rljax.UsageError, match=r"algorithm must be a module such as rljax\.ppo, got 'dqn'"):
        rljax.doctor(template, algorithm="dqn")


def test_only_a_run_is_examined():
    with pytest.raises(rljax.UsageError, match="takes the folder of a run or its Result, got 3"):
        rljax.doctor(3)


def test_one_seed_a_sweep_and_a_diverged_seed_are_examined():
    config = own.Config(env=toys.walk)
    options = {"evaluations": 2, "eval_episodes": 3, "progress": False}
    sweep = rljax.run(own, config, seeds=6, sweep={"poison_at": [10, 10**6]}, **options)
    poisoned = [[run["seed"] for run in one.summary["diverged"]] for one in sweep.results]
    assert poisoned[0]
    assert not poisoned[1]
    (found,) = rljax.doctor(sweep)
    assert (found.name, list(found.seeds)) == ("diverged", poisoned[0])
    assert rljax.doctor(sweep.results[0], plays=False) == [found]
    assert rljax.doctor(sweep.results[1], plays=False) == []
    one = rljax.run(own, config, seeds=1, **options)
    assert rljax.doctor(one, plays=False) == []


def test_findings_are_printed_once_while_a_run_trains(capsys):
    def update(key, state, config):
        state, metrics = toys.update(key, state, config)
        return state, {**metrics, "approximate_kl": 0.5 + 0 * metrics["episode_return"]}

    broken = type(own)(**{**vars(own), "update": update})
    rljax.run(broken, own.Config(env=toys.walk), seeds=2, evaluations=0, eval_episodes=2)
    said = [line for line in capsys.readouterr().err.splitlines() if "kl-high" in line]
    assert len(said) == 1
    assert "rljax: kl-high: The KL divergence of an update reached 0.5" in said[0]
    assert "(seeds 0, 1)" in said[0]


def test_a_report_has_the_findings(template, tmp_path):
    folder = made(template, tmp_path / "two", np.array([480.0, 490, 485, 200, 500, 190, 495, 488]))
    (folder / "metrics.csv").unlink()
    text = rljax.write_report(folder, out=tmp_path / "report.html", animate=False).read_text()
    assert "What is likely broken" in text
    assert "<b>seeds-in-two-groups</b> (seeds 3, 5)" in text
    several = {f"small=<{i}>": [finding("kl-high", f"It reached {i}.", (i,))] for i in range(5)}
    (row,) = doctor.rows(several)
    assert "<b>kl-high</b> (seed 0) in small=&lt;0&gt;: It reached 0." in row
    assert "also (seed 2) in small=&lt;2&gt;: It reached 2." in row
    assert "It reached 3." not in row
    assert "in 2 others, which `rljax doctor` prints" in row
    assert row.count("Threshold") == 1
    silent = rljax.write_report(template, out=tmp_path / "silent.html", animate=False).read_text()
    assert "What is likely broken" not in silent


def test_a_report_has_what_is_found_by_playing_if_that_is_asked_for(tmp_path, capsys):
    changes = {"learning_rate": 0.0, "num_envs": 2, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (8,)}
    config = rljax.ppo.Config(env=rljax.make("CartPole-v1"), total_steps=128, **changes)
    rljax.run(rljax.ppo, config, seeds=2, evaluations=0, eval_episodes=2, out=tmp_path / "x", progress=False)
    found = {}
    for option in ("--doctor", "--no-animate"):
        assert cli.main(["report", str(tmp_path / "x"), "--out", str(tmp_path / "x.html"), "--no-animate", option]) == 0
        found[option] = (tmp_path / "x.html").read_text()
    assert "<b>parameters-still</b> (seeds 0, 1)" in found["--doctor"]
    assert "parameters-still" not in found["--no-animate"]
    assert "`rljax report --doctor`" not in found["--doctor"]


def test_entries_of_files_and_results_agree(template):
    (entry,) = runs.read([template])
    given = doctor.of_run(entry, None)
    assert given.seeds.tolist() == [0, 1, 2, 3, 4, 5]
    assert given.num_updates == 50
    assert given.dimensions is None
