"""Training a population: batch after batch within the memory there is, saved along the way."""

import dataclasses
import itertools
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import checkpoints, devices, driver, fitting, hosts, programs, sweeps
from rljax.errors import UsageError
from rljax.plan import Batch, Population, batches, divided
from rljax.record import Record
from rljax.report import console, statistics
from rljax.results import Interrupted, Result, Sweep, Trained, result_of, write, write_curves
from rljax.supervision import interrupts

_MOST_UPDATES = 1024  # of one call of `advance`: what its metrics hold
_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


@dataclasses.dataclass
class _Done:
    """What has been trained; it outlives an error in what comes next."""

    trained: list[Trained] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0


def states_of(population: Population, saved: checkpoints.Saved, lanes: int) -> tuple[Any, Any]:
    """The states that a batch's checkpoint holds, over so many lanes, and their axes."""
    config = population.points[saved.record.runs[0, 0]].config
    like = jax.eval_shape(population.algorithm.init, jax.random.key(0), config)
    return driver.restore(saved.leaves, saved.axes, like, lanes)


def train(population: Population, saved: list[checkpoints.Saved], peers: hosts.Peers) -> Result | Sweep:
    """Train batch after batch, and put together and write what comes out."""
    groups = sweeps.groups(list(population.points))
    runs = len(population.points) * population.seeds
    updates = sum(population.updates(group) for group in groups)
    if population.progress and population.fields:
        _say_plan(population, groups)
    pending = batches(population, groups, saved, peers.processes)
    if not peers.is_alone:
        pending = [batch for batch in pending if not batch.is_done(population)][peers.process :: peers.processes]
        updates = sum(len(batch.runs) * batch.until(population) for batch in pending)
    pending = [part for batch in pending for part in fitting.in_turn(population, batch)]
    numbers = itertools.count(max((int(one.place) for one in saved), default=-1) + 1 + peers.process, peers.processes)
    with interrupts() as pressed:

        def interrupted() -> bool:
            return pressed() or peers.lost() is not None

        peers.reach(hosts.READ)
        peers.wait(hosts.READ, pressed)  # nobody writes before all have read the same
        so_far = _Done()
        try:
            with console.progress_bar(f"{population.title} x {runs}", max(updates, 1), population.progress) as show:
                shared = devices.memory(population.mesh.devices.flat, population.memory_limit, peers.here)
                _train_batches(population, pending, so_far, numbers, shared, show, interrupted)
        except Exception as error:
            if peers.is_alone and population.folder is not None:
                _keep(population, population.folder, groups, pending, so_far, error)
            raise
        trained = so_far.trained if peers.is_alone else _merged(population, groups, peers, pressed)
        result = result_of(population, trained, so_far.compile_seconds, peers.processes)
        if peers.process == 0:
            try:
                if population.folder is not None:
                    write(population, population.folder, result, trained)
            finally:
                if population.progress:
                    console.print_summary(result.summary)
        if pressed() or (interrupted() and result.summary["interrupted"]):
            finished = sum(len(t.record.runs) * t.record.updates for t in trained)
            waiting = runs - sum(len(t.record.runs) for t in trained)
            mean = " on average" if waiting or len({t.record.updates for t in trained}) > 1 else ""
            mean += f", {waiting:,} of {runs:,} runs not begun" if waiting else ""
            kept = "" if population.folder is None else f"; what is done is in {population.folder}"
            if population.checkpoint_every is not None and result.summary["interrupted"]:
                kept += f", and `rljax resume {population.folder}` goes on"
            raise Interrupted(f"stopped after {finished // runs:,} of {updates // runs:,} updates{mean}{kept}.", result)
    return result


def _keep(
    population: Population,
    folder: pathlib.Path,
    groups: list[sweeps.Group],
    pending: list[Batch],
    so_far: _Done,
    error: Exception,
) -> None:
    """Write what was done before an error, and say so in a note on it."""
    try:
        runs = {tuple(run) for t in so_far.trained for run in t.record.runs.tolist()}
        in_memory = [batch.saved for batch in pending if batch.saved is not None]
        saved = in_memory if population.checkpoint_every is None else checkpoints.load(folder)
        planned = batches(population, groups, saved)
        others = [batch for batch in planned if runs.isdisjoint(map(tuple, batch.runs.tolist()))]
        trained = [*so_far.trained, *_begun(population, others)]
        if not trained:
            return
        write(population, folder, result_of(population, trained, so_far.compile_seconds), trained)
    except Exception as failure:  # whatever it is, it must not hide the error
        error.add_note(f"What was done before could not be written ({failure}).")
        return
    done, whole = sum(len(t.record.runs) for t in trained), len(population.points) * population.seeds
    goes_on = "" if population.checkpoint_every is None else f", and `rljax resume {folder}` goes on"
    error.add_note(f"What was done before, of {done:,} of {whole:,} runs, is in {folder}{goes_on}.")


def _begun(population: Population, pending: list[Batch]) -> list[Trained]:
    """Of batches to come what their checkpoints hold: nothing of one before its first update."""
    begun = [batch for batch in pending if batch.saved is not None and batch.saved.record.updates]
    return [_from_checkpoint(population, batch)[0] for batch in begun]


def _merged(
    population: Population, groups: list[sweeps.Group], peers: hosts.Peers, pressed: Callable[[], bool]
) -> list[Trained]:
    """What all processes have trained, once all have: as their checkpoints in the folder hold it.

    Raises:
        Interrupted: Ctrl-C.
        PeerLost: another process died or stopped, or could not write.
    """
    assert population.folder is not None
    goes_on = f"start all processes again with `rljax resume {population.folder}`."
    if not pressed() and peers.lost() is None:
        peers.reach(hosts.DONE)
        peers.wait(hosts.DONE, pressed)
    if pressed():
        raise Interrupted(f"stopped; what is done is saved: {goes_on}", None)
    if peers.lost() is not None:
        raise hosts.PeerLost(f"{peers.lost()} What is done is saved: {goes_on}")
    saved = checkpoints.load(population.folder)
    for one in saved:
        population.check_own(one)
    merged = batches(population, groups, saved)
    if not all(batch.is_done(population) for batch in merged):
        raise hosts.PeerLost(f"Not every process could write what it trained: make room, and {goes_on}")
    return [_from_checkpoint(population, batch)[0] for batch in merged]


def _train_batches(
    population: Population,
    pending: list[Batch],
    so_far: _Done,
    numbers: Iterator[int],
    available: int | None,
    show: console.Progress,
    interrupted: Callable[[], bool],
) -> None:
    """Train the batches, those that they are split into, and those of the runs that a rung leaves.

    Each is in `pending` until it is done, and then in `so_far`; an error leaves its batch the first that is pending.
    """
    trained = so_far.trained
    last: checkpoints.Saved | None
    while pending and not (trained and interrupted()):
        batch = pending[0]
        try:
            if batch.is_done(population):
                done, last = _from_checkpoint(population, batch)
            else:
                started = time.perf_counter()
                compiled = _compile(population, batch)
                so_far.compile_seconds += time.perf_counter() - started
                lanes = fitting.lanes_that_fit(population, batch, compiled.programs.memory, available)
                if lanes < batch.lanes:
                    pending[:1] = fitting.split(population, batch, lanes, compiled.programs.memory, available)
                    continue
                if population.progress and population.fields and not _is_known(batch, trained):
                    _say_batch(population, batch, compiled, available, [] if trained else pending[1:])
                batch = batch._replace(place=batch.place or f"{next(numbers):04d}")
                done, last = _train_batch(population, batch, compiled, trained, pending[1:], show, interrupted)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            pending[:1] = fitting.halved(population, batch)
            if population.folder is not None and batch.place:
                shutil.rmtree(batch.folder(population), ignore_errors=True)
            continue
        survivors: list[Batch] = []
        if population.halving is not None and not batch.dropped and not interrupted():
            assert last is not None
            done, survivors = _select(population, batch, done, last, numbers)
        pending[:1] = survivors
        trained.append(done)
    trained += _begun(population, pending)  # where an interrupt ended it
    if any(t.record.updates for t in trained):  # one that was interrupted before its first update is none of them
        trained[:] = [t for t in trained if t.record.updates]


def _is_known(batch: Batch, trained: list[Trained]) -> bool:
    """Whether one like it has been trained, of which it was said what it takes."""
    return any(t.batch.group is batch.group and t.batch.lanes == batch.lanes for t in trained)


def _select(
    population: Population, batch: Batch, done: Trained, saved: checkpoints.Saved, numbers: Iterator[int]
) -> tuple[Trained, list[Batch]]:
    """At a rung of successive halving: what is over, and the batch, if any, of the runs that go on."""
    rungs = population.rungs(batch.group, batch.num_updates(population))
    if batch.rung >= len(rungs) or done.record.updates < rungs[batch.rung][0]:
        return done, []
    of_run, returns = batch.runs[:, 0], done.final.mean(axis=1)
    # By the seeds that the best configuration will be chosen by, so that it is reported on others still.
    chosen_on = batch.runs[:, 1] % 2 == 0
    scores = {point: statistics.score(returns[chosen_on & (of_run == point)]) for point in np.unique(of_run).tolist()}
    best = sorted(scores, key=lambda point: -scores[point])[: rungs[batch.rung][1]]
    kept, dropped = np.flatnonzero(np.isin(of_run, best)), np.flatnonzero(~np.isin(of_run, best))
    lanes = divided(len(kept), population.lane_devices)
    part = saved.rows(kept)._replace(lanes=lanes, rung=batch.rung + 1)
    survivors = Batch(batch.group, batch.runs[kept], lanes, part, batch.rung + 1, place=f"{next(numbers):04d}")
    if population.checkpoint_every is not None:
        _save(population, survivors, part)
    states = jax.tree.map(lambda x: x[dropped], done.states)
    over = Trained(batch, done.record.rows(dropped), states, done.final[dropped], done.record.updates)
    return over, [survivors]


def _save(population: Population, batch: Batch, saved: checkpoints.Saved) -> None:
    """Write a batch's checkpoint; what cannot be written is said, and the run goes on."""
    try:
        checkpoints.save(batch.folder(population), saved)
    except UsageError as error:
        console.say(f"{error} The run goes on.")


def _from_checkpoint(population: Population, batch: Batch) -> tuple[Trained, checkpoints.Saved]:
    """A batch as its checkpoint holds it; its final returns are NaN where it was saved on the way there."""
    saved = batch.saved
    assert saved is not None
    states, axes = states_of(population, saved, len(batch.runs))
    states = jax.tree.map(_on_host, driver.stacked(states, axes, saved.record))
    final = np.full((len(batch.runs), 1), np.nan) if saved.final is None else saved.final
    num_updates = saved.record.updates if batch.dropped else batch.num_updates(population)
    return Trained(batch, saved.record, states, final, num_updates), saved


def _say_plan(population: Population, groups: list[sweeps.Group]) -> None:
    points, seeds = len(population.points), population.seeds
    compiles = f"{len(groups)} compiled program{'s' * (len(groups) > 1)}"
    console.say(f"{points} configurations x {seeds} seeds = {points * seeds} runs, by {compiles}.")


def _say_batch(
    population: Population, batch: Batch, compiled: "_Compiled", available: int | None, others: list[Batch]
) -> None:
    """What a batch will take: memory by the compiler, time by one update that is thrown away; and at first all of them.

    The others are taken to need as long for an update of a run as this one.
    """
    built, lanes, _ = compiled
    keys, states = driver.wait(built.init, lanes.keys, lanes.config)
    started = time.perf_counter()
    driver.wait(built.advance, keys.updates, states, lanes.config, np.int32(0), np.int32(1))
    seconds = (time.perf_counter() - started) * batch.until(population)
    work = [len(one.runs) * one.until(population) for one in (batch, *others)]
    whole = f", all {len(work)} batches about {console.duration(seconds * sum(work) / work[0])}" if others else ""
    there = "" if available is None else f" of the {devices.readable(available)} there are"
    console.say(
        f"{len(batch.runs)} runs of {batch.until(population):,} updates side by side: "
        f"{devices.readable(built.memory)}{there} on each of {population.mesh.size} devices, "
        f"about {console.duration(seconds)} and the evaluations{whole}."
    )


class _Compiled(NamedTuple):
    programs: programs.Programs
    lanes: driver.Lanes
    capacity: int


def _compile(population: Population, batch: Batch) -> _Compiled:
    num_updates = batch.num_updates(population)
    lanes = driver.lanes(batch.group, batch.runs, batch.lanes, population.keys)
    capacity = min(int(np.diff([0, *population.marks(num_updates), num_updates]).max()), _MOST_UPDATES)
    episodes = min(population.eval_episodes, _EVALUATION_BATCH)
    built = programs.build(
        population.algorithm, lanes.config, lanes.axes, lanes.keys, population.mesh, capacity, episodes
    )
    return _Compiled(built, lanes, capacity)


def _train_batch(
    population: Population,
    batch: Batch,
    compiled: _Compiled,
    earlier: list[Trained],
    later: list[Batch],
    show: console.Progress,
    interrupted: Callable[[], bool],
) -> tuple[Trained, checkpoints.Saved | None]:
    """One batch to its final evaluation, earlier when interrupted: its outcome, and what a rung goes on from."""
    built, lanes, capacity = compiled
    num_updates, saved = batch.num_updates(population), batch.saved
    # A copy, so that what is saved stays as it is where an error ends the batch.
    record = Record(batch.runs) if saved is None else saved.record.rows(np.arange(len(batch.runs)))
    before = sum(len(t.record.runs) * t.record.updates for t in earlier)
    written = time.perf_counter()

    def landed(record: Record) -> None:
        rate = len(record.runs) * record.env_steps / record.seconds
        show(before + len(record.runs) * record.updates, rate, record.latest_return)

    def evaluated(record: Record) -> None:
        if population.folder is not None and population.is_first:
            saved_ones = (one.saved.record for one in later if one.saved is not None)
            write_curves(population, population.folder, [*(t.record for t in earlier), record, *saved_ones])

    def taken(states: Any, final: np.ndarray | None = None) -> checkpoints.Saved:
        leaves, axes = driver.capture(states, built.axes, len(batch.runs))
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        return checkpoints.Saved(record, leaves, axes, data, final, batch.lanes, population.about, batch.rung)

    def safe(record: Record, states: Any) -> None:
        nonlocal written
        every = population.checkpoint_every
        if every is not None and time.perf_counter() - written >= every:
            _save(population, batch, taken(states))
            written = time.perf_counter()

    hooks = driver.Hooks(landed, evaluated, safe, interrupted)
    keys, *start = driver.wait(built.init, lanes.keys, lanes.config)
    if saved is not None:
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        if not np.array_equal(data, saved.keys):
            raise UsageError("JAX makes other keys here than where this run was begun: check jax_default_prng_impl.")
        start = [states_of(population, saved, len(lanes.keys))[0]]
    until = batch.until(population)
    marks = tuple(u for u in population.marks(num_updates, record.eval_updates) if u <= until)
    states = driver.train(built, lanes, keys, start, record, marks, until, capacity, hooks)
    episodes = population.eval_episodes
    saves = population.checkpoint_every is not None
    stopped = interrupted()  # asked once: what comes while the end is evaluated does not stop it any more
    if stopped:
        episodes = min(episodes, _EVALUATION_BATCH)
        if saves:
            _save(population, batch, taken(states))
    final = driver.evaluate(built, lanes, keys, states, len(batch.runs), episodes)
    last = taken(states, final) if saves or population.halving is not None else None
    if saves and not stopped:
        assert last is not None
        _save(population, batch, last)
    states = driver.stacked(states, built.axes, record)
    if len(batch.runs) < len(population.points) * population.seeds:  # the devices are for the batches to come
        states = jax.tree.map(_on_host, states)
    return Trained(batch, record, states, final, num_updates), last


def _on_host(x: jax.Array) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
