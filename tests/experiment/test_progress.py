"""What callbacks receive while a run trains."""

import numpy as np

from rljax.experiment.history import Runs
from rljax.experiment.progress import Progress


def training_return(returns):
    """Of a chunk with these mean returns of the episodes that ended in each update, `[R, U]`."""
    runs = Runs.of([(0, seed) for seed in range(len(returns))])
    metrics, nothing = {"episode_return": np.array(returns)}, np.full(len(returns), np.nan)
    return Progress(runs, 8, 10, 80, 1.0, metrics, nothing, {}, False, dict, lambda: None).training_return


def test_the_training_return_is_the_mean_of_a_chunk():
    assert training_return([[1.0, np.nan, 3.0], [np.nan, 8.0, np.nan]]) == 4.0
    assert np.isnan(training_return([[np.nan, np.nan]]))  # no episode ended
