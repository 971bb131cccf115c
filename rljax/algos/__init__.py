"""The algorithms, one module each, and the registry of their names."""

from typing import Any

from rljax.algos import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.errors import UsageError, suggest

_ALGORITHMS = {
    "ppo": ppo,
    "a2c": a2c,
    "reinforce": reinforce,
    "sac": sac,
    "td3": td3,
    "q_learning": q_learning,
    "dqn": dqn,
    "pqn": pqn,
}

# Names of their own for a choice of values: (algorithm, values). The tuned values of the algorithm hold for them too.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_ppo": ("ppo", {"recurrent": "gru"}),
    "sarsa": ("q_learning", {"target": "sarsa"}),
    "expected_sarsa": ("q_learning", {"target": "expected_sarsa"}),
    "double_q_learning": ("q_learning", {"target": "double_q_learning"}),
    "double_dqn": ("dqn", {"double": True}),
    "dueling_dqn": ("dqn", {"dueling": True}),
    "n_step_dqn": ("dqn", {"n_step": 3}),
    "prioritized_dqn": ("dqn", {"prioritized": True}),
    "noisy_dqn": ("dqn", {"noisy": True, "epsilon": 0.0, "epsilon_end": 0.0}),
    "c51": ("dqn", {"head": "categorical"}),
    "qr_dqn": ("dqn", {"head": "quantile", "num_atoms": 25, "huber_delta": 1.0}),
    "ddpg": (
        "td3",
        {"num_critics": 1, "smoothing_std": 0.0, "actor_period": 1, "noise_std": 0.4, "noise_reversion": 0.15},
    ),
    "rainbow": (
        "dqn",
        {
            "double": True,
            "dueling": True,
            "n_step": 3,
            "prioritized": True,
            "noisy": True,
            "epsilon": 0.0,
            "epsilon_end": 0.0,
            "head": "categorical",
        },
    ),
}


def algorithms() -> dict[str, str]:
    """What each algorithm is, by name; variants are the values that make them."""
    described = {name: str(module.__doc__).strip().splitlines()[0] for name, module in _ALGORITHMS.items()}
    for name, (base, values) in VARIANTS.items():
        described[name] = f"{base} with {', '.join(f'{field}={value}' for field, value in values.items())}"
    return described


def algorithm(name: str) -> Any:
    """The algorithm's module, a variant's being that of what it varies; an unknown name is a `UsageError`."""
    base, _ = VARIANTS.get(name, (name, {}))
    if base not in _ALGORITHMS:
        raise UsageError(f"There is no algorithm {name!r}: {suggest(name, [*_ALGORITHMS, *VARIANTS])}")
    return _ALGORITHMS[base]


def name_of(algorithm: Any) -> str | None:
    """The name of one of the library's own modules; None for any other algorithm."""
    return next((name for name, module in _ALGORITHMS.items() if module is algorithm), None)
