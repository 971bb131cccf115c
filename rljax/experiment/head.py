"""Reach the head of a Ray cluster: whether it answers at an address, and whether it asks for a token."""

import contextlib
import importlib
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from rljax.errors import UsageError

_CONNECT_SECONDS = 10.0  # to reach an address
_MODE = "RAY_AUTH_MODE"
_TOKEN = "~/.ray/auth_token"  # with which Ray's processes trust each other
HEADS_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # these two change nothing
CLIENTS_METHOD = "/ray.rpc.RayletDriver/ListNamedActors"  # of the server for ray:// addresses


@contextlib.contextmanager
def reached(ray: Any, address: str | None) -> Iterator[None]:
    """Check that a head answers at the address, and use tokens exactly if it asks for one.

    A driver that sends a token also expects one from the workers, and those of a head without authentication send
    none. Ray itself goes by the file of a token, which is also there for other clusters.

    Args:
        ray: the module.
        address: as `ray.init` takes it; None or "local" for a new cluster.

    Raises:
        UsageError: none answers, or this machine's token is not the one that it asks for.
    """
    before = os.environ.get(_MODE)
    try:
        if address not in (None, "local"):
            is_asked = _asks_for_token(_place_of(address), address)
            if is_asked is not None:
                _set_mode("token" if is_asked else "disabled")
        yield
    finally:
        _set_mode(before)  # Ray sets it for a new cluster


def _set_mode(mode: str | None) -> None:
    """Change the mode of this process, which Ray reads once."""
    if os.environ.get(_MODE) == mode:
        return
    if mode is None:
        del os.environ[_MODE]
    else:
        os.environ[_MODE] = mode
    importlib.import_module("ray._raylet").Config.initialize("")


def _place_of(address: str) -> str:
    """HOST:PORT of an address.

    Raises:
        UsageError: nothing listens there, or no server of Ray's kind: Ray would try for minutes.
    """
    shown = address
    if address == "auto":
        from ray._private import services

        try:
            shown = str(services.canonicalize_bootstrap_address(address))
        except ConnectionError:
            raise UsageError(
                "No Ray cluster runs on this machine: start one (ray start --head), or give its address as "
                "ray=HOST:PORT."
            ) from None
    host, _, port = shown.rpartition("://")[2].partition("/")[0].rpartition(":")
    try:
        place = host or "localhost", int(port)
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
        why = "" if _uses_tls() or _speaks_grpc(f"{place[0]}:{port}") else "another server does"
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, OverflowError):
        why = "an address is HOST:PORT"
    if why:
        raise UsageError(f"No Ray cluster answers at {shown} ({why}): check the address, and that its head runs.")
    return f"{place[0]}:{port}"


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS") == "1"


def _speaks_grpc(place: str) -> bool:
    import grpc

    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def _asks_for_token(place: str, address: str) -> bool | None:
    """True if the head takes no call without a token, None if that is not known: Ray then decides.

    Raises:
        UsageError: it asks for another token than this machine has.
    """
    if _uses_tls():
        return None
    method = CLIENTS_METHOD if address.startswith("ray://") else HEADS_METHOD
    is_refused = _refuses(place, method)
    if is_refused:
        token = _token()
        if token is None or _refuses(place, method, token):
            has = "has none" if token is None else "has another one"
            shown = place if address == "auto" else address
            raise UsageError(
                f"The cluster at {shown} asks for a token, and this machine {has}: copy {_TOKEN} of its head here."
            )
    return is_refused


def _refuses(place: str, method: str, token: str | None = None) -> bool | None:
    """True if a call with this token is refused, None if something else fails."""
    import grpc

    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(place) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_CONNECT_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            answers = {grpc.StatusCode.UNAUTHENTICATED: True, grpc.StatusCode.NOT_FOUND: False}
            return answers.get(error.code())
    return False


def _token() -> str | None:
    """The token of this machine, where Ray looks for it; None without one."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = pathlib.Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
