"""The hash without loops is Threefry-2x32, and gives the bits that JAX's own gives."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.backend import threefry

# Random123's known answers for Threefry-2x32 of 20 rounds: counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_threefry_matches_known_answers(counter, key, result):
    assert tuple(int(x) for x in threefry.threefry(*map(jnp.uint32, (*key, *counter)))) == result


def test_arguments_of_threefry_broadcast():
    keys, counters = jnp.arange(6, dtype=jnp.uint32).reshape(3, 1, 2), jnp.arange(4, dtype=jnp.uint32)
    together = threefry.threefry(keys[..., 0], keys[..., 1], jnp.uint32(0), counters)
    assert together[0].shape == together[1].shape == (3, 4)
    alone = threefry.threefry(keys[2, 0, 0], keys[2, 0, 1], jnp.uint32(0), counters[3])
    assert [int(x[2, 3]) for x in together] == [int(x) for x in alone]


PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 1)
if sys.argv[1] == "without":
    jax.config.update("jax_disable_most_optimizations", False)
    from rljax.backend import threefry
    threefry.install()

@jax.jit
def draw(key):
    keys = jax.random.split(key, (2, 3))
    folded = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, 7)
    each = lambda key: (jax.random.bits(key, (5,), "uint8"), jax.random.normal(key, (3,)), jax.random.poisson(key, 2.0))
    drawn = jax.vmap(jax.vmap(each))(folded)
    return jax.random.key_data(folded), drawn, jax.random.permutation(key, 100), jax.random.gamma(key, 0.7, (9,))

program = draw.lower(jax.random.key(3)).compile()
numbers = [np.asarray(x).ravel().astype(float) for x in jax.tree.leaves(program(jax.random.key(3)))]
print(program.as_text().count(" while("), *np.concatenate(numbers))
"""


def test_draws_without_loops_equal_those_of_jax_to_the_bit():
    def drawn(how):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
        loops, *numbers = done.stdout.split()
        return int(loops), np.array(numbers, float)

    (loops, with_loops), (fewer, without) = drawn("with"), drawn("without")
    assert len(without) > 100
    np.testing.assert_array_equal(with_loops, without)
    assert fewer < loops  # those of rejection sampling remain
