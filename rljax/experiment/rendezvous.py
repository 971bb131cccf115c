"""Where the processes of one run meet: a script of its own, run by `rljax.hosts` and gone when they have.

`python meeting.py '{"coordinator_address": ..., "num_processes": ..., "process_id": ...}'` prints as JSON which process
this is of how many, a number that is the same in all of them, and the accelerators that it is to use. What is null is
found by JAX, under Slurm or Open MPI.
"""

import json
import secrets
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils


def main() -> None:
    """Meet, say so, part."""
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(**json.loads(sys.argv[1]))
    token = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
    met = {
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "token": token,
        "accelerators": jax.config.read(
            "jax_cuda_visible_devices"
        ),  # one a process, where Slurm or Open MPI started them
    }
    jax.distributed.shutdown()
    print(json.dumps(met))


if __name__ == "__main__":
    main()
