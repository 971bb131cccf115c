"""How the head of a Ray cluster is reached, with and without tokens: a server that answers as a head does."""

import concurrent.futures
import os

import pytest

import rljax
from rljax.experiment import head

ray = pytest.importorskip("ray")
grpc = pytest.importorskip("grpc")
TOKEN = "f" * 32


class Head(grpc.GenericRpcHandler):
    """Answers as Ray's head and its server for clients do; with a token it refuses calls without that token."""

    def __init__(self, token):
        self.token = token

    def service(self, details):
        if details.method not in (head.HEADS_METHOD, head.CLIENTS_METHOD):
            return None

        def answer(request, context):
            if self.token is not None and ("authorization", f"Bearer {self.token}") not in details.invocation_metadata:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Authentication token is missing or incorrect")
            if details.method == head.CLIENTS_METHOD:  # as Ray answers a client that it does not know
                context.abort(grpc.StatusCode.NOT_FOUND, "")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="module")
def heads():
    """Addresses of a head without authentication, and of one with."""
    servers, addresses = [], []
    for token in (None, TOKEN):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Head(token)])
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        servers.append(server)
    yield addresses
    for server in servers:
        server.stop(None)


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def mode(address):
    with head.reached(ray, address):
        return os.environ.get("RAY_AUTH_MODE")


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_token_is_sent_only_to_a_head_that_asks_for_one(heads, token_file, prefix):
    without, with_token = (prefix + address for address in heads)
    assert mode(without) == "disabled"
    with pytest.raises(rljax.UsageError, match=r"asks for a token, and this machine has none: copy ~/\.ray/auth_token"):
        mode(with_token)
    token_file.write_text(f"{TOKEN}\n")
    assert mode(without) == "disabled"
    assert mode(with_token) == "token"
    token_file.write_text("0" * 32)
    assert mode(without) == "disabled"
    with pytest.raises(rljax.UsageError, match="asks for a token, and this machine has another one"):
        mode(with_token)
    assert "RAY_AUTH_MODE" not in os.environ


def test_the_users_mode_is_restored(heads, token_file, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert mode(heads[0]) == "disabled"
    assert mode(None) == "token"
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_an_address_without_a_head_is_refused():
    for address, why in {
        "127.0.0.1:1": "Connection refused",
        "ray://127.0.0.1:1": "Connection refused",
        "127.0.0.1": "an address is HOST:PORT",
        "127.0.0.1:x": "an address is HOST:PORT",
    }.items():
        with pytest.raises(rljax.UsageError, match=f"No Ray cluster answers at .* \\({why}\\)"):
            mode(address)
