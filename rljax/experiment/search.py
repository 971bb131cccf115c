"""Search: Optuna suggests a batch of configurations, and the next one once all runs of that batch have ended.

The study lives in this process and is asked and reported to in the same order every time, so that its suggestions
follow from the seed and the returns. A resumed search repeats it with the returns of its checkpoints.
"""

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.experiment import manifest, sweeps
from rljax.experiment.history import Runs
from rljax.experiment.options import Options
from rljax.experiment.spec import Experiment
from rljax.experiment.sweeps import Choice, Group, Range, Sampler, Space
from rljax.report import console, statistics

_MIN_POPULATION = 4  # of CMA-ES, whose better half makes the next one


def space(config: Any, sweep: Mapping[str, Any] | None, options: Options) -> Space:
    """What a search over a sweep chooses from.

    Raises:
        UsageError: there is no sweep, not the number of configurations, or not what the sampler needs.
    """
    if sweep is None:
        raise UsageError("search is for a sweep: pass sweep as well, with rljax.uniform, log_uniform, choice or lists.")
    if options.samples is None:
        raise UsageError("A search needs its number of configurations: pass samples=30 (--samples 30).")
    found = sweeps.space(config, sweep)
    ranges = [path for path, one in found.samplers.items() if isinstance(one, Range)]
    if options.search_sampler == "cmaes" and (len(ranges) < 2 or len(ranges) < len(found.samplers)):
        raise UsageError('search_sampler="cmaes" needs two ranges or more, and no choices or lists: use "tpe".')
    for package in ("optuna", "cmaes"):
        if importlib.util.find_spec(package) is None:
            raise UsageError("A search needs Optuna: pip install 'rljax-engine[optuna]'.")
    return found


class Search:
    """Suggests the configurations of an experiment, and notes their returns."""

    def __init__(self, experiment: Experiment) -> None:
        try:
            import optuna
        except ImportError:
            raise UsageError("A search needs Optuna: pip install 'rljax-engine[optuna]'.") from None
        assert experiment.space is not None
        self._experiment, self._space = experiment, experiment.space
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        options = experiment.options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: Any
            if options.search_sampler == "cmaes":
                size = max(experiment.search_batch, _MIN_POPULATION)
                sampler = optuna.samplers.CmaEsSampler(seed=options.seed, popsize=size)
            else:  # a batch's suggestions keep away from each other, since none has a return yet
                sampler = optuna.samplers.TPESampler(seed=options.seed, multivariate=True, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {path: self._distribution(path, one) for path, one in self._space.samplers.items()}
        self._asked: list[Any] = []

    def _distribution(self, path: str, sampler: Sampler) -> Any:
        from optuna import distributions

        if isinstance(sampler, Choice):
            return distributions.CategoricalDistribution(tuple(range(len(sampler.options))))
        if sweeps.is_integer_at(self._space.config, path):
            low, high = (max(round(bound), int(sampler.is_log)) for bound in (sampler.low, sampler.high))
            return distributions.IntDistribution(low, high, log=sampler.is_log)
        return distributions.FloatDistribution(sampler.low, sampler.high, log=sampler.is_log)

    def suggest(self, number: int) -> Group:
        """Suggest the configurations of the batch with this number, in order, and record them in the manifest.

        Raises:
            UsageError: an earlier session recorded others.
        """
        experiment = self._experiment
        first, size = number * experiment.search_batch, experiment.search_batch
        trials = [self._study.ask(self._distributions) for _ in range(min(size, len(experiment.points) - first))]
        for place, trial in enumerate(trials, first):
            made = sweeps.point(self._space.config, {path: self._value(path, trial) for path in self._distributions})
            if experiment.points[place].values not in ({}, made.values):
                raise UsageError(
                    "Optuna suggests other configurations here than when this search began: install the version that "
                    "it began with, or start again in another folder."
                )
            experiment.points[place] = made
        self._asked += trials
        if experiment.folder is not None:
            try:
                manifest.update(experiment.folder, sweep=manifest.described_values(experiment.points))
            except UsageError as error:  # a full disk: they are suggested again
                console.say(f"{error} The run continues.")
        return experiment.groups()[number]

    def _value(self, path: str, trial: Any) -> Any:
        sampler, value = self._space.samplers[path], trial.params[path]
        return sampler.options[value] if isinstance(sampler, Choice) else value

    def report(self, runs: Runs, returns: np.ndarray) -> None:
        """Note the final returns `[R]` of a batch's runs: a configuration counts with its score on the even seeds.

        The best one is chosen on these as well, so the seeds it is reported on took part in no suggestion.
        """
        for configuration in np.unique(runs.configurations).tolist():
            own = (runs.configurations == configuration) & (runs.seeds % 2 == 0)
            self._study.tell(self._asked[configuration], statistics.score(returns[own]))
