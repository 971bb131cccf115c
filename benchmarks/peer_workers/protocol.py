"""Shared by all workers: prepare one training program and repeat it on request."""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A repeatable training run and the evaluation of its outcome."""

    start: Callable[[int], Callable[[], Any]]  # seed -> the call to time, which returns the finished outcome
    returns: Callable[[Any], Any]  # greedy returns of an outcome, one per agent
    env_steps: int  # per repetition, summed over seeds


def serve(build: Callable[[dict[str, Any]], Program]) -> None:
    """Run once and report, then answer each line `start SEED`, `go` or `returns` with a line of JSON.

    The first argument is the job as JSON; its `answers` is the file descriptor for the answers.
    """
    job = json.loads(sys.argv[1])
    answers = os.fdopen(job["answers"], "w")

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    started = time.perf_counter()
    program = build(job)
    outcome = program.start(0)()
    seconds = time.perf_counter() - started
    program.returns(outcome)  # compile before anything is timed
    versions = {name: importlib.metadata.version(name) for name in job["packages"]}
    devices = sys.modules["jax"].devices() if "jax" in sys.modules else []
    device = f"{len(devices)} x {devices[0].device_kind}" if devices else "cpu"
    answer(first_seconds=seconds, env_steps=program.env_steps, versions=versions, device=device)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "start":
            run = program.start(int(arguments[0]))
            answer()
        elif command == "go":
            started = time.perf_counter()
            outcome = run()
            answer(seconds=time.perf_counter() - started)
        else:
            answer(returns=[float(value) for value in program.returns(outcome)])


def gymnax_returns(env: Any, params: Any, act: Callable[[Any, Any], Any], job: dict[str, Any]) -> Callable[..., Any]:
    """Return `(key, agent) -> mean return` of `act(agent, obs)` over whole episodes of a gymnax environment."""
    import jax
    import jax.numpy as jnp

    episodes, limit = job["episodes"], job["episode_limit"]

    def evaluate(key: Any, agent: Any) -> Any:
        key_reset, key_steps = jax.random.split(key)
        obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, episodes), params)

        def step(carry: Any, key: Any) -> Any:
            obs, state, alive, total = carry
            keys = jax.random.split(key, episodes)
            new = jax.vmap(env.step_env, (0, 0, 0, None))(keys, state, act(agent, obs), params)
            obs, state, reward, ended = new[:4]
            return (obs, state, alive & ~ended, total + jnp.where(alive, reward, 0.0)), None

        start = (obs, state, jnp.ones(episodes, bool), jnp.zeros(episodes))
        return jax.lax.scan(step, start, jax.random.split(key_steps, limit))[0][3].mean()

    return evaluate


def seeds_of(seed: int, job: dict[str, Any]) -> Any:
    """Return one key per seed of the job, `[R]`, in the old style that every library accepts."""
    import jax

    return jax.random.split(jax.random.PRNGKey(seed), job["seeds"])
