"""`rljax doctor`: what is likely broken in a run, from what it recorded and from what its policies do."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from rljax import envs
from rljax.envs import Box, Env
from rljax.errors import UsageError, shown
from rljax.experiment import loading, manifest
from rljax.experiment.description import describe
from rljax.experiment.results import Result, Sweep
from rljax.report import compare, console, findings, known_returns, probing, rollouts, runs, scores
from rljax.report.compare import Random
from rljax.report.evidence import Evidence, Finding, finding, not_learned, of_seeds, where
from rljax.report.probing import Probe
from rljax.report.runs import Entry

LARGE_OBSERVATION, SMALL_OBSERVATION = 100.0, 0.01  # networks are initialised for inputs near 1 (LeCun et al. 1998)
UNEQUAL_OBSERVATIONS = 1000.0  # standard deviations of two entries; MountainCar's raw ones differ by a factor of 20
CONSTANT_PART = 0.5  # of a vector's entries; of images many are constant in a healthy run
SAME_ACTION, AT_BOUNDS = 0.999, 0.99
DEAD = 0.75  # of a layer's units; in healthy runs up to 0.77, in the critic of PPO on a solved CartPole
FEWEST_EPISODES = 8  # for a statement about their ends
LONGEST_PART = 0.5  # of the episodes that terminate at the longest length
USUAL = 0.1  # terminal observations outside the range of the others, if the step itself ends episodes
MOST_LENGTHS = 3  # of truncated episodes; a time limit has one
_MOST_SHOWN = 3  # runs or configurations with a finding in a report

Diagnosis = dict[str, list[Finding]]  # by the label of a run or configuration


def doctor(
    run: str | os.PathLike[str] | Result | Sweep, *, algorithm: Any = None, env: Any = None, plays: bool = True
) -> list[Finding]:
    """Find what is likely broken in a run: a list of findings, empty for a healthy run.

    Args:
        run: the folder of a run, or a `Result`. Of a sweep, the findings of all configurations are joined.
        algorithm, env: those of a run of custom code, whose folder does not hold them. Without them only the files are
            read, and a sentence says so.
        plays: also play the final policies for 512 steps, and compare their parameters with the initial ones, which
            compiles for some seconds.

    Raises:
        UsageError: the folder holds no run, what is given is no run, or `algorithm` is no algorithm.
    """
    if isinstance(run, Result):
        return list(of_result(run, plays))
    if isinstance(run, Sweep):
        return [found for one in run.results if one is not None for found in of_result(one, plays=False)]
    if not isinstance(run, str | os.PathLike):
        raise UsageError(f"doctor() takes the folder of a run or its Result, got {shown(run)}.")
    if algorithm is not None and not hasattr(algorithm, "Config"):
        raise UsageError(f"algorithm must be a module such as rljax.ppo, got {shown(algorithm)}.")
    given = {name: value for name, value in (("algorithm", algorithm), ("env", env)) if value is not None}
    made = None if env is None else envs.make(env)
    code: rollouts.Code | None = (lambda _: given) if plays else None
    with runs.fetched([run]) as local:
        diagnosis = of_entries(runs.read(local), compare.randoms(lambda _: made), code)
    return [found for listed in diagnosis.values() for found in listed]


def of_entries(entries: Sequence[Entry], random: Random, code_of: rollouts.Code | None) -> Diagnosis:
    """The findings of entries by their labels.

    Args:
        entries: of runs; the policies of a sweep's configurations are not played.
        random: as for `compare.of_entries`.
        code_of: gives the custom code of an entry, as for `rollouts.of_entries`; None to play nothing.
    """
    return {entry.label: list(_of_entry(entry, random(entry), code_of)) for entry in entries}


def _of_entry(entry: Entry, random: float | None, code_of: rollouts.Code | None) -> Iterator[Finding]:
    evidence = of_run(entry, random)
    result = None
    if code_of is not None and entry.recorded.sweep is None and entry.is_final:
        try:
            result = loading.result_of(entry.folder, **code_of(entry))
        except UsageError as error:
            console.say(f"The policies of {entry.label} were not played: {error}")
    if result is not None:
        evidence = _with_actions(evidence, result.config.env)
    yield from findings.of(evidence)
    if result is not None:
        yield from _of_policies(result, evidence, entry.recorded.options.seed, entry.recorded.options.seeds)


def of_run(entry: Entry, random: float | None) -> Evidence:
    """What the files of a run say."""
    name = entry.env.partition("(")[0].strip()
    metrics = entry.metrics
    env = None
    if not manifest.is_custom(entry.recorded):
        env = manifest.env_of(entry.recorded, entry.configuration)
    return _with_actions(
        Evidence(
            config=entry.config,
            seeds=entry.seeds,
            metrics=metrics,
            num_updates=metrics["update"].shape[1] if metrics else 1,
            eval_returns=entry.eval_returns,
            final=entry.final if entry.is_final else None,
            other_env=entry.recorded.eval_env is not None,
            random=random,
            reference=known_returns.REFERENCES.get(name),
            diverged=tuple(run["seed"] for run in entry.summary.get("diverged", ())),
        ),
        env,
    )


def of_result(result: Result, plays: bool = True, random: float | None = None) -> Iterator[Finding]:
    """The findings of a result; the random policy's return is looked up or measured unless it is given."""
    env = result.config.env
    name = env.name if env.recipe[0] is not None else ""
    if random is None:
        random = known_returns.RANDOM.get(env.label if name else "")
    evidence = Evidence(
        config=describe(result.config),
        seeds=result.seeds,
        metrics=result.metrics,
        num_updates=result.metrics["env_steps"].shape[1],
        eval_returns=result.eval_returns,
        final=np.array([np.nan if x is None else x for x in result.summary["final_return"]["per_seed"]], float),
        other_env=result.summary.get("eval_env") is not None,
        random=scores.random_return(env) if random is None and plays else random,
        reference=known_returns.REFERENCES.get(name),
        diverged=tuple(run["seed"] for run in result.summary["diverged"]),
    )
    evidence = _with_actions(evidence, env)
    yield from findings.of(evidence)
    if plays:
        yield from _of_policies(result, evidence, result.summary.get("seed"), result.summary["seeds"])


def _with_actions(evidence: Evidence, env: Env | None) -> Evidence:
    """With the number of dimensions of the environment's actions."""
    if env is None:
        return evidence
    space = env.action_space
    dimensions = int(np.prod(space.shape)) if isinstance(space, Box) else 0
    return dataclasses.replace(evidence, dimensions=dimensions)


def _of_policies(result: Result, evidence: Evidence, seed: int | None, seeds: int) -> Iterator[Finding]:
    """The findings that need the final states."""
    rows = np.arange(min(len(result.seeds), probing.MOST_SEEDS))
    final = None if evidence.final is None else evidence.final[rows]
    played = dataclasses.replace(evidence, seeds=evidence.seeds[rows], final=final)
    if seed is not None:
        yield from _still(result, rows, seed, seeds)
    if (steps := probing.fed(result)) is not None and steps[0] < 0.99 * steps[1]:
        text = f"The replay buffer got {steps[0]:,} steps of each environment, and the run has {steps[1]:,}."
        yield finding("replay-stale", text)
    yield from of_probe(probing.play(result, rows), played)


def _still(result: Result, rows: np.ndarray, seed: int, seeds: int) -> Iterator[Finding]:
    parameters, targets = probing.still(result, rows, seed, seeds)
    if parameters:
        named = ", ".join(list(parameters)[:4]) + (", ..." if len(parameters) > 4 else "")
        text = f"{len(parameters)} parameters are the initial ones: {named}."
        yield finding("parameters-still", text, sorted({seed for held in parameters.values() for seed in held}))
    if targets:
        yield finding("target-still", "All parameters of the target network are the initial ones.", targets)


def of_probe(probe: Probe, evidence: Evidence) -> Iterator[Finding]:
    """The findings in what policies do; `evidence` is that of the seeds that were played."""
    holds = not_learned(evidence)
    unknown = evidence.random is None  # then what follows is reported for any return
    yield from _observations(probe, evidence)
    same = (probe.most_frequent > SAME_ACTION) & (holds | unknown)
    yield from where(
        evidence, "actions-same", same, "The policy took one action in {:.0%} of the steps.", probe.most_frequent
    )
    at_bounds = (probe.at_bounds > AT_BOUNDS) & (holds | unknown) & ~same
    text = "{:.0%} of the actions were at a bound."
    yield from where(evidence, "actions-at-bounds", at_bounds, text, probe.at_bounds)
    if probe.dead:
        worst = np.max(list(probe.dead.values()), axis=0)
        name = max(probe.dead, key=lambda layer: float(probe.dead[layer].max()))
        text = f"{{:.0%}} of the units of a layer, such as {name}, were dead or saturated in all states."
        yield from where(evidence, "dead-units", (worst >= DEAD) & (holds | unknown), text, worst)
    yield from _ends(probe, evidence)


def _observations(probe: Probe, evidence: Evidence) -> Iterator[Finding]:
    if not probe.low.shape[1]:
        return
    size = np.maximum(np.abs(probe.low), np.abs(probe.high))
    largest = size.max(axis=1)
    text = "An entry of the observations reached {}."
    yield from where(evidence, "observations-unscaled", largest > LARGE_OBSERVATION, text, largest)
    constant = (probe.low == probe.high).mean(axis=1)
    small = (largest < SMALL_OBSERVATION) & (constant < 1)
    yield from where(evidence, "observations-unscaled", small, "No entry of the observations was above {}.", largest)
    moving = np.where(probe.deviation > 0, probe.deviation, np.nan)
    if probe.is_vector and np.isfinite(moving).any(axis=1).all():
        ratio = np.nanmax(moving, axis=1) / np.nanmin(moving, axis=1)
        unequal = (ratio > UNEQUAL_OBSERVATIONS) & (largest <= LARGE_OBSERVATION)
        yield from where(
            evidence, "observations-unscaled", unequal, "One entry varied {} times as much as another.", ratio
        )
    text = "{:.0%} of the entries of the observations never changed."
    holds = constant >= (CONSTANT_PART if probe.is_vector else 1.0)
    yield from where(evidence, "observations-constant", holds, text, constant)


def _ends(probe: Probe, evidence: Evidence) -> Iterator[Finding]:
    longest = np.array([one.max() if len(one) else 0 for one in probe.lengths])
    parts = np.array([np.mean(one == one.max()) if len(one) else 0.0 for one in probe.lengths])
    many = np.array([len(one) >= FEWEST_EPISODES for one in probe.lengths])
    holds = many & (parts > LONGEST_PART) & (longest > 1) & (probe.unusual < USUAL)
    text = "{:.0%} of the episodes terminated after exactly {} steps, in states like earlier ones."
    yield from where(evidence, "ends-mixed-up", holds, text, parts, longest)
    kinds = np.array([len(np.unique(one)) for one in probe.truncated_lengths])
    several = kinds > MOST_LENGTHS
    yield from where(evidence, "ends-mixed-up", several, "Episodes were truncated at {} lengths.", kinds)


def show(diagnosis: Diagnosis) -> None:
    """Print the findings of each run."""

    def draw(terminal: Any) -> None:
        from rich.markup import escape as plain

        for label, found in diagnosis.items():
            count = f"{len(found)} finding{'s' * (len(found) != 1)}"
            terminal.print(
                f"[bold]{plain(label)}[/bold]: {count if found else 'nothing is found that is likely broken'}"
            )
            for one in found:
                terminal.print(f"\n  [bold]{one.name}[/bold]{of_seeds(one)}")
                for head, text in (
                    ("seen", one.evidence), ("threshold", one.threshold), ("try", one.remedy), ("more", one.link)
                ):  # fmt: skip
                    terminal.print(_indented(head, text))
            terminal.print()

    console.print_with(draw)


def _indented(head: str, text: str) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(width=13)
    table.add_column()
    table.add_row(f"    {head}", text)
    return table


def rows(diagnosis: Diagnosis) -> list[str]:
    """The findings as HTML, for the items of a list: one of each name, with the runs that it is found in."""
    named: dict[str, list[tuple[str, Finding]]] = {}
    for label, listed in diagnosis.items():
        for found in listed:
            named.setdefault(found.name, []).append((label, found))
    return [_row(name, places) for name, places in named.items()]


def _row(name: str, places: Sequence[tuple[str, Finding]]) -> str:
    lines = [f"{of_seeds(found)} in {escape(label)}: {escape(found.evidence)}" for label, found in places[:_MOST_SHOWN]]
    if more := len(places) - len(lines):
        lines.append(f" in {more} other{'s' * (more > 1)}, which `rljax doctor` prints.")
    about = places[0][1]
    advice = [f"Threshold: {escape(about.threshold)}.", f"Try: {escape(about.remedy)}"]
    return "<br>".join([f"<b>{name}</b>{lines[0]}", *(f"also{line}" for line in lines[1:]), *advice])
