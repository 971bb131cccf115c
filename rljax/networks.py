"""Default networks, built from an environment's spaces. Any object with Flax's `init` and `apply` can replace them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.backend.matmul import product
from rljax.backend.rounding import narrow
from rljax.distributions import policy_head
from rljax.envs import Env, Space, as_features
from rljax.errors import UsageError

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = dict(tanh=jnp.tanh, relu=nn.relu, elu=nn.elu, gelu=nn.gelu, silu=nn.silu)

CORES = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def check_layers(hidden_sizes: Sequence[int], activation_name: str, at_least: int = 0) -> None:
    """Raise a `UsageError` for invalid layers, so a config fails when it is made."""
    activation(activation_name)
    if not isinstance(hidden_sizes, tuple) or not all(isinstance(n, int) and n >= 1 for n in hidden_sizes):
        raise UsageError(f"hidden_sizes must be integers of at least 1, got {hidden_sizes!r}.")
    if len(hidden_sizes) < at_least:
        raise UsageError(f"hidden_sizes must have at least {at_least} layer, got {hidden_sizes!r}.")


def check_core(name: str | None, hidden_sizes: Sequence[int], activation_name: str) -> None:
    """Raise a `UsageError` for an unknown recurrent core or invalid layers; None means no core."""
    check_layers(hidden_sizes, activation_name, at_least=0 if name is None else 1)
    if name is not None and name not in CORES:
        raise UsageError(f"There is no recurrent core {name!r}: choose from {', '.join(CORES)}.")


class Network(Protocol):
    """The interface that algorithms expect of a network. Flax modules implement it.

    A recurrent network also has `initial_hidden_state(num_envs)`, zeros `[N, ...]`. It takes a hidden state after the
    observations and returns the next one as its last output; see `RecurrentActorCritic`.
    """

    def init(self, key: jax.Array, obs: jax.Array, /, *hidden_state: Any) -> Any:
        """Fresh parameters for observations `[N, *shape]`."""

    def apply(self, params: Any, obs: jax.Array, /, *hidden_state: Any) -> Any:
        """The outputs for observations `[..., *shape]`."""


def init(
    network: Network,
    key: jax.Array,
    obs: jax.Array,
    *output_shapes: tuple[int, ...],
    extra_inputs: tuple[Any, ...] = (),
    hidden_state: tuple[Any, ...] = (),
) -> Any:
    """Fresh parameters of a network that maps observations `[N, *shape]` to outputs `[N, *output_shapes[i]]`.

    `extra_inputs`, such as actions, follow the observations. A recurrent network takes `hidden_state` after them, a
    tuple of one, and returns the next one as its last output.

    Raises:
        UsageError: the outputs have other shapes. The network is traced to check them, not run.
    """
    inputs = (obs, *extra_inputs, *hidden_state)
    params = network.init(key, *inputs)
    traced = jax.eval_shape(network.apply, params, *inputs)
    expected = [(*obs.shape[:1], *shape) for shape in output_shapes]
    is_sequence = isinstance(traced, tuple | list)
    outputs = traced[: len(traced) - len(hidden_state)] if is_sequence else (traced,)
    if [getattr(output, "shape", None) for output in outputs] != expected:
        found = jax.tree.map(lambda x: x.shape, outputs if is_sequence else traced)
        wanted = expected[0] if len(expected) == 1 else tuple(expected)
        raise UsageError(f"The network must give {wanted} for observations of shape {obs.shape}, but gives {found}.")
    return params


def activation(name: str) -> Activation:
    """The activation function of that name; an unknown name is a `UsageError`."""
    if name not in ACTIVATIONS:
        raise UsageError(f"There is no activation {name!r}: choose from {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


_NARROW = range(2, 7)  # output sizes of layers that multiply column by column


def dense(
    features: int, scale: float = math.sqrt(2), name: str | None = None, mixed_precision: bool = False
) -> nn.Dense:
    """A linear layer with orthogonal weights of gain `scale` and zero biases (Saxe et al. 2014).

    With mixed precision it multiplies as in `rljax.backend.matmul`; its parameters and output stay float32.
    """
    multiply: Any = _multiply_by_columns if features in _NARROW else partial(product, mixed_precision=mixed_precision)
    if features == 1:  # the kernel is a vector, which Flax's default multiplies well
        multiply = None
    return nn.Dense(features, kernel_init=nn.initializers.orthogonal(scale), name=name, dot_general=multiply)


def _multiply_by_columns(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`x @ kernel` as one matrix-vector product per column.

    On CPUs, XLA takes four times as long for the gradient of a narrow kernel as for that of a single column.
    """
    return jnp.stack([x @ kernel[:, i] for i in range(kernel.shape[1])], axis=-1)


def is_image(space: Space) -> bool:
    """True if observations have three axes and the first two fit a 3 x 3 filter."""
    return len(space.shape) == 3 and min(space.shape[:2]) >= 3


def patches(image: jax.Array) -> jax.Array:
    """Every 3 x 3 patch of images `[..., H, W, C]` as a vector, `[..., H - 2, W - 2, 9 * C]`.

    A dense layer on the patches is a convolution without padding. As a matrix product it stays fast when it is vmapped
    over runs, each with its own kernel; XLA turns a vmapped convolution into a slow grouped one.
    """
    height, width = image.shape[-3] - 2, image.shape[-2] - 2
    shifted = [image[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


class Torso(nn.Module):
    """Map observations `[..., *shape]` to features `[..., hidden_sizes[-1]]`.

    Images (three axes) pass through MinAtar's convolution first, 16 filters of 3 x 3 (Young and Tian 2019). Discrete
    observations are one-hot encoded, all others flattened. `extra_inputs`, such as actions `[..., D]`, are appended.
    """

    space: Space
    hidden_sizes: Sequence[int]
    activation: str = "tanh"
    layer_norm: bool = False  # after every linear layer
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, *extra_inputs: jax.Array) -> jax.Array:
        act, linear = activation(self.activation), partial(dense, mixed_precision=self.mixed_precision)
        x = narrow(as_features(self.space, obs))
        batch = obs.shape[: obs.ndim - len(self.space.shape)]
        if is_image(self.space):
            x = linear(16, name="convolution")(patches(x))
            x = act(nn.LayerNorm()(x) if self.layer_norm else x)
        x = jnp.concatenate([x.reshape(*batch, -1), *extra_inputs], axis=-1)
        for size in self.hidden_sizes:
            x = linear(size)(x)
            x = act(nn.LayerNorm()(x) if self.layer_norm else x)
        return x


class NoisyDense(nn.Module):
    r"""A linear layer with factorised noise on its weights (Fortunato et al. 2018, equations 9 to 11).

    $y = (\mu + \sigma \odot f(\epsilon_{in}) f(\epsilon_{out})^T)^T x + b_\mu + b_\sigma \odot f(\epsilon_{out})$ with
    $f(x) = \mathrm{sign}(x) \sqrt{|x|}$, drawn once per call. Without an rng stream "noise" only means are used.
    """

    features: int
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        limit = 1.0 / math.sqrt(inputs)
        uniform = partial(jax.random.uniform, dtype=jnp.float32, minval=-limit, maxval=limit)
        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        constant = nn.initializers.constant(0.5 * limit, jnp.float32)
        kernel_sigma = self.param("kernel_sigma", constant, (inputs, self.features))
        bias_sigma = self.param("bias_sigma", constant, (self.features,))
        if self.has_rng("noise"):
            noise = jax.random.normal(self.make_rng("noise"), (inputs + self.features,), jnp.float32)
            noise = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
            noise_in, noise_out = noise[:inputs], noise[inputs:]
            kernel = kernel + kernel_sigma * noise_in[:, None] * noise_out
            bias = bias + bias_sigma * noise_out
        return product(x, kernel, mixed_precision=self.mixed_precision) + bias


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

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        *body, last = self.hidden_sizes
        features = Torso(self.space, body, self.activation, self.layer_norm, self.mixed_precision, name="torso")(obs)

        def stream(name: str, outputs: int) -> jax.Array:
            x = self._linear(last, math.sqrt(2), f"{name}_hidden")(features)
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

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        torso = partial(Torso, self.space, self.hidden_sizes, self.activation, mixed_precision=self.mixed_precision)
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

    @nn.compact
    def __call__(self, obs: jax.Array, hidden_state: Any, began: jax.Array | None = None) -> tuple[Any, jax.Array]:
        mixed = self.mixed_precision
        torso = Torso(self.space, self.hidden_sizes, self.activation, mixed_precision=mixed, name="torso")
        cell = CORES[self.core](self.hidden_sizes[-1], name="core")
        if began is None:
            return cell(hidden_state, torso(obs))

        def step(cell: nn.Module, hidden_state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            features, began = inputs
            return cell(reset_hidden_state(hidden_state, began), features)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        return scan(cell, hidden_state, (torso(obs), began))


class RecurrentActorCritic(nn.Module):
    """A recurrent `ActorCritic`: actor and critic each have a torso and a core.

    With observations `[..., *shape]` and hidden states `[..., H]` it makes one step. With sequences `[N, T, *shape]`,
    the hidden states `[N, H]` before them and `began` `[N, T]`, true at the first step of an episode, it scans over T
    and resets the hidden states where `began`. It returns policy outputs, values and the last hidden states.
    """

    space: Space
    num_outputs: int
    core: str = "gru"
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    state_independent_std: bool = False
    mixed_precision: bool = False

    def initial_hidden_state(self, num_envs: int) -> Any:
        """Zeros `[N, hidden_sizes[-1]]` for the actor and for the critic; a pair for each with an LSTM."""
        zeros = jnp.zeros((num_envs, self.hidden_sizes[-1]), jnp.float32)
        return ((zeros, zeros),) * 2 if self.core == "lstm" else (zeros, zeros)

    @nn.compact
    def __call__(
        self, obs: jax.Array, hidden_state: Any, began: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Any]:
        torso = partial(RecurrentTorso, self.space, self.core, self.hidden_sizes, self.activation, self.mixed_precision)
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

    @nn.compact
    def __call__(self, obs: jax.Array, *extra_inputs: jax.Array) -> jax.Array:
        mixed = self.mixed_precision
        torso = Torso(self.space, self.hidden_sizes, self.activation, mixed_precision=mixed, name="torso")
        outputs = dense(self.num_outputs or 1, self.scale, "output", mixed)(torso(obs, *extra_inputs))
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
) -> ActorAndCritics:
    """The default actor and critics for an environment."""
    ensemble = nn.vmap(FeedForward, {"params": 0}, {"params": True}, in_axes=None, out_axes=-1, axis_size=num_critics)
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
    """The default actor and critic for an environment, recurrent if `recurrent` names one of `CORES`.

    Without a core they share a torso on image observations, unless `shared_torso` decides.
    """
    fields: dict[str, Any] = {
        "space": env.observation_space,
        "num_outputs": policy_head(env.action_space).num_outputs,
        "hidden_sizes": tuple(hidden_sizes),
        "activation": activation,
        "mixed_precision": mixed_precision,
        "state_independent_std": not hasattr(env.action_space, "n"),
    }
    if recurrent is not None:
        return RecurrentActorCritic(core=recurrent, **fields)
    return ActorCritic(shared_torso=is_image(env.observation_space) if shared_torso is None else shared_torso, **fields)
