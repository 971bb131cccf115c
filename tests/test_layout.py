"""The package's structure: which module may import which, and file counts and sizes."""

import subprocess
import sys


def test_importing_rljax_is_light():
    heavy = ("matplotlib", "seaborn", "pandas", "scipy.stats", "gymnax", "tyro")
    code = f"import sys, rljax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"
