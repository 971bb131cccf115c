"""The README's snippets run as printed, in fresh interpreters."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(snippet, folder):
    env = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    return subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder, env=env, capture_output=True, text=True, timeout=3600, check=False
    )


def smaller(snippet):
    """The same calls with fewer seeds, samples and steps."""
    snippet = re.sub(r"(seeds|samples)=\d+", r"\1=2", snippet)
    snippet = snippet.replace("total_steps=50_000", "total_steps=2_048")
    snippet = snippet.replace('"FrozenLake-misc"))', '"FrozenLake-misc", total_steps=2_048))')
    return re.sub(r'\("ppo", "CartPole-v1"', r'("ppo", "CartPole-v1", total_steps=2_048', snippet)


def test_first_snippet_runs_as_printed_and_learns(tmp_path):
    assert len([line for line in SNIPPETS[0].splitlines() if line.strip()]) <= 12
    done = run(SNIPPETS[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 100


IN_ORDER = """
import sys
for snippet in sys.argv[1:]:
    exec(compile(snippet, snippet, "exec"), {"__name__": "__main__"})
"""


def test_other_snippets_run_in_order_with_less_work(tmp_path):
    """In one interpreter, each with its own names: most of their time is that of starting and compiling."""
    done = subprocess.run(
        [sys.executable, "-c", IN_ORDER, *map(smaller, SNIPPETS[1:])], cwd=tmp_path, capture_output=True, text=True,
        timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"x", "sweep", "logged"}


@pytest.mark.slow
def test_other_snippets_run_in_order_as_printed(tmp_path):
    for snippet in SNIPPETS[1:]:
        done = run(snippet, tmp_path)
        assert done.returncode == 0, snippet + done.stderr


def test_no_python_outside_fences():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert not re.search(r"^ {4}(import|from) ", text, re.MULTILINE)


def test_the_snippets_on_spaces_run(tmp_path):
    text = (ROOT / "docs" / "spaces.md").read_text()
    done = run("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), tmp_path)
    assert done.returncode == 0, done.stderr
    checked, seen = done.stdout.splitlines()
    assert checked == "[]"
    assert seen.startswith("Seen(reward=(1.0, 1.0), observations={'position': 'float32[2] from -")
