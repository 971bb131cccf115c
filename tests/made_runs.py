"""Folders of runs with given returns, copied from one that was trained."""

import json
import shutil

import numpy as np

from rljax.experiment import manifest
from rljax.report import files
from rljax.report.statistics import summarize


def made(template, folder, returns, **changes):
    """Copy a run's folder, with these final returns `[S]` or a curve `[S, E]`, and changes of its manifest."""
    shutil.copytree(template, folder)
    curve = np.asarray(returns, float).reshape(len(returns), -1)
    summary = json.loads((folder / "summary.json").read_text())
    summary["seeds"], summary["final_return"] = len(curve), summarize(curve[:, -1])
    files.write_json(folder / "summary.json", summary)
    rows = [[seed, 2 * i, 100 * i, value] for seed, row in enumerate(curve) for i, value in enumerate(row)]
    files.write_table(folder / "curves.csv", ["seed", "update", "env_steps", "return"], rows)
    fields = json.loads((folder / manifest.FILE).read_text())
    env = changes.pop("env", None)
    if env is not None:
        changes["config"] = {**fields["config"], "env": {**fields["config"]["env"], "name": env, "label": env}}
    manifest.update(folder, seeds=len(curve), **changes)
    return folder
