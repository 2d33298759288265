"""The NetworkPolicy: workers reach each other and DNS, and nothing else; no other pod reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT
from tests.cluster.namespace import wait_until

if TYPE_CHECKING:
    from tests.cluster.namespace import Namespace

# Prints the result of a connection: `open`, or the name of the error.
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("open")
except OSError as error:
    print(type(error).__name__)
"""
# Listens on a port that no worker must reach.
LISTEN = "import socket, time; held = socket.create_server(('', 8000)); time.sleep(3600)"


def connection(namespace: Namespace, pod: str, host: str, port: int) -> str:
    """The result of a connection from a pod: `open`, or the name of the error."""
    return namespace.kubectl("exec", pod, "--", "python", "-c", CONNECT, host, str(port)).strip()


def wait_for_connection(namespace: Namespace, pod: str, host: str, port: int) -> None:
    """Wait until a pod can connect: on a busy machine, one try may time out."""
    wait_until(lambda: connection(namespace, pod, host, port) == "open", f"a connection to {host}:{port}")


def test_allowed_connections(shared: Namespace) -> None:
    """Another pod reaches no port of a worker; a worker reaches its peers and DNS, and nothing else."""
    shared.submit("run", "--epochs=100000", "--evaluate-every=0")
    shared.wait_for_step("run", 200)
    stranger = shared.reader()  # it has another label than the workers
    shared.kubectl("exec", stranger, "--", "sh", "-c", f'nohup python -c "{LISTEN}" >/dev/null 2>&1 &')
    address = shared.kubectl("get", "pod", stranger, "-o", "jsonpath={.status.podIP}")
    wait_until(lambda: connection(shared, stranger, "127.0.0.1", 8000) == "open", "the stranger's port")
    zero, one = (shared.pod("run", rank) for rank in range(2))
    own, peer = one["metadata"]["name"], zero["status"]["podIP"]
    for port in (TENSORFLOW_PORT, SUPERVISOR_PORT):
        wait_for_connection(shared, own, peer, port)
        assert connection(shared, stranger, peer, port) == "TimeoutError"
    # The name shows that DNS is reached.
    wait_for_connection(shared, own, "run-0.mnist-job", SUPERVISOR_PORT)
    assert connection(shared, own, address, 8000) == "TimeoutError"
    api_server = shared.kubectl("get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}")
    assert connection(shared, own, api_server, 443) == "TimeoutError"
