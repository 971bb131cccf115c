"""Networks chosen from an environment's spaces. Any module with Flax's `init` and `apply` can take their place."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.backend.matmul import product
from rljax.distributions import policy_head
from rljax.envs import Env, Space, as_features
from rljax.errors import UsageError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}

CORES = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def check_layers(hidden_sizes: Sequence[int], activation_name: str, at_least: int = 0) -> None:
    """Refuse, when a config is made, layers that cannot be."""
    activation(activation_name)
    if not isinstance(hidden_sizes, tuple) or not all(isinstance(n, int) and n >= 1 for n in hidden_sizes):
        raise UsageError(f"hidden_sizes must be whole numbers of at least 1, got {hidden_sizes!r}.")
    if len(hidden_sizes) < at_least:
        raise UsageError(f"hidden_sizes must name at least {at_least} layer, got {hidden_sizes!r}.")


def check_core(name: str | None, hidden_sizes: Sequence[int], activation_name: str) -> None:
    """Refuse, when a config is made, a recurrent core that is not there, or layers that cannot be; None is no core."""
    check_layers(hidden_sizes, activation_name, at_least=0 if name is None else 1)
    if name is not None and name not in CORES:
        raise UsageError(f"There is no recurrent core {name!r}: known are {', '.join(CORES)}.")


class Network(Protocol):
    """What the algorithms need of a network: Flax's modules have it, and so can any object.

    A recurrent one also has `initial_hidden_state(num_envs)`, zeros `[N, ...]`. It takes a hidden state after the
    observations and returns the next one after its outputs; see `RecurrentActorCritic`.
    """

    def init(self, key: jax.Array, obs: jax.Array, /, *memory: Any) -> Any:
        """Fresh parameters for observations `[N, *shape]`."""

    def apply(self, params: Any, obs: jax.Array, /, *memory: Any) -> Any:
        """The outputs for observations `[..., *shape]`."""


def init(
    network: Network,
    key: jax.Array,
    obs: jax.Array,
    *outputs: tuple[int, ...],
    beside: tuple[Any, ...] = (),
    memory: tuple[Any, ...] = (),
) -> Any:
    """Fresh parameters of a network that must give, for observations `[N, *shape]`, arrays `[N, *outputs[i]]`.

    It may take other inputs `beside` the observations, such as actions. If it takes a memory, it gives that too, as its
    last output.

    Raises:
        UsageError: it gives others, as tracing it shows; nothing is run.
    """
    inputs = (obs, *beside, *memory)
    params = network.init(key, *inputs)
    given = jax.eval_shape(network.apply, params, *inputs)
    batch = obs.shape[:1]
    expected = [(*batch, *shape) for shape in outputs]
    parts = given if isinstance(given, tuple | list) else (given,)
    shown = parts[: len(parts) - len(memory)]
    if [getattr(part, "shape", None) for part in shown] != expected:
        found = jax.tree.map(lambda x: x.shape, shown if isinstance(given, tuple | list) else given)
        wanted = expected[0] if len(outputs) == 1 else tuple(expected)
        raise UsageError(f"The network must give {wanted} for observations of shape {obs.shape}, but gives {found}.")
    return params


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation of that name; an unknown one is a `UsageError`."""
    if name not in ACTIVATIONS:
        raise UsageError(f"There is no activation {name!r}: known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


_NARROW = range(2, 7)  # columns of a kernel that are multiplied one by one


def dense(
    features: int, scale: float = math.sqrt(2), name: str | None = None, mixed_precision: bool = False
) -> nn.Dense:
    """A linear layer with orthogonal weights of that gain and zero biases (Saxe et al. 2014).

    In mixed precision it multiplies as `rljax.products` says; its parameters and its output are float32 all the same.
    """
    multiply: Any = partial(product, mixed_precision=mixed_precision)
    if features == 1:
        multiply = None  # Flax's own way for a kernel that is a vector
    elif features in _NARROW:
        multiply = _by_columns
    return nn.Dense(features, kernel_init=nn.initializers.orthogonal(scale), name=name, dot_general=multiply)


def _by_columns(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`x @ kernel`, a product of a matrix and a vector for each of few columns.

    On CPUs XLA takes for a gradient of a narrow kernel four times as long as for that of one column.
    """
    return jnp.stack([x @ kernel[:, i] for i in range(kernel.shape[1])], axis=-1)


def is_image(space: Space) -> bool:
    """Whether observations have three axes, the first two wide enough for a filter of 3 x 3."""
    return len(space.shape) == 3 and min(space.shape[:2]) >= 3


def patches(image: jax.Array) -> jax.Array:
    """Every 3 x 3 patch of images `[..., H, W, C]` as a vector, `[..., H - 2, W - 2, 9 * C]`.

    A dense layer over them is a convolution without padding. As a matrix product it stays fast when a population has a
    kernel a run, where XLA's convolution becomes a grouped one.
    """
    height, width = image.shape[-3] - 2, image.shape[-2] - 2
    shifted = [image[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


class Torso(nn.Module):
    """Observations `[..., *shape]` to features `[..., hidden_sizes[-1]]`.

    Images (three axes) pass MinAtar's convolution first, 16 filters of 3 x 3 (Young and Tian 2019); everything else
    is flattened, and one-hot where it is discrete. Vectors `beside` the observation, such as an action `[..., D]`, join
    it there.
    """

    space: Space
    hidden_sizes: Sequence[int]
    activation: str = "tanh"
    layer_norm: bool = False  # after every linear layer
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, *beside: jax.Array) -> jax.Array:
        act, linear = activation(self.activation), partial(dense, mixed_precision=self.mixed_precision)
        x = as_features(self.space, obs)
        batch = obs.shape[: obs.ndim - len(self.space.shape)]
        if is_image(self.space):
            x = linear(16, name="convolution")(patches(x))
            x = act(nn.LayerNorm()(x) if self.layer_norm else x)
        x = jnp.concatenate([x.reshape(*batch, -1), *beside], axis=-1)
        for size in self.hidden_sizes:
            x = linear(size)(x)
            x = act(nn.LayerNorm()(x) if self.layer_norm else x)
        return x


class NoisyDense(nn.Module):
    r"""A linear layer with factorised noise on its weights (Fortunato et al. 2018, equations 9 to 11).

    $y = (\mu + \sigma \odot f(\epsilon_{in}) f(\epsilon_{out})^T)^T x + b_\mu + b_\sigma \odot f(\epsilon_{out})$ with
    $f(x) = \mathrm{sign}(x) \sqrt{|x|}$, one draw a call. Without an rng stream called "noise" it is the mean layer.
    """

    features: int
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        limit = 1.0 / math.sqrt(inputs)

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        kernel_sigma = self.param("kernel_sigma", nn.initializers.constant(0.5 * limit), (inputs, self.features))
        bias_sigma = self.param("bias_sigma", nn.initializers.constant(0.5 * limit), (self.features,))
        if self.has_rng("noise"):
            noise = jax.random.normal(self.make_rng("noise"), (inputs + self.features,))
            noise = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
            into, out = noise[:inputs], noise[inputs:]
            kernel = kernel + kernel_sigma * into[:, None] * out
            bias = bias + bias_sigma * out
        return product(x, kernel, mixed_precision=self.mixed_precision) + bias


class QNetwork(nn.Module):
    r"""Observations to K outputs an action, `[..., A, K]`.

    The last hidden layer and the output layer are noisy where asked for. A dueling network has two such pairs and adds
    up $V(s) + A(s, a) - \mathrm{mean}_{a'} A(s, a')$ for every output (Wang et al. 2016, equation 9).
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

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        *body, last = self.hidden_sizes
        torso = Torso(self.space, body, self.activation, self.layer_norm, self.mixed_precision, name="torso")
        features = torso(obs)

        def stream(name: str, outputs: int) -> jax.Array:
            x = self._linear(last, math.sqrt(2), f"{name}_hidden")(features)
            x = activation(self.activation)(nn.LayerNorm(name=f"{name}_norm")(x) if self.layer_norm else x)
            x = self._linear(outputs * self.num_outputs, 1.0, name)(x)
            return x.reshape(*x.shape[:-1], outputs, self.num_outputs)

        advantages = stream("advantage" if self.dueling else "value", self.num_actions)
        if not self.dueling:
            return advantages
        return stream("value", 1) + advantages - advantages.mean(axis=-2, keepdims=True)

    def _linear(self, features: int, scale: float, name: str) -> nn.Module:
        if self.noisy:
            return NoisyDense(features, self.mixed_precision, name=name)
        return dense(features, scale, name, self.mixed_precision)


class ActorCritic(nn.Module):
    """Observations to the policy's outputs `[..., num_outputs]` and values `[...]`.

    Actor and critic have a torso each, or one between them. With `state_independent_std` the second half of the
    outputs, the logarithms of a Gaussian's deviations, are parameters of their own rather than a function of the
    observation.
    """

    space: Space
    num_outputs: int
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    shared_torso: bool = False
    state_independent_std: bool = False
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        torso = partial(Torso, self.space, self.hidden_sizes, self.activation, mixed_precision=self.mixed_precision)
        features = torso(name="torso" if self.shared_torso else "actor")(obs)
        critic_features = features if self.shared_torso else torso(name="critic")(obs)
        return _heads(self, features, critic_features)


class RecurrentTorso(nn.Module):
    """A torso and then a core with a memory, as wide as the last hidden layer: the new memory and features.

    The core is a GRU (Cho et al. 2014) or an LSTM (Hochreiter and Schmidhuber 1997).
    """

    space: Space
    core: str
    hidden_sizes: Sequence[int]
    activation: str
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, memory: Any, began: jax.Array | None = None) -> tuple[Any, jax.Array]:
        torso = Torso(
            self.space, self.hidden_sizes, self.activation, mixed_precision=self.mixed_precision, name="torso"
        )
        features = torso(obs)
        cell = CORES[self.core](self.hidden_sizes[-1], name="core")
        if began is None:
            return cell(memory, features)
        scan = nn.scan(
            lambda cell, memory, step: cell(forget(memory, step[1]), step[0]),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        return scan(cell, memory, (features, began))


class RecurrentActorCritic(nn.Module):
    """`ActorCritic` with a memory: actor and critic have a torso and a core each.

    Called with observations `[..., *shape]` and memories `[..., H]` it makes one step. Called with sequences
    `[N, T, *shape]`, the memories `[N, H]` before their first steps, and `began` `[N, T]`, which tells the steps that
    begin an episode, it makes all steps in turn, and forgets before those. Either way it gives the policy's outputs,
    the values and the memories after the last step.
    """

    space: Space
    num_outputs: int
    core: str = "gru"
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    state_independent_std: bool = False
    mixed_precision: bool = False

    def initial_hidden_state(self, num_envs: int) -> Any:
        """The actor's and the critic's, each zeros `[N, hidden_sizes[-1]]`, of an LSTM two of them."""
        zeros = jnp.zeros((num_envs, self.hidden_sizes[-1]))
        return ((zeros, zeros),) * 2 if self.core == "lstm" else (zeros, zeros)

    @nn.compact
    def __call__(self, obs: jax.Array, memory: Any, began: jax.Array | None = None) -> tuple[jax.Array, jax.Array, Any]:
        parts = (self.space, self.core, self.hidden_sizes, self.activation, self.mixed_precision)
        actor_memory, features = RecurrentTorso(*parts, name="actor")(obs, memory[0], began)
        critic_memory, critic_features = RecurrentTorso(*parts, name="critic")(obs, memory[1], began)
        return *_heads(self, features, critic_features), (actor_memory, critic_memory)


def _heads(
    network: ActorCritic | RecurrentActorCritic, features: jax.Array, critic_features: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The last layers, inside the network's `__call__`."""
    # A small last layer: the first policy is close to uniform, whatever the observation.
    last = partial(dense, mixed_precision=network.mixed_precision)
    if network.state_independent_std:
        mean = last(network.num_outputs // 2, 0.01)(features)
        log_std = network.param("log_std", nn.initializers.zeros, (network.num_outputs // 2,), jnp.float32)
        outputs = jnp.concatenate([mean, jnp.broadcast_to(log_std, mean.shape)], axis=-1)
    else:
        outputs = last(network.num_outputs, 0.01)(features)
    return outputs, last(1, 1.0)(critic_features)[..., 0]


def of_action(outputs: jax.Array, action: jax.Array) -> jax.Array:
    """What a network says of the actions `[B]` out of what it says of all, `[B, A, ...]` to `[B, ...]`."""
    chosen = jax.nn.one_hot(action, outputs.shape[1], dtype=bool).reshape(*outputs.shape[:2], *[1] * (outputs.ndim - 2))
    # A sum over a mask, not a gather, whose gradient is a scatter: both are slow in a loop of small batches.
    return jnp.sum(jnp.where(chosen, outputs, 0.0), axis=1)


def forget(memory: Any, began: jax.Array) -> Any:
    """A memory `[N, ...]`, zero where `began` `[N]`."""
    return jax.tree.map(lambda x: jnp.where(began.reshape(began.shape + (1,) * (x.ndim - began.ndim)), 0.0, x), memory)


class FeedForward(nn.Module):
    """Observations, and vectors beside them, to outputs `[..., num_outputs]`, or to one number `[...]` where None."""

    space: Space
    num_outputs: int | None
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "relu"
    scale: float = 1.0  # of the last layer
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, *beside: jax.Array) -> jax.Array:
        mixed = self.mixed_precision
        torso = Torso(self.space, self.hidden_sizes, self.activation, mixed_precision=mixed, name="torso")
        outputs = dense(self.num_outputs or 1, self.scale, "output", mixed)(torso(obs, *beside))
        return outputs[..., 0] if self.num_outputs is None else outputs


class ActorAndCritics(NamedTuple):
    """The networks of learners that have C critics with parameters of their own, and critics of actions."""

    actor: Network  # observations to the policy's outputs
    critics: Any  # observations and actions `[..., D]` to values `[..., C]`, or observations alone to `[..., A, C]`


def actor_and_critics(
    env: Env,
    num_outputs: int,
    num_critics: int,
    hidden_sizes: Sequence[int],
    activation: str,
    mixed_precision: bool = False,
) -> ActorAndCritics:
    """The default actor, of that many outputs, and critics for an environment."""
    ensemble = nn.vmap(
        FeedForward,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        out_axes=-1,
        axis_size=num_critics,
    )
    space, num_actions, layers = env.observation_space, getattr(env.action_space, "n", None), tuple(hidden_sizes)
    return ActorAndCritics(
        actor=FeedForward(space, num_outputs, layers, activation, scale=0.01, mixed_precision=mixed_precision),
        critics=ensemble(space, num_actions, layers, activation, mixed_precision=mixed_precision),
    )


def actor_critic(
    env: Env,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str = "tanh",
    shared_torso: bool | None = None,
    recurrent: str | None = None,
    mixed_precision: bool = False,
) -> Network:
    """The default actor and critic for an environment, with a core of `CORES` where `recurrent` names one.

    They share a torso where observations are images and there is no core.
    """
    parts: dict[str, Any] = {
        "space": env.observation_space,
        "num_outputs": policy_head(env.action_space).num_outputs,
        "hidden_sizes": tuple(hidden_sizes),
        "activation": activation,
        "mixed_precision": mixed_precision,
        "state_independent_std": not hasattr(env.action_space, "n"),
    }
    if recurrent is not None:
        return RecurrentActorCritic(core=recurrent, **parts)
    return ActorCritic(shared_torso=is_image(env.observation_space) if shared_torso is None else shared_torso, **parts)
