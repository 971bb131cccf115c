"""Training a population: batch after batch within the memory there is, saved along the way."""

import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import checkpoints, devices, driver, programs, sweeps
from rljax.errors import UsageError
from rljax.plan import Batch, Population, batches
from rljax.record import Record
from rljax.report import console
from rljax.results import Interrupted, Result, Sweep, Trained, result_of, write, write_curves
from rljax.supervision import interrupts

_MOST_UPDATES = 1024  # of one call of `advance`: what its metrics hold
_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


def states_of(population: Population, saved: checkpoints.Saved, lanes: int) -> tuple[Any, Any]:
    """The states that a batch's checkpoint holds, over so many lanes, and their axes."""
    config = population.points[saved.record.runs[0, 0]].config
    like = jax.eval_shape(population.algorithm.init, jax.random.key(0), config)
    return driver.restore(saved.leaves, saved.axes, like, lanes)


def train(population: Population, saved: list[checkpoints.Saved]) -> Result | Sweep:
    """Train batch after batch, and put together and write what comes out."""
    groups = sweeps.groups(list(population.points))
    pending = batches(population, groups, saved)
    runs = len(population.points) * population.seeds
    updates = sum(len(batch.runs) * batch.num_updates(population) for batch in pending)
    available = devices.memory(population.mesh.devices.flat, population.memory_limit)
    if population.progress and population.fields:
        _say_plan(population, groups)
    compile_seconds = 0.0
    trained: list[Trained] = []
    with interrupts() as interrupted:
        with console.progress_bar(f"{population.title} x {runs}", updates, population.progress) as show:
            while pending and not (trained and interrupted()):
                batch = pending.pop(0)
                if batch.is_done(population):
                    trained.append(_finished(population, batch))
                    continue
                try:
                    started = time.perf_counter()
                    compiled = _compile(population, batch)
                    compile_seconds += time.perf_counter() - started
                    fitting = _fitting(population, batch, compiled.programs.memory, available)
                    if fitting < batch.lanes:
                        pending[:0] = batch.split(fitting, population.mesh.size)
                        _say_split(batch, pending[0], compiled.programs.memory, available)
                        continue
                    trained.append(_train_batch(population, batch, compiled, trained, show, interrupted))
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    pending[:0] = _halved(population, batch)
                    if population.folder is not None:
                        shutil.rmtree(_place(population, population.folder, len(trained)), ignore_errors=True)
        result = result_of(population, trained, compile_seconds)
        if population.progress:
            console.print_summary(result.summary)
        if population.folder is not None:
            write(population, population.folder, result, trained)
        if interrupted():
            done = sum(len(t.record.runs) * t.record.updates for t in trained)
            kept = "" if population.folder is None else f"; what is done is in {population.folder}"
            if population.checkpoint_every is not None:
                kept += f", and `rljax resume {population.folder}` goes on"
            raise Interrupted(f"stopped after {done // runs:,} of {updates // runs:,} updates{kept}.", result)
    return result


def _fitting(population: Population, batch: Batch, memory: int, available: int | None) -> int:
    """How many lanes of a batch fit into each device's memory, given what all of them need there."""
    if available is None or memory <= available or batch.saved is not None:
        return batch.lanes
    on_each = batch.lanes // population.mesh.size
    return max(min(int(on_each * available / memory), on_each - 1), 1) * population.mesh.size


def _halved(population: Population, batch: Batch) -> list[Batch]:
    """A batch that the devices' memory did not hold, in two."""
    if batch.lanes <= population.mesh.size:
        raise UsageError(
            "One run needs more memory than a device has: lower buffer_size, num_envs, num_steps or the network's size."
        )
    half = batch.split(-(-batch.lanes // 2), population.mesh.size)
    console.say(f"{len(batch.runs)} runs at once are too many for the memory: going on with {len(half[0].runs)}.")
    return half


def _say_split(batch: Batch, part: Batch, memory: int, available: int | None) -> None:
    parts = -(-len(batch.runs) // len(part.runs))
    console.say(
        f"{len(batch.runs)} runs at once need {devices.readable(memory)} of the {devices.readable(available or 0)} on "
        f"each device: {parts} batches of {len(part.runs)}, one after the other."
    )


def _place(population: Population, folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where a batch's checkpoints are."""
    return folder / checkpoints.FOLDER / f"{number:04d}"


def _finished(population: Population, batch: Batch) -> Trained:
    """A batch whose end a checkpoint holds."""
    saved = batch.saved
    assert saved is not None
    assert saved.final is not None
    states = driver.stacked(*states_of(population, saved, len(batch.runs)), saved.record)
    return Trained(batch, saved.record, states, saved.final, saved.record.updates)


def _say_plan(population: Population, groups: list[sweeps.Group]) -> None:
    points, seeds = len(population.points), population.seeds
    compiles = f"{len(groups)} compiled program{'s' * (len(groups) > 1)}"
    console.say(f"{points} configurations x {seeds} seeds = {points * seeds} runs, by {compiles}.")


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
    show: console.Progress,
    interrupted: Callable[[], bool],
) -> Trained:
    """One batch from its keys to its final evaluation; ends early when interrupted."""
    built, lanes, capacity = compiled
    num_updates, saved = batch.num_updates(population), batch.saved
    record = Record(batch.runs) if saved is None else saved.record
    before = sum(len(t.record.runs) * t.num_updates for t in earlier)
    written = time.perf_counter()

    def landed(record: Record) -> None:
        rate = len(record.runs) * record.env_steps / record.seconds
        show(before + len(record.runs) * record.updates, rate, record.latest_return)

    def evaluated(record: Record) -> None:
        if population.folder is not None:
            write_curves(population, population.folder, [*(t.record for t in earlier), record])

    def save(record: Record, states: Any, final: np.ndarray | None = None) -> None:
        nonlocal written
        assert population.folder is not None
        leaves, axes = driver.capture(states, built.axes, len(batch.runs))
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        whole = checkpoints.Saved(record, leaves, axes, data, final, len(lanes.keys), population.about)
        try:
            checkpoints.save(_place(population, population.folder, len(earlier)), whole)
        except UsageError as error:
            console.say(f"{error} The run goes on.")
        written = time.perf_counter()

    def safe(record: Record, states: Any) -> None:
        every = population.checkpoint_every
        if every is not None and time.perf_counter() - written >= every:
            save(record, states)

    hooks = driver.Hooks(landed, evaluated, safe, interrupted)
    keys, states = driver.wait(built.init, lanes.keys, lanes.config)
    if saved is not None:
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        if not np.array_equal(data, saved.keys):
            raise UsageError("JAX makes other keys here than where this run was begun: check jax_default_prng_impl.")
        states, _ = states_of(population, saved, len(lanes.keys))
    marks = population.marks(num_updates, record.eval_updates)
    states = driver.train(built, lanes, keys, states, record, marks, num_updates, capacity, hooks)
    if interrupted() and population.checkpoint_every is not None:
        save(record, states)
    episodes = population.eval_episodes
    if interrupted():
        episodes = min(episodes, _EVALUATION_BATCH)
    final = driver.evaluate(built, lanes, keys, states, len(batch.runs), episodes)
    if not interrupted() and population.checkpoint_every is not None:
        save(record, states, final)
    states = driver.stacked(states, built.axes, record)
    if len(batch.runs) < len(population.points) * population.seeds:  # the devices are for the batches to come
        states = jax.tree.map(_on_host, states)
    return Trained(batch, record, states, final, num_updates)


def _on_host(x: jax.Array) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
