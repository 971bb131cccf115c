"""Reinforcement learning in JAX: a whole training run is one pure function of a key and a config."""

import rljax.experiment.signals  # noqa: F401 - before the imports that take seconds

# isort: split
from rljax import bandits, envs, pbt, planning, schedules
from rljax.algos import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3, variant
from rljax.algos.checker import check_algorithm
from rljax.backend.devices import configure_jax
from rljax.backend.program_cache import cache
from rljax.config import replace, static, traced
from rljax.envs import Box, Discrete, Env, MultiDiscrete, TimeStep, check, make, timestep
from rljax.envs import recommender as _recommender  # noqa: F401 - `rljax.envs.recommender`
from rljax.errors import UsageError
from rljax.evaluation import evaluate, play
from rljax.experiment.loading import best, load, policy, watch
from rljax.experiment.population import train_population
from rljax.experiment.progress import Progress
from rljax.experiment.results import Interrupted, NotWritten, Result, Sweep
from rljax.experiment.resume import resume
from rljax.experiment.run import run
from rljax.experiment.sweeps import choice, log_uniform, uniform
from rljax.experiment.tuning import tune_trainable
from rljax.export.policy import export_policy
from rljax.presets import preset
from rljax.report.compare import compare
from rljax.report.doctor import doctor
from rljax.report.page import write_report
from rljax.report.playground import playground

__all__ = [
    "Box",
    "Discrete",
    "Env",
    "Interrupted",
    "MultiDiscrete",
    "NotWritten",
    "Progress",
    "Result",
    "Sweep",
    "TimeStep",
    "UsageError",
    "a2c",
    "bandits",
    "best",
    "cache",
    "check",
    "check_algorithm",
    "choice",
    "compare",
    "configure_jax",
    "doctor",
    "dqn",
    "envs",
    "evaluate",
    "export_policy",
    "load",
    "log_uniform",
    "make",
    "pbt",
    "planning",
    "play",
    "playground",
    "policy",
    "ppo",
    "pqn",
    "preset",
    "q_learning",
    "reinforce",
    "replace",
    "resume",
    "run",
    "sac",
    "schedules",
    "static",
    "td3",
    "timestep",
    "traced",
    "train_population",
    "tune_trainable",
    "uniform",
    "variant",
    "watch",
    "write_report",
]
