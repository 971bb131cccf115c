"""Environments: what one is, how to make it, wrappers, and a checker for one's own."""

from rljax.envs.check import check, require
from rljax.envs.env import (
    Bound,
    Env,
    TimeStep,
    as_features,
    begin_next_episode,
    make,
    observation_shape,
    registered,
    timestep,
)
from rljax.envs.spaces import Box, Discrete, Space, bounded_box, count
from rljax.envs.tabular import Model, from_model, random_mdp, tabular_model
from rljax.envs.wrappers import (
    flatten_observation,
    frame_stack,
    mask_observation,
    normalize_observations,
    normalize_rewards,
    remake,
    scale_reward,
    shape_reward,
    sticky_actions,
    time_limit,
)

__all__ = [
    "Bound",
    "Box",
    "Discrete",
    "Env",
    "Model",
    "Space",
    "TimeStep",
    "as_features",
    "begin_next_episode",
    "bounded_box",
    "check",
    "count",
    "flatten_observation",
    "frame_stack",
    "from_model",
    "make",
    "mask_observation",
    "normalize_observations",
    "normalize_rewards",
    "observation_shape",
    "random_mdp",
    "registered",
    "remake",
    "require",
    "scale_reward",
    "shape_reward",
    "sticky_actions",
    "tabular_model",
    "time_limit",
    "timestep",
]
