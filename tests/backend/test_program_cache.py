"""Where compiled programs are kept: one rule for Python and the command line."""

import os
import subprocess
import sys

import pytest

SHOW = "; import jax; print(jax.config.jax_compilation_cache_dir)"
START = "from rljax.experiment.run import start_jax; start_jax()"


@pytest.mark.parametrize(
    ("program", "env", "folder"),
    [
        (START, {}, "/home/someone/.cache/rljax"),
        (START, {"XDG_CACHE_HOME": "/var/caches"}, "/var/caches/rljax"),
        (START, {"RLJAX_CACHE": "~/programs"}, "/home/someone/programs"),
        (START, {"RLJAX_CACHE": "off"}, "None"),
        (START, {"JAX_COMPILATION_CACHE_DIR": "/jax"}, "/jax"),
        (f"import rljax; rljax.cache('~/mine'); {START}", {"RLJAX_CACHE": "off"}, "/home/someone/mine"),
        (f"import rljax; rljax.cache(None); {START}", {}, "None"),
        ("import rljax", {}, "None"),
    ],
)
def test_the_folder_is_the_documented_one(program, env, folder):
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program + SHOW],
        env={**kept, "HOME": "/home/someone", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == folder
