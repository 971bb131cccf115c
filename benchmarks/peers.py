"""Compare rljax with other libraries at the same work, in turns in one run: speed and returns.

`python benchmarks/peers.py` writes `results/peers.json` and `PEERS.md`; `--tasks`, `--peers`, `--repeats` and `--quick`
reduce the work, and results of other tasks stay. Every peer is installed from PyPI into a separate environment under
`~/.cache/rljax-peers` or `RLJAX_PEERS`. Every contestant is a process that compiles once, then waits. In each round all
contestants run once, one after the other; the next round starts one contestant later. Each library runs as in its
README, and again as one single-threaded process per core with the seeds divided among them. rljax runs both ways again
in mixed precision; the peers do not.

Left out: SB3 and SBX on MinAtar, which Gymnasium lacks; many seeds of SB3 and SBX in one program, which they do not
support (one process per core trains one seed each); one process per core of SB3 and SBX for DQN and SAC, where the
other libraries are many times as fast.
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
SINGLE_RUN = {"NPROC": "1", "JAX_NUM_CPU_DEVICES": "1"}  # for a single run, as in the README of rljax
README, PER_CORE = "README", "a process a core"
MIXED, MIXED_PER_CORE = f"{README}, mixed precision", f"{PER_CORE}, mixed precision"


class Peer(NamedTuple):
    """A library: its worker, the packages to install, and its differences, by algorithm or `all`."""

    worker: str
    pins: tuple[str, ...]
    differs: dict[str, str]
    changes: dict[str, Any] = {}  # noqa: RUF012  # applied to every job


JAX = "jax[cuda13]==0.11.2" if GPU else "jax==0.11.2"
TORCH = ("torch==2.13.0", "stable-baselines3==2.9.2", "sbx-rl==0.28.0", JAX)
SORTS = "draws a batch without replacement, by sorting the whole buffer"
PEERS = {
    "rljax": Peer("with_rljax.py", (), {"many": "timed: all of `rljax.run`, with an evaluation of one episode"}),
    "rejax": Peer(
        "with_rejax.py",
        ("rejax==0.1.3", "gymnax==0.0.9", JAX),
        {
            "all": "time limits count as terminations",
            "ppo": "value loss clipped, no clipping by norm",
            "dqn": SORTS,
            "sac": f"{SORTS}; no uniform initial steps",
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
            "all": "its versions of the classic environments",
            "ppo": "also computes the value of every next observation",
            "dqn": "target network by Polyak averaging with 1/100",
        },
    ),
    "evorl-jax": Peer(
        "with_evorl.py",
        ("evorl-jax==0.1.1", "gymnax==0.0.9", JAX),
        {
            "all": "time limits count as terminations; one seed runs as in its README: `learn`, which reports to the "
            "host and plays one final episode, its first environment steps not timed; otherwise its `step` in one scan",
            "ppo": "tanh networks instead of its relu",
            "dqn": "relu networks from its factory",
        },
    ),
    "sbx-rl": Peer(
        "with_sb3.py",
        TORCH,
        {"all": "Gymnasium's environments in Python; only updates are compiled", "dqn": "Huber loss"},
        {"library": "sbx"},
    ),
    "stable-baselines3": Peer(
        "with_sb3.py",
        TORCH,
        {"all": "PyTorch; Gymnasium's environments in Python", "dqn": "Huber loss"},
        {"library": "stable_baselines3"},
    ),
    "gymnax": Peer("with_gymnax.py", ("gymnax==1.0.1", "six", JAX), {"all": "its `step`, vmapped and scanned"}),
    "gymnasium": Peer("with_gymnasium.py", ("gymnasium==1.4.0",), {"all": "Python loop"}),
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

Written by `python benchmarks/peers.py`, which documents the method. All libraries do the same work as far as their
options allow; the last column lists the differences. Seconds are medians over repetitions [minimum, maximum] of
contestants that run in turns. The speedup is the speed of rljax, run as in its README, divided by the contestant's
speed, both in environment steps per second. In mixed precision layers multiply in bfloat16; everything else, and every
peer, uses float32. Returns are of greedy policies, interquartile means over seeds and repetitions [minimum, maximum]:
speed counts only for a learner that learns. Compile seconds are the first run minus a later one. "A process a core" is
one single-threaded process per core, pinned to it, with the seeds divided among the processes.
"""


class Task(NamedTuple):
    """A comparison: its title, the job, the peers, and the slow peers that run fewer steps."""

    title: str
    job: dict[str, Any]
    peers: tuple[str, ...]
    many: bool = False
    fewer: dict[str, int] = {}  # noqa: RUF012


TASKS = {
    "ppo_cartpole": Task(
        "PPO on CartPole-v1, one seed: 4 environments x 128 steps, 4 epochs x 4 minibatches, two 2 x 64 tanh networks",
        PPO, (*LEARNERS, *PYTORCH), fewer={"sbx-rl": 10_240, "stable-baselines3": 10_240},
    ),
    "ppo_cartpole_many": Task(
        "The same, many seeds", PPO | {"steps": 10_240}, (*LEARNERS, *PYTORCH), many=True
    ),
    "dqn_cartpole": Task(
        "DQN on CartPole-v1, one seed: 2 x 64 relu, batch 64, one gradient step per two environment steps",
        DQN, (*LEARNERS, *PYTORCH), fewer={"sbx-rl": 4_200, "stable-baselines3": 4_200},
    ),
    "dqn_cartpole_many": Task(
        "The same, many seeds", DQN | {"steps": 5_096}, LEARNERS, many=True
    ),
    "sac_pendulum": Task(
        "SAC on Pendulum-v1, one seed: 2 x 64 relu, batch 256, one gradient step per environment step, buffer of 1M",
        SAC, (*LEARNERS, *PYTORCH),
        fewer={"rejax": 512, "jaxnasium": 512, "evorl-jax": 1_280, "sbx-rl": 1_256, "stable-baselines3": 1_256},
    ),
    "ppo_breakout": Task(
        "PPO on Breakout-MinAtar, one seed: 16 environments x 64 steps, 4 epochs x 8 minibatches, flattened "
        "pixels, two 2 x 64 tanh networks",
        BREAKOUT, LEARNERS,
    ),
    "random_cartpole": Task(
        "1,024 CartPoles with random actions, no learning", RANDOM, ("rljax", "gymnax", "gymnasium")
    ),
}  # fmt: skip
# Gymnasium's three vectorisation modes, with their steps and number of environments.
VECTORS = {
    "sync": {"mode": "sync", "steps": 204_800},
    "async": {"mode": "async", "steps": 32_000, "num_envs": 16},
    "vector code of the environment": {"mode": "vector_entry_point", "steps": 10_240_000},
}


class Failed(Exception):
    """A contestant failed; the message says why."""


class Worker:
    """A process that answers each line with a line."""

    def __init__(self, python: str, script: str, job: dict[str, Any], core: int | None, more: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        preallocate = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "AJAX_NO_COMPILE_CACHE": "1"}
        reading, writing = os.pipe()  # not standard output: libraries print there
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
        """Return the answer, one line of JSON, or raise `Failed` after `seconds`."""
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
    """A peer run in one way: as one process, or as one process per core."""

    def __init__(self, peer: str, way: str, job: dict[str, Any], python: str) -> None:
        self.peer, self.way, self.job, self.python = peer, way, job, python
        self.workers: list[Worker] = []
        self.about: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.returns: list[float] = []
        self.returns_of = 0  # steps of the run that gave the returns, if that is not the timed run
        self.failure = ""

    def ask(self, line: str, limit: float) -> list[dict[str, Any]]:
        for number, worker in enumerate(self.workers):
            worker.say(line.format(number=number))
        return [worker.hear(limit) for worker in self.workers]

    def prepare(self) -> None:
        """Start the processes and wait until each has run once."""
        per_core = self.way in (PER_CORE, MIXED_PER_CORE)
        count = 1 if not per_core else min(len(CORES), self.job["seeds"])
        if count > 1 and self.job["algorithm"] == "random":
            shares = [{"steps": self.job["steps"] // count, "seeds": 1}] * count
        else:
            quotient, rest = divmod(self.job["seeds"], count)
            shares = [{"seeds": quotient + (number < rest)} for number in range(count)]
        is_single_run = self.peer == "rljax" and self.job["seeds"] == 1 and self.job["algorithm"] != "random"
        more = ONE_THREAD if per_core else SINGLE_RUN if is_single_run else {}
        for core, changes in zip(CORES, shares, strict=False):
            job, pinned = {**self.job, **changes}, core if per_core else None
            self.workers.append(Worker(self.python, PEERS[self.peer].worker, job, pinned, more))
        answers = [worker.hear(READY_SECONDS) for worker in self.workers]
        self.about = {**answers[0], "first_seconds": max(one["first_seconds"] for one in answers)}
        self.about["env_steps"] = sum(one["env_steps"] for one in answers)

    def repeat(self, seed: int) -> None:
        """Run once more, timed until the last process is done."""
        self.ask(f"start {1000 * seed}{{number}}", RUN_SECONDS)
        self.seconds.append(max(one["seconds"] for one in self.ask("go", RUN_SECONDS)))
        self.returns += [value for one in self.ask("returns", RUN_SECONDS) for value in one["returns"]]

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.workers = []


@contextlib.contextmanager
def trying(contestant: Contestant) -> Iterator[None]:
    """Record the reason of a failure and continue without the contestant."""
    try:
        yield
    except Failed as error:
        contestant.failure = str(error)
        print(f"  {contestant.peer}, {contestant.way}: {error}", flush=True)
        contestant.stop()


def install(peer: str) -> str | None:
    """Return the Python of the peer's environment, installing it if needed; print why and return None on failure."""
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
    """Return a twentieth of the job, to check that everything runs."""
    unit = job["num_envs"] * job.get("num_steps", 1)
    return {**job, "steps": max(job["steps"] // 20 // unit, 4) * unit + 2 * job["prefill"]}


def contestants(task: Task, peers: list[str], seeds: int, quick: bool) -> list[Contestant]:
    """List the contestants, rljax first."""
    field = []
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
            field.append(Contestant(peer, way, smaller(chosen) if quick else chosen, python))
    return field


def returns_of_whole_runs(field: list[Contestant], task: Task) -> None:
    """Replace returns of runs that were too short to learn with those of one run of full length."""
    for one in field:
        if one.peer in task.fewer:
            one.returns = []  # the table has none if the whole run fails
    for one in field:
        if one.failure or one.way != README or one.peer not in task.fewer:
            continue
        # A buffer that never overflows can be smaller without changing the learner.
        job = {**one.job, "steps": task.job["steps"]}
        job |= {"buffer": min(job["buffer"], max(job["steps"], 1024))} if "buffer" in job else {}
        whole = Contestant(one.peer, one.way, job, one.python)
        try:
            with trying(whole):
                whole.prepare()
                one.returns = [value for answer in whole.ask("returns", RUN_SECONDS) for value in answer["returns"]]
        finally:
            whole.stop()
        for same_peer in (contestant for contestant in field if contestant.peer == one.peer):
            same_peer.returns = one.returns
            same_peer.returns_of = job["steps"] if one.returns else 0


def check_devices(field: list[Contestant]) -> None:
    """Drop contestants on another kind of device than rljax, for example if only one has JAX's CUDA package."""
    ready = [one for one in field if one.about]
    kinds = [one.about["device"].split(" x ")[-1] for one in ready]
    ours = next((kind for one, kind in zip(ready, kinds, strict=True) if one.peer == "rljax"), None)
    for one, kind in zip(ready, kinds, strict=True):
        pins = PEERS[one.peer].pins
        if JAX in pins and pins is not TORCH and ours not in (None, kind):
            one.failure = f"left out: it runs on {kind}, rljax on {ours}; install the same build of JAX for both"
            print(f"  {one.peer}, {one.way}: {one.failure}", flush=True)
            one.stop()


def measure(task: Task, field: list[Contestant], repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Run all contestants in turns, `repeats` times; return one row each."""
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
    timed = [result for result in rows if "seconds" in result]
    speeds = {(result["peer"], result["way"]): result["env_steps_per_second"] for result in timed}
    for result in timed:
        if ("rljax", README) in speeds:
            result["times_as_fast_is_rljax"] = speeds["rljax", README] / result["env_steps_per_second"]
    return rows


def differences(task: Task, peer: str, num_envs: int, returns_of: int) -> str:
    """Describe how a peer's work differs from the task."""
    differs = PEERS[peer].differs
    notes = [differs[key] for key in ("all", task.job["algorithm"], "many" if task.many else "") if key in differs]
    if peer in task.fewer:
        source = f"return of one run of {returns_of:,}" if returns_of else "no return of a whole run"
        notes.append(f"timed over fewer steps, {source}")
    if num_envs != task.job["num_envs"]:
        notes.append(f"{num_envs} environments, a process each")
    return "; ".join(notes)


def row(task: Task, one: Contestant) -> dict[str, Any]:
    """Return a contestant's results."""
    differs = differences(task, one.peer, one.job["num_envs"], one.returns_of)
    base = {"peer": one.peer, "way": one.way, "seeds": one.job["seeds"], "num_envs": one.job["num_envs"]}
    base["returns_of"] = one.returns_of
    if one.failure or not one.seconds:
        return {**base, "failure": one.failure or "no repetition", "differs": differs}
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
        "differs": differs,
    }


def line(task: Task, one: dict[str, Any]) -> str:
    """Format one row of the table."""
    whole_run = task.job["steps"] if "return_iqm" in one else 0  # for results that do not record `returns_of`
    differs = differences(task, one["peer"], one["num_envs"], one.get("returns_of", whole_run))
    if "failure" in one:
        cells = [one["peer"], one["way"], str(one["seeds"]), "", "", "", "", one["failure"], "", differs]
        return "| " + " | ".join(cells) + " |"
    returns = "{return_iqm:.1f} [{return_least:.1f}, {return_most:.1f}]".format(**one) if "return_iqm" in one else ""
    cells = [
        one["peer"], one["way"], str(one["seeds"]), f"{one['env_steps']:,}",
        f"{one['seconds']:.2f} [{one['least']:.2f}, {one['most']:.2f}]", f"{one['env_steps_per_second']:,.0f}",
        f"{one.get('times_as_fast_is_rljax', float('nan')):.2f}", returns, f"{one['compile_seconds']:.1f}",
        differs,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(known: dict[str, Any]) -> str:
    """Format PEERS.md."""
    columns = ["library", "way", "seeds", "env steps", "seconds", "env steps/s", "speedup of rljax"]
    columns += ["return", "compile s", "differences"]
    parts = [HEAD]
    for name in (name for name in TASKS if name in known):
        task, results = TASKS[name], known[name]
        devices = ", ".join(dict.fromkeys(result["device"] for result in results["rows"] if "device" in result))
        about = f"{results['repeats']} repetitions on {results['cores']} cores ({devices})."
        rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        rows += [line(task, result) for result in results["rows"]]
        parts.append("\n".join([f"## {task.title}", "", about, "", *rows, ""]))
    versions: dict[str, str] = {}
    for results in known.values():
        for result in results["rows"]:
            if result.get("versions"):
                versions[result["peer"]] = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    parts.append("## Versions\n\n" + "\n".join(f"- {peer}: {text}" for peer, text in versions.items()) + "\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
    """Measure the chosen tasks, and write the results after each."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=script.positive, default=5)
    parser.add_argument("--seeds", type=script.positive, default=64, help="for the tasks with many seeds")
    parser.add_argument(
        "--steps", type=script.positive, help="environment steps per run, for the tasks with many seeds"
    )
    parser.add_argument("--quick", action="store_true", help="do a twentieth of the work once, write nothing")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = script.read(RESULTS) or {}
    if shutil.which("taskset") is None:
        print("taskset is not installed: processes are not pinned to cores.", flush=True)
    for name in options.tasks:
        print(TASKS[name].title, flush=True)
        task = TASKS[name]
        if task.many and options.steps:
            task = task._replace(job=task.job | {"steps": options.steps})
        field = contestants(task, options.peers, options.seeds, options.quick)
        if not field:
            print("  none of the chosen libraries can do this task here", flush=True)
            continue
        repeats = 1 if options.quick else options.repeats
        rows = measure(task, field, repeats, options.quick)
        print("\n".join(line(task, result) for result in rows), flush=True)
        known[name] = {"repeats": repeats, "cores": len(CORES), "rows": rows}
        if not options.quick:
            script.write(RESULTS, known)
            TABLE.write_text(table(known))


if __name__ == "__main__":
    script.run(main, "finished tasks are written, and all processes have ended.")
