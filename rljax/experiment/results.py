"""The results of an experiment, per configuration and run."""

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence
from signal import SIGINT
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from rljax.errors import UsageError, number, shown
from rljax.experiment import assessing, placement, tables, watching
from rljax.experiment.assessing import Assessment
from rljax.experiment.history import Kept, Runs
from rljax.report import console, html, plot
from rljax.report.animation import Animation
from rljax.types import Policy, RecurrentPolicy


class Parts(NamedTuple):
    """What is large in a result of S seeds."""

    states: Any
    metrics: dict[str, np.ndarray]
    kept: list[Kept]


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of one configuration: S seeds, U updates done, E evaluations during training.

    Three things are called the best: `best_seed` is the seed with the highest final return, and `best` its final
    policy; `policy(seed, "best")` is the policy that a seed had at its own best evaluation, if `keep` asked for it; a
    sweep has a `best_configuration`.
    """

    parts: Callable[[], Parts]
    """Gives what is large; after training on a cluster it is read from the folder when it is first asked for."""
    eval_steps: np.ndarray
    """Environment steps of one seed at each evaluation, `[E]`."""
    eval_returns: np.ndarray
    """Mean returns of the evaluations, `[S, E]`."""
    eval_measures: dict[str, np.ndarray]
    """Other means of the evaluations, `[S, E]` each: `length`, and what the environment's info declares."""
    summary: dict[str, Any]
    """The contents of `summary.json`."""
    algorithm: Any
    config: Any
    seeds: np.ndarray
    """Numbers of the seeds, `[S]`: all of them, unless some had not begun before an interrupt."""

    @property
    def states(self) -> Any:
        """The final states, stacked `[S, ...]`: `jax.tree.map(lambda x: x[i], result.states)` is that of seed i."""
        return self.parts().states

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Every update's metrics, `[S, U]` for scalars; `metrics.csv` has the same."""
        return self.parts().metrics

    @property
    def kept(self) -> list[Kept]:
        """What the policies of evaluations act with, if `keep` asked for it; see `policy`."""
        return self.parts().kept

    @property
    def best_seed(self) -> int:
        """The seed with the highest final return; of those that have none, the highest in the latest evaluation."""
        final = np.array([np.nan if x is None else x for x in self.summary["final_return"]["per_seed"]], float)
        latest = self.eval_returns[:, -1] if self.eval_returns.size else np.full(len(final), np.nan)
        scores = final if np.isfinite(final).any() else latest
        return int(self.seeds[np.argmax(np.nan_to_num(scores, nan=-np.inf))])

    @property
    def best(self) -> Policy | RecurrentPolicy:
        """The final policy of the best seed."""
        return self.policy(self.best_seed)

    def policy(self, seed: int, checkpoint: str | int = "last") -> Policy | RecurrentPolicy:
        """The policy of one seed: `(key, obs [N, ...]) -> action [N, ...]`, or a `RecurrentPolicy`.

        Args:
            seed: its number.
            checkpoint: "last" for the final policy; "best" for the one with the seed's highest evaluated return, if
                the run had `keep="best"` or `keep="all"`; with the latter also a number of updates. A return that
                selects a policy overestimates it: evaluate the policy again before reporting.

        Raises:
            UsageError: there is no such seed or policy.
        """
        row = self.row(seed)
        if checkpoint == "last":
            state = jax.tree.map(lambda x: x[row], self.states)
        else:
            like = jax.eval_shape(self.algorithm.init, jax.random.key(0), self.config)
            positions = placement.acting(self.algorithm, self.config)
            state = placement.acting_state(self.kept_at(row, checkpoint).acting(row), positions, like)
        return self.algorithm.act(state, self.config)

    def row(self, seed: int) -> int:
        """Where a seed is in arrays `[S, ...]`; raise `UsageError` if there is none of this number."""
        rows = np.flatnonzero(self.seeds == number("seed", seed, integer=True))
        if not len(rows):
            raise UsageError(f"There is no seed {seed}: there are {len(self.seeds)}, from {self.seeds[0]}.")
        return int(rows[0])

    def kept_at(self, row: int, checkpoint: str | int) -> Kept:
        """What the run in a row acted with at its best evaluation, or at that of a number of updates."""
        if not self.kept:
            raise UsageError('Only the final policies were kept: train with keep="best" or keep="all" (--keep best).')
        if checkpoint == "best":
            return max(self.kept, key=lambda kept: np.nan_to_num(kept.returns[row], nan=-np.inf))
        found = {int(kept.updates[row]): kept for kept in self.kept}
        if checkpoint not in found:
            known = ", ".join(map(str, sorted(found)))
            raise UsageError(f"checkpoint is 'last', 'best' or one of {known}, got {shown(checkpoint)}.")
        return found[int(checkpoint)]

    def watch(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        seeds: int | Sequence[int] | None = None,
        checkpoints: str | int | Sequence[str | int] | None = None,
        episodes: int = 1,
        max_steps: int = 500,
        fps: int = 30,
        policy: str = "greedy",
    ) -> Animation:
        """Animate policies side by side: several seeds, or one at several points of training.

        All of them begin in the same states. A notebook displays the animation, and its `gif()` is the file's contents.

        Args:
            out: file to write, .gif or .mp4; the latter needs the extra `mp4`.
            seeds: a number or several; None for the first four.
            checkpoints: "last", "best" or numbers of updates, as for `policy`, or "all" for six of those that the run
                kept; None for "all" if there is one seed and the run had `keep="all"`, else "last".
            episodes: of each policy, one after the other.
            max_steps: longest part of an episode. Of more than 300 steps some in between are left out.
            fps: pictures a second, at most 50.
            policy: "greedy", or "stochastic" for the one that training collects its data with.

        Raises:
            UsageError: an argument is invalid, there is no such seed or checkpoint, or the file cannot be written.
        """
        return watching.watch(self, out, seeds, checkpoints, episodes, max_steps, fps, policy)

    def evaluate(
        self,
        episodes: int = 100,
        *,
        policy: str = "greedy",
        env: Any = None,
        gymnasium: str | None = None,
        seeds: Sequence[int] | None = None,
        checkpoint: str | int = "last",
        key: int = 0,
    ) -> Assessment:
        """Evaluate the seeds' policies again, in new episodes.

        Args:
            episodes: of each seed.
            policy: "greedy", or "stochastic" for the one that training collects its data with.
            env: another environment of the same spaces, or its id, such as one with other params; None for the one that
                the run trained in.
            gymnasium: the id of an environment of Gymnasium to play in instead; needs the extra `gymnasium`.
            seeds: their numbers; None for all.
            checkpoint: as for `policy`.
            key: of the randomness; all seeds' policies begin in the same states.

        Raises:
            UsageError: an argument is invalid, there is no such seed or checkpoint, or the spaces differ.
        """
        return assessing.assess(self, episodes, policy, env, gymnasium, seeds, checkpoint, key)

    def map(self, path: str | os.PathLike[str] | None = None, seed: int | None = None) -> Any:
        """Plot values and policy of a tabular environment next to the exact ones; returns the matplotlib figure.

        Args:
            path: PNG file to write.
            seed: None for the best seed.

        Raises:
            UsageError: the environment has no exact model, or a wrapper changes it.
        """
        return watching.plot_map(self, path, seed)

    def frame(self, evaluations: bool = False) -> Any:
        """A pandas DataFrame: a row for each run and update, or for each run and evaluation.

        Raises:
            UsageError: pandas is not installed.
        """
        return tables.frame([_table(self, evaluations)])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Plot the learning curve: to a PNG file if there is a path; returns the matplotlib figure."""
        title, quantity = console.title(self.summary), console.quantity(self.summary)
        return plot.learning_curve(path, self.eval_steps, self.eval_returns, title, quantity)

    def __repr__(self) -> str:
        return f"Result({console.line(self.summary)})"

    def _repr_html_(self) -> str:
        return html.page(self.summary, self.plot() if len(self.eval_steps) else None)


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """The results of a sweep, one for each configuration in the order of the grid."""

    points: tuple[dict[str, Any], ...]
    """The values of the swept fields."""
    configs: tuple[Any, ...]
    """The configs with these values."""
    results: tuple[Result | None, ...]
    """None for a configuration that had not begun before an interrupt."""
    summary: dict[str, Any]
    """The contents of `summary.json`. Its `best` is the best configuration among those that had the largest part of
    their updates; there is none with one seed or for a sweep of environments. After an interrupt it is provisional, and
    missing if fewer than two can be compared."""

    @property
    def best_configuration(self) -> int | None:
        """The best configuration's place in `results`, chosen on one half of the seeds; None where there is none."""
        found = self.summary.get("best")
        return None if found is None else int(found["configuration"])

    if not TYPE_CHECKING:  # a type checker knows that these are missing

        def __getattr__(self, name: str) -> Any:
            """Say where to find what only the result of one configuration has.

            Raises:
                AttributeError: always.
            """
            if name.startswith("_") or not hasattr(Result, name):
                raise AttributeError(f"A Sweep has no {name!r}.")
            raise AttributeError(
                f"A sweep has no {name}, which each of its results has: take one, such as "
                f"sweep.results[{self.best_configuration or 0}].{name}."
            )

    def frame(self, evaluations: bool = False) -> Any:
        """A pandas DataFrame like `Result.frame`, with the configuration and the values of the swept fields.

        Raises:
            UsageError: pandas is not installed.
        """
        parts: list[dict[str, Any]] = []
        for configuration, (values, result) in enumerate(zip(self.points, self.results, strict=True)):
            if result is not None:
                columns = _table(result, evaluations, self.summary["seeds"], configuration)
                parts.append(columns | {path: [value] * len(columns["run"]) for path, value in values.items()})
        return tables.frame(parts)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Plot the learning curves of the ten best configurations, as `Result.plot` does."""
        return plot.learning_curves(path, self.curves(), console.title(self.summary), console.quantity(self.summary))

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Environment steps and returns of each configuration that was evaluated, by a label of its values."""
        labels = [console.label(values) for values in self.points]
        times = collections.Counter(labels)
        return {
            label if times[label] == 1 else f"{label} ({point})": (result.eval_steps, result.eval_returns)
            for point, (label, result) in enumerate(zip(labels, self.results, strict=True))
            if result is not None and len(result.eval_steps)
        }

    def __repr__(self) -> str:
        return f"Sweep({console.line(self.summary)})"

    def _repr_html_(self) -> str:
        return html.page(self.summary, self.plot() if self.curves() else None)


def _table(result: Result, evaluations: bool, seeds: int = 0, configuration: int | None = None) -> dict[str, Any]:
    """A result's metrics or evaluations as columns."""
    is_sweep = configuration is not None
    runs = Runs(np.full(len(result.seeds), configuration or 0), result.seeds)
    if evaluations:
        evaluated = {"return": result.eval_returns, **result.eval_measures}
        return tables.of_evaluations(runs, result.eval_steps, evaluated, seeds, is_sweep)
    return tables.of_metrics(runs, 0, result.metrics, seeds, is_sweep)


class Interrupted(KeyboardInterrupt):
    """Raised after Ctrl-C, SIGTERM or SIGHUP, once the results so far are written.

    `result` holds them, or None if a cluster had not begun any run; `signal` is the number of the signal.
    """

    def __init__(self, message: str, result: Result | Sweep | None, signal: int = SIGINT) -> None:
        super().__init__(message)
        self.result = result
        self.signal = signal


class NotWritten(UsageError):
    """A run that finished, but whose files could not be written; `result` holds it."""

    def __init__(self, message: str, result: Result | Sweep) -> None:
        super().__init__(message)
        self.result = result
