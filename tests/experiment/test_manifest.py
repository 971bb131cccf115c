"""What `config.json` records of a run, and what differs when it is resumed."""

import dataclasses
import json
import random
from types import SimpleNamespace

import numpy as np
import optax
import pytest
import toys
from resuming import OPTIONS, edited, refusal, stopped
from toys import own

import rljax
from rljax import envs, optimizers
from rljax.experiment import spec
from rljax.report import plot


def test_a_changed_config_is_refused(config, folder):
    assert "rate was 0.1 and is 0.2" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rate": 0.1', '"rate": 0.2'))
    assert "was changed" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path.write_text(path.read_text()[:100])
    assert "damaged" in refusal(folder, config)
    path.write_text("{}")
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.write_text('{"format": 1, "recipe": 3}')
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.unlink()
    assert "not the folder of a run" in refusal(folder, config)


def test_changed_wrapper_arguments_are_refused(tmp_path, monkeypatch, capsys):
    one, other = (own.Config(env=envs.scale_reward(toys.walk, factor), num_updates=2) for factor in (1.0, 100.0))
    stopped(monkeypatch, tmp_path / "x", own, one, 1)
    assert "env.label was 'walk+scale_reward(1.0)' and is" in refusal(tmp_path / "x", other)
    path = tmp_path / "x/config.json"
    about = json.loads(path.read_text())
    about["config"]["env"] |= {"label": "walk+scale_reward(100.0)", "recipe": [None, ["scale_reward", [100.0]]]}
    path.write_text(json.dumps(about))
    assert "was changed" in refusal(tmp_path / "x", other)
    sweep = {"env": [one.env, other.env]}
    legend = []
    monkeypatch.setattr(plot, "learning_curves", lambda path, drawn, *names: legend.extend(drawn))
    rljax.run(own, one, out=tmp_path / "y", sweep=sweep, **{**OPTIONS, "progress": True})
    labels = ["walk+scale_reward(1.0)", "walk+scale_reward(100.0)"]
    assert legend == [f"env={label}" for label in labels]
    told = capsys.readouterr().out
    assert all(label in told for label in labels)
    rows = (tmp_path / "y/curves.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == np.repeat(labels, len(rows) // 2).tolist()
    values = [c["values"]["env"] for c in json.loads((tmp_path / "y/summary.json").read_text())["configurations"]]
    assert [value["recipe"][1] for value in values] == [["scale_reward", [1.0]], ["scale_reward", [100.0]]]
    legend.clear()
    rljax.run(own, one, out=tmp_path / "z", sweep={"env": [one.env, envs.scale_reward(toys.walk, 1.0)]}, **OPTIONS)
    assert legend == [f"env={labels[0]} ({i})" for i in range(2)]  # equal labels stay apart


def test_another_version_is_reported(config, folder, monkeypatch, capsys):
    monkeypatch.setattr(spec, "versions", lambda: {"jax": "0.0.1"})
    rljax.resume(folder, algorithm=own, config=config, progress=False)
    assert "began with different versions" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(8))
def test_any_edit_of_the_manifest_is_one_sentence(config, folder, seed):
    path = folder / "config.json"
    manifest, rng = json.loads(path.read_text()), random.Random(seed)
    for changed in (edited(manifest, rng) for _ in range(75)):
        path.write_text(json.dumps(changed))
        sentence = refusal(folder, config)
        assert any(words in sentence for words in ("was changed since rljax wrote it", "has format", "is damaged"))
        assert len(sentence) < 700


def test_a_manifest_that_is_not_one_is_one_sentence(config, folder):
    for text in (b"", b"[" * 100_000, b"nul", b"[]", b"3", b'"x"', b'{"format": ' + b"9" * 5000 + b"}", b"\xff"):
        (folder / "config.json").write_bytes(text)
        assert "config.json" in refusal(folder, config)


def test_a_manifest_may_be_formatted_otherwise(config, folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    rljax.load(folder, algorithm=own, config=config)


@pytest.mark.parametrize("best", [3, "x", [], {"configuration": "x"}, {"configuration": 10**12}, {}])
def test_a_changed_summary_is_one_sentence(config, tmp_path, best):
    out = tmp_path / "x"
    rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, out=out, checkpoint_every=1e6, **OPTIONS)
    path = out / "summary.json"
    path.write_text(json.dumps({"best": best}))
    if best in (3, "x", []):
        assert rljax.load(out, algorithm=own, config=config).config.rate == 0.1
        return
    with pytest.raises(rljax.UsageError, match="configuration"):
        rljax.load(out, algorithm=own, config=config)


INVALID = [10**12, 10**400, 10**5000, -1, 2.5, "x", [1], float("nan"), "9" * 400, "0.5"]


@pytest.mark.parametrize(
    "name", ["seeds", "seed", "samples", "evaluations", "eval_episodes", "devices", "memory_limit", "checkpoint_every"]
)
def test_options_that_are_invalid_are_one_sentence(config, name):
    for value in INVALID:
        if (name, value) in (("memory_limit", 10**12), ("checkpoint_every", 10**12), ("checkpoint_every", 2.5)):
            continue
        with pytest.raises(rljax.UsageError, match=name) as error:
            rljax.run(own, config, **{**OPTIONS, name: value})
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_many_configurations_are_refused_at_once(config):
    with pytest.raises(rljax.UsageError, match=r"16,000,000 configurations"):
        rljax.run(own, config, sweep={"rate": [0.1] * 4000, "poison_at": [1] * 4000}, **OPTIONS)
    with pytest.raises(rljax.UsageError, match=r"more than 1,000,000 runs"):
        rljax.run(own, config, sweep={"rate": [0.1] * 20}, **{**OPTIONS, "seeds": 100_000})


@pytest.mark.parametrize("values", [{0.1, 0.2}, frozenset([0.1])])
def test_sets_are_refused_since_they_have_no_order(config, values):
    with pytest.raises(rljax.UsageError, match="a set has no order"):
        rljax.run(own, config, sweep={"rate": values}, **OPTIONS)
    with pytest.raises(rljax.UsageError, match="a set has no order"):
        rljax.choice(values)


@rljax.config.config
class Broken:
    env: rljax.Env = rljax.traced()
    num_updates: int = rljax.static(default=50)
    poison_at: int = rljax.traced(default=10**6)
    rate: float = rljax.traced(default=0.1)
    width: int = rljax.static(default=2)

    def __post_init__(self):
        raise KeyError("a mistake")


def test_a_mistake_in_a_custom_config_shows_its_line_and_not_the_manifest(folder):
    broken = SimpleNamespace(**{**vars(own), "Config": Broken})
    with pytest.raises(rljax.UsageError, match=r"KeyError: 'a mistake' \(test_manifest.py, line \d+\)") as error:
        rljax.load(folder, algorithm=broken, env=toys.walk)
    assert isinstance(error.value.__cause__, KeyError)


@rljax.config.config
class Optimized(toys.Config):
    optimizer: str | optimizers.Optimizer | None = rljax.static(default=None)


def halved(rate):
    return optax.sgd(0.5 * rate)


def test_functions_that_can_be_imported_are_recorded_and_others_must_be_passed_again(tmp_path):
    algorithm = SimpleNamespace(**{**vars(own), "Config": Optimized})
    options = {**OPTIONS, "seeds": 1, "evaluations": 0, "checkpoint_every": 1e6}
    for name, optimizer in {"known": halved, "lambda": lambda rate: optax.sgd(2.0 * rate)}.items():
        config = Optimized(env=toys.walk, num_updates=2, optimizer=optimizer)
        rljax.run(algorithm, config, out=tmp_path / name, **options)
    loaded = rljax.load(tmp_path / "known", algorithm=algorithm, env=toys.walk)
    assert loaded.config.optimizer is halved
    with pytest.raises(rljax.UsageError, match=r"custom objects, .*: pass the config given to rljax.run"):
        rljax.load(tmp_path / "lambda", algorithm=algorithm, env=toys.walk)
    assert rljax.load(tmp_path / "lambda", algorithm=algorithm, config=config).config.optimizer is optimizer


def test_tables_of_an_environment_are_made_again_unless_they_were_replaced(tmp_path):
    env = rljax.make("operations/auction")
    cheaper = env.replace(params=env.params._replace(rewards=env.params.rewards / 2.0))
    options = {"seeds": 1, "evaluations": 0, "eval_episodes": 1, "progress": False}
    for name, world in (("same", env), ("cheaper", cheaper)):
        config = rljax.q_learning.Config(env=world, total_steps=64, num_envs=1, num_steps=8)
        rljax.run(rljax.q_learning, config, out=tmp_path / name, **options)
        loaded = rljax.load(tmp_path / name).config.env
        np.testing.assert_array_equal(loaded.params.rewards, world.params.rewards)
        np.testing.assert_array_equal(loaded.params.transitions, world.params.transitions)
    assert (tmp_path / "same" / "config.json").stat().st_size < 10_000
    with pytest.raises(rljax.UsageError, match=r"env.params was .*float32\[117, 5\], checksum"):
        rljax.load(tmp_path / "same", env=cheaper)
    config = rljax.q_learning.Config(env=env, total_steps=64, num_envs=1, num_steps=8)
    sweep = {"env.params.rewards": [env.params.rewards, cheaper.params.rewards]}
    rljax.run(rljax.q_learning, config, sweep=sweep, out=tmp_path / "sweep", **options)
    swept = rljax.load(tmp_path / "sweep", configuration=1).config.env
    np.testing.assert_array_equal(swept.params.rewards, cheaper.params.rewards)
