"""Plant faults of meaning in the package, one at a time, and list those that no test notices.

    python tests/mutations.py                 # all of them
    python tests/mutations.py ppo returns     # those in files whose path contains one of these words

The faults are in `mutations.toml`: a sign, an index, the power of a discount, a wrong network, a key that is used
twice, a value without its schedule. Each is planted in a copy of the repository, where the tests named next to it run.
A test that fails, or hangs, has noticed it. First the same tests run without a fault, and must pass.
"""

import argparse
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT = 600  # seconds, many times what the slowest of these tests takes
FORKS = multiprocessing.get_context("forkserver")
# Imported once, except gymnax, which starts JAX, after which a process cannot be forked.
PACKAGES = ["jax", "optax", "chex", "flax.linen", "flax.nnx", "orbax.checkpoint", "scipy.stats", "seaborn", "pytest"]


class Fault(NamedTuple):
    file: str  # in rljax/
    old: str  # occurs once in the file
    new: str
    tests: tuple[str, ...]  # files, or tests in files
    equivalent: str = ""  # why it means nothing; such a fault is not planted

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())!r} -> {' '.join(self.new.split())!r}"


def faults(words: list[str]) -> list[Fault]:
    """The faults in files whose path contains one of the words, or all; stop if one is invalid."""
    found = []
    for file, entry in tomllib.loads((ROOT / "tests/mutations.toml").read_text()).items():
        if words and not any(word in file for word in words):
            continue
        path = pathlib.Path(file)
        mirror = f"tests/{path.with_name('test_' + path.name)}"
        for given in entry["faults"]:
            names = given.pop("tests", entry.get("tests", [mirror]))
            tests = tuple(name if name.startswith("tests/") else f"{mirror}::{name}" for name in names)
            fault = Fault(file, tests=tests, **given)
            count = (ROOT / "rljax" / file).read_text().count(fault.old)
            if count != 1:
                sys.exit(f"The old text of a fault must occur once in its file, but occurs {count} times. {fault}")
            found.append(fault)
    if not found:
        sys.exit(f"No file with faults has {' or '.join(words)} in its path.")
    return found


def copy_repository(place: pathlib.Path) -> None:
    """Copy what tests need."""
    for name in ("rljax", "tests", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", place)


def plant(fault: Fault, clean: pathlib.Path) -> tuple[bool, str]:
    """Whether the fault's tests pass in a copy of `clean` with this fault, and the first failure."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "copy"
        shutil.copytree(clean, place)  # with its compiled modules
        file = place / "rljax" / fault.file
        text = file.read_text().replace(fault.old, fault.new)
        compile(text, fault.file, "exec")  # a fault of meaning, not of syntax
        file.write_text(text)
        return run(fault.tests, place, TIMEOUT)


def run(tests: tuple[str, ...], place: pathlib.Path, timeout: float | None = None) -> tuple[bool, str]:
    """Whether these tests pass in this copy of the repository, and the first failure."""
    process = FORKS.Process(target=pytest_in, args=(str(place), tests))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        return False, "a test hangs"
    report = (place / "report").read_text()
    if process.exitcode not in (0, 1, 2):  # 1: a test fails; 2: its module cannot be imported
        sys.exit(f"pytest cannot run {' '.join(tests)}:\n{report}")
    failures = [line for line in report.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return process.exitcode == 0, failures[0] if failures else report[-1000:]


def pytest_in(folder: str, tests: tuple[str, ...]) -> None:
    """Run pytest in a copy of the repository and exit with its code; its output goes to a file there."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    sys.dont_write_bytecode = False
    output = os.open("report", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import pytest

    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the paths of files in rljax/")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="faults tested at once")
    arguments = parser.parse_args()
    everything = faults(arguments.words)
    planted = [fault for fault in everything if not fault.equivalent]
    tests = tuple(dict.fromkeys(test for fault in planted for test in fault.tests))
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        # Every fault has a process, which begins with packages imported and shares what others have compiled.
        cache, clean = pathlib.Path(folder) / "cache", pathlib.Path(folder) / "clean"
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        FORKS.set_forkserver_preload(PACKAGES)
        copy_repository(clean)
        passes, report = run(tests, clean)
        if not passes:
            sys.exit(f"The tests must pass without a fault, and one fails: {report}")

        def timed(fault: Fault) -> tuple[bool, float, str]:
            started = time.perf_counter()
            passes, report = plant(fault, clean)
            return not passes, time.perf_counter() - started, report

        for fault, (noticed, seconds, report) in zip(planted, pool.map(timed, planted), strict=True):
            how = f"noticed by {report.removeprefix('FAILED ').split(' - ')[0]}" if noticed else "UNNOTICED"
            print(f"{seconds:4.0f} s  {fault}: {how}", flush=True)
            if not noticed:
                unnoticed.append(fault)
    for fault in everything:
        if fault.equivalent:
            print(f"not planted, since {fault.equivalent}: {fault}")
    print(f"{len(planted)} faults planted, {len(unnoticed)} unnoticed{':' * bool(unnoticed)}")
    for fault in unnoticed:
        print(f"  {fault}")
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
