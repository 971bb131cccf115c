"""Environments: their interface, `make`, wrappers, and a checker for custom ones."""

from rljax.envs.base import Bound, Env, TimeStep, as_features, begin_next_episode, observation_shape, timestep
from rljax.envs.checker import Seen, check, require, seen
from rljax.envs.masks import Masked
from rljax.envs.mdp import Model, from_model, random_mdp
from rljax.envs.observations import flatten_observation, frame_stack, mask_observation, normalize_observations
from rljax.envs.preprocessing import grayscale, repeat_action, resize
from rljax.envs.registry import make, registered, tabular_model
from rljax.envs.spaces import (
    Box,
    Dict,
    Discrete,
    Leaf,
    MultiDiscrete,
    Space,
    Tuple,
    bounded_box,
    count,
    leaves_of,
    num_joint_actions,
)
from rljax.envs.wrappers import (
    clip_reward,
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
    "Dict",
    "Discrete",
    "Env",
    "Leaf",
    "Masked",
    "Model",
    "MultiDiscrete",
    "Seen",
    "Space",
    "TimeStep",
    "Tuple",
    "as_features",
    "begin_next_episode",
    "bounded_box",
    "check",
    "clip_reward",
    "count",
    "flatten_observation",
    "frame_stack",
    "from_model",
    "grayscale",
    "leaves_of",
    "make",
    "mask_observation",
    "normalize_observations",
    "normalize_rewards",
    "num_joint_actions",
    "observation_shape",
    "random_mdp",
    "registered",
    "remake",
    "repeat_action",
    "require",
    "resize",
    "scale_reward",
    "seen",
    "shape_reward",
    "sticky_actions",
    "tabular_model",
    "time_limit",
    "timestep",
]
