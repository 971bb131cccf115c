"""Send an experiment to other machines: what decides its results, and the user's modules as source.

Objects are pickled by cloudpickle. Modules of the user's travel as source instead, and are imported under their names
on the worker: code that runs at import, such as the registration of a config as a pytree, runs there as well, and an
error names the user's file and line.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import pathlib
import sys
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rljax import config
from rljax.errors import UsageError, is_users, located
from rljax.experiment.options import Options
from rljax.experiment.spec import Layout
from rljax.experiment.sweeps import Point, Space

_SETTINGS = (  # of JAX, on which results depend
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_disable_most_optimizations",
    "jax_disable_jit",
    "jax_debug_nans",
    "jax_enable_compilation_cache",
)


class Job(NamedTuple):
    """What workers need to know of an experiment."""

    algorithm: Any
    name: str
    points: tuple[Point, ...]
    space: Space | None  # of a search
    fields: tuple[str, ...]
    options: Options
    layout: Layout | None  # None before one is chosen
    folder: str
    token: tuple[str, str]  # a file in the folder, and its text: a worker that reads it sees the same folder
    forwards_metrics: bool  # to loggers or callbacks of the driver


class _Module(NamedTuple):
    path: str
    source: str
    is_package: bool


class Shipment(NamedTuple):
    """A pickled `Job`, and what must be there before it is unpickled."""

    settings: dict[str, Any]
    modules: dict[str, _Module]
    pickled: bytes


def pack(job: Any, dumps: Any) -> Shipment:
    """Pickle what workers need to know.

    Raises:
        UsageError: a part of it cannot be pickled.
    """
    values = jax.config.values
    settings = {name: values[name] for name in _SETTINGS}
    try:
        return Shipment(settings, _users_modules(), dumps(job))
    except Exception as error:  # pickling runs the objects' own code
        raise UsageError(f"The algorithm or the config cannot be sent to a cluster ({located(error)}).") from error


def unpack(shipment: Shipment, loads: Any) -> Any:
    """Rebuild it on a worker, before anything else there starts JAX."""
    for name, value in shipment.settings.items():
        jax.config.update(name, value)
    _Finder.install(shipment.modules)
    job = loads(shipment.pickled)
    for cls in {type(point.config) for point in job.points} if isinstance(job, Job) else {type(job.config)}:
        config.ensure_registered(cls)  # of the main script, whose classes are pickled by value
    return job


def _users_modules() -> dict[str, _Module]:
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not file or not file.endswith(".py") or not is_users(file):
            continue
        try:
            source = pathlib.Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        found[name] = _Module(file, source, hasattr(module, "__path__"))
    return found


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules from their source, before a file of the same name."""

    def __init__(self) -> None:
        self.modules: dict[str, _Module] = {}

    @classmethod
    def install(cls, modules: dict[str, _Module]) -> None:
        """Import these from now on; those that are imported already only if they have changed."""
        finder = next((one for one in sys.meta_path if isinstance(one, cls)), None)
        if finder is None:
            sys.meta_path.insert(0, finder := cls())
        for name, module in modules.items():
            if finder.modules.get(name) != module:
                sys.modules.pop(name, None)
        finder.modules |= modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that was sent."""
        if (found := self.modules.get(fullname)) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=found.path, is_package=found.is_package)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run its source."""
        found = self.modules[module.__name__]
        module.__file__ = found.path
        # So that tracebacks, docstrings of fields and `inspect` find its lines where there is no such file.
        linecache.cache[found.path] = (len(found.source), None, found.source.splitlines(keepends=True), found.path)
        exec(compile(found.source, found.path, "exec"), module.__dict__)
