"""Many runs at once, on all devices: the host driver around the compiled `update`."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rljax import core, envs
from rljax.devices import use_cpu_cores
from rljax.errors import UsageError
from rljax.report import console, files, statistics

_CHUNK_SECONDS = 0.5  # how long the driver is away: what an interrupt waits for, and how often the bar moves
_STALL_SECONDS = 120.0
_MOST_UPDATES = 1024  # of one call of `advance`: what its metrics hold
_KEPT_PROGRAMS = 8  # populations whose compiled programs are kept for another run with other numbers
_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves. S is the number of seeds, U of updates done, E of evaluations along the way."""

    states: Any
    """The final states, stacked `[S, ...]`: `jax.tree.map(lambda x: x[i], result.states)` is that of seed i."""
    metrics: dict[str, np.ndarray]
    """Every update's metrics, `[S, U]`."""
    eval_steps: np.ndarray
    """`[E]` environment steps of one seed at which the greedy policies were evaluated."""
    eval_returns: np.ndarray
    """`[S, E]` mean returns of those evaluations."""
    summary: dict[str, Any]
    """What `summary.json` holds."""


class Interrupted(KeyboardInterrupt):
    """A run stopped by Ctrl-C, after what was done has been written; `result` holds it."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class NotWritten(UsageError):
    """A run that finished, but whose files could not be written; `result` holds it."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def run(
    algorithm: Any,
    config: Any,
    *,
    seeds: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    evaluations: int = 20,
    eval_episodes: int = 100,
    progress: bool = True,
    devices: int | None = None,
    overwrite: bool = False,
    name: str | None = None,
) -> Result:
    """Train `seeds` runs of one config side by side, evaluate them along the way, and write what came out.

    Run i has the key `jax.random.split(jax.random.key(seed), seeds)[i]`. For the same keys and batch shape the states
    and metrics have the bits of `jax.jit(jax.vmap(algorithm.train, (0, None)))(keys, config)`, whatever is shown,
    evaluated or written; sharded over several devices they are the same to rounding.

    Args:
        algorithm: a module or namespace with `init`, `update` and `act`: `rljax.ppo`, or one's own.
        config: its config, with `env` and `num_updates`.
        seeds: number of runs.
        seed: of the key that all the runs' keys are split from.
        out: folder for `config.json`, `summary.json`, `curves.csv` and `learning_curve.png`; None writes nothing.
        evaluations: how often the greedy policies are evaluated along the way, beside once before the first update;
            0 for the final evaluation alone.
        eval_episodes: episodes of each seed's final evaluation; evaluations along the way take at most 20 of them.
        progress: show a bar and print the table.
        devices: how many devices to shard the seeds over; None for all there are (on a CPU, one a core).
        overwrite: replace the files of an earlier run in `out`.
        name: what to call the algorithm in tables and files; by default the module's name.

    Raises:
        UsageError: an argument cannot be, or the folder is in use or not writable.
        NotWritten: the run finished and its files could not be written; the exception holds the result.
        Interrupted: Ctrl-C, once the running chunk has landed and what is done has been written.
    """
    use_cpu_cores()
    _check(algorithm, config, seeds=seeds, seed=seed, evaluations=evaluations, eval_episodes=eval_episodes)
    name = name or getattr(algorithm, "__name__", type(algorithm).__name__).rpartition(".")[2]
    mesh = _mesh(seeds, devices)
    folder = None if out is None else files.prepare_folder(out, overwrite)
    programs = _programs(algorithm, config, seeds, seed, mesh, evaluations, eval_episodes)
    if folder is not None:
        about = {"algo": name, "seeds": seeds, "seed": seed, "evaluations": evaluations, "eval_episodes": eval_episodes}
        files.begin(folder, {**about, "config": files.describe(config)})
    log = _Log(seeds)
    bar = console.progress_bar(f"{name} {config.env.name} x {seeds}", config.num_updates, progress)
    with _interrupts() as interrupted:
        with bar as show:
            keys, states = _train(programs, config, log, show, interrupted, folder)
        episodes = min(eval_episodes, _EVALUATION_BATCH) if interrupted() else eval_episodes
        final, finite = _evaluate_finally(programs, keys, states, config, episodes)
        summary = {
            "algo": name,
            "env": config.env.name,
            "seeds": seeds,
            "total_steps": int(config.total_steps) if hasattr(config, "total_steps") else None,
            "env_steps": log.env_steps,
            "env_steps_per_second": log.rate,
            "compile_seconds": programs.compile_seconds,
            "train_seconds": log.seconds,
            "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
            "versions": _versions(),
            "interrupted": log.updates < config.num_updates,
            "diverged": [int(i) for i in np.flatnonzero(~finite[:seeds])],
            "final_return": statistics.summarize(final[:seeds].mean(axis=1)),
        }
        states = _stacked(states, programs.axes, seeds)
        result = Result(states, log.metrics, np.array(log.eval_steps), log.eval_returns, summary)
        if progress:
            console.print_summary(summary)
        if folder is not None:
            _write(folder, result, log.eval_updates)
        if interrupted():
            kept = "" if folder is None else f"; what is done is in {folder}"
            raise Interrupted(f"stopped after {log.updates:,} of {config.num_updates:,} updates{kept}.", result)
    return result


def _check(algorithm: Any, config: Any, **counts: int) -> None:
    for name in ("init", "update", "act"):
        if not callable(getattr(algorithm, name, None)):
            raise UsageError(f"{getattr(algorithm, '__name__', algorithm)!r} is no algorithm: it has no {name}().")
    for name in ("env", "num_updates"):
        if not hasattr(config, name):
            raise UsageError(f"The config has no {name}: run() needs env and num_updates.")
    if not isinstance(config.env, envs.Env):
        raise UsageError(f"The config's env must be an rljax.Env, got {type(config.env).__name__}: use rljax.make.")
    if not isinstance(config.num_updates, int) or config.num_updates < 1:
        raise UsageError(f"The config asks for {config.num_updates} updates: it needs at least one.")
    for name, least in (("seeds", 1), ("evaluations", 0), ("eval_episodes", 1), ("seed", 0)):
        if not isinstance(counts[name], int) or counts[name] < least:
            raise UsageError(f"{name} must be a whole number of at least {least}, got {counts[name]!r}.")
    if counts["seed"] >= 2**32:
        raise UsageError(f"seed must be less than 2**32, got {counts['seed']}.")
    envs.require(config.env)


def _mesh(seeds: int, devices: int | None) -> Mesh:
    """The devices to use: no more than there are seeds."""
    there = jax.devices()
    if devices is not None and (not isinstance(devices, int) or not 1 <= devices <= len(there)):
        raise UsageError(f"devices={devices} cannot be had: JAX shows {len(there)} here.")
    used = min(devices or len(there), seeds)
    return Mesh(np.array(there[:used]), ("runs",))


class _Keys(NamedTuple):
    """Each run's keys `[S]`, for what follows `init`."""

    updates: jax.Array
    curve: jax.Array
    final: jax.Array


class _Programs(NamedTuple):
    """A population's compiled programs and what they were compiled for."""

    init: Callable[[jax.Array, Any], tuple[_Keys, Any]]
    advance: Callable[..., Any]
    evaluate: Callable[..., Any]
    axes: Any  # of the state: 0 where a leaf is stacked over runs, None where it is one for all
    keys: jax.Array  # [lanes], one a run
    marks: tuple[int, ...]  # numbers of updates at which to evaluate
    capacity: int  # the most updates that one call of `advance` does
    compile_seconds: float


_compiled: dict[Any, tuple[Any, Any, Any, Any]] = {}


def _programs(
    algorithm: Any, config: Any, seeds: int, seed: int, mesh: Mesh, evaluations: int, eval_episodes: int
) -> _Programs:
    """Compile what a population needs, or find it compiled: traced numbers of the config do not enter."""
    # Where the seeds do not divide over the devices, a few more runs fill up the batch and are dropped at the end.
    lanes = -(-seeds // mesh.size) * mesh.size
    keys = jax.random.split(jax.random.key(seed), seeds)[np.arange(lanes) % seeds]
    marks: tuple[int, ...] = ()
    if evaluations:
        marks = tuple(int(u) for u in np.unique(np.linspace(0, config.num_updates, evaluations + 1).round()))
    capacity = min(int(np.diff([0, *marks, config.num_updates]).max()), _MOST_UPDATES)
    episodes = min(eval_episodes, _EVALUATION_BATCH)

    def init(key: jax.Array, config: Any) -> tuple[_Keys, Any]:
        key_init, key_updates, key_evaluation = core.training_keys(key)
        key_curve, key_final = jax.random.split(key_evaluation)
        return _Keys(key_updates, key_curve, key_final), algorithm.init(key_init, config)

    def advance(key: jax.Array, state: Any, config: Any, first: jax.Array, count: jax.Array) -> Any:
        return core.advance(algorithm.update, key, state, config, first, count, capacity)

    def evaluate(key: jax.Array, state: Any, config: Any, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy = algorithm.act(state, config)
        key = jax.random.fold_in(key, number)
        return core.evaluate(key, config.env, policy, episodes), _all_finite(getattr(state, "params", state))

    number = np.int32(0)
    signature = [(jnp.shape(x), jnp.result_type(x), isinstance(x, int | float)) for x in jax.tree.leaves(config)]
    cached = (
        *(algorithm.init, algorithm.update, algorithm.act),
        *(jax.tree.structure(config), tuple(signature), lanes, mesh, capacity, episodes),
    )
    started = time.perf_counter()
    if cached not in _compiled:
        axes = _stacked_axes(algorithm, keys, config)
        per_run, metrics_axes = (0, axes), (axes, 0)
        init_all = _sharded(jax.vmap(init, (0, None), (0, axes)), mesh, (0, None), (0, axes))
        compiled_init = init_all.lower(keys, config).compile()
        run_keys, states = jax.eval_shape(init_all, keys, config)
        inputs = (run_keys.updates, states, config, number, number)
        advance_all = _sharded(
            jax.vmap(advance, (*per_run, None, None, None), metrics_axes),
            mesh,
            (*per_run, None, None, None),
            metrics_axes,
        )
        compiled_advance = advance_all.lower(*inputs).compile()
        evaluate_all = _sharded(jax.vmap(evaluate, (*per_run, None, None)), mesh, (*per_run, None, None), 0)
        compiled_evaluate = evaluate_all.lower(*inputs[:4]).compile()
        if len(_compiled) == _KEPT_PROGRAMS:
            del _compiled[next(iter(_compiled))]
        _compiled[cached] = (compiled_init, compiled_advance, compiled_evaluate, axes)
    return _Programs(*_compiled[cached], keys, marks, capacity, time.perf_counter() - started)


def _stacked_axes(algorithm: Any, keys: jax.Array, config: Any) -> Any:
    """Which leaves of a population's state differ from run to run: 0 where they do, None where they do not.

    Counters do not. They must stay one number for all runs between the driver's calls as they do inside one `vmap` of
    a whole run: a branch on a counter then stays a branch, and both give the same bits.
    """
    batched: Any = None

    @jax.custom_batching.custom_vmap
    def note(state: Any) -> Any:
        return state

    @note.def_vmap
    def _(_: int, in_batched: list[Any], state: Any) -> tuple[Any, Any]:
        nonlocal batched
        (batched,) = in_batched
        return state, batched

    def one_update(key: jax.Array, config: Any) -> Any:
        key_init, key_updates, _ = core.training_keys(key)
        state = algorithm.init(key_init, config)
        return note(core.advance(algorithm.update, key_updates, state, config, 0, 1, 1)[0])

    state = jax.eval_shape(jax.vmap(one_update, (0, None)), keys, config)
    if batched is None:  # the rule is not even asked where nothing depends on the key
        return jax.tree.map(lambda _: None, state)
    return jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)


def _stacked(states: Any, axes: Any, seeds: int) -> Any:
    """The first `seeds` runs of `states`, the counters stacked like everything else."""
    structure: Any
    leaves, structure = jax.tree.flatten(states)
    flat_axes = structure.flatten_up_to(axes)  # a None of the state's own is no leaf, an axis of None is
    stacked = [
        jnp.broadcast_to(x, (seeds, *x.shape)) if axis is None else x[:seeds]
        for x, axis in zip(leaves, flat_axes, strict=True)
    ]
    return jax.tree.unflatten(structure, stacked)


def _sharded(function: Callable, mesh: Mesh, in_axes: Any, out_axes: Any) -> Any:
    """`function` of stacked runs, jitted, the stack's first axis sharded over the mesh with no communication."""
    if mesh.size == 1:
        return jax.jit(function)

    def specs(axes: Any) -> Any:
        return jax.tree.map(lambda axis: P() if axis is None else P("runs"), axes, is_leaf=lambda axis: axis is None)

    def shardings(axes: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(axes))

    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes), check_vma=False)
    return jax.jit(mapped, in_shardings=shardings(in_axes), out_shardings=shardings(out_axes))


def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array(leaves)) if leaves else jnp.bool_(True)


class _Log:
    """What has landed so far, on the host."""

    def __init__(self, seeds: int) -> None:
        self.seeds = seeds
        self.updates = 0
        self.env_steps = 0  # of one seed
        self.seconds = 0.0
        self.chunks: list[dict[str, np.ndarray]] = []
        self.eval_updates: list[int] = []
        self.eval_steps: list[int] = []
        self.evaluations: list[np.ndarray] = []

    def landed(self, metrics: core.Metrics, count: int, seconds: float) -> None:
        if "env_steps" not in metrics:
            raise UsageError("The algorithm's metrics have no env_steps: its update must count them.")
        self.chunks.append({name: np.asarray(rows)[: self.seeds, :count].copy() for name, rows in metrics.items()})
        self.updates += count
        self.seconds += seconds
        self.env_steps = int(self.chunks[-1]["env_steps"][0, -1])

    def evaluated(self, returns: np.ndarray) -> None:
        self.eval_updates.append(self.updates)
        self.eval_steps.append(self.env_steps)
        self.evaluations.append(returns[: self.seeds].mean(axis=1))

    @property
    def rate(self) -> float:
        return self.seeds * self.env_steps / self.seconds if self.seconds else 0.0

    @property
    def latest_return(self) -> float:
        returns = self.chunks[-1].get("episode_return", np.array([np.nan]))
        return float(returns[np.isfinite(returns)].mean()) if np.isfinite(returns).any() else np.nan

    @property
    def eval_returns(self) -> np.ndarray:
        return np.stack(self.evaluations, axis=1) if self.evaluations else np.zeros((self.seeds, 0))

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        names = self.chunks[0] if self.chunks else {}
        return {name: np.concatenate([chunk[name] for chunk in self.chunks], axis=1) for name in names}


def _train(
    programs: _Programs,
    config: Any,
    log: _Log,
    show: console.Progress,
    interrupted: Callable[[], bool],
    folder: pathlib.Path | None,
) -> tuple[_Keys, Any]:
    """All updates, in chunks of about half a second, with the evaluations between them; ends early when interrupted."""
    keys, states = _wait(programs.init, programs.keys, config)
    pace = 1.0
    for stop in (*programs.marks, config.num_updates):
        while log.updates < stop and not interrupted():
            count = int(min(max(pace, 1.0), stop - log.updates, programs.capacity))
            started = time.perf_counter()
            chunk = (np.int32(log.updates), np.int32(count))
            states, metrics = _wait(programs.advance, keys.updates, states, config, *chunk)
            seconds = time.perf_counter() - started
            pace = min(4.0 * count, count * _CHUNK_SECONDS / seconds)
            log.landed(metrics, count, seconds)
            show(log.updates, log.rate, log.latest_return)
        if interrupted():
            break
        if len(log.eval_updates) < len(programs.marks):
            returns, _ = _wait(programs.evaluate, keys.curve, states, config, np.int32(len(log.eval_updates)))
            log.evaluated(np.asarray(returns))
            if folder is not None:
                _write_curves(folder, log)
    return keys, states


def _evaluate_finally(
    programs: _Programs, keys: _Keys, states: Any, config: Any, episodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[lanes, episodes]` of the final greedy policies, and which runs' parameters are finite `[lanes]`."""
    batches: list[np.ndarray] = []
    finite = np.ones(len(programs.keys), bool)
    while sum(batch.shape[1] for batch in batches) < episodes:
        returns, all_finite = _wait(programs.evaluate, keys.final, states, config, np.int32(len(batches)))
        batches.append(np.asarray(returns))
        finite = np.asarray(all_finite)
    return np.concatenate(batches, axis=1)[:, :episodes], finite


def _wait(program: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled program and wait for it, never in silence."""
    with _watched():
        return jax.block_until_ready(program(*arguments))


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until asked for: the first one lets the chunk land, a second one stops at once."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before in (None, signal.SIG_IGN):
        yield pressed.is_set  # Python delivers signals to the main thread only; who ignores them, means it
        return

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        console.show_cursor()  # a second Ctrl-C ends the process before the bar could give it back
        console.say("stopping after the running chunk; press Ctrl-C again to stop at once and lose it.")

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Say so where no update lands for two minutes: a run that hangs is never waited for in silence."""
    sentence = (
        f"no update has landed for {_STALL_SECONDS:.0f} seconds: if the processor is idle, the run hangs; "
        "stop it with Ctrl-C twice and use fewer seeds or devices=1."
    )
    timer = threading.Timer(_STALL_SECONDS, console.say, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _write_curves(folder: pathlib.Path, log: _Log) -> None:
    """Keep what is known on disk while the run goes on; a disk that is full now may have room at the end."""
    try:
        files.write_curves(folder / "curves.csv", log.eval_updates, log.eval_steps, log.eval_returns)
    except UsageError as error:
        console.say(f"{error} The run goes on.")


def _write(folder: pathlib.Path, result: Result, eval_updates: list[int]) -> None:
    """Write all that can be written; a `NotWritten` with the result in it for what cannot."""
    from rljax.report import plot

    title = f"{result.summary['algo']} on {result.summary['env']}"
    steps, curves = result.eval_steps, result.eval_returns
    writes: list[Callable[[], None]] = [
        lambda: files.write_json(folder / "summary.json", result.summary),
        lambda: files.write_curves(folder / "curves.csv", eval_updates, steps, curves),
    ]
    if eval_updates:
        writes.append(lambda: plot.learning_curve(folder / "learning_curve.png", steps, curves, title))
    failures = []
    for write in writes:
        try:
            write()
        except Exception as error:  # whatever it is, the run's result must not go down with it
            failures.append(str(error))
    if failures:
        raise NotWritten(failures[0], result)


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "gymnax")}
    return {"rljax": importlib.metadata.version("rljax-engine"), "python": platform.python_version(), **packages}
