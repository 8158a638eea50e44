"""A PostgreSQL of Debian's package, and optuna's proxy, on loopback, for as long as a test needs them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def port() -> int:
    """One that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def postgres() -> Iterator[tuple[str, subprocess.Popen]]:
    """The URL of a new database, and its process."""
    initdb = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if initdb is None:
        pytest.skip("there is no PostgreSQL here: apt-get install postgresql")
    if not (find_spec("psycopg") or find_spec("psycopg2")):
        pytest.skip("there is no driver for PostgreSQL here: pip install 'psycopg[binary]'")
    with tempfile.TemporaryDirectory() as folder:
        as_other = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            as_other = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            os.chmod(folder, 0o755)
            shutil.chown(folder, "nobody")
        data, free = f"{folder}/data", port()
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **as_other}
        made = [initdb, "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "--no-instructions"]
        subprocess.run(made, check=True, timeout=120, **silent)
        options = ["-p", str(free), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-F"]
        server = subprocess.Popen([str(Path(initdb).with_name("postgres")), "-D", data, *options], **silent)
        try:
            _until_listening(free, server)
            yield f"postgresql://tester@127.0.0.1:{free}/postgres", server
        finally:
            server.send_signal(signal.SIGINT)  # at SIGTERM it would wait for those who are connected
            server.wait(timeout=60)


PROXY = """
import sys
from optuna.storages import JournalStorage, run_grpc_proxy_server
from optuna.storages.journal import JournalFileBackend
run_grpc_proxy_server(JournalStorage(JournalFileBackend(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def proxy() -> Iterator[tuple[str, subprocess.Popen]]:
    """The URL of optuna's gRPC proxy before a journal in the current folder, and its process."""
    pytest.importorskip("grpc", reason="there is no grpc here: pip install grpcio protobuf")
    free = port()
    command = [sys.executable, "-W", "ignore", "-c", PROXY, "proxied.journal", str(free)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until_listening(free, server)
        yield f"grpc://127.0.0.1:{free}", server
    finally:
        server.terminate()
        server.wait(timeout=60)


def _until_listening(port: int, server: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server does not listen on {port}; it ended with {server.poll()}")
