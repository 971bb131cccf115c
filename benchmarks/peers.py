"""The same work by rljax and by other libraries, in turn, in one run: how fast each learns, and what it has learnt.

`python benchmarks/peers.py` writes `results/peers.json` and `PEERS.md`; `--tasks`, `--peers`, `--repeats` and `--quick`
do less, and other tasks' results stay. Every peer is installed from PyPI into an environment of its own, under
`~/.cache/rljax-peers` or `RLJAX_PEERS`. Every contestant is a process that compiles once, then waits; in each round all
run once, one after the other, the first of a round being the next one of the round before. Everybody runs as its README
says, and once more in one single-threaded process a core, the seeds divided among them. rljax does both a second time
in mixed precision; no peer is asked to.

Left out: SB3 and SBX on MinAtar, which Gymnasium has not; many seeds of them in one program, which they do not have (a
process a core trains one each); a process a core of them for DQN and SAC, where others are many times as fast.
"""

import argparse
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import script
from scipy.stats import trim_mean

HERE = pathlib.Path(__file__).parent
ROOT = pathlib.Path(os.environ.get("RLJAX_PEERS", "~/.cache/rljax-peers")).expanduser()
RESULTS, TABLE = HERE / "results" / "peers.json", HERE / "PEERS.md"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
GPU = shutil.which("nvidia-smi") is not None
READY_SECONDS, RUN_SECONDS = 600.0, 300.0  # after which a contestant counts as hung
ONE_THREAD = {"NPROC": "1", "OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
LONE = {"NPROC": "1", "JAX_NUM_CPU_DEVICES": "1"}  # what the README of rljax says of one run
README, PER_CORE = "README", "a process a core"
MIXED, MIXED_PER_CORE = f"{README}, mixed precision", f"{PER_CORE}, mixed precision"


class Peer(NamedTuple):
    """A library: its worker, what to install for it, and what is not equal, by algorithm or `all`."""

    worker: str
    pins: tuple[str, ...]
    differs: dict[str, str]
    changes: dict[str, Any] = {}  # noqa: RUF012  # of every job


JAX = "jax[cuda13]==0.11.2" if GPU else "jax==0.11.2"
TORCH = ("torch==2.13.0", "stable-baselines3==2.9.2", "sbx-rl==0.28.0", JAX)
SORTS = "draws a batch without replacement, by sorting the whole buffer"
PEERS = {
    "rljax": Peer("with_rljax.py", (), {"many": "time of all that `rljax.run` does, an evaluation of one episode too"}),
    "rejax": Peer(
        "with_rejax.py",
        ("rejax==0.1.3", "gymnax==0.0.9", JAX),
        {
            "all": "time limits count as ends",
            "ppo": "value loss clipped, no clipping by norm",
            "dqn": SORTS,
            "sac": f"{SORTS}; no uniform first steps",
        },
    ),
    "ajax-rl": Peer(
        "with_ajax.py",
        ("ajax-rl==0.4.0", "gymnax==1.0.1", JAX),
        {"all": "without the compilation that each call of its `train` makes", "dqn": "centred RMSProp"},
    ),
    "jaxnasium": Peer(
        "with_jaxnasium.py",
        ("jaxnasium[algs]==0.1.1", "gymnax==1.0.1", "six", JAX),
        {
            "all": "its own classic environments",
            "ppo": "reads the value of every next observation too",
            "dqn": "target by Polyak averaging of 1/100",
        },
    ),
    "evorl-jax": Peer(
        "with_evorl.py",
        ("evorl-jax==0.1.1", "gymnax==0.0.9", JAX),
        {
            "all": "time limits count as ends; for one seed as its README says: `learn`, which reports to the host and "
            "plays one episode at the end, its first environment steps not timed; otherwise its `step` in one scan",
            "ppo": "tanh networks in place of its relu",
            "dqn": "relu networks as its factory makes them",
        },
    ),
    "sbx-rl": Peer(
        "with_sb3.py",
        TORCH,
        {"all": "Gymnasium's environments in Python; only updates compiled", "dqn": "Huber loss"},
        {"library": "sbx"},
    ),
    "stable-baselines3": Peer(
        "with_sb3.py",
        TORCH,
        {"all": "PyTorch; Gymnasium's environments in Python", "dqn": "Huber loss"},
        {"library": "stable_baselines3"},
    ),
    "gymnax": Peer("with_gymnax.py", ("gymnax==1.0.1", "six", JAX), {"all": "its `step`, vmapped and in a scan"}),
    "gymnasium": Peer("with_gymnasium.py", ("gymnasium==1.4.0",), {"all": "a loop in Python"}),
}
NAMES = {"rljax": ("rljax-engine", "jax", "gymnax"), "sbx-rl": ("sbx-rl", "jax"), "gymnasium": ("gymnasium",)}
NAMES |= {"stable-baselines3": ("stable-baselines3", "torch", "gymnasium")}

LEARNERS = ("rljax", "rejax", "ajax-rl", "jaxnasium", "evorl-jax")
PYTORCH = ("sbx-rl", "stable-baselines3")
COMMON: dict[str, Any] = {"hidden": [64, 64], "episodes": 20, "mode": "", "library": "", "prefill": 0}
PPO: dict[str, Any] = COMMON | {
    "algorithm": "ppo", "env": "CartPole-v1", "episode_limit": 500, "steps": 102_400, "num_envs": 4, "num_steps": 128,
    "epochs": 4, "minibatches": 4, "learning_rate": 1e-3, "discount": 0.98, "gae_lambda": 0.95, "entropy": 0.0,
    "max_grad_norm": 0.5, "activation": "tanh",
}  # fmt: skip
BREAKOUT = PPO | {
    "env": "Breakout-MinAtar", "episode_limit": 1000, "num_envs": 16, "num_steps": 64, "minibatches": 8,
    "learning_rate": 5e-4, "discount": 0.99, "entropy": 0.01,
}  # fmt: skip
DQN: dict[str, Any] = COMMON | {
    "algorithm": "dqn", "env": "CartPole-v1", "episode_limit": 500, "steps": 50_152, "num_envs": 4, "num_steps": 1,
    "gradient_steps": 2, "batch": 64, "buffer": 10_000, "prefill": 1_000, "target_period": 100, "epsilon_end": 0.05,
    "epsilon_fraction": 0.2, "learning_rate": 1e-3, "discount": 0.99, "max_grad_norm": 10.0, "activation": "relu",
}  # fmt: skip
SAC = DQN | {
    "algorithm": "sac", "env": "Pendulum-v1", "episode_limit": 200, "steps": 10_256, "num_envs": 1, "gradient_steps": 1,
    "batch": 256, "buffer": 1_000_000, "prefill": 256, "target_rate": 0.005,
}  # fmt: skip
RANDOM = COMMON | {"algorithm": "random", "env": "CartPole-v1", "num_envs": 1024, "num_steps": 100, "steps": 20_480_000}

HEAD = """# rljax and its peers

Written by `python benchmarks/peers.py`, which says how they are compared: the same work as far as each library lets one
say what to do; what is not equal stands in the last column. Seconds are medians of the repetitions [least, most], of
contestants that take turns; the ratio is that of the speed of rljax, as its README has it, to the contestant's, in
environment steps. In mixed precision layers multiply bfloat16, all else is float32, as everything is for everybody
else. Returns are greedy, interquartile means over seeds and repetitions [least, most]: speed counts only
for a learner that learns. To compile is the first run less a later one, in seconds. A process a core: single-threaded
and pinned, the seeds divided.
"""


class Task(NamedTuple):
    """A line of work: what it is, the job, who does it, and who does fewer steps of it, being slow."""

    title: str
    job: dict[str, Any]
    peers: tuple[str, ...]
    many: bool = False
    fewer: dict[str, int] = {}  # noqa: RUF012


TASKS = {
    "ppo_cartpole": Task(
        "PPO on CartPole-v1, one seed: 4 environments x 128 steps, 4 epochs x 4 minibatches, 2 x 64 tanh each",
        PPO, (*LEARNERS, *PYTORCH), fewer={"sbx-rl": 10_240, "stable-baselines3": 10_240},
    ),
    "ppo_cartpole_many": Task(
        "The same, many seeds", PPO | {"steps": 10_240}, (*LEARNERS, *PYTORCH), many=True
    ),
    "dqn_cartpole": Task(
        "DQN on CartPole-v1, one seed: 2 x 64 relu, batch 64, one gradient step for two environment steps",
        DQN, (*LEARNERS, *PYTORCH), fewer={"sbx-rl": 4_200, "stable-baselines3": 4_200},
    ),
    "dqn_cartpole_many": Task(
        "The same, many seeds", DQN | {"steps": 5_096}, LEARNERS, many=True
    ),
    "sac_pendulum": Task(
        "SAC on Pendulum-v1, one seed: 2 x 64 relu, batch 256, a gradient step a step, buffer of 1M",
        SAC, (*LEARNERS, *PYTORCH),
        fewer={"rejax": 512, "jaxnasium": 512, "evorl-jax": 1_280, "sbx-rl": 1_256, "stable-baselines3": 1_256},
    ),
    "ppo_breakout": Task(
        "PPO on Breakout-MinAtar, one seed: 16 environments x 64 steps, 4 epochs x 8 minibatches, pixels flattened "
        "into 2 x 64 tanh each",
        BREAKOUT, LEARNERS,
    ),
    "random_cartpole": Task(
        "1,024 CartPoles with random actions, no learning", RANDOM, ("rljax", "gymnax", "gymnasium")
    ),
}  # fmt: skip
# Gymnasium's three ways, with the steps each does and how many environments.
VECTORS = {
    "sync": {"mode": "sync", "steps": 204_800},
    "async": {"mode": "async", "steps": 32_000, "num_envs": 16},
    "vector code of the environment": {"mode": "vector_entry_point", "steps": 10_240_000},
}


class Failed(Exception):
    """A contestant did not answer; the message says why."""


class Worker:
    """A process that answers lines with lines."""

    def __init__(self, python: str, script: str, job: dict[str, Any], core: int | None, more: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        preallocate = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "AJAX_NO_COMPILE_CACHE": "1"}
        reading, writing = os.pipe()  # not standard output, into which libraries print
        self.answers = os.fdopen(reading)
        command = [python, str(HERE / "peer_workers" / script), json.dumps({**job, "answers": writing})]
        pin = ["taskset", "-c", str(core)] if core is not None and shutil.which("taskset") else []
        self.process = subprocess.Popen(
            [*pin, *command], stdin=subprocess.PIPE, stdout=self.errors, stderr=self.errors, text=True,
            env={**os.environ, **preallocate, **more}, start_new_session=True, pass_fds=[writing],
        )  # fmt: skip
        os.close(writing)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `hear` says why
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self, seconds: float) -> dict[str, Any]:
        """The answer, a line, within so many seconds."""
        if not select.select([self.answers], [], [], seconds)[0]:
            raise Failed(f"hung: no answer within {seconds:.0f} s, killed")
        line = self.answers.readline()
        if not line:
            self.errors.seek(0)
            raise Failed(f"failed: {([*self.errors.read().strip().splitlines(), 'no message'][-2:])[0][:200]}")
        return json.loads(line)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Contestant:
    """A peer in one of its ways: one process, or one a core."""

    def __init__(self, peer: str, way: str, job: dict[str, Any], python: str) -> None:
        self.peer, self.way, self.job, self.python = peer, way, job, python
        self.workers: list[Worker] = []
        self.about: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.returns: list[float] = []
        self.returns_of = 0  # steps of the one run that they are of, where that is not the one that is timed
        self.failure = ""

    def ask(self, line: str, limit: float) -> list[dict[str, Any]]:
        for number, worker in enumerate(self.workers):
            worker.say(line.format(number=number))
        return [worker.hear(limit) for worker in self.workers]

    def prepare(self) -> None:
        """Start the processes and wait until each has run once."""
        alone = self.way not in (PER_CORE, MIXED_PER_CORE)
        count = 1 if alone else min(len(CORES), self.job["seeds"])
        if count > 1 and self.job["algorithm"] == "random":
            shares = [{"steps": self.job["steps"] // count, "seeds": 1}] * count
        else:
            whole, rest = divmod(self.job["seeds"], count)
            shares = [{"seeds": whole + (number < rest)} for number in range(count)]
        is_lone = self.peer == "rljax" and self.job["seeds"] == 1 and self.job["algorithm"] != "random"
        more = (LONE if is_lone else {}) if alone else ONE_THREAD
        for core, share in zip(CORES, shares, strict=False):
            job, pinned = {**self.job, **share}, None if alone else core
            self.workers.append(Worker(self.python, PEERS[self.peer].worker, job, pinned, more))
        answers = [worker.hear(READY_SECONDS) for worker in self.workers]
        self.about = {**answers[0], "first_seconds": max(one["first_seconds"] for one in answers)}
        self.about["env_steps"] = sum(one["env_steps"] for one in answers)

    def repeat(self, seed: int) -> None:
        """Once more, timed until the last process is done."""
        self.ask(f"start {1000 * seed}{{number}}", RUN_SECONDS)
        self.seconds.append(max(one["seconds"] for one in self.ask("go", RUN_SECONDS)))
        self.returns += [value for one in self.ask("returns", RUN_SECONDS) for value in one["returns"]]

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.workers = []


@contextlib.contextmanager
def trying(contestant: Contestant) -> Iterator[None]:
    """Keep the reason of a failure, and go on without the contestant."""
    try:
        yield
    except Failed as error:
        contestant.failure = str(error)
        print(f"  {contestant.peer}, {contestant.way}: {error}", flush=True)
        contestant.stop()


def install(peer: str) -> str | None:
    """The Python of the peer's own environment, made if need be; None, and one sentence, where that is impossible."""
    pins = PEERS[peer].pins
    if not pins:
        return sys.executable
    folder = ROOT / ("sb3" if pins is TORCH else peer)
    python, ready = folder / "bin" / "python", folder / "installed"
    if not ready.exists() or ready.read_text() != "\n".join(pins):
        print(f"Installing {', '.join(pins)} into {folder}.", flush=True)
        try:
            for command in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", *pins]):
                subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            lines = [line for line in (error.stdout + error.stderr).splitlines() if "error" in line.lower()]
            print(f"{peer} cannot be installed and is left out: {(lines or ['no message'])[-1][:200]}", flush=True)
            return None
        ready.write_text("\n".join(pins))
    return str(python)


def smaller(job: dict[str, Any]) -> dict[str, Any]:
    """A twentieth of the work, for a look whether everything runs."""
    unit = job["num_envs"] * job.get("num_steps", 1)
    return {**job, "steps": max(job["steps"] // 20 // unit, 4) * unit + 2 * job["prefill"]}


def contestants(task: Task, peers: list[str], seeds: int, quick: bool) -> list[Contestant]:
    """Who takes part, rljax first."""
    found = []
    for peer in (name for name in task.peers if name in peers):
        python = install(peer)
        if python is None:
            continue
        packages = list(NAMES.get(peer, (peer, "jax")))
        job = {**task.job, **PEERS[peer].changes, "packages": packages, "seeds": seeds if task.many else 1}
        job["steps"] = task.fewer.get(peer, job["steps"])
        ways: dict[str, dict[str, Any]] = {README: {}}
        if peer == "gymnasium":
            ways = dict(VECTORS)
        elif not GPU and (peer not in PYTORCH or job["algorithm"] == "ppo"):
            spread = {"seeds": len(CORES)} if (peer in PYTORCH and task.many) or job["algorithm"] == "random" else {}
            ways[PER_CORE] = {"mode": "scan", **spread}
        if peer in PYTORCH and task.many:
            ways.pop(README)
        if peer == "rljax" and job["algorithm"] != "random":
            mixed = {README: MIXED, PER_CORE: MIXED_PER_CORE}
            ways |= {mixed[way]: {**changes, "mixed_precision": True} for way, changes in ways.items()}
        for way, changes in ways.items():
            chosen = {**job, **changes}
            found.append(Contestant(peer, way, smaller(chosen) if quick else chosen, python))
    return found


def returns_of_whole_runs(field: list[Contestant], task: Task) -> None:
    """One run of full length for each learner whose repetitions were too short to learn anything, in place of those."""
    for one in field:
        if one.peer in task.fewer:
            one.returns = []  # none is told where the whole run fails
    for one in field:
        if one.failure or one.way != README or one.peer not in task.fewer:
            continue
        # A buffer that never overflows may be smaller: the learner is the same.
        job = {**one.job, "steps": task.job["steps"]}
        job |= {"buffer": min(job["buffer"], max(job["steps"], 1024))} if "buffer" in job else {}
        whole = Contestant(one.peer, one.way, job, one.python)
        try:
            with trying(whole):
                whole.prepare()
                one.returns = [value for answer in whole.ask("returns", RUN_SECONDS) for value in answer["returns"]]
        finally:
            whole.stop()
        for other in field:
            if other.peer == one.peer:
                other.returns = one.returns
                other.returns_of = job["steps"] if one.returns else 0


def check_devices(field: list[Contestant]) -> None:
    """Leave out who runs on another kind of device than rljax, as where only one side has JAX's CUDA package."""
    ready = [one for one in field if one.about]
    kinds = [one.about["device"].split(" x ")[-1] for one in ready]
    ours = next((kind for one, kind in zip(ready, kinds, strict=True) if one.peer == "rljax"), None)
    for one, kind in zip(ready, kinds, strict=True):
        pins = PEERS[one.peer].pins
        if JAX in pins and pins is not TORCH and ours not in (None, kind):
            one.failure = f"left out: it runs on {kind}, rljax on {ours}; give both the same build of JAX"
            print(f"  {one.peer}, {one.way}: {one.failure}", flush=True)
            one.stop()


def measure(task: Task, field: list[Contestant], repeats: int, quick: bool) -> list[dict[str, Any]]:
    """All contestants in turn, `repeats` times; a row each."""
    try:
        for one in field:
            with trying(one):
                one.prepare()
                print(f"  {one.peer}, {one.way}: ready after {one.about['first_seconds']:.1f} s", flush=True)
        check_devices(field)
        for repeat in range(repeats):
            for one in field[repeat % len(field) :] + field[: repeat % len(field)]:
                if not one.failure:
                    with trying(one):
                        one.repeat(repeat + 1)
            print(f"  round {repeat + 1} of {repeats}", flush=True)
        for one in field:
            one.stop()
        if not quick:
            returns_of_whole_runs(field, task)
    finally:
        for one in field:
            one.stop()
    rows = [row(task, one) for one in field]
    speeds = {(found["peer"], found["way"]): found["env_steps_per_second"] for found in rows if "seconds" in found}
    for found in rows:
        if "seconds" in found and ("rljax", README) in speeds:
            found["times_as_fast_is_rljax"] = speeds["rljax", README] / found["env_steps_per_second"]
    return rows


def row(task: Task, one: Contestant) -> dict[str, Any]:
    """What the table says of a contestant."""
    differs = PEERS[one.peer].differs
    notes = [differs[key] for key in ("all", one.job["algorithm"], "many" if task.many else "") if key in differs]
    if one.peer in task.fewer:
        of = f"return of one run of {one.returns_of:,}" if one.returns_of else "no return of a whole run"
        notes.append(f"timed over fewer steps, {of}")
    if one.job["num_envs"] != task.job["num_envs"]:
        notes.append(f"{one.job['num_envs']} environments, a process each")
    base = {"peer": one.peer, "way": one.way, "seeds": one.job["seeds"], "num_envs": one.job["num_envs"]}
    if one.failure or not one.seconds:
        return {**base, "failure": one.failure or "no repetition", "differs": "; ".join(notes)}
    median = statistics.median(one.seconds)
    rest = {"env_steps": one.about["env_steps"], "seconds": median, "least": min(one.seconds)}
    if one.job["algorithm"] != "random" and one.returns:
        rest |= {"return_iqm": float(trim_mean(one.returns, 0.25)), "return_mean": statistics.fmean(one.returns)}
        rest |= {"return_least": min(one.returns), "return_most": max(one.returns)}
    return {
        **base,
        **rest,
        "most": max(one.seconds),
        "env_steps_per_second": one.about["env_steps"] / median,
        "compile_seconds": max(one.about["first_seconds"] - median, 0.0),
        "device": one.about["device"],
        "versions": one.about["versions"],
        "differs": "; ".join(notes),
    }


def line(one: dict[str, Any]) -> str:
    """A row in Markdown."""
    if "failure" in one:
        cells = [one["peer"], one["way"], str(one["seeds"]), "", "", "", "", one["failure"], "", one["differs"]]
        return "| " + " | ".join(cells) + " |"
    learnt = "{return_iqm:.1f} [{return_least:.1f}, {return_most:.1f}]".format(**one) if "return_iqm" in one else ""
    cells = [
        one["peer"], one["way"], str(one["seeds"]), f"{one['env_steps']:,}",
        f"{one['seconds']:.2f} [{one['least']:.2f}, {one['most']:.2f}]", f"{one['env_steps_per_second']:,.0f}",
        f"{one.get('times_as_fast_is_rljax', float('nan')):.2f}", learnt, f"{one['compile_seconds']:.1f}",
        one["differs"],
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(known: dict[str, Any]) -> str:
    """The page."""
    columns = ["library", "way", "seeds", "env steps", "seconds", "env steps/s", "rljax is times as fast"]
    columns += ["return", "to compile", "not equal"]
    parts = [HEAD]
    for name in (name for name in TASKS if name in known):
        found = known[name]
        devices = ", ".join(dict.fromkeys(one["device"] for one in found["rows"] if "device" in one))
        about = f"{found['repeats']} repetitions on {found['cores']} cores ({devices})."
        rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *map(line, found["rows"])]
        parts.append("\n".join([f"## {TASKS[name].title}", "", about, "", *rows, ""]))
    versions: dict[str, str] = {}
    for found in known.values():
        for one in found["rows"]:
            if one.get("versions"):
                versions[one["peer"]] = ", ".join(f"{k} {v}" for k, v in one["versions"].items())
    parts.append("## Versions\n\n" + "\n".join(f"- {peer}: {text}" for peer, text in versions.items()) + "\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
    """Measure the tasks asked for, and write after each."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=script.positive, default=5)
    parser.add_argument("--seeds", type=script.positive, default=64, help="of the tasks with many")
    parser.add_argument("--steps", type=script.positive, help="environment steps of a run of the tasks with many")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work once; writes nothing")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = script.read(RESULTS) or {}
    if shutil.which("taskset") is None:
        print("There is no taskset here: a process a core is not pinned to it.", flush=True)
    for name in options.tasks:
        print(TASKS[name].title, flush=True)
        task = TASKS[name]
        if task.many and options.steps:
            task = task._replace(job=task.job | {"steps": options.steps})
        field = contestants(task, options.peers, options.seeds, options.quick)
        if not field:
            print("  none of the libraries asked for does this work here", flush=True)
            continue
        repeats = 1 if options.quick else options.repeats
        rows = measure(task, field, repeats, options.quick)
        print("\n".join(map(line, rows)), flush=True)
        known[name] = {"repeats": repeats, "cores": len(CORES), "rows": rows}
        if not options.quick:
            script.write(RESULTS, known)
            TABLE.write_text(table(known))


if __name__ == "__main__":
    script.run(main, "tasks that were done are written, and all processes have ended.")
