"""Bandits: agents that are judged by their regret during learning, environments, and estimates from logs.

Every agent is an algorithm: `rljax.run(rljax.bandits.thompson, "bandits/bernoulli-10", seeds=1000)`.
See docs/bandits.md.
"""

from rljax.bandits.drift import discounted_thompson, discounted_ucb, sliding_window_thompson, sliding_window_ucb
from rljax.bandits.learner import Agent, algorithm
from rljax.bandits.linear import lin_ucb, linear_thompson
from rljax.bandits.logs import Log, read_open_bandit
from rljax.bandits.off_policy import Estimate, mean_rewards, uniform_policy
from rljax.bandits.off_policy import estimate as off_policy_estimate
from rljax.bandits.posterior import gaussian_thompson, thompson
from rljax.bandits.preferences import exp3, gradient_bandit
from rljax.bandits.ucb import kl_ucb, ucb1, ucb_v
from rljax.bandits.value import epsilon_greedy, softmax
from rljax.envs.suites.bandits import from_table

ALGORITHMS = {
    "discounted_thompson": discounted_thompson,
    "discounted_ucb": discounted_ucb,
    "epsilon_greedy": epsilon_greedy,
    "exp3": exp3,
    "gaussian_thompson": gaussian_thompson,
    "gradient_bandit": gradient_bandit,
    "kl_ucb": kl_ucb,
    "lin_ucb": lin_ucb,
    "linear_thompson": linear_thompson,
    "sliding_window_thompson": sliding_window_thompson,
    "sliding_window_ucb": sliding_window_ucb,
    "softmax": softmax,
    "thompson": thompson,
    "ucb1": ucb1,
    "ucb_v": ucb_v,
}
"""All agents by name."""

__all__ = [
    "ALGORITHMS",
    "Agent",
    "Estimate",
    "Log",
    "algorithm",
    "discounted_thompson",
    "discounted_ucb",
    "epsilon_greedy",
    "exp3",
    "from_table",
    "gaussian_thompson",
    "gradient_bandit",
    "kl_ucb",
    "lin_ucb",
    "linear_thompson",
    "mean_rewards",
    "off_policy_estimate",
    "read_open_bandit",
    "sliding_window_thompson",
    "sliding_window_ucb",
    "softmax",
    "thompson",
    "ucb1",
    "ucb_v",
    "uniform_policy",
]
