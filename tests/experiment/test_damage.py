"""Folders with random damage: resuming and loading give the same result, or one sentence."""

import json
import os
import pathlib
import random
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from resuming import OPTIONS, edited, same_results, stopped
from toys import own

import rljax
from rljax.experiment import checkpoints

# Two groups with a rung each, so several batches, by few enough programs to be compiled only once.
SWEEP = {"sweep": {"num_updates": [5, 8], "rate": [0.1, 0.5]}, "halving": 2}


class Case(NamedTuple):
    """A folder to damage, and what it must give."""

    folder: pathlib.Path
    config: own.Config
    result: rljax.Result | rljax.Sweep  # of a run that was never stopped
    stages: list[list[np.ndarray]]  # the states of all checkpoints, which are what `load` may give


@pytest.fixture(scope="module")
def cases(config, whole, tmp_path_factory):
    """A run and a sweep with rungs, each stopped halfway, and finished."""
    return [
        _case(config, result, options, is_finished, tmp_path_factory.mktemp("runs") / "x")
        for options, result in (({}, whole), (SWEEP, rljax.run(own, config, **SWEEP, **OPTIONS)))
        for is_finished in (False, True)
    ]


def _case(config, result, options, is_finished, folder):
    with pytest.MonkeyPatch.context() as monkeypatch:
        stopped(monkeypatch, folder, own, config, 8, **options)
    if is_finished:
        rljax.resume(folder, algorithm=own, config=config, progress=False)
    return Case(folder, config, result, [*_stages(folder)])


def _stages(folder):
    """The states of the runs in every checkpoint."""
    for place in sorted(folder.glob("checkpoints/*/*")):
        yield [np.asarray(leaf) for leaf in checkpoints._read(place).leaves]


def flip_bits(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def overwrite(path, rng):
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) + 1)
    data[start : start + rng.choice([1, 4, 64])] = rng.randbytes(rng.choice([1, 4, 64]))
    path.write_bytes(data)


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def empty(path, rng):
    path.write_bytes(b"")


def append(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 64])))


def delete(path, rng):
    path.unlink()


def make_folder(path, rng):
    path.unlink()
    path.mkdir()


def link_to_nothing(path, rng):
    path.unlink()
    path.symlink_to("nowhere")


def forbid(path, rng):
    path.chmod(0)


def edit(path, rng):
    """Change a value in a JSON file; other files get a flipped bit."""
    try:
        value = json.loads(path.read_text())
    except ValueError:
        return flip_bits(path, rng)
    return path.write_text(json.dumps(edited(value, rng)))


def replace_by_another(path, rng):
    """Copy a file of the same name, if there is another, from an older or newer checkpoint or another batch."""
    others = [other for other in _files(_root(path)) if other.name == path.name and other != path]
    if others:
        shutil.copyfile(rng.choice(others), path)


def swap(path, rng):
    other = rng.choice(_files(_root(path)))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def delete_folder(path, rng):
    shutil.rmtree(_some_folder(path, rng))


def replace_folder_by_file(path, rng):
    place = _some_folder(path, rng)
    shutil.rmtree(place)
    place.write_bytes(b"x")


def replace_folder_by_another(path, rng):
    """A checkpoint by another one or another batch's, or a batch by another."""
    place = _some_folder(path, rng)
    others = [p for p in _folders(_root(path)) if p.relative_to(_root(path)).parts[2:] == _tail(place, path)]
    other = rng.choice([p for p in others if p not in place.parents and place not in p.parents])
    if other != place:
        shutil.rmtree(place)
        shutil.copytree(other, place)


def rename_folder(path, rng):
    place = _some_folder(path, rng)
    place.rename(place.with_name(rng.choice(["0000", "0007", "000000", "000001", "000090", "x", "9" * 40])) / "")


FILES = [flip_bits, flip_bits, overwrite, cut, empty, append, delete, make_folder, link_to_nothing, forbid]
FILES += [edit, edit, edit, replace_by_another, replace_by_another, swap]
FOLDERS = [delete_folder, replace_folder_by_file, replace_folder_by_another, replace_folder_by_another, rename_folder]


def _root(path):
    return next(parent.parent for parent in path.parents if parent.name == "checkpoints")


def _files(root):
    return sorted(path for path in (root / "checkpoints").rglob("*") if path.is_file())


def _folders(root):
    return sorted(path for path in (root / "checkpoints").rglob("*") if path.is_dir())


def _some_folder(path, rng):
    """A batch, a checkpoint, or a folder in one."""
    return rng.choice([parent for parent in path.parents if "checkpoints" in parent.parent.parts])


def _tail(place, path):
    return place.relative_to(_root(path)).parts[2:]


def damaged(root, rng):
    """Damage a folder in one or two places, and say how."""
    done = []
    for _ in range(rng.choice([1, 1, 2])):
        if rng.random() < 0.05:
            path, how = root / "config.json", rng.choice([flip_bits, overwrite, cut, append, delete, edit])
        else:
            path, how = rng.choice(_files(root)), rng.choice(rng.choice([FILES, FILES, FOLDERS]))
        try:
            how(path, rng)
        except FileNotFoundError:
            continue  # of what the damage before it has removed
        done.append(f"{how.__name__} {path.relative_to(root)}")
    return done


def outcome(call, case, folder):
    """The result of a call, or None if it is refused in one sentence."""
    try:
        return call(folder, algorithm=own, config=case.config)
    except rljax.UsageError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 1500
    return None


def check_damage(cases, place, seed, capfd):
    """Which of the two calls gave a result."""
    rng = random.Random(seed)
    case = cases[seed % len(cases)]
    folder = shutil.copytree(case.folder, place / str(seed))
    done = damaged(folder, rng)
    loaded = outcome(rljax.load, case, folder)
    if loaded is not None:
        runs = OPTIONS["seeds"]
        assert _is_known(jax.tree.leaves(loaded.states), case.stages, runs), done
    resumed = outcome(lambda *a, **k: rljax.resume(*a, progress=False, **k), case, folder)
    said = capfd.readouterr().err
    assert all(line.startswith("rljax: ") for line in said.splitlines()), (done, said)
    if isinstance(resumed, rljax.Sweep):
        assert resumed.points == case.result.points, done
        for left, right in zip(resumed.results, case.result.results, strict=True):
            same_results(left, right)
    elif resumed is not None:
        same_results(resumed, case.result)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.chmod(path, 0o700)
    shutil.rmtree(folder)
    return loaded is not None, resumed is not None


def _is_known(leaves, stages, runs):
    """True if these are the states of some runs of one of the checkpoints."""
    params, steps = map(np.asarray, leaves)
    for known, step in stages:
        for first in range(0, len(known) - runs + 1):
            if known.shape[1] == params.shape[1] and np.array_equal(params, known[first : first + runs]):
                return bool(np.all(steps == step))
    return False


@pytest.mark.parametrize("start", range(0, 16, 8))
def test_a_damaged_folder_gives_the_same_result_or_one_sentence(cases, tmp_path, capfd, start):
    for seed in range(start, start + 8):
        check_damage(cases, tmp_path, seed, capfd)


@pytest.mark.slow
def test_five_hundred_damaged_folders_give_the_same_result_or_one_sentence(cases, tmp_path, capfd):
    given = [check_damage(cases, tmp_path, seed, capfd) for seed in range(1000, 1500)]
    loads, resumes = map(sum, zip(*given, strict=True))
    with capfd.disabled():
        print(f"{len(given)} damaged folders: {loads} loaded, {resumes} resumed, the others refused in one sentence")
    assert 100 < resumes < len(given)


def test_a_batch_that_was_lost_or_copied_changes_no_result(cases, tmp_path):
    """A lost one is trained again, with the configurations of its rung; a copied one is refused."""
    case = cases[-1]
    names = sorted(path.name for path in (case.folder / "checkpoints").iterdir())

    def resumed(name, other):
        folder = shutil.copytree(case.folder, tmp_path / f"{name}-{other}")
        shutil.rmtree(folder / "checkpoints" / name)
        if other is not None:
            shutil.copytree(folder / "checkpoints" / other, folder / "checkpoints" / name)
        return rljax.resume(folder, algorithm=own, config=case.config, progress=False)

    assert len(names) >= 4
    for name in names:
        for left, right in zip(resumed(name, None).results, case.result.results, strict=True):
            same_results(left, right)
    for name, other in ((names[2], names[3]), (names[1], names[0])):
        with pytest.raises(rljax.UsageError, match=f"it belongs to batch {other}"):
            resumed(name, other)
