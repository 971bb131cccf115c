"""What a run recorded, as the doctor's rules read it, and what they find."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rljax.report import remedies

LEARNED = 0.2  # of the way from the random policy's return to the reference's


class Finding(NamedTuple):
    """Something that is likely broken in a run."""

    name: str
    """Of its section in `docs/doctor.md`, such as "entropy-collapse"."""
    seeds: tuple[int, ...]
    """Numbers of the seeds that it holds for; empty if it holds for the whole run."""
    evidence: str
    """One sentence with the numbers; over several seeds their medians."""
    threshold: str
    """What is compared with what."""
    remedy: str
    """What to try first."""

    @property
    def link(self) -> str:
        """Where it is explained."""
        return f"docs/doctor.md#{self.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What S seeds of one configuration have recorded so far."""

    config: Mapping[str, Any]
    """As `config.json` has it."""
    seeds: np.ndarray
    """Their numbers, `[S]`."""
    metrics: Mapping[str, np.ndarray]
    """`[S, U]` of the U updates so far."""
    num_updates: int
    """Of a whole run."""
    eval_returns: np.ndarray
    """`[S, E]`."""
    final: np.ndarray | None = None
    """Final returns `[S]`, or the latest ones; None while it trains."""
    other_env: bool = False
    """True if it is evaluated in another environment than it trains in."""
    random: float | None = None
    """The random policy's return."""
    reference: float | None = None
    """The return that counts as good."""
    diverged: tuple[int, ...] = ()
    """Numbers of the seeds that diverged."""
    dimensions: int | None = None
    """Of continuous actions; 0 if they are discrete, None if that is unknown."""

    @property
    def is_complete(self) -> bool:
        """True if the seeds are trained to the end."""
        return self.final is not None

    def number(self, field: str) -> float | None:
        """A number of the config; None for another value, such as a schedule."""
        value = self.config.get(field)
        return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)

    def is_wrapped(self, wrapper: str) -> bool:
        """True if the environment has a wrapper."""
        env = self.config.get("env")
        return isinstance(env, dict) and wrapper in (env.get("wrappers") or ())

    def part(self, name: str, start: float, end: float) -> np.ndarray:
        """A metric's mean `[S]` over a part of the whole run; NaN where it has no finite value, or is not complete."""
        values = self.metrics.get(name)
        first = int(start * self.num_updates)
        last = max(int(end * self.num_updates), first + 1)
        if values is None or values.ndim != 2 or last > max(values.shape[1], 1):
            return np.full(len(self.seeds), np.nan)
        return mean(values[:, first:last])

    def windows(self, name: str, count: int = 10) -> np.ndarray:
        """A metric's means `[S, count]` over equal parts of the whole run; NaN for those to come."""
        return np.stack([self.part(name, i / count, (i + 1) / count) for i in range(count)], axis=1)


def finding(name: str, evidence: str, seeds: Any = ()) -> Finding:
    """A finding with its documented threshold and remedy."""
    about = remedies.ABOUT[name]
    return Finding(name, tuple(int(seed) for seed in seeds), evidence, about.threshold, about.remedy)


def sentence(found: Finding) -> str:
    """A finding in one line, as it is printed while a run trains."""
    return f"{found.name}: {found.evidence}{of_seeds(found)} {found.remedy} See {found.link}."


def of_seeds(found: Finding) -> str:
    """The seeds of a finding in brackets, or nothing."""
    if not found.seeds:
        return ""
    some = ", ".join(map(str, found.seeds[:10])) + (", ..." if len(found.seeds) > 10 else "")
    return f" (seed{'s' * (len(found.seeds) > 1)} {some})"


def where(evidence: Evidence, name: str, holds: np.ndarray, sentence: str, *numbers: np.ndarray) -> Iterator[Finding]:
    """A finding for the seeds for which it `holds` `[S]`, with the medians of their numbers `[S]`.

    The sentence has `{}` for a number and `{:.0%}` for a fraction.
    """
    if holds.any():
        medians = [float(np.nanmedian(one[holds])) for one in numbers]
        yield finding(name, sentence.format(*map(_Number, medians)), evidence.seeds[holds])


class _Number(float):
    def __format__(self, form: str) -> str:
        return super().__format__(form) if form else shown(self)


def shown(value: float) -> str:
    """A number in a sentence: three digits."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def not_learned(evidence: Evidence) -> np.ndarray:
    """Seeds `[S]` whose final return is hardly better than the random policy's; False where that is unknown."""
    if evidence.final is None or evidence.random is None:
        return np.zeros(len(evidence.seeds), bool)
    return evidence.final <= bar(evidence.random, evidence.reference)


def bar(random: float, reference: float | None) -> float:
    """The return that a policy which learned exceeds."""
    distance = abs(random) if reference is None else reference - random
    return random + LEARNED * distance


def mean(values: np.ndarray) -> np.ndarray:
    """The means `[S]` of the finite values in each row; NaN without any."""
    finite = np.isfinite(values)
    totals, counts = np.where(finite, values, 0.0).sum(axis=1), finite.sum(axis=1)
    return np.divide(totals, counts, out=np.full(len(values), np.nan), where=counts > 0)


def highest(windows: np.ndarray) -> np.ndarray:
    """The highest of the windows `[S, W]` that there are so far; NaN without any."""
    return np.where(np.isfinite(windows).any(axis=1), np.max(np.nan_to_num(windows, nan=-np.inf), axis=1), np.nan)
