"""The catalogue of planted bugs: each is found by the doctor or by a check, and what is sound stays silent."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import dqn, envs, ppo
from rljax.report import doctor

sys.path.insert(0, str(Path(__file__).parent))

import broken

OF_PPO = {  # what must be among the findings in the recorded metrics and final returns
    "reward times 1000": "reward-scale",
    "reward times 100": "reward-scale",
    "reward NaN at a failure": "reward-not-finite",
    "no reward": "no-reward",
    "action ignored": "hardly-better-than-random",
    "never ends": "entropy-stuck",
    "observation constant": "hardly-better-than-random",
    "wrong sign of the policy loss": "hardly-better-than-random",
    "wrong sign of the entropy bonus": "entropy-collapse",
    "entropy bonus times 1000": "entropy-stuck",
    "stale log-probability": "kl-high",
    "log-probability of another action": "clip-fraction-high",
    "policy loss detached": "policy-still",
    "advantages of other samples": "hardly-better-than-random",
    "learning rate times 100": "kl-high",
    "learning rate divided by 10,000": "policy-still",
    "loss becomes NaN": "diverged",
    "gradients vanish": "gradient-vanishing",
}
OF_POLICIES = {  # what must be found by playing, or in the final states
    "observation times 10,000": "observations-unscaled",
    "observation constant": "observations-constant",
    "time limit terminates": "ends-mixed-up",
    "critic loss on a detached advantage": "parameters-still",
}
OF_DQN = {
    "bootstrap over ends": "hardly-better-than-random",
    "bootstrap from the same observation": "overestimation",
    "frozen target": "target-still",
    "replay without the run's steps": "replay-stale",
    "loss detached": "gradient-vanishing",
    "wrong sign of the loss": "hardly-better-than-random",
    "target times 2": "overestimation",
    "rewards and discounts counted twice": "overestimation",
    "learning rate times 10,000": "overestimation",
}


def results_of(algorithm, config, numbers):
    """The result and the random policy's return of each fault, after training all of them in one program."""
    options = {"seeds": 2, "evaluations": 4, "eval_episodes": 8, "progress": False}
    sweep = rljax.run(algorithm, config, sweep={"env.params.bug": list(numbers.values())}, **options)
    randoms = broken.random_returns([number if number < 100 else 0 for number in numbers.values()])
    return {name: pair for name, pair in zip(numbers, zip(sweep.results, randoms, strict=True), strict=True)}


@pytest.fixture(scope="module")
def of_ppo():
    return results_of(broken.broken_ppo, broken.PPO_CONFIG, broken.PPO_NUMBERS)


@pytest.fixture(scope="module")
def of_dqn():
    return results_of(broken.broken_dqn, broken.DQN_CONFIG, broken.DQN_NUMBERS)


def found_in(pair, plays=False):
    result, random = pair
    return {one.name for one in doctor.of_result(result, plays, random)}


def test_faults_of_ppo_and_its_environment_are_found(of_ppo):
    found = {name: found_in(of_ppo[name]) for name in ["healthy", *OF_PPO]}
    assert found.pop("healthy") == set()
    assert {name: OF_PPO[name] in names for name, names in found.items()} == dict.fromkeys(OF_PPO, True), found


@pytest.mark.slow
def test_faults_are_found_by_playing(of_ppo):
    assert found_in(of_ppo["healthy"], plays=True) == set()
    for name, expected in OF_POLICIES.items():
        assert expected in found_in(of_ppo[name], plays=True), name


@pytest.mark.slow
def test_faults_of_dqn_are_found(of_dqn):
    assert found_in(of_dqn["healthy"], plays=True) == set()
    for name, expected in OF_DQN.items():
        assert expected in found_in(of_dqn[name], plays=True), name


def test_every_planted_fault_is_expected_to_be_found():
    checked = {"failure truncates"}
    planted = (broken.PPO_NUMBERS | broken.DQN_NUMBERS).keys() - {"healthy"}
    assert {*OF_PPO, *OF_POLICIES, *OF_DQN, *checked} == planted
    assert len(planted) + len(CHECKED) - 1 + len(ALGORITHMS) >= 42


def changed(**fields):
    """The track whose steps have other fields."""

    def step(key, state, action, params):
        result, state = broken.track.step(key, state, action, params)
        return result._replace(**{name: change(getattr(result, name)) for name, change in fields.items()}), state

    return broken.track.replace(step=step)


def reusing(key, params):
    del params
    place = jax.random.uniform(key, (), jnp.float32, -0.2, 0.2) + jax.random.uniform(key, (), jnp.float32, -0.1, 0.1)
    return jnp.stack([place, place**2]), (place, jnp.int32(0))


def narrow_state(key, state, action, params):
    result, (place, time) = broken.track.step(key, state, action, params)
    return result, (place.astype(jnp.float16), time)


CHECKED = {
    "failure truncates": (
        broken.track.replace(params=broken.Params(broken.NUMBERS["failure truncates"])),
        "an end of the task, such as a failure, is terminated",
    ),
    "key reuse": (broken.track.replace(reset=reusing), "reset uses one key twice"),
    "reward of two numbers": (changed(reward=lambda x: jnp.stack([x, x])), "the reward must be one float32 scalar"),
    "reward becomes NaN": (changed(reward=lambda x: x / 0 * 0), "a reward is NaN"),
    "terminated as a float": (changed(terminated=lambda x: x.astype(jnp.float32)), "terminated must be one bool"),
    "truncated as an integer": (changed(truncated=lambda x: x.astype(jnp.int32)), "truncated must be one bool"),
    "step observes another shape than reset": (changed(obs=lambda x: x[:1]), "but reset returns"),
    "step observes another dtype than reset": (changed(next_obs=lambda x: x.astype(jnp.float16)), "but reset returns"),
    "step changes the state's dtype": (broken.track.replace(step=narrow_state), "changes the state's shapes or dtypes"),
    "observation outside its space": (
        broken.track.replace(observation_space=rljax.Box(-0.1, 0.1, (2,))),
        "widen its bounds",
    ),
    "space of another shape": (
        broken.track.replace(observation_space=rljax.Box(-1e9, 1e9, (3,))),
        "observation_space has (3,)",
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_faults_of_environments_are_found_by_check(name):
    env, words = CHECKED[name]
    found = rljax.check(env)
    assert any(words in sentence for sentence in found), found


def test_a_sound_environment_is_silent_and_measured():
    assert rljax.check(broken.track) == []
    seen = envs.seen(broken.track)
    assert seen.reward == (1.0, 1.0)
    assert seen.state == "float32[], int32[]"
    assert seen.observations[""].startswith("float32[2] from -1.")
    assert 5 <= seen.lengths[0] <= seen.lengths[1] <= broken.LIMIT
    with pytest.raises(rljax.UsageError, match="track: terminated must be one bool"):
        envs.seen(CHECKED["terminated as a float"][0])


def potential(obs):
    return 3.0 - obs[1]


def wrongly_shaped(key, state, action, params):
    """Shaping whose last term is -discount * potential(state): the potential of a terminal state must be 0."""
    result, after = broken.track.step(key, state, action, params)
    place = state[0]
    before, now = potential(jnp.stack([place, place**2])), potential(result.next_obs)
    return result._replace(reward=result.reward + jnp.where(result.terminated, -0.9 * before, now - before)), after


def excess(env):
    """What failed episodes of the random policy return beyond their length, and the first states' potential."""
    key = jax.random.key(3)
    played = rljax.play(key, env, envs.heuristics.random(env), 64, 100)
    keys = jax.random.split(jax.random.split(key)[0], 64)
    first, _ = jax.vmap(env.reset, (0, None))(keys, env.params)
    lengths = played.measures["length"]
    return jnp.where(lengths < broken.LIMIT, played.returns - lengths, jnp.nan), jax.vmap(potential)(first)


def test_a_wrong_terminal_shaping_term_does_not_telescope():
    """Potentials change no policy if their sum over an episode is minus that of the first state (Ng et al. 1999)."""
    for env, is_sound in (
        (envs.shape_reward(broken.track, potential, 1.0), True),
        (broken.track.replace(step=wrongly_shaped), False),
    ):
        total, first = jax.jit(excess)(env)
        ended = np.isfinite(total)
        assert ended.sum() > 32
        assert np.allclose(total[ended], -first[ended], atol=1e-3) == is_sound


ALGORITHMS = {  # what the checks say of each, and the steps of their probes
    "reusing_key": ("update uses one key twice", 0),
    "truncation_ends": ("the probe truncation is not learned", 4_096),
    "termination_ignored": ("the probe termination is not learned", 4_096),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_faults_of_algorithms_are_found_by_check_algorithm(name):
    words, steps = ALGORITHMS[name]
    found = rljax.check_algorithm(getattr(broken, name), broken.PPO_CONFIG, steps)
    assert any(words in sentence for sentence in found), found


@pytest.mark.slow
def test_accumulated_gradients_are_found():
    options = {"seeds": 2, "evaluations": 4, "eval_episodes": 8, "progress": False}
    result = rljax.run(dqn, rljax.replace(broken.DQN_CONFIG, optimizer=broken.accumulated), **options)
    assert "overestimation" in {one.name for one in rljax.doctor(result, plays=False)}


@pytest.mark.slow
def test_clipped_rewards_are_found():
    options = {"seeds": 2, "evaluations": 4, "eval_episodes": 8, "progress": False}

    env = envs.clip_reward(broken.track.replace(params=broken.Params(broken.NUMBERS["reward times 1000"])))
    result = rljax.run(ppo, rljax.replace(broken.PPO_CONFIG, env=env, total_steps=2_048), **options)
    assert "reward-clipped" in {one.name for one in rljax.doctor(result, plays=False)}
