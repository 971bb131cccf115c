"""What is passed by mistake is refused in one sentence, whatever it is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import own, walk

import rljax
from rljax import envs, planning, schedules
from rljax.errors import is_finite


class TwoLines:
    def __repr__(self):
        return "two\nlines"


HUGE = 10**400
LAKE = "FrozenLake-misc"
CONFIG = own.Config(env=walk)
MISTAKES = {
    "Box bounds": (lambda x: rljax.Box(x, 1.0, (2,)), ["low", HUGE, {}, TwoLines(), jax.random.key(0), [["a"]]]),
    "Box shape": (lambda x: rljax.Box(0.0, 1.0, x), [3, None, [None], [["a"]], 2.5, TwoLines(), jnp.ones((2, 2))]),
    "Box dtype": (lambda x: rljax.Box(0.0, 1.0, (2,), x), [0, "float33", TwoLines(), "U3", object, [1]]),
    "Discrete n": (rljax.Discrete, [0, -1, 2.5, "3", None, TwoLines(), jnp.ones((2, 2))]),
    "make": (rljax.make, [None, 3, [], TwoLines()]),
    "make gravity": (lambda x: rljax.make("CartPole-v1", gravity=x), [10**12, HUGE, math.nan, None, TwoLines()]),
    "make DeepSea": (lambda x: rljax.make("DeepSea-bsuite", size=x), [0, "a", None]),
    "uniform": (lambda x: rljax.uniform(x, 1.0), [HUGE, math.nan, "0", TwoLines(), None]),
    "log_uniform": (lambda x: rljax.log_uniform(0.1, x), [HUGE, math.inf, TwoLines()]),
    "choice": (rljax.choice, [np.array(1.5), TwoLines(), {1, 2}, "ab", []]),
    "replace": (lambda x: rljax.replace(x, clip=0.1), [None, 3, {}, rljax.ppo.Config, TwoLines()]),
    "variant": (lambda x: rljax.variant(x, loss=len, name="x"), [None, 3, "ppo", TwoLines()]),
    "variant loss": (lambda x: rljax.variant(rljax.ppo, loss=x, name="x"), [None, 3, TwoLines()]),
    "piecewise": (lambda x: schedules.piecewise(x, (0.5,)), [None, 3, "ab", TwoLines(), np.array(1.0)]),
    "learning rate": (
        lambda x: rljax.ppo.Config(env="CartPole-v1", learning_rate=x),
        [HUGE, schedules.linear(HUGE, 0), "lambda: 1", "[1]", "piecewise(1, 2)", math.nan, TwoLines()],
    ),
    "max_grad_norm": (lambda x: rljax.ppo.Config(env="CartPole-v1", max_grad_norm=x), [HUGE, -1, "1", TwoLines()]),
    "epochs": (lambda x: rljax.ppo.Config(env="CartPole-v1", num_epochs=x), [0, 10**7, 10**18, HUGE, "4"]),
    "hosts": (lambda x: rljax.run(own, CONFIG, hosts=x), [True, 0, "", [], TwoLines()]),
    "out": (lambda x: rljax.run(own, CONFIG, out=x), ["", "a\0b", b"x", 3, TwoLines()]),
    "keep": (lambda x: rljax.run(own, CONFIG, keep=x), ["worst", 3, TwoLines()]),
    "sweep": (lambda x: rljax.run(own, CONFIG, sweep=x), [3, [], TwoLines(), {"rate": [HUGE]}, {"rate": TwoLines()}]),
    "load": (rljax.load, ["", "a\0b", 3, "nowhere", "x" * 300]),
    "scale_reward": (lambda x: envs.scale_reward(rljax.make(LAKE), x), [HUGE, math.nan, "1", TwoLines()]),
    "repeat_action": (lambda x: envs.repeat_action(rljax.make(LAKE), x), [0, 10**12, 2.5]),
    "frame_stack": (lambda x: envs.frame_stack(rljax.make("CartPole-v1"), x), [0, 10**12, HUGE]),
    "random_mdp": (lambda x: envs.random_mdp(jax.random.key(0), x, 2), [0, 10**6, HUGE, "3", TwoLines()]),
    "check steps": (lambda x: envs.check(rljax.make(LAKE), x), [0, -1, "4", None, 10**12, TwoLines()]),
    "expected_return": (lambda x: planning.expected_return(x, np.full((16, 4), 0.25)), [None, 3, "x", TwoLines()]),
    "horizon": (
        lambda x: planning.expected_return(envs.tabular_model(LAKE), np.full((16, 4), 0.25), x),
        [-1, 2.5, 10**12, HUGE, "3"],
    ),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_in_arguments_are_one_sentence(name):
    call, arguments = MISTAKES[name]
    for argument in arguments:
        with pytest.raises(rljax.UsageError) as error:
            call(argument)
        sentence = str(error.value)
        assert "\n" not in sentence
        assert len(sentence) < 600
        assert sentence.endswith((".", "?"))


def test_what_is_no_environment_violates_its_contract():
    for given in (None, 3, "CartPole-v1", TwoLines()):
        (sentence,) = envs.check(given)
        assert "not an rljax.Env" in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (-2.5, True),
        (3e38, True),
        (10**38, True),
        (1e39, False),
        (10**309, False),
        (-math.inf, False),
        (math.nan, False),
    ],
)
def test_numbers_beyond_32_bits_are_not_finite(value, expected):
    assert is_finite(value) is expected


def test_unusual_but_valid_arguments_are_taken():
    assert rljax.Box(-1, 1, [np.int64(2)], "int8").shape == (2,)
    assert rljax.Box(-math.inf, math.inf, (), jnp.bfloat16).dtype == jnp.bfloat16
    assert rljax.Box(0, 1, (3,), bool).is_integral
    assert rljax.make("CartPole-v1", gravity=1e12).params.gravity == 1e12
    assert rljax.make("CartPole-v1", x_threshold=math.inf).params.x_threshold == math.inf
    assert schedules.piecewise(np.array([1.0, 0.5]), [0.5]).values == (1.0, 0.5)
