"""The algorithms, one module each, and the registry of their names and of bandit agents."""

import functools
import inspect
from types import SimpleNamespace
from typing import Any

from rljax import bandits, core, schedules
from rljax.algos import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.errors import UsageError, shown, suggest

_ALGORITHMS = {
    "ppo": ppo,
    "a2c": a2c,
    "reinforce": reinforce,
    "sac": sac,
    "td3": td3,
    "q_learning": q_learning,
    "dqn": dqn,
    "pqn": pqn,
    **bandits.ALGORITHMS,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_ppo": ("ppo", {"recurrent": "gru"}),
    "sarsa": ("q_learning", {"target": "sarsa"}),  # Rummery and Niranjan 1994
    "expected_sarsa": ("q_learning", {"target": "expected_sarsa"}),  # van Seijen et al. 2009
    "double_q_learning": ("q_learning", {"target": "double_q_learning"}),  # van Hasselt 2010
    "double_dqn": ("dqn", {"double": True}),  # van Hasselt et al. 2016
    "dueling_dqn": ("dqn", {"dueling": True}),  # Wang et al. 2016
    "n_step_dqn": ("dqn", {"n_step": 3}),  # Sutton 1988
    "prioritized_dqn": ("dqn", {"prioritized": True}),  # Schaul et al. 2016
    "noisy_dqn": ("dqn", {"noisy": True, "epsilon": 0.0}),  # Fortunato et al. 2018
    "c51": ("dqn", {"head": "categorical"}),  # Bellemare et al. 2017
    "qr_dqn": ("dqn", {"head": "quantile", "num_atoms": 25, "huber_delta": 1.0}),  # Dabney et al. 2018
    "decaying_epsilon_greedy": ("epsilon_greedy", {"epsilon": schedules.exponential(1.0, 0.001)}),
    "optimistic_greedy": (  # Sutton and Barto 2018, section 2.6
        "epsilon_greedy",
        {"epsilon": 0.0, "initial_value": 5.0, "step_size": 0.1},
    ),
    "ddpg": (  # Lillicrap et al. 2016
        "td3",
        {"num_critics": 1, "smoothing_std": 0.0, "actor_period": 1, "noise_std": 0.4, "noise_reversion": 0.15},
    ),
    "rainbow": (  # Hessel et al. 2018
        "dqn",
        {
            "double": True,
            "dueling": True,
            "n_step": 3,
            "prioritized": True,
            "noisy": True,
            "epsilon": 0.0,
            "head": "categorical",
        },
    ),
}
"""Variants by name: the base algorithm, and the values of its `Config` fields that make the variant.

A variant starts from the presets of its base algorithm.
"""


def algorithms() -> dict[str, str]:
    """Describe every algorithm and variant in one line, by name."""
    descriptions = {name: str(module.__doc__).strip().splitlines()[0] for name, module in _ALGORITHMS.items()}
    for name, (base, values) in VARIANTS.items():
        descriptions[name] = f"{base} with {', '.join(f'{field}={value}' for field, value in values.items())}"
    return descriptions


def algorithm(name: str) -> Any:
    """Return the module of an algorithm, or of a variant's base algorithm.

    Raises:
        UsageError: the name is unknown.
    """
    base, _ = VARIANTS.get(name, (name, {}))
    if base not in _ALGORITHMS:
        raise UsageError(f"There is no algorithm {name!r}: {suggest(name, [*_ALGORITHMS, *VARIANTS])}")
    return _ALGORITHMS[base]


def name_of(algorithm: Any) -> str | None:
    """Return the name under which a module is registered; None for a custom algorithm."""
    return next((name for name, module in _ALGORITHMS.items() if module is algorithm), None)


def variant(algorithm: Any, *, name: str, Config: type | None = None, **losses: Any) -> Any:
    """Make an algorithm with another loss, or another config, of an existing one.

    The result has the names of an algorithm's module, so that it trains, sweeps and resumes as any other.

    Args:
        algorithm: a module such as `rljax.ppo`, or a variant of one.
        name: the new algorithm's name, in tables and files.
        Config: a subclass of the algorithm's, decorated with `rljax.config.config`, with fields for the new loss; None
            for the algorithm's own.
        **losses: `loss`, and for TD3 also `actor_loss`, with the arguments and results of the algorithm's own, which it
            may call. The config that a loss gets holds the current values of schedules.

    Raises:
        UsageError: the algorithm has no loss of that name.
    """
    if not callable(getattr(algorithm, "update", None)):
        raise UsageError(f"variant() takes an algorithm's module, such as rljax.ppo, got {shown(algorithm)}.")
    known = [parameter for parameter in inspect.signature(algorithm.update).parameters if parameter.endswith("loss")]
    for given, function in losses.items():
        if given not in known:
            hint = suggest(given, known) if known else "its update takes no loss."
            raise UsageError(f"{algorithm.__name__.rpartition('.')[2]} has no {given!r} to replace: {hint}")
        if not callable(function):
            raise UsageError(f"{given} must be a function like {known[0]}() of the algorithm, got {shown(function)}.")
    public = {part: value for part, value in vars(algorithm).items() if not part.startswith("_")}
    update = functools.partial(algorithm.update, **losses)
    made = SimpleNamespace(**{**public, **losses, "__name__": name, "__doc__": algorithm.__doc__, "update": update})
    made.Config = Config or algorithm.Config
    made.train = lambda key, config: core.train(made.init, update, key, config)
    return made
