"""A Ray cluster of two nodes that lose workers, nodes and their driver at random, and keep the bits.

20 removed nodes and killed workers, over four algorithms, one of them in a sweep with halving: `make test-kills`.
"""

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import psutil
import pytest
import toys
from test_kills import results

import rljax
from rljax import ppo

ray = pytest.importorskip("ray")

WALK = {"env": toys.walk, "num_envs": 4, "hidden_sizes": (8,)}
BUFFER = {"buffer_size": 1000, "prefill_steps": 200}
ATOMS = {"num_atoms": 5, "value_low": 0.0, "value_high": 9.0}
RUNS = {  # the algorithm, its config, and the sweep
    "ppo": (WALK | {"num_steps": 8, "num_epochs": 1, "total_steps": 600_000}, {"learning_rate": [1e-3, 3e-3]}, {}),
    "dqn": (WALK | BUFFER | {"total_steps": 200_000}, {"learning_rate": [1e-3, 3e-3]}, {}),
    "c51": (WALK | BUFFER | ATOMS | {"total_steps": 60_000}, {"learning_rate": [1e-3, 3e-3]}, {}),
    "q_learning": (
        {"env": "FrozenLake-misc", "total_steps": 400_000},
        {"step_size": [0.1, 0.2, 0.4, 0.8]},
        {"halving": 2},
    ),
}
OPTIONS = {
    "seeds": 2,
    "runs_per_batch": 2,
    "evaluations": 3,
    "eval_episodes": 2,
    "checkpoint_every": 0,
    "progress": False,
}
EVENTS = 5  # of each algorithm: removed nodes and killed workers

total: collections.Counter[str] = collections.Counter()


NODES = """
import sys
from ray.cluster_utils import Cluster
store = {"object_store_memory": 2**27}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
print(cluster.address, flush=True)
nodes = []
for line in sys.stdin:
    if line == "add\\n":
        nodes.append(cluster.add_node(num_cpus=1, **store))
    else:
        cluster.remove_node(nodes.pop(int(line)), allow_graceful=False)
    print(len(nodes), flush=True)
cluster.shutdown()
"""


class Nodes:
    """A head that trains nothing, and nodes of one CPU, in another process: Ray sets handlers of signals."""

    def __init__(self, **variables):
        command = [sys.executable, "-W", "ignore", "-c", NODES]
        given = {"env": os.environ | variables, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **given)
        self.address, self.count = self._answer(), 0

    def _answer(self):
        return next(line.strip() for line in self.process.stdout if line[0].isdigit())

    def _order(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self.count = int(self._answer())

    def add(self):
        self._order("add")

    def remove(self, number):
        self._order(number)

    def workers(self, name="ray::train"):
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _name(child).startswith(name)]

    def shutdown(self):
        self.process.stdin.close()
        self.process.wait(60)


def _name(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def nodes():
    made = Nodes()
    made.add()
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def disturb(nodes, rng, left, ended, name="ray::train"):
    """Remove a node or kill a worker every few seconds, while anything trains; `left` is how many times."""
    while left and not ended.wait(rng.uniform(0.5, 6)):
        workers = nodes.workers(name)
        if not workers:
            continue
        if left[-1] == "node":
            nodes.remove(rng.randrange(nodes.count))
            nodes.add()
        else:
            rng.choice(workers).send_signal(signal.SIGKILL)
        total[left.pop()] += 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_lost_nodes_and_workers_change_no_bit(tmp_path, nodes, name, capsys):
    fields, sweep, more = RUNS[name]
    fields = dict(fields)
    env = fields.pop("env")

    def train(folder):
        began = time.monotonic()
        rljax.run(name, env, sweep=sweep, out=folder, overwrite=True, cluster="ray", **OPTIONS, **more, **fields)
        total["lost tasks"] += capsys.readouterr().err.count("was lost")
        return time.monotonic() - began

    alone = train(tmp_path / "alone")  # on one node
    expected = results(tmp_path / "alone")
    while nodes.count < 2:
        nodes.add()
    rng = random.Random(name)
    left = [("node", "worker")[i % 2] for i in range(EVENTS + len(total) % 2)][:EVENTS]
    while left:
        ended = threading.Event()
        thread = threading.Thread(target=disturb, args=(nodes, rng, left, ended))
        thread.start()
        seconds = train(tmp_path / "disturbed")
        ended.set()
        thread.join()
        assert results(tmp_path / "disturbed") == expected
        total["equal results"] += 1
        with capsys.disabled():
            print(f"\n{name}: {alone:.0f} s undisturbed, {seconds:.0f} s disturbed; {dict(total)}", flush=True)


FIELDS = {"num_envs": 4, "hidden_sizes": (8,), "num_steps": 8, "num_epochs": 1, "total_steps": 600_000}
GIVEN = {**OPTIONS, "seeds": 4, "runs_per_batch": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed experiment leaves, trained by one task after the other in this process."""
    folder = tmp_path_factory.mktemp("whole") / "x"
    rljax.run("ppo", toys.walk, out=folder, devices=1, **GIVEN, **FIELDS)
    return results(folder)


def start_driver(address, out):
    """A driver in a process of its own, once a task has saved."""
    tests = os.path.dirname(toys.__file__)
    script = (
        f"import sys; sys.path[:0] = [{tests!r}, {os.path.dirname(tests)!r}]\n"
        "import rljax, toys\n"
        f"rljax.run('ppo', toys.walk, out={str(out)!r}, cluster='ray={address}', **{GIVEN!r}, **{FIELDS!r})"
    )
    driver = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script])
    wait_until(lambda: list(out.glob("checkpoints/*/*")), driver)
    return driver


def wait_until(holds, driver=None):
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        assert driver is None or driver.poll() is None
        time.sleep(0.2)


def resume(out, **given):
    """Resume once Ray has ended the workers of the driver before, which takes seconds."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return rljax.resume(out, env=toys.walk, progress=False, **given)
        except rljax.UsageError as error:
            if "in use by a worker" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


@pytest.mark.slow
def test_a_node_that_joins_late_gets_work_and_a_killed_driver_is_continued(tmp_path, nodes, whole):
    while nodes.count > 1:
        nodes.remove(0)
    driver = start_driver(nodes.address, tmp_path / "x")
    nodes.add()
    wait_until(lambda: len(list((tmp_path / "x").glob("locks/*"))) > 1, driver)  # the second task, on the new node
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    resume(tmp_path / "x", cluster="ray")
    assert results(tmp_path / "x") == whole


@pytest.mark.slow
def test_a_drained_node_hands_its_tasks_back(tmp_path, nodes, whole, capsys):
    """As Ray drains a spot instance that is taken away soon: no checkpoint is due."""
    while nodes.count < 2:
        nodes.add()
    drained = []

    def drain(progress):
        busy = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if progress.updates > 100 and not drained:
            drained.append(busy[0])
            given = ["--address", nodes.address, "--node-id", busy[0], "--deadline-remaining-seconds", "300"]
            given += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away"]
            command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *given]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"})

    given = {**GIVEN, "checkpoint_every": 1e9}
    rljax.run("ppo", toys.walk, out=tmp_path / "x", cluster="ray", callback=drain, **given, **FIELDS)
    assert drained
    assert "was asked to stop and has saved" in capsys.readouterr().err
    assert results(tmp_path / "x") == whole
    nodes.add()


def descendants(nodes):
    """The processes of all nodes: workers, and what Ray starts."""
    return psutil.Process(nodes.process.pid).children(recursive=True)


@pytest.mark.slow
def test_an_experiment_outlives_its_head(tmp_path, whole):
    """The driver ends with the head; a new cluster continues."""
    made = Nodes()
    made.add()
    driver = start_driver(made.address, tmp_path / "x")
    for process in (*descendants(made), made.process):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    assert driver.wait(300) != 0
    resume(tmp_path / "x")
    assert results(tmp_path / "x") == whole


@pytest.mark.slow
def test_a_suspended_experiment_goes_on(tmp_path, whole):
    """Driver, workers and Ray stop for a minute, as a laptop does whose lid is closed."""
    made = Nodes()
    made.add()
    driver = start_driver(made.address, tmp_path / "x")
    everyone = [*descendants(made), psutil.Process(driver.pid)]
    for process in everyone:
        process.suspend()
    time.sleep(60)
    for process in reversed(everyone):
        process.resume()
    assert driver.wait(600) == 0
    made.shutdown()
    assert results(tmp_path / "x") == whole


@pytest.mark.slow
def test_a_population_outlives_its_nodes(nodes):
    while nodes.count < 2:
        nodes.add()
    config = ppo.Config(env=toys.walk, learning_rate=1e-3, **{**FIELDS, "total_steps": 32 * 2_000})
    given = {"population": 8, "interval": 100, "members_per_task": 2}
    explore = {"learning_rate": (1e-4, 1e-2)}
    alone = rljax.train_population(ppo, jax.random.key(0), config, explore, **given)
    rng, left, ended = random.Random(0), ["node", "worker"], threading.Event()
    thread = threading.Thread(target=disturb, args=(nodes, rng, left, ended, "ray::play"))
    thread.start()
    disturbed = rljax.train_population(ppo, jax.random.key(0), config, explore, **given)
    ended.set()
    thread.join()
    assert not left
    assert toys.same_bits(disturbed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_a_head_with_or_without_tokens_is_used_where_there_is_a_token_or_none(tmp_path, mode):
    (tmp_path / "token").write_text("f" * 32)
    there, absent = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    made = Nodes(RAY_AUTH_MODE=mode, **there)
    made.add()
    command = [sys.executable, "-m", "rljax", "train", "ppo", "--env", f"{toys.__file__}:walk", "--num-envs", "4"]
    command += ["--total-steps", "2048", "--eval-episodes", "2", "--quiet", "--cluster", f"ray={made.address}"]
    for variables in (there, absent):
        out, env = tmp_path / f"x-{variables is there}", {**os.environ, **variables}
        env.pop("RAY_AUTH_MODE", None)
        done = subprocess.run([*command, "--out", str(out)], env=env, capture_output=True, text=True, check=False)
        if mode == "token" and variables is absent:
            assert done.returncode == 2
            assert "asks for a token, and this machine has none" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert (out / "summary.json").exists()
    made.shutdown()
