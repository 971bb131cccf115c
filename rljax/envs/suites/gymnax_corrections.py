"""Where gymnax 1.0.1 departs from the environments it is named after: corrections that `make` applies.

- CartPole-v1: `total_mass` and `polemass_length` are params that do not follow `masscart`, `masspole` and `length`.
  Here they are computed from them (Florian 2007).
- MountainCarContinuous-v0: the car keeps its speed at the left wall, and stops at the goal when it moves away from it.
  Here it stops at the wall, as in Gymnasium.
- SimpleBandit-bsuite: every reset shuffles the arms' rewards. Here they are shuffled once, as in bsuite.
- DiscountingChain-bsuite: the last step is a truncation, and `mapping_seed` above 4 gives no bonus. Here it is a
  termination, and the seed counts modulo the number of actions, as in bsuite.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment
from gymnax.environments.bsuite import bandit, discounting_chain
from gymnax.environments.classic_control import cartpole, continuous_mountain_car


@struct.dataclass
class CartPoleParams(environment.EnvParams):
    """gymnax's params of CartPole, without those that follow from others."""

    gravity: float = 9.8
    masscart: float = 1.0
    masspole: float = 0.1
    length: float = 0.5
    force_mag: float = 10.0
    tau: float = 0.02
    theta_threshold_radians: float = 12 * 2 * np.pi / 360
    x_threshold: float = 2.4
    max_steps_in_episode: int = 500

    @property
    def total_mass(self) -> Any:
        """Mass of the cart and the pole."""
        return self.masscart + self.masspole

    @property
    def polemass_length(self) -> Any:
        """Mass of the pole times half its length."""
        return self.masspole * self.length


class SimpleBandit(bandit.SimpleBandit):
    """bsuite's bandit: the rewards 0, 0.1, ..., 1 belong to the same arms in every episode.

    Args:
        num_actions: number of arms.
        mapping_seed: decides which arm has which reward, as in bsuite.
    """

    def __init__(self, num_actions: int = 11, mapping_seed: int = 0) -> None:
        super().__init__(num_actions)
        self.mapping_seed = mapping_seed


FACTORIES: dict[str, Callable[..., Any]] = {"SimpleBandit-bsuite": SimpleBandit}


def default_params(environment: Any) -> Any:
    """The default params of a gymnax environment."""
    params = environment.default_params
    if type(params) is not cartpole.EnvParams:
        return params
    return CartPoleParams(**{f.name: getattr(params, f.name) for f in dataclasses.fields(CartPoleParams)})


def reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    """An environment's `reset_env`, corrected."""
    corrected = _RESETS.get(type(environment).reset_env)
    return corrected(environment, key, params) if corrected else environment.reset_env(key, params)


def step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    """An environment's `step_env`, corrected: `(obs, state, reward, terminated, truncated)`."""
    corrected = _STEPS.get(type(environment).step_env)
    if corrected:
        return corrected(environment, key, state, action, params)
    obs, state, reward, terminated, _ = environment.step_env(key, state, action, params)
    return obs, state, reward, terminated, environment.is_truncated(state, params)


def _bandit_reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    arms = environment.num_actions
    order = np.random.RandomState(getattr(environment, "mapping_seed", 0)).choice(range(arms), size=arms, replace=False)
    rewards = jnp.asarray(np.linspace(0, 1, arms)[order], jnp.float32)
    state = bandit.EnvState(rewards=rewards, total_regret=0.0, time=0)
    return environment.get_obs(state), state


def _chain_reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    obs, state = discounting_chain.DiscountingChain.reset_env(environment, key, params)
    bonus = environment.mapping_seed % environment.n_actions
    return obs, state.replace(rewards=jnp.ones(environment.n_actions).at[bonus].set(params.optimal_return))


def _chain_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    obs, state, reward, _, _ = environment.step_env(key, state, action, params)
    return obs, state, reward, environment.is_truncated(state, params), jnp.bool_(False)


def _mountain_car_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    action = jnp.reshape(action, ())
    force = jnp.clip(action, params.min_action, params.max_action)
    velocity = state.velocity + force * params.power - jnp.cos(3 * state.position) * params.gravity
    velocity = jnp.clip(velocity, -params.max_speed, params.max_speed)
    position = jnp.clip(state.position + velocity, params.min_position, params.max_position)
    velocity = jnp.where((position <= params.min_position) & (velocity < 0), 0.0, velocity)
    terminated = (position >= params.goal_position) & (velocity >= params.goal_velocity)
    reward = -0.1 * action**2 + 100.0 * terminated
    state = continuous_mountain_car.EnvState(position=position, velocity=velocity, time=state.time + 1)
    obs = environment.get_obs(state)
    if not environment.transition_gradients_enabled:
        obs, state = jax.lax.stop_gradient((obs, state))
    return obs, state, reward, terminated, environment.is_truncated(state, params)


# By method, so that a subclass with another one keeps its own.
_RESETS: dict[Any, Callable[..., Any]] = {
    bandit.SimpleBandit.reset_env: _bandit_reset,
    discounting_chain.DiscountingChain.reset_env: _chain_reset,
}
_STEPS: dict[Any, Callable[..., Any]] = {
    continuous_mountain_car.ContinuousMountainCar.step_env: _mountain_car_step,
    discounting_chain.DiscountingChain.step_env: _chain_step,
}
