"""What is inside wrappers is found: the innermost state, the suite's object, the exact model."""

import jax
import jax.numpy as jnp
import numpy as np
from toys import walk

import rljax
from rljax import envs
from rljax.envs.unwrapping import innermost_state, model_of, world_of


def test_the_innermost_state_is_the_environments_own():
    env = envs.frame_stack(envs.sticky_actions(envs.shape_reward(envs.time_limit(walk, 5), jnp.sum, 0.9), 0.5), 2)
    state = jax.eval_shape(env.reset, jax.random.key(0), env.params)[1]
    inner = innermost_state(state)
    assert (inner.shape, inner.dtype) == ((), np.int32)  # walk's is the time
    assert innermost_state(inner) is inner
    model = envs.Model(
        np.eye(2)[:, None].repeat(2, 1), np.array([[0, -np.inf], [0, 0]]), np.zeros((2, 2, 2)), np.eye(2)[0]
    )
    forbidding = envs.from_model(model)
    assert (
        type(innermost_state(jax.eval_shape(forbidding.reset, jax.random.key(0), forbidding.params)[1])).__name__
        == "TabularState"
    )


def test_the_object_of_the_suite_is_found_in_any_wrappers():
    env = rljax.make("FrozenLake-misc")
    world = world_of(env)
    assert world.name == "FrozenLake-misc"
    assert world_of(envs.scale_reward(envs.time_limit(env, 9), 2.0)) is world
    assert world_of(walk) is None


def test_a_model_is_that_of_the_process_unless_a_wrapper_changes_it():
    env = rljax.make("GridWorld-misc")
    np.testing.assert_array_equal(model_of(env).rewards, envs.tabular_model(env).rewards)
    assert model_of(envs.time_limit(env, 50)) is not None
    assert model_of(envs.sticky_actions(env, 0.1)) is None
    assert model_of(rljax.make("CartPole-v1")) is None
    process = envs.from_model(envs.tabular_model(env))
    assert model_of(process) is process.params
