"""Runs that die at a checkpoint, and the comparison of their resumed results."""

import copy
import json

import numpy as np
import pytest
from toys import in_chunks_of, own, same_bits

import rljax
from rljax.experiment import checkpoints, loop
from rljax.report import files

OPTIONS = {"seeds": 3, "evaluations": 4, "eval_episodes": 3, "progress": False}


class Stop(BaseException):
    """The process's sudden end."""


def stopped(monkeypatch, out, algorithm, config, saves, **options):
    """Start a run that dies right after this number of checkpoints, one update a chunk."""
    save, seen = checkpoints.Writer.save, []

    def save_and_die(writer, *arguments):
        save(writer, *arguments)
        writer.close()
        seen.append(arguments)
        if len(seen) == saves:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Writer, "save", save_and_die)
        patched.setattr(loop, "train", in_chunks_of(1))
        with pytest.raises(Stop):
            rljax.run(algorithm, config, out=out, checkpoint_every=0, **{**OPTIONS, **options})


def write(folder, place, saved):
    """Write a batch's checkpoint."""
    writer = checkpoints.Writer(folder)
    writer.save(place, saved)
    writer.close()


def as_written(value):
    """The value as written to a file, with None, which equals itself, instead of NaN."""
    return json.loads(files.as_json(value))


def same_results(left, right):
    assert same_bits(left.states, right.states)
    assert set(left.metrics) == set(right.metrics)
    for name, rows in left.metrics.items():
        np.testing.assert_array_equal(rows, right.metrics[name], err_msg=name)
    np.testing.assert_array_equal(left.eval_steps, right.eval_steps)
    np.testing.assert_array_equal(left.eval_returns, right.eval_returns)
    assert list(left.eval_measures) == list(right.eval_measures)
    for name, rows in left.eval_measures.items():
        np.testing.assert_array_equal(rows, right.eval_measures[name], err_msg=name)
    for name in ("final_return", "final_measures", "diverged", "env_steps"):
        assert as_written(left.summary[name]) == as_written(right.summary[name])


def damage(path, how):
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 300):
        data = file.read_bytes()
        file.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "foreign": b"hello" * 99}[how])


def refusal(folder, config, **options):
    with pytest.raises(rljax.UsageError) as error:
        rljax.resume(folder, **{"algorithm": own, "config": config, "progress": False, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def _places(node, path=()):
    """The paths of all values in JSON."""
    yield path
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield from _places(node[key], (*path, key))


VALUES = [None, "x", "", "0.5", "8GiB", -1, 0, 1, 2.5, 1e300, 10**12, 10**400, float("nan"), True, [], ["x"], {}]


def edited(value, rng):
    """A copy of a JSON object or list with one value in it replaced, removed or added."""
    while True:
        changed = copy.deepcopy(value)
        *above, last = rng.choice([place for place in _places(value) if place])
        parent = changed
        for key in above:
            parent = parent[key]
        how = rng.choice(["replace", "replace", "remove", "add"])
        if how == "replace":
            parent[last] = rng.choice(VALUES)
        elif how == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent["another"] = rng.choice(VALUES)
        else:
            parent.append(rng.choice(VALUES))
        if json.dumps(changed) != json.dumps(value):
            return changed
