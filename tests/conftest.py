"""One CPU device a core for the whole session, before anything starts JAX."""

from rljax.devices import use_cpu_cores

use_cpu_cores()
