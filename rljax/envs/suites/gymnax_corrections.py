"""Where gymnax 1.0.1 departs from the environments it is named after: corrections that `make` applies.

- CartPole-v1: `total_mass` and `polemass_length` are params that do not follow `masscart`, `masspole` and `length`.
  Here they are computed from them (Florian 2007).
- MountainCarContinuous-v0: the car keeps its speed at the left wall, and stops at the goal when it moves away from it.
  Here it stops at the wall, as in Gymnasium.
- SimpleBandit-bsuite: every reset shuffles the arms' rewards. Here they are shuffled once, as in bsuite.
- DiscountingChain-bsuite: the last step is a truncation, and `mapping_seed` above 4 gives no bonus. Here it is a
  termination, and the seed counts modulo the number of actions, as in bsuite.
- Asterix-MinAtar: an enemy or a treasure that finds no free row, and one in eight that finds the last, erases another;
  the move interval may ramp down to 0, which stops all. Here nothing is erased, and it stays at 1 (MinAtar 1.0.15).
- Pong-misc: a ball leaves the field at the top for good. Here it bounces off both borders (BlackHC/batch_pong_poc).
- MetaMaze-misc: the goal may be at the start, and an agent that reaches the goal may start anew on it, which ends the
  episode. Here neither happens, and only the time limit ends an episode (Miconi et al. 2019).
- FourRooms-misc with `use_visual_obs`: the agent is shown with its row and column swapped. Here it is not.

What `make` does not change:

- MinAtar repeats an action with a probability of 0.1, gymnax does not: wrap the games in `sticky_actions(env, 0.1)`.
- MinAtar's games have no time limit, gymnax truncates them after 1,000 steps; Freeway terminates after 2,500 in MinAtar
  and is truncated in gymnax. `time_limit` changes the limit.
- Seaquest: a submarine that is hit as it moves does not shoot in that step, of several things in one cell another one
  may be hit or picked up first, and the last observation of a submarine that surfaces without divers differs.
- bsuite's chains have no time limit: one longer than `max_steps_in_episode` is cut off in gymnax.
- Acrobot-v1, CartPole-v1, MountainCar-v0, Pendulum-v1, Breakout, Freeway, SpaceInvaders, Catch, DeepSea, MemoryChain,
  UmbrellaChain and MNISTBandit step as their originals do. Their random numbers are JAX's.
- Pong's paddles stay in the field and move by 1, the right one by itself; its ball's vertical speed is an integer.
- FourRooms starts at one place with one goal, unless `resample_init_pos` and `resample_goal_pos` are set, and is
  truncated after 500 steps (howardh/gym-fourrooms). MetaMaze numbers its actions clockwise, and keeps the pillar in the
  middle of a maze of 3, 7, 11, ... cells.
- PointRobot pays for the position before the step, and a robot that reaches the goal starts anew (Dorfman et al. 2021
  pay for the one after it, and let it stay).
- BernoulliBandit, GaussianBandit, Reacher and Swimmer follow the equations of Wang et al. 2017, Lange and Sprekeler
  2022, and ivy_gym.
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
from gymnax.environments.minatar import asterix
from gymnax.environments.misc import meta_maze, pong, rooms


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


def _asterix_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    key_spawn, key_step = jax.random.split(key)
    state = _spawn(key_spawn, state)  # with the timer set again, so that step_env does not spawn
    obs, state, reward, terminated, _ = environment.step_env(key_step, state, action, params)
    state = state.replace(move_speed=jnp.maximum(state.move_speed, 1))
    return obs, state, reward, terminated, environment.is_truncated(state, params)


def _spawn(key: jax.Array, state: Any) -> Any:
    """Put an enemy or a treasure into a random free row, if it is time and there is one."""
    key_row, key_right, key_gold = jax.random.split(key, 3)
    free = state.entities[:, 4] == 0
    row = jnp.argmax(jnp.where(free, jax.random.uniform(key_row, free.shape), -1.0))
    right = jax.random.bernoulli(key_right).astype(jnp.int32)
    gold = jax.random.bernoulli(key_gold, 1 / 3).astype(jnp.int32)
    entity = jnp.stack([9 * (1 - right), row + 1, right, gold, jnp.ones_like(row)]).astype(state.entities.dtype)
    now = state.spawn_timer == 0
    entities = jnp.where(now & free[row], state.entities.at[row].set(entity), state.entities)
    return state.replace(entities=entities, spawn_timer=jnp.where(now, state.spawn_speed, state.spawn_timer))


def _pong_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    before, half = state.ball_position, environment.paddle_half_height
    state = pong.move_paddles(action, params.paddle_y_speed, state, half, environment.height, params.use_ai_policy)
    state = pong.move_ball(state)
    bounce = jnp.array([jnp.where(state.ball_position[0] < 0, -1, 1), 1])
    state = state.replace(ball_position=state.ball_position * bounce, ball_velocity=state.ball_velocity * bounce)
    state = pong.reflect_on_paddle(
        pong.reflect_on_borders(state, environment.height), environment.width, half, params
    ).replace(last_ball_position=before, time=state.time + 1)
    terminated = environment.is_terminated(state, params)
    obs = environment.get_obs(state)
    return obs, state, 1.0 - terminated, terminated, environment.is_truncated(state, params)


def _maze_reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    key_reset, key_goal = jax.random.split(key)
    obs, state = meta_maze.MetaMaze.reset_env(environment, key_reset, params)
    return obs, state.replace(goal=_other_than(state.pos, key_goal, environment.coords))


def _maze_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    key_step, key_place = jax.random.split(key)
    is_reached = jnp.all(state.pos + environment.directions[action] == state.goal)
    _, state, reward, _, _ = environment.step_env(key_step, state, action, params)
    place = _other_than(state.goal, key_place, environment.coords)
    state = state.replace(pos=jnp.where(is_reached, place, state.pos))
    return environment.get_obs(state, params), state, reward, jnp.bool_(False), environment.is_truncated(state, params)


def _other_than(place: jax.Array, key: jax.Array, places: jax.Array) -> jax.Array:
    """One of `places` `[N, 2]` at random, except `place` `[2]`."""
    allowed = jnp.any(places != place, axis=-1)
    return places[jax.random.categorical(key, jnp.where(allowed, 0.0, -jnp.inf))]


def _rooms_reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    obs, state = rooms.FourRooms.reset_env(environment, key, params)
    return _upright(environment, obs), state


def _rooms_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
    obs, state, reward, terminated, _ = environment.step_env(key, state, action, params)
    return _upright(environment, obs), state, reward, terminated, environment.is_truncated(state, params)


def _upright(environment: Any, obs: jax.Array) -> jax.Array:
    return obs.at[..., 1].set(obs[..., 1].T) if environment.use_visual_obs else obs


# By method, so that a subclass with another one keeps its own.
_RESETS: dict[Any, Callable[..., Any]] = {
    bandit.SimpleBandit.reset_env: _bandit_reset,
    discounting_chain.DiscountingChain.reset_env: _chain_reset,
    meta_maze.MetaMaze.reset_env: _maze_reset,
    rooms.FourRooms.reset_env: _rooms_reset,
}
_STEPS: dict[Any, Callable[..., Any]] = {
    continuous_mountain_car.ContinuousMountainCar.step_env: _mountain_car_step,
    discounting_chain.DiscountingChain.step_env: _chain_step,
    asterix.MinAsterix.step_env: _asterix_step,
    meta_maze.MetaMaze.step_env: _maze_step,
    pong.Pong.step_env: _pong_step,
    rooms.FourRooms.step_env: _rooms_step,
}
