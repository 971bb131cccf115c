"""A Ray cluster of two nodes that lose workers, nodes and their driver at random, and keep the bits.

20 removed nodes and killed workers, over four algorithms, one of them in a sweep with halving: `make test-kills`.
"""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import toys
from test_kills import results

import rljax

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

    def __init__(self):
        command = [sys.executable, "-W", "ignore", "-c", NODES]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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

    def workers(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _name(child).startswith("ray::train")]

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


def disturb(nodes, rng, left, ended):
    """Remove a node or kill a worker every few seconds, while anything trains; `left` is how many times."""
    while left and not ended.wait(rng.uniform(0.5, 6)):
        workers = nodes.workers()
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


@pytest.mark.slow
def test_a_node_that_joins_late_gets_work(tmp_path, nodes):
    """And a killed driver is continued: its workers end with it."""
    script = (
        "import sys; sys.path[:0] = [{tests!r}, {root!r}]\n"
        "import rljax, toys\n"
        "rljax.run('ppo', toys.walk, num_envs=4, hidden_sizes=(8,), num_steps=8, num_epochs=1, total_steps=600_000,\n"
        "    out={out!r}, cluster='ray={address}', **{options!r})"
    )
    tests = os.path.dirname(toys.__file__)
    out, given = tmp_path / "x", {**OPTIONS, "seeds": 4, "runs_per_batch": 1}
    address = nodes.address
    text = script.format(tests=tests, root=os.path.dirname(tests), out=str(out), address=address, options=given)
    while nodes.count > 1:
        nodes.remove(0)
    driver = subprocess.Popen([sys.executable, "-c", text])
    deadline = time.monotonic() + 300
    while not list(out.glob("checkpoints/*/*")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.2)
    nodes.add()
    while len(list(out.glob("locks/*"))) < 2:  # the second task trains on the new node
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while True:  # Ray ends its workers within seconds
        try:
            rljax.resume(out, env=toys.walk, cluster="ray", progress=False)
            break
        except rljax.UsageError as error:
            if "in use by a worker" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)
    whole = tmp_path / "whole"
    fields = {"num_envs": 4, "hidden_sizes": (8,), "num_steps": 8, "num_epochs": 1, "total_steps": 600_000}
    rljax.run("ppo", toys.walk, out=whole, cluster="ray", **given, **fields)
    assert results(out) == results(whole)
    assert not json.loads((out / "summary.json").read_text())["interrupted"]
