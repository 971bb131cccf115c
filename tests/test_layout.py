"""The package's structure: imports go one way, and every module can be found and read."""

import ast
import graphlib
import importlib
import pathlib
import subprocess
import sys

import rljax

ROOT = pathlib.Path(rljax.__file__).parent
HOST = ("rljax.experiment", "rljax.report", "rljax.export", "rljax.cli")


def name_of(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path):
    """The modules of rljax that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in PATHS)
        elif isinstance(node, ast.ImportFrom) and node.module in PATHS:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in PATHS else node.module for name in names)


GRAPH = {name: set(imports(path)) for name, path in PATHS.items()}


def within(name, *packages):
    return f"{name}.".startswith(tuple(f"{package}." for package in packages))


def imports_of(names, *packages):
    """The imports of these modules that lead into the packages."""
    return [(name, other) for name in names for other in sorted(GRAPH[name]) if within(other, *packages)]


def test_modules_do_not_import_in_circles():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_imports_go_one_way():
    """The pure part knows nothing of the host's, and nothing knows of the command line."""
    assert len(GRAPH) > 60
    inner = [name for name in GRAPH if name not in ("rljax", "rljax.__main__")]
    assert imports_of([name for name in inner if not within(name, *HOST)], *HOST) == []
    assert imports_of([name for name in inner if not within(name, "rljax.cli")], "rljax.cli") == []


def test_algorithms_do_not_import_each_other():
    assert imports_of([name for name in GRAPH if name.startswith("rljax.algos.")], "rljax.algos") == []


def test_the_top_level_is_small_and_files_are_short():
    assert len(list(ROOT.glob("*.py"))) <= 22
    lengths = {name: len(path.read_text().splitlines()) for name, path in PATHS.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_name_of_a_package_hides_a_module():
    """`import rljax.config as c` gives the module."""
    for name in PATHS.keys() - {"rljax", "rljax.__main__"}:
        module = importlib.import_module(name)
        package, _, attribute = name.rpartition(".")
        assert getattr(sys.modules[package], attribute) is module, name


def test_importing_rljax_is_light():
    heavy = ("matplotlib", "seaborn", "pandas", "scipy.stats", "gymnax", "tyro")
    code = f"import sys, rljax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"
