"""Connect to a Ray cluster, and ask one of its workers for its devices.

Ray places tasks where their resources are free. Everything that decides results comes from this process, the driver.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import secrets
import signal
import socket
import warnings
from collections.abc import Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.experiment import remote, shipping, worker
from rljax.experiment.options import Options, address_of, resources_of
from rljax.experiment.shipping import Job, Shipment
from rljax.experiment.signals import STOPPING
from rljax.experiment.spec import Experiment, Layout

_TOKEN = pathlib.Path("~/.ray/auth_token")  # with which Ray's processes trust each other
_CONNECT_SECONDS = 10.0  # to reach an address
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
            remote = self.remote(worker.measure, known, max_retries=5)
            found = self._measured(remote.remote(shipment, self.identity, known is not None))
        except OSError as error:
            raise UsageError(f"{token} cannot be written ({error.strerror}): choose another folder.") from None
        finally:
            token.unlink(missing_ok=True)
        if isinstance(found, bytes):
            raise worker.unpickled(found)
        return found if known is None else found._replace(sizes=known.sizes)

    def _measured(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference, timeout=_MEASURE_SECONDS)
        except self.ray.exceptions.GetTimeoutError:
            self.ray.cancel(reference, force=True)
            raise UsageError(
                f"The cluster at {self.address} has started no worker in {_MEASURE_SECONDS:.0f} seconds: its nodes are "
                "busy with other work, or too slow."
            ) from None
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
            points=experiment.points,
            fields=experiment.fields,
            options=options,
            layout=experiment.layout,
            folder=remote.place_of(experiment.folder),
            token=remote.token_of(experiment.folder) or token,
            forwards_metrics=forwards,
        )
        return shipping.pack(job, self.ray.cloudpickle.dumps)

    def remote(self, function: Any, layout: Layout | None, **options: Any) -> Any:
        """A function that runs on workers with a task's resources, and JAX's devices for them.

        By default nothing is retried: the driver starts a lost task again, and knows whether it got further.
        """
        needs = dict(self.needs)
        cpus, gpus, memory = needs.pop("CPU", 1.0), needs.pop("GPU", 0.0), needs.pop("memory", None)
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
            memory=memory,
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
    if address is not None and not address.startswith("ray://") and _TOKEN.expanduser().exists():
        # `ray start` requires the token as soon as there is one; drivers send it only with RAY_AUTH_MODE=token.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.cloudpickle
    except ImportError:
        raise UsageError("A cluster needs Ray: pip install 'rljax-engine[ray]'.") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    try:
        shown = "this machine" if address is None else address
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield Connection(ray, shown, _needs(options, nodes, shown), worker.identity())
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Start a cluster on this machine, or join the one at the address."""
    if address not in (None, "auto", "local"):
        _refuse_unreachable(address)
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
        where = "on this machine" if address in (None, "auto", "local") else f"at {address}"
        raise UsageError(f"No Ray cluster {where} could be used: {lines[0][:300].rstrip('.')}.") from error
    finally:
        with contextlib.suppress(ValueError):  # in another thread than the main one
            for number, handler in before.items():
                signal.signal(number, handler)


def _refuse_unreachable(address: str) -> None:
    """Refuse an address where nothing listens, or no server of Ray's kind: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    try:
        place = host or "localhost", int(port)
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
        why = (
            "" if os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(f"{place[0]}:{port}") else "another server does"
        )
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, OverflowError):
        why = "an address is HOST:PORT"
    if why:
        raise UsageError(f"No Ray cluster answers at {address} ({why}): check the address, and that its head runs.")


def _speaks_grpc(place: str) -> bool:
    import grpc

    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def _needs(options: Options, nodes: list[dict[str, float]], address: str) -> dict[str, float]:
    """The resources of a task by Ray's names.

    Raises:
        UsageError: no node has them.
    """
    if options.task_resources is None:
        has_gpu = any(node.get("GPU", 0.0) >= 1 for node in nodes)
        needs = {"CPU": 1.0, "GPU": 1.0} if has_gpu else {"CPU": 1.0}
    else:
        given = resources_of(options.task_resources)
        needs = {"CPU": 1.0} | {name.upper() if name in ("cpu", "gpu") else name: n for name, n in given.items()}
    if not any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
        lacking = next((name for name in needs if most[name] < needs[name]), next(iter(needs)))
        raise UsageError(
            f"No node of the cluster at {address} has {lacking}={needs[lacking]:g} together with what else a task "
            f"needs; the most that one has is {math.floor(100 * most[lacking]) / 100:g}: lower task_resources."
        )
    return needs
