"""A script that connects the processes of one run and then exits; `processes.join` runs it.

`python rendezvous.py '{"coordinator_address": ..., "num_processes": ..., "process_id": ...}'` prints as JSON the
number of this process, how many there are, a token they share, and the accelerators to use. Under Slurm or Open MPI JAX
finds the arguments that are null.
"""

import json
import secrets
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils


def main() -> None:
    """Connect to the other processes and print what they agree on."""
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(**json.loads(sys.argv[1]))
    token = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
    met = {
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "token": token,
        # One per process under Slurm or Open MPI.
        "accelerators": jax.config.read("jax_cuda_visible_devices"),
    }
    jax.distributed.shutdown()
    print(json.dumps(met))


if __name__ == "__main__":
    main()
