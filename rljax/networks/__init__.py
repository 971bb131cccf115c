"""Default networks, built from an environment's spaces. Any object with Flax's `init` and `apply` can replace them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.distributions import policy_head
from rljax.envs import Box, Env, Space, num_joint_actions
from rljax.envs.masks import plain
from rljax.errors import UsageError, shown
from rljax.networks.custom import frozen as frozen
from rljax.networks.encoders import DEFAULT, EncoderOf, check_encoder, is_image
from rljax.networks.encoders import ENCODERS as ENCODERS
from rljax.networks.encoders import encoder as encoder
from rljax.networks.encoders import patches as patches
from rljax.networks.histories import history_encoder as history_encoder
from rljax.networks.layers import ACTIVATIONS as ACTIVATIONS
from rljax.networks.layers import NoisyDense, activation, dense
from rljax.networks.masking import Unmasked as Unmasked
from rljax.networks.masking import masked_policy as masked_policy
from rljax.networks.masking import unmasked as unmasked
from rljax.networks.torso import Torso

CORES = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def check_layers(config: Any, at_least: int = 0) -> None:
    """Raise a `UsageError` for invalid layers or an invalid encoder, so a config fails when it is made."""
    hidden_sizes = config.hidden_sizes
    activation(config.activation)
    check_encoder(config.encoder, config.env.observation_space)
    if not isinstance(hidden_sizes, tuple) or not all(isinstance(n, int) and n >= 1 for n in hidden_sizes):
        raise UsageError(f"hidden_sizes must be integers of at least 1, got {shown(hidden_sizes)}.")
    if len(hidden_sizes) < at_least:
        raise UsageError(f"hidden_sizes must have at least {at_least} layer, got {shown(hidden_sizes)}.")


def check_core(config: Any) -> None:
    """Raise a `UsageError` for an unknown recurrent core or invalid layers; None means no core."""
    name = config.recurrent
    check_layers(config, at_least=0 if name is None else 1)
    if name is not None and name not in CORES:
        raise UsageError(f"There is no recurrent core {name!r}: choose from {', '.join(CORES)}.")


class Network(Protocol):
    """The interface that algorithms expect of a network. Flax modules implement it.

    A recurrent network also has `initial_hidden_state(num_envs)`, zeros `[N, ...]`. It takes a hidden state after the
    observations and returns the next one as its last output; see `RecurrentActorCritic`.
    """

    def init(self, key: jax.Array, obs: Any, /, *hidden_state: Any) -> Any:
        """Fresh parameters for observations `[N, *shape]`."""

    def apply(self, params: Any, obs: Any, /, *hidden_state: Any) -> Any:
        """The outputs for observations `[..., *shape]`."""


def init(
    network: Network,
    key: jax.Array,
    obs: Any,
    *output_shapes: tuple[int, ...],
    extra_inputs: tuple[Any, ...] = (),
    hidden_state: tuple[Any, ...] = (),
) -> Any:
    """Fresh parameters of a network that maps observations, a pytree `[N, ...]`, to outputs `[N, *output_shapes[i]]`.

    `extra_inputs`, such as actions, follow the observations. A recurrent network takes `hidden_state` after them, a
    tuple of one, and returns the next one as its last output.

    Raises:
        UsageError: the outputs have other shapes. The network is traced to check them, not run.
    """
    inputs = (obs, *extra_inputs, *hidden_state)
    params = network.init(key, *inputs)
    traced = jax.eval_shape(network.apply, params, *inputs)
    expected = [(*jax.tree.leaves(obs)[0].shape[:1], *shape) for shape in output_shapes]
    is_sequence = isinstance(traced, tuple | list)
    outputs = traced[: len(traced) - len(hidden_state)] if is_sequence else (traced,)
    if [getattr(output, "shape", None) for output in outputs] != expected:
        found = jax.tree.map(lambda x: x.shape, outputs if is_sequence else traced)
        wanted = expected[0] if len(expected) == 1 else tuple(expected)
        given = jax.tree.map(lambda x: x.shape, plain(obs))
        raise UsageError(f"The network must give {wanted} for observations of shape {given}, but gives {found}.")
    return params


class QNetwork(nn.Module):
    r"""Map observations to K outputs per action, `[..., A, K]`.

    With `noisy` the last two layers are `NoisyDense`. With `dueling` the value and the advantages each have two last
    layers, and outputs are $V(s) + A(s, a) - \mathrm{mean}_{a'} A(s, a')$ (Wang et al. 2016, equation 9).
    """

    space: Space
    num_actions: int
    num_outputs: int = 1
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "relu"
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    @nn.compact
    def __call__(self, obs: Any) -> jax.Array:
        options = (self.activation, self.layer_norm, self.mixed_precision, self.encoder)
        features = Torso(self.space, self.hidden_sizes[:-1], *options, name="torso")(obs)

        def stream(name: str, outputs: int) -> jax.Array:
            x = features
            for last in self.hidden_sizes[-1:]:
                x = self._linear(last, math.sqrt(2), f"{name}_hidden")(x)
                x = activation(self.activation)(nn.LayerNorm(name=f"{name}_norm")(x) if self.layer_norm else x)
            x = self._linear(outputs * self.num_outputs, 1.0, name)(x)
            return x.reshape(*x.shape[:-1], outputs, self.num_outputs)

        if not self.dueling:
            return stream("value", self.num_actions)
        advantages = stream("advantage", self.num_actions)
        return stream("value", 1) + advantages - advantages.mean(axis=-2, keepdims=True)

    def _linear(self, features: int, scale: float, name: str) -> nn.Module:
        if self.noisy:
            return NoisyDense(features, self.mixed_precision, name=name)
        return dense(features, scale, name, self.mixed_precision)


class ActorCritic(nn.Module):
    """Map observations to policy outputs `[..., num_outputs]` and values `[...]`.

    Actor and critic have separate torsos unless `shared_torso`. With `state_independent_std` the second half of the
    outputs, a Gaussian's log standard deviations, are parameters and do not depend on the observation.
    """

    space: Space
    num_outputs: int
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    shared_torso: bool = False
    state_independent_std: bool = False
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    @nn.compact
    def __call__(self, obs: Any) -> tuple[jax.Array, jax.Array]:
        options: dict[str, Any] = {"mixed_precision": self.mixed_precision, "encoder": self.encoder}
        torso = partial(Torso, self.space, self.hidden_sizes, self.activation, **options)
        features = torso(name="torso" if self.shared_torso else "actor")(obs)
        critic_features = features if self.shared_torso else torso(name="critic")(obs)
        return _heads(self, features, critic_features)


class RecurrentTorso(nn.Module):
    """A torso and a recurrent core as wide as the last hidden layer; returns the next hidden state and features.

    The core is a GRU (Cho et al. 2014) or an LSTM (Hochreiter and Schmidhuber 1997).
    """

    space: Space
    core: str
    hidden_sizes: Sequence[int]
    activation: str
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    @nn.compact
    def __call__(self, obs: Any, hidden_state: Any, began: jax.Array | None = None) -> tuple[Any, jax.Array]:
        options: dict[str, Any] = {"mixed_precision": self.mixed_precision, "encoder": self.encoder}
        torso = Torso(self.space, self.hidden_sizes, self.activation, **options, name="torso")
        cell = CORES[self.core](self.hidden_sizes[-1], name="core")
        if began is None:
            return cell(hidden_state, torso(obs))

        def step(cell: nn.Module, hidden_state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            features, began = inputs
            return cell(reset_hidden_state(hidden_state, began), features)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        return scan(cell, hidden_state, (torso(obs), began))


class RecurrentActorCritic(nn.Module):
    """A recurrent `ActorCritic`: actor and critic each have a torso and a core, or share both.

    With observations `[..., *shape]` and hidden states `[..., H]` it makes one step. With sequences `[N, T, *shape]`,
    the hidden states `[N, H]` before them and `began` `[N, T]`, true at the first step of an episode, it scans over T
    and resets the hidden states where `began`. It returns policy outputs, values and the last hidden states.
    """

    space: Space
    num_outputs: int
    core: str = "gru"
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    shared_torso: bool = False
    state_independent_std: bool = False
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    def initial_hidden_state(self, num_envs: int) -> Any:
        """Zeros `[N, hidden_sizes[-1]]` for each torso, of which a shared one is the only; a pair each with an LSTM."""
        zeros = jnp.zeros((num_envs, self.hidden_sizes[-1]), jnp.float32)
        return (((zeros, zeros) if self.core == "lstm" else zeros),) * (1 if self.shared_torso else 2)

    @nn.compact
    def __call__(self, obs: Any, hidden_state: Any, began: jax.Array | None = None) -> tuple[jax.Array, jax.Array, Any]:
        options = (self.activation, self.mixed_precision, self.encoder)
        torso = partial(RecurrentTorso, self.space, self.core, self.hidden_sizes, *options)
        if self.shared_torso:
            state, features = torso(name="torso")(obs, hidden_state[0], began)
            return *_heads(self, features, features), (state,)
        actor_state, features = torso(name="actor")(obs, hidden_state[0], began)
        critic_state, critic_features = torso(name="critic")(obs, hidden_state[1], began)
        return *_heads(self, features, critic_features), (actor_state, critic_state)


def _heads(
    network: ActorCritic | RecurrentActorCritic, features: jax.Array, critic_features: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The output layers of actor and critic, to be called in the network's `__call__`."""
    # The actor's last layer starts small, so that the first policy is close to uniform for all observations.
    last = partial(dense, mixed_precision=network.mixed_precision)
    if network.state_independent_std:
        mean = last(network.num_outputs // 2, 0.01)(features)
        log_std = network.param("log_std", nn.initializers.zeros, (network.num_outputs // 2,), jnp.float32)
        outputs = jnp.concatenate([mean, jnp.broadcast_to(log_std, mean.shape)], axis=-1)
    else:
        outputs = last(network.num_outputs, 0.01)(features)
    return outputs, last(1, 1.0)(critic_features)[..., 0]


def of_action(outputs: jax.Array, action: jax.Array) -> jax.Array:
    """Outputs for the chosen actions `[B]`: `[B, A, ...]` to `[B, ...]`."""
    chosen = jax.nn.one_hot(action, outputs.shape[1], dtype=bool).reshape(*outputs.shape[:2], *[1] * (outputs.ndim - 2))
    # A masked sum, since a gather and the scatter of its gradient are slow in a loop over small batches.
    return jnp.sum(jnp.where(chosen, outputs, 0.0), axis=1)


def reset_hidden_state(hidden_state: Any, began: jax.Array) -> Any:
    """Set a hidden state `[N, ...]` to zero where an episode `began` `[N]`."""
    return jax.tree.map(lambda x: jnp.where(jnp.expand_dims(began, range(began.ndim, x.ndim)), 0.0, x), hidden_state)


class FeedForward(nn.Module):
    """Map observations and extra inputs `[..., D]` to outputs `[..., num_outputs]`, or to `[...]` if that is None."""

    space: Space
    num_outputs: int | None
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "relu"
    scale: float = 1.0  # of the last layer
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    @nn.compact
    def __call__(self, obs: Any, *extra_inputs: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"mixed_precision": self.mixed_precision, "encoder": self.encoder}
        torso = Torso(self.space, self.hidden_sizes, self.activation, **options, name="torso")
        outputs = dense(self.num_outputs or 1, self.scale, "output", self.mixed_precision)(torso(obs, *extra_inputs))
        return outputs[..., 0] if self.num_outputs is None else outputs


class ActorAndCritics(NamedTuple):
    """An actor and C critics of actions, each critic with its own parameters."""

    actor: Network  # observations to policy outputs
    critics: Any  # observations and actions `[..., D]` to values `[..., C]`, or only observations to `[..., A, C]`


def actor_and_critics(
    env: Env,
    num_outputs: int,
    num_critics: int,
    hidden_sizes: Sequence[int],
    activation: str,
    mixed_precision: bool = False,
    encoder: str | EncoderOf = DEFAULT,
) -> ActorAndCritics:
    """The default actor and critics for an environment; several discrete actions are valued jointly."""
    ensemble = nn.vmap(FeedForward, {"params": 0}, {"params": True}, in_axes=None, out_axes=-1, axis_size=num_critics)
    space, layers = env.observation_space, tuple(hidden_sizes)
    options: dict[str, Any] = {"mixed_precision": mixed_precision, "encoder": encoder}
    num_actions = None if isinstance(env.action_space, Box) else num_joint_actions(env.action_space)
    return ActorAndCritics(
        actor=FeedForward(space, num_outputs, layers, activation, scale=0.01, **options),
        critics=ensemble(space, num_actions, layers, activation, **options),
    )


def actor_critic(
    env: Env,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str = "tanh",
    shared_torso: bool | None = None,
    recurrent: str | None = None,
    mixed_precision: bool = False,
    encoder: str | EncoderOf = DEFAULT,
) -> Network:
    """The default actor and critic for an environment, recurrent if `recurrent` names one of `CORES`.

    They share a torso if `shared_torso`; if it is None, only feedforward ones on image observations do.
    """
    fields: dict[str, Any] = {
        "space": env.observation_space,
        "num_outputs": policy_head(env.action_space).num_outputs,
        "hidden_sizes": tuple(hidden_sizes),
        "activation": activation,
        "mixed_precision": mixed_precision,
        "encoder": encoder,
        "state_independent_std": isinstance(env.action_space, Box),
    }
    if recurrent is not None:
        return RecurrentActorCritic(core=recurrent, shared_torso=bool(shared_torso), **fields)
    return ActorCritic(shared_torso=is_image(env.observation_space) if shared_torso is None else shared_torso, **fields)
