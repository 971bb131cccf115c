"""Connect to a Ray cluster, and ask one of its workers for its devices.

Ray places tasks where their resources are free. Everything that decides results comes from this process, the driver.
"""

import contextlib
import dataclasses
import functools
import math
import os
import secrets
import signal
import time
import warnings
from collections.abc import Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.experiment import head, mailbox, remote, shipping, worker
from rljax.experiment.options import Options, address_of, resources_of
from rljax.experiment.shipping import Job, Shipment
from rljax.experiment.signals import STOPPING
from rljax.experiment.spec import Experiment, Layout

_FREE_SECONDS = 20.0  # for what a task needs to become free
_MEASURE_SECONDS = 120.0  # for a worker to start, and to plan
_LOCAL_STORE_BYTES = 2**27  # of a cluster on this machine, through which little goes


@dataclasses.dataclass
class Connection:
    """A connected cluster, and what a task needs there."""

    ray: Any
    address: str
    needs: dict[str, float]  # resources of a task, by Ray's names
    identity: dict[str, str]  # versions of this process

    def layout(self, experiment: Experiment) -> Layout:
        """The devices of one worker, and the sizes of batches for them: those of `experiment`, if it began before.

        Raises:
            UsageError: no worker can train it.
        """
        known = experiment.layout
        assert experiment.folder is not None
        token = experiment.folder / f"cluster-{secrets.token_hex(8)}.part"
        text = secrets.token_hex(16)
        try:
            token.write_text(text, encoding="utf-8")
            shipment = self.pack(experiment, (token.name, text), forwards=False)
            measure = self.remote(worker.measure, known, max_retries=5)
            self._wait_until_free()
            self.mailbox  # noqa: B018 - starts while a worker measures
            found = self._measured(measure.remote(shipment, self.identity, known is not None))
        except OSError as error:
            raise UsageError(f"{token} cannot be written ({error.strerror}): choose another folder.") from None
        finally:
            token.unlink(missing_ok=True)
        if isinstance(found, bytes):
            raise worker.unpickled(found)
        return found if known is None else found._replace(sizes=known.sizes)

    @functools.cached_property
    def mailbox(self) -> Any:
        """The actor between workers and driver, on the driver's node: the experiment ends with that node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        self.ray.cloudpickle.register_pickle_by_value(mailbox)
        kept = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        return self.ray.remote(mailbox.Mailbox).options(**kept).remote()

    def _wait_until_free(self) -> None:
        """Wait a while for what a task needs: workers of a driver that has just ended may still hold it."""
        until = time.monotonic() + _FREE_SECONDS
        while lacking := [name for name, n in self.needs.items() if self.ray.available_resources().get(name, 0.0) < n]:
            if time.monotonic() > until:
                raise UsageError(
                    f"The cluster at {self.address} has no free {lacking[0]}: other work uses it; wait for that to "
                    "end, or start another node."
                )
            time.sleep(0.5)

    def _measured(self, reference: Any) -> Any:
        until = time.monotonic() + _MEASURE_SECONDS
        while not self.ray.wait([reference], timeout=1.0)[0]:
            is_late = time.monotonic() > until
            if is_late or not any(_has(node, self.needs) for node in _nodes(self.ray)):
                self.ray.cancel(reference, force=True)
                why = f"has started no worker in {_MEASURE_SECONDS:.0f} seconds" if is_late else "has lost its nodes"
                raise UsageError(f"The cluster at {self.address} {why}: start another node, or look into Ray's logs.")
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise self.refusal(error) from None

    def refusal(self, error: Exception) -> UsageError:
        """One sentence about a worker that could not run a task."""
        text = str(error)
        if "No module named 'rljax" in text:
            return UsageError(
                f"The workers of the cluster at {self.address} have no rljax: install rljax-engine {self.version} on "
                "its nodes, or put it into their image."
            )
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # Of an error in a task the last line has its message.
        line = lines[-1 if isinstance(error, self.ray.exceptions.RayTaskError) else 0] if lines else repr(error)
        return UsageError(f"The cluster at {self.address} cannot run tasks: {line[:300].rstrip('.')}.")

    @property
    def version(self) -> str:
        """The version of rljax here."""
        return self.identity["rljax"]

    def pack(self, experiment: Experiment, token: tuple[str, str], forwards: bool) -> Shipment:
        """What workers need of an experiment, for `worker.measure` and `worker.train`."""
        options = dataclasses.replace(experiment.options, progress=False, log=(), cluster=None)
        assert experiment.folder is not None
        job = Job(
            algorithm=experiment.algorithm,
            name=experiment.name,
            points=tuple(experiment.points),
            space=experiment.space,
            fields=experiment.fields,
            options=options,
            layout=experiment.layout,
            folder=remote.place_of(experiment.folder),
            token=remote.token_of(experiment.folder) or token,
            forwards_metrics=forwards,
        )
        return shipping.pack(job, self.ray.cloudpickle.dumps)

    def more_memory(self, before: float | None) -> float | None:
        """Bytes to ask for after a task with these ran out of its node's memory; None if no node has more.

        A task that asked for none shared its node with as many others as that has CPUs for.
        """
        largest = max(_nodes(self.ray), key=lambda node: node.get("memory", 0.0), default={})
        most = largest.get("memory", 0.0)
        before = before or self.needs.get("memory") or most * self.needs.get("CPU", 1.0) / largest.get("CPU", 1.0)
        return min(2 * before, most) if before < most else None

    def remote(self, function: Any, layout: Layout | None, memory: float | None = None, **options: Any) -> Any:
        """A function that runs on workers with a task's resources, and JAX's devices for them.

        By default nothing is retried: the driver starts a lost task again, and knows whether it got further.
        """
        needs = dict(self.needs)
        cpus, gpus, own_memory = needs.pop("CPU", 1.0), needs.pop("GPU", 0.0), needs.pop("memory", None)
        variables = {name: os.environ[name] for name in ("XLA_FLAGS", "RLJAX_CACHE") if name in os.environ}
        if not gpus:
            threads = layout.threads if layout is not None else max(int(cpus), 1)
            used = layout.devices if layout is not None else threads
            variables |= {"JAX_PLATFORMS": "cpu", "NPROC": str(threads), "JAX_NUM_CPU_DEVICES": str(used)}
        elif gpus < 1:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
        return self.ray.remote(function).options(
            num_cpus=cpus,
            num_gpus=gpus,
            memory=memory or own_memory,
            resources=needs or None,
            runtime_env={"env_vars": variables},
            **{"max_retries": 0, **options},
        )


@contextlib.contextmanager
def connected(options: Options) -> Iterator[Connection]:
    """Connect to the cluster of the options, or to the one that the program has connected to.

    Raises:
        UsageError: there is none, or no node of it has what a task needs.
    """
    assert options.cluster is not None
    address = address_of(options.cluster) or os.environ.get("RAY_ADDRESS")
    try:
        import ray
        import ray.cloudpickle
    except ImportError:
        raise UsageError("A cluster needs Ray: pip install 'rljax-engine[ray]'.") from None
    is_ours = not ray.is_initialized()
    with head.reached(ray, address) if is_ours else contextlib.nullcontext():
        if is_ours:
            _connect(ray, address)
        try:
            shown = "this machine" if address in (None, "auto", "local") else address
            yield Connection(ray, shown, _needs(ray, options, shown), worker.identity())
        finally:
            if is_ours:
                ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Start a cluster on this machine, or join the one at the address."""
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": address or "local"}
    if address in (None, "local"):
        settings |= {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # the child becomes another program at once
            ray.init(**settings)
    except Exception as error:  # Ray raises many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        line = lines[-1 if lines[0].endswith(":") else 0]
        where = "on this machine" if address in (None, "auto", "local") else f"at {address}"
        raise UsageError(f"No Ray cluster {where} could be used: {line[:300].rstrip('.')}.") from error
    finally:
        with contextlib.suppress(ValueError):  # in another thread than the main one
            for number, handler in before.items():
                signal.signal(number, handler)


def _nodes(ray: Any) -> list[dict[str, float]]:
    """The resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _has(node: dict[str, float], needs: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())


def _needs(ray: Any, options: Options, address: str) -> dict[str, float]:
    """The resources of a task by Ray's names.

    Raises:
        UsageError: no node has them.
    """
    nodes = _nodes(ray)
    if options.task_resources is None:
        has_gpu = any(node.get("GPU", 0.0) >= 1 for node in nodes)
        needs = {"CPU": 1.0, "GPU": 1.0} if has_gpu else {"CPU": 1.0}
    else:
        given = resources_of(options.task_resources)
        needs = {"CPU": 1.0} | {name.upper() if name in ("cpu", "gpu") else name: n for name, n in given.items()}
    if any(_has(node, needs) for node in nodes):
        return needs
    if needs["CPU"] and not any(node.get("CPU", 0.0) for node in nodes):
        raise UsageError(f"The cluster at {address} has no node with a CPU for tasks: start one that joins it.")
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
    lacking = next((name for name in needs if most[name] < needs[name]), next(iter(needs)))
    raise UsageError(
        f"No node of the cluster at {address} has {lacking}={needs[lacking]:g} together with what else a task "
        f"needs; the most that one has is {math.floor(100 * most[lacking]) / 100:g}: lower task_resources."
    )
