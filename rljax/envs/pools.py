"""Pools of environments on the host, by the numbers of their environments: made, stepped, restarted and closed.

`rljax.envs.host` says what they are for.
"""

import atexit
import itertools
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rljax.envs.spaces import Space, leaves_of
from rljax.errors import UsageError, located

_KEPT = 8  # calls of `reset` per device whose pools are kept, if nothing closes them: no run needs older ones


class Stepped(NamedTuple):
    """One step of N environments, in NumPy arrays `[N, ...]`."""

    next_obs: Any  # the true next observations, also where episodes ended
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    obs: Any  # the same, but the first observation of the next episode where one ended


class Pool(Protocol):
    """N environments on the host, which reset themselves."""

    def reset(self, seeds: list[int]) -> Any:
        """Begin new episodes: the observations `[N, ...]`. Equal seeds give equal episodes under equal actions."""

    def send(self, actions: np.ndarray) -> None:
        """Start a step with actions `[N, ...]`."""

    def receive(self) -> Stepped:
        """The result of the step that was started."""

    def close(self) -> None:
        """Free what the environments occupy."""


class Maker(Hashable, Protocol):
    """What makes the pools of an environment; compared by value."""

    @property
    def name(self) -> str:
        """The environment's id."""

    @property
    def time_limit(self) -> int | None:
        """Steps after which an episode is truncated; None if it is unknown."""

    def __call__(self, num_envs: int) -> Pool:
        """A pool of N environments."""


class _Running:
    """A pool in use."""

    def __init__(self, pool: Pool, first: int, size: int) -> None:
        self.pool, self.first, self.size = pool, first, size
        self.steps = 0

    def has(self, numbers: np.ndarray) -> bool:
        """True if these are its environments, in order."""
        return len(numbers) == self.size and bool((numbers == self.first + np.arange(self.size)).all())


class Pools:
    """All pools of this process. Programs on several devices call it at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running: OrderedDict[int, _Running] = OrderedDict()  # by the number of the first environment
        self._calls: OrderedDict[int, set[int]] = OrderedDict()  # pools by the call that made them, oldest use first
        self._call_of: dict[int, int] = {}
        self._start = self._next = secrets.randbelow(2**30)  # other processes have other numbers
        self._counter = itertools.count()
        self.failure: UsageError | None = None

    def __len__(self) -> int:
        return len(self._running)

    def reset(self, maker: Maker, space: Space, seeds: Any) -> Any:
        """New pools for S runs with seeds `[S, E]`: the numbers of their environments, and their observations."""
        seeds = np.asarray(seeds)
        with self._reporting(maker, "reset"):
            call, numbers, observations = next(self._counter), [], []
            for row in seeds:
                running = self._new(maker, len(row), call)
                numbers.append(running.first + np.arange(len(row), dtype=np.int32))
                observations.append(running.pool.reset(row.tolist()))
            return np.stack(numbers).astype(np.int32), _stacked(space, observations)

    def step(self, maker: Maker, space: Space, handle: Any, actions: Any) -> Any:
        """Step S runs of E environments; see `_calls`."""
        numbers, steps, seeds = map(np.asarray, handle)
        actions = np.asarray(actions)
        with self._reporting(maker, "step"):
            call, used = next(self._counter), set[int]()
            rows: list[tuple[_Running, Any]] = []
            for row in range(len(numbers)):
                running, restarted = self._continued(maker, numbers[row], steps[row], seeds[row], used, call)
                if restarted is None:
                    running.pool.send(actions[row])
                rows.append((running, restarted))
            results = [_cut(obs) if obs is not None else running.pool.receive() for running, obs in rows]
            for running, _ in rows:
                running.steps += 1
            shape = numbers.shape
            new_numbers = np.stack([running.first + np.arange(shape[1]) for running, _ in rows])
            new_steps = np.repeat([[running.steps] for running, _ in rows], shape[1], axis=1)
            cut = np.repeat([[obs is not None] for _, obs in rows], shape[1], axis=1)
            stepped = Stepped(
                _stacked(space, [result.next_obs for result in results]),
                np.stack([result.reward for result in results]).astype(np.float32),
                np.stack([result.terminated for result in results]).astype(bool),
                np.stack([result.truncated for result in results]).astype(bool),
                _stacked(space, [result.obs for result in results]),
            )
            return new_numbers.astype(np.int32), new_steps.astype(np.int32), cut, stepped

    def close(self, numbers: Any, result: Any) -> Any:
        """Close the pools of S runs with environments `[S, E]`, and return `result`."""
        for first in np.asarray(numbers)[:, 0].tolist():
            self._close(first)
        return np.asarray(result)

    def close_all(self) -> None:
        """Close all pools."""
        for first in list(self._running):
            self._close(first)

    def _continued(
        self, maker: Maker, numbers: np.ndarray, steps: np.ndarray, seeds: np.ndarray, used: set[int], call: int
    ) -> tuple[_Running, Any]:
        """The pool of one run, and the observations of its new episodes if it had to restart, else None."""
        first = int(numbers[0])
        running = self._find(maker, first)
        if running is None or first in used or not running.has(numbers):
            running = self._new(maker, len(numbers), call)
        elif (steps == running.steps).all():
            used.add(first)
            return running, None
        used.add(running.first)
        running.steps = max(running.steps, int(steps.max()))
        if not steps.any():  # no step has been taken since the reset
            running.pool.reset(seeds.tolist())
            return running, None
        sequences = [np.random.SeedSequence(pair) for pair in zip(seeds.tolist(), steps.tolist(), strict=True)]
        return running, running.pool.reset([int(s.generate_state(1)[0]) % (2**31 - 1) for s in sequences])

    def _find(self, maker: Maker, first: int) -> _Running | None:
        with self._lock:
            running = self._running.get(first)
            if running is not None:
                self._calls.move_to_end(self._call_of[first])
            elif self._start <= first < self._next:
                raise UsageError(
                    f"The environments of {maker.name} were closed, since {len(self._calls)} newer calls of reset have "
                    "made others: reset the runs that are in use together, in one vmapped call."
                )
            return running

    def _new(self, maker: Maker, size: int, call: int) -> _Running:
        pool = maker(size)
        with self._lock:
            running = _Running(pool, self._next, size)
            self._next += size
            self._running[running.first] = running
            self._call_of[running.first] = call
            self._calls.setdefault(call, set()).add(running.first)
            while len(self._calls) > _KEPT * jax.local_device_count():
                for first in list(next(iter(self._calls.values()))):
                    self._close(first)
            return running

    def _close(self, first: int) -> None:
        with self._lock:
            running = self._running.pop(first, None)
            if running is None:
                return
            call = self._call_of.pop(first)
            self._calls[call].discard(first)
            if not self._calls[call]:
                del self._calls[call]
        running.pool.close()

    @contextmanager
    def _reporting(self, maker: Maker, what: str) -> Iterator[None]:
        """Turn an error of an environment into a `UsageError`, which `failures` finds again behind JAX's error."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, UsageError):
                failure = UsageError(f"{maker.name} failed in its {what}: {located(error)}.")
                failure.__cause__ = error
                error = failure
            self.failure = error
            raise error from error.__cause__


def _stacked(space: Space, observations: list[Any]) -> Any:
    """Observations of S runs, each `[E, ...]`, as arrays `[S, E, ...]` of the dtypes of their space."""
    return jax.tree.map(lambda leaf, *rows: np.stack(rows).astype(leaf.dtype), leaves_of(space), *observations)


def _cut(obs: Any) -> Stepped:
    """The step that truncates all episodes of a run: its first observations `[N, ...]` are those of new ones."""
    count = len(jax.tree.leaves(obs)[0])
    return Stepped(obs, np.zeros(count), np.zeros(count, bool), np.ones(count, bool), obs)


POOLS = Pools()
atexit.register(POOLS.close_all)  # while their processes and threads can still end


@contextmanager
def failures() -> Iterator[None]:
    """Raise the `UsageError` of an environment on the host in the place of JAX's error that hides it."""
    POOLS.failure = None
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if POOLS.failure is None:
            raise
        raise POOLS.failure from POOLS.failure.__cause__


def _is_new(record: logging.LogRecord) -> bool:
    """False for a `UsageError`, which is raised: JAX would also print its traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], UsageError))


logging.getLogger("jax._src.callback").addFilter(_is_new)
