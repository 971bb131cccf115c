"""What a config is made of, what it refuses, and what changing it compiles again."""

import dataclasses
import functools
import json
import operator
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import networks
from rljax.experiment.description import describe
from rljax.report import files


@rljax.config.config
class Config:
    rate: float = rljax.traced(default=0.5, minimum=0)
    discount: float = rljax.traced(default=0.9, minimum=0, maximum=1)
    limit: float | None = rljax.traced(default=None, minimum=0)
    offset: float = rljax.traced(default=0.0)
    count: int = rljax.static(default=4, minimum=1)
    most: int | None = rljax.static(default=None, minimum=1)
    name: str = rljax.static(default="plain")


@rljax.config.config
class Described:
    """Numbers."""

    rate: float = rljax.traced(default=0.5)
    """How fast,
    and told in two lines."""


def small_ppo(**changes):
    """PPO's config on an environment that no test here steps."""
    env = rljax.Env(
        reset=len, step=len, observation_space=rljax.Box(-1, 1, (3,)), action_space=rljax.Discrete(2), params=(1.5,)
    )
    return rljax.ppo.Config(env=env, **changes)


# A pytree


def test_leaves_are_the_traced_fields():
    config = Config(rate=0.1, limit=3.0)
    assert jax.tree.leaves(config) == [0.1, 0.9, 3.0, 0.0]
    assert jax.tree.leaves(Config()) == [0.5, 0.9, 0.0]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(config)]
    assert paths == [".rate", ".discount", ".limit", ".offset"]


def test_leaves_of_ppos_config_are_its_traced_fields_and_the_environments_params():
    leaves = jax.tree_util.tree_leaves_with_path(small_ppo(value_clip=0.3, target_kl=0.02))
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert paths == [
        ".env.params[0]",
        ".learning_rate.start",
        ".learning_rate.end",
        ".learning_rate.fraction",
        ".learning_rate.warmup",
        ".discount",
        ".gae_lambda",
        ".clip",
        ".value_clip",
        ".target_kl",
        ".entropy_coefficient",
        ".value_coefficient",
        ".max_grad_norm",
    ]


def test_structure_is_the_static_fields():
    structure = jax.tree.structure
    assert structure(Config()) == structure(Config(rate=0.1, discount=0.5))
    assert hash(structure(Config())) == hash(structure(Config(rate=0.1)))
    assert structure(Config()) != structure(Config(count=5))
    assert structure(Config()) != structure(Config(name="other"))
    assert structure(Config()) != structure(Config(most=7))
    assert structure(small_ppo()) == structure(small_ppo())
    assert structure(small_ppo()) != structure(small_ppo(num_envs=8))


def test_configs_compare_and_hash_by_value():
    assert Config(rate=0.1) == Config(rate=0.1)
    assert hash(Config(rate=0.1)) == hash(Config(rate=0.1))
    assert Config(rate=0.1) != Config(rate=0.2)
    assert Config(count=2) != Config(count=3)
    assert small_ppo() == small_ppo()
    assert hash(small_ppo()) == hash(small_ppo())


def test_configs_are_frozen_and_keyword_only():
    with pytest.raises(AttributeError):
        Config().rate = 1.0
    with pytest.raises(TypeError):
        Config(0.1)


def test_placeholders_of_a_tree_map_pass():
    config = Config(limit=1.0)
    nothing = jax.tree.map(lambda _: None, config)
    assert (nothing.rate, nothing.discount, nothing.count) == (None, None, 4)
    axes = jax.tree.map(lambda _: 0, config)
    assert (axes.rate, axes.limit, axes.name) == (0, 0, "plain")
    shapes = jax.tree.map(lambda _: jax.ShapeDtypeStruct((3,), jnp.float32), config)
    assert shapes.rate.shape == (3,)
    assert jax.eval_shape(lambda config: config, config).discount.shape == ()
    flags = jax.tree.map(lambda _: True, config)
    assert flags.rate is True


def test_a_tree_map_is_free_of_bounds():
    config = Config()
    assert jax.tree.map(lambda _: -1, config).rate == -1
    names = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), config)
    assert names.discount == ".discount"
    difference = jax.tree.map(operator.sub, Config(), Config(rate=2.0))
    assert difference.rate == -1.5


def test_gradients_of_a_config_reach_the_host():
    gradient = jax.grad(lambda config: -config.rate * config.discount)(Config())
    assert gradient.rate == np.float32(-0.9)
    assert jax.device_get(gradient).rate == np.float32(-0.9)


# Bounds


@pytest.mark.parametrize("make", [Config, functools.partial(rljax.replace, Config())], ids=["made", "replaced"])
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("rate", -0.1, "at least 0"),
        ("rate", np.float32(-0.1), "at least 0"),
        ("rate", -1, "at least 0"),
        ("rate", np.array([0.1, -0.1]), "at least 0"),
        ("rate", "fast", "number"),
        ("rate", "0.1", "number"),
        ("rate", float("nan"), "finite"),
        ("rate", float("inf"), "finite"),
        ("rate", np.array([0.1, np.nan]), "finite"),
        ("rate", jnp.float32(-1), "at least 0, got -1.0"),
        ("rate", jnp.array([0.1, -0.1]), "at least 0"),
        ("discount", jnp.float32(np.nan), "finite in 32 bits, got nan"),
        ("discount", 1.01, "at most 1"),
        ("discount", -0.01, "at least 0"),
        ("discount", np.float64("nan"), "finite"),
        ("limit", -1.0, "at least 0"),
        ("count", 0, "at least 1"),
        ("count", -3, "at least 1"),
        ("count", 1.5, "an integer"),
        ("count", 4.5, "an integer"),
        ("count", np.float32(4), "an integer"),
        ("count", float("inf"), "an integer"),
        ("count", "four", "an integer"),
        ("most", 0, "at least 1"),
        ("most", 1.5, "an integer"),
    ],
)
def test_values_out_of_bounds_are_usage_errors(make, field, value, why):
    with pytest.raises(rljax.UsageError, match=rf"^{field} must be .*{why}"):
        make(**{field: value})


@rljax.config.config
class Everything:
    env: rljax.Env = rljax.traced()
    offset: float = rljax.traced(default=0.0)
    period: int = rljax.traced(default=10, minimum=1)
    extra: float | None = rljax.traced(default=None)
    threshold: float = rljax.static(default=0.5)
    flag: bool = rljax.static(default=False)
    name: str = rljax.static(default="plain")
    widths: tuple[int, ...] = rljax.static(default=(4, 4))
    network: networks.Network | None = rljax.static(default=None)
    rule: Any = rljax.static(default=None)


class OwnNetwork:
    def init(self, key, obs):
        """No parameters."""

    def apply(self, params, obs):
        return obs


def everything(**changes):
    return Everything(**{"env": small_ppo().env, **changes})


@pytest.mark.parametrize("make", [everything, functools.partial(rljax.replace, everything())], ids=["made", "replaced"])
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("env", 5, "an environment's id, a gymnax environment or an rljax.Env, got int"),
        ("env", "CartPole", "did you mean CartPole-v1"),
        ("offset", "0", "a number, got '0'"),
        ("offset", None, "a number, got None"),
        ("offset", True, "a number, got True"),
        ("offset", 1j, "a number, got 1j"),
        ("offset", len, "a number, got <built-in function len>"),
        ("offset", float("nan"), "finite in 32 bits, got nan"),
        ("offset", -float("inf"), "finite in 32 bits, got -inf"),
        ("offset", np.array([0.0, np.nan]), "finite in 32 bits, got array"),
        ("offset", np.array([True]), "a number, got array"),
        ("offset", np.array(["a"]), "a number, got array"),
        ("period", 2.5, "an integer, got 2.5"),
        ("period", True, "an integer, got True"),
        ("period", np.array([1.0]), "an integer, got array"),
        ("period", np.array([2, 0]), "at least 1"),
        ("period", jnp.array(1.5), "an integer, got 1.5"),
        ("offset", jnp.array([1.0, np.nan]), "finite in 32 bits, got Array"),
        ("offset", jax.random.key(0), "a number, got Array"),
        ("period", 2**31, "less than 2[*][*]31"),
        ("period", 10**400, "less than 2[*][*]31"),
        ("extra", "none", "a number or None, got 'none'"),
        ("extra", float("nan"), "finite"),
        ("threshold", jnp.float32(0.5), "a number, got Array"),
        ("threshold", np.zeros(2), "a number, got array"),
        ("flag", 1, "True or False, got 1"),
        ("flag", "yes", "True or False, got 'yes'"),
        ("flag", None, "True or False, got None"),
        ("name", 5, "a string, got 5"),
        ("widths", "64", "a tuple of integers such as"),
        ("widths", 64, "a tuple of integers such as"),
        ("widths", (64, 1.5), "a tuple of integers such as"),
        ("widths", [64, True], "a tuple of integers such as"),
        ("widths", np.array([64]), "a tuple of integers such as"),
        ("network", 5, "an object with init and apply or None, got 5"),
        ("network", OwnNetwork, "an object with init and apply or None, got <class"),
        ("rule", {"a": 1}, "hashable, since it is part of the program: unhashable type: 'dict'"),
    ],
)
def test_values_of_another_type_are_usage_errors(make, field, value, why):
    with pytest.raises(rljax.UsageError, match=rf"^({field}|make\(\)|There is).* {why}") as caught:
        make(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", 2),
        ("offset", np.array([1, 2])),
        ("offset", jnp.array([1.0, 2.0])),
        ("period", np.array([1, 2])),
        ("extra", None),
        ("extra", jnp.zeros(3)),
        ("widths", ()),
        ("widths", (np.int64(3), 4)),
        ("network", OwnNetwork()),
        ("rule", len),
    ],
)
def test_values_of_their_type_pass(field, value):
    assert getattr(everything(**{field: value}), field) is value


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("offset", np.float16(2), 2.0),
        ("offset", np.int8(2), 2),
        ("offset", jnp.bfloat16(2), 2.0),
        ("extra", jnp.float32(1e-2), float(np.float32(1e-2))),
        ("period", jnp.array(3), 3),
        ("flag", np.bool_(True), True),
    ],
)
def test_scalar_arrays_are_kept_as_their_numbers(field, value, kept):
    got = getattr(everything(**{field: value}), field)
    assert (got, type(got)) == (kept, type(kept))


def test_an_id_or_a_gymnax_object_stands_for_its_env():
    assert everything(env="CartPole-v1").env == rljax.make("CartPole-v1")
    assert rljax.replace(everything(), env="CartPole-v1").env == rljax.make("CartPole-v1")


@pytest.mark.parametrize(
    ("algorithm", "env", "field", "value"),
    [
        (rljax.dqn, "CartPole-v1", "value_low", "0"),
        (rljax.dqn, "CartPole-v1", "target_period", 2.5),
        (rljax.dqn, "CartPole-v1", "network", 5),
        (rljax.ppo, "CartPole-v1", "network", 5),
        (rljax.pqn, "CartPole-v1", "num_envs", True),
        (rljax.pqn, "CartPole-v1", "hidden_sizes", "64"),
        (rljax.q_learning, "FrozenLake-misc", "initial_value", float("nan")),
        (rljax.q_learning, "FrozenLake-misc", "discount", None),
    ],
)
def test_the_algorithms_fields_are_checked(algorithm, env, field, value):
    with pytest.raises(rljax.UsageError, match=f"^{field} must be"):
        algorithm.Config(env=env, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("learning_rate", -1e-3, "at least 0"),
        ("discount", 1.5, "at most 1"),
        ("discount", -0.5, "at least 0"),
        ("gae_lambda", 1.1, "at most 1"),
        ("clip", -0.1, "at least 0"),
        ("value_clip", -0.1, "at least 0"),
        ("target_kl", -0.1, "at least 0"),
        ("entropy_coefficient", "high", "number"),
        ("max_grad_norm", float("nan"), "finite"),
        ("num_envs", 0, "at least 1"),
        ("num_steps", 1.5, "an integer"),
        ("num_epochs", 0, "at least 1"),
        ("num_minibatches", 2.5, "an integer"),
        ("total_steps", 1e5 + 0.5, "an integer"),
        ("schedule_steps", 0, "at least 1"),
    ],
)
def test_ppos_bounds(field, value, why):
    with pytest.raises(rljax.UsageError, match=rf"^{field} must be .*{why}"):
        small_ppo(**{field: value})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"total_steps": 511}, "total_steps=511 is less than one update of 512"),
        ({"num_minibatches": 3}, "512 environment steps does not divide into 3"),
        ({"activation": "tahn"}, "activation must be one of tanh, relu, elu, gelu, silu, got 'tahn'"),
    ],
)
def test_ppos_own_checks(changes, why):
    with pytest.raises(rljax.UsageError, match=why):
        small_ppo(**changes)


def test_values_on_their_bounds_pass():
    config = Config(rate=0, discount=1, limit=0.0, offset=-5.0, count=1, most=1)
    assert (config.rate, config.discount, config.count) == (0, 1, 1)
    assert Config(discount=0.0, count=np.int64(3)).count == 3
    assert Config(offset=np.array([-1.0, 1e30])).offset.shape == (2,)


def test_annotations_may_be_strings():
    own = type("Own", (), {"__annotations__": {"count": "int", "most": "int | None"}})
    own.count, own.most = rljax.static(default=1, minimum=1), rljax.static(default=None, minimum=1)
    own = rljax.config.config(own)
    assert own(count=2, most=3).most == 3
    for field in ("count", "most"):
        with pytest.raises(rljax.UsageError, match=rf"^{field} must be an integer"):
            own(**{field: 1.5})


def test_a_configs_own_check_runs_after_the_bounds():
    @rljax.config.config
    class Own:
        low: float = rljax.traced(default=0.0, minimum=0)
        count: int = rljax.static(default=2)

        def __post_init__(self):
            if self.count % 2:
                raise rljax.UsageError("count must be even.")

    assert Own(count=4).count == 4
    with pytest.raises(rljax.UsageError, match="even"):
        Own(count=3)
    with pytest.raises(rljax.UsageError, match="low"):
        Own(low=-1.0, count=3)


def test_a_config_that_extends_another_keeps_its_fields_and_its_checks():
    @rljax.config.config
    class Longer(rljax.ppo.Config):
        bonus: float = rljax.traced(default=0.0, minimum=0)

    longer = functools.partial(Longer, env=small_ppo().env)
    assert longer(bonus=1.0, learning_rate=0.1).num_updates == small_ppo().num_updates
    with pytest.raises(rljax.UsageError, match=r"^bonus"):
        longer(bonus=-1.0)
    with pytest.raises(rljax.UsageError, match=r"^learning_rate"):
        longer(learning_rate=-1.0)
    with pytest.raises(rljax.UsageError, match="tahn"):
        longer(activation="tahn")
    with pytest.raises(rljax.UsageError, match="total_steps"):
        longer(total_steps=1)


# Docstrings


@pytest.mark.parametrize("name", ["a2c", "dqn", "ppo", "pqn", "q_learning", "reinforce", "sac", "td3"])
def test_docstrings_of_fields_are_read_from_the_config(name):
    algorithm = getattr(rljax, name)
    told = algorithm.Config.__doc__
    assert told.startswith("Hyperparameters of ")
    for field in dataclasses.fields(algorithm.Config):
        assert re.search(rf"^    {field.name}: \S.*\.$", told, re.MULTILINE), field.name
    assert algorithm.State.__doc__.startswith("Training state of ")


def test_docstrings_of_inherited_fields_are_read():
    @rljax.config.config
    class Longer(Described):
        width: int = rljax.static(default=2)
        """How wide."""

    assert Longer.__doc__ == "Attributes:\n    rate: How fast, and told in two lines.\n    width: How wide."
    assert Described.__doc__ == "Numbers.\n\nAttributes:\n    rate: How fast, and told in two lines."
    assert Config.__doc__.startswith("Config(*, rate: float")


# replace


def test_replace_changes_only_what_it_names():
    config = Config(rate=0.1, count=7)
    changed = rljax.replace(config, discount=0.5)
    assert (changed.rate, changed.discount, changed.count) == (0.1, 0.5, 7)
    assert config.discount == 0.9
    assert rljax.replace(config) == config


@pytest.mark.parametrize(("word", "nearest"), [("learning_rat", "learning_rate"), ("num_env", "num_envs")])
def test_replace_suggests_the_nearest_name(word, nearest):
    with pytest.raises(rljax.UsageError, match=rf"no field '{word}': did you mean {nearest}\b"):
        rljax.replace(small_ppo(), **{word: 1})


def test_replace_lists_the_names_where_none_is_near():
    with pytest.raises(rljax.UsageError, match="choose from rate, discount, limit"):
        rljax.replace(Config(), zzz=1)


# Under transformations


def test_a_traced_change_compiles_nothing_and_a_static_one_does():
    traces = []

    @jax.jit
    def total(config):
        traces.append(config.count)
        return config.rate * config.count + config.offset

    assert total(Config()) == 2.0
    assert total(Config(rate=0.25, discount=0.1)) == 1.0
    assert total(rljax.replace(Config(), offset=-1.0)) == 1.0
    assert traces == [4]
    assert total(Config(count=8)) == 4.0
    assert traces == [4, 8]
    assert total(Config(rate=1.5, count=8)) == 12.0
    assert traces == [4, 8]


def test_numbers_of_any_kind_give_the_same_result():
    product = jax.jit(lambda config: config.rate * jnp.arange(3.0) + config.discount)
    expected = np.array([0.0, 2.0, 4.0]) + 1
    for kind in (int, float, np.float32, np.float64, np.int32, np.array, jnp.asarray):
        result = product(Config(rate=kind(2), discount=kind(1)))
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, expected)


def test_stacked_fields_can_be_mapped_over():
    stacked = Config(
        rate=jnp.array([0.1, 0.2, 0.3]), discount=np.array([0.5, 0.6, 0.7], np.float32), offset=np.zeros(3)
    )
    result = jax.vmap(lambda config: config.rate * config.discount * config.count)(stacked)
    np.testing.assert_allclose(result, [0.2, 0.48, 0.84], rtol=1e-6)
    axes = rljax.replace(jax.tree.map(lambda _: None, Config()), rate=0)
    swept = jax.vmap(lambda config: config.rate + config.discount, in_axes=(axes,))(Config(rate=jnp.arange(3.0)))
    np.testing.assert_allclose(swept, [0.9, 1.9, 2.9], rtol=1e-6)


def test_tracers_pass_where_a_config_is_made_or_changed_inside():
    def total(rate):
        return rljax.replace(Config(rate=rate), discount=rate / 2).discount

    assert jax.jit(total)(3.0) == 1.5
    np.testing.assert_array_equal(jax.vmap(total)(jnp.array([-1.0, 4.0])), [-0.5, 2.0])
    assert jax.grad(total)(1.0) == 0.5


def test_a_config_survives_its_own_flattening():
    config = small_ppo(learning_rate=0.1, hidden_sizes=(3,))
    leaves, structure = jax.tree.flatten(config)
    assert jax.tree.unflatten(structure, leaves) == config


def test_a_config_is_described_as_plain_data(tmp_path):
    env = rljax.Env(
        reset=len,
        step=len,
        observation_space=rljax.Box(-1, 1, (3,)),
        action_space=rljax.Discrete(2),
        params={"gravity": jnp.float32(9.5), "limits": jnp.array([1.0, jnp.inf])},
        name="mine",
        wrappers=("time_limit",),
    )
    config = rljax.ppo.Config(env=env, learning_rate=np.array([0.5, 0.25]), num_envs=np.int64(8), hidden_sizes=(3,))
    files.write_json(tmp_path / "config.json", describe(config))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["env"] == {
        "name": "mine",
        "label": "mine",
        "params": {"gravity": 9.5, "limits": [1.0, None]},
        "wrappers": ["time_limit"],
        "recipe": [None],
    }
    assert written["learning_rate"] == [0.5, 0.25]
    assert (written["num_envs"], written["hidden_sizes"]) == (8, [3])
    assert (written["value_clip"], written["normalize_advantages"], written["activation"]) == (None, True, "tanh")


@pytest.mark.parametrize("value", [1e5, np.float64(1e5), 100_000, np.int64(100_000)])
def test_integers_may_be_written_as_floats(value):
    config = rljax.ppo.Config(env="CartPole-v1", total_steps=value)
    assert (config.total_steps, type(config.total_steps)) == (100_000, int)
    assert hash(config.total_steps) == hash(100_000)


@pytest.mark.parametrize("value", [2**63, 10**400, (8, 10**400)])
def test_static_integers_fit_64_bits(value):
    field = "hidden_sizes" if isinstance(value, tuple) else "total_steps"
    with pytest.raises(rljax.UsageError, match=rf"^{field} must be less than 2\*\*63") as error:
        rljax.ppo.Config(env="CartPole-v1", **{field: value})
    assert len(str(error.value)) < 300


def test_configs_are_short_in_text_and_complete_in_html():
    """Also with a large network, whose text has many lines."""
    network = networks.actor_critic(rljax.make("CartPole-v1"), (64,) * 300)
    env = rljax.envs.time_limit(rljax.make("CartPole-v1", gravity=5.0), 200)
    config = rljax.ppo.Config(env=env, network=network)
    assert len(repr(config)) < 1000
    assert repr(config).startswith("Config(env=Env(CartPole-v1+time_limit), total_steps=100000, ")
    page = config._repr_html_()
    assert all(f"<td>{field.name}</td>" in page for field in dataclasses.fields(config))
    assert "<td>linear(0.00025, 0.0)</td>" in page
    assert repr(jax.tree.map(lambda x: None, config)).startswith("Config(env=")
    jax.jit(lambda config: repr(config) and config.discount)(config)  # with traced numbers


def test_a_field_takes_one_of_its_words():
    @rljax.config.config
    class Words:
        how: str = rljax.static(default="slow", choices=("slow", "fast"))
        other: str | None = rljax.static(default=None, choices=("left", "right"))

    assert (Words(how="fast").how, Words(other="left").other, Words().other) == ("fast", "left", None)
    with pytest.raises(rljax.UsageError, match=r"^how must be one of slow, fast, got 'fsat'\.$"):
        Words(how="fsat")
    with pytest.raises(rljax.UsageError, match=r"^other must be one of left, right, got 'up'\.$"):
        rljax.replace(Words(), other="up")
