"""Runs by the names of algorithms and environments."""

import pytest

import rljax

TINY = {
    **{"total_steps": 128, "num_envs": 4, "num_steps": 16, "hidden_sizes": (8,)},
    **{"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False},
}


def test_names_stand_for_tuned_values_and_arguments_override_them(capsys):
    result = rljax.run("recurrent_ppo", "MountainCar-v0", **TINY)
    expected = rljax.preset("recurrent_ppo", "MountainCar-v0")
    assert result.config == rljax.replace(expected, **{name: TINY[name] for name in list(TINY)[:4]})
    assert result.summary["algo"] == "recurrent_ppo"
    assert result.summary["seeds"] == 2
    assert "no tuned values" not in capsys.readouterr().err
    same = rljax.run(rljax.ppo, result.config, name="recurrent_ppo", **dict(list(TINY.items())[4:]))
    assert same.summary["final_return"]["per_seed"] == result.summary["final_return"]["per_seed"]


def test_mistakes_in_names_are_one_sentence():
    for arguments, options, words in (
        (("pppo", "CartPole-v1"), {}, "did you mean ppo"),
        (("ppo", "CartPol-v1"), {}, "did you mean CartPole-v1"),
        (("ppo", "CartPole-v1"), {"learningrate": 1}, "did you mean learning_rate"),
        ((rljax.ppo, "CartPole-v1"), {"sed": 1}, "did you mean seed"),
        (("ppo", "CartPole-v1"), {"discount": 2}, "at most 1"),
        (("ppo", 3), {}, "needs its own Config"),
    ):
        with pytest.raises(rljax.UsageError, match=words):
            rljax.run(*arguments, **options)
