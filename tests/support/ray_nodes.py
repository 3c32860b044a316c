"""A Ray cluster of several raylets on loopback, as a process of its own that tests command.

Usage: python -m tests.support.ray_nodes

Prints JSON lines: first `{"address": …}`, then one answer to each line of its input: `add` starts a
node and answers with the process id of its raylet.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.provider import LONGEST_S
from tests.support.worker_runs import command_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# Dead nodes are noticed within a second.
_SETTINGS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}
CPUS = 2
_HIDDEN = (
    "mount -t tmpfs none $0 && exec $2 start --address $1 --num-cpus 2 --object-store-memory 80000000 "
    "--disable-usage-stats --block"
)


def serve() -> None:
    """Start a head without processors of its own, then do what the input says."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray replaces 127.0.0.1 by this in an address that it connects to; it is this machine, too.
    common = {
        "node_ip_address": ray.util.get_node_ip_address(),
        "object_store_memory": 80 * 1024 * 1024,
    }
    head = {
        **common,
        "num_cpus": 0,
        "include_dashboard": False,
        "_system_config": _SETTINGS,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        say(address=cluster.address, session=cluster.head_node.get_session_dir_path())
        for line in sys.stdin:
            assert line.strip() == "add", line
            # Ray itself waits 30 s, and ends then.
            node = cluster.add_node(wait=False, **common, num_cpus=CPUS)
            cluster._wait_for_node(node, timeout=LONGEST_S)
            say(raylet=node.all_processes["raylet"][0].process.pid)
    finally:
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        os._exit(0)  # without waiting until the nodes have left the cluster


def say(**answer: Any) -> None:
    """Answer the test."""
    print(json.dumps(answer), flush=True)


class RayNodes:
    """The test's side of the cluster.

    Args:
        process: that serves.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        first = self._answer()
        self.address: str = first["address"]
        self.session = Path(first["session"])
        self.raylets: list[int] = []

    def add(self) -> int:
        """Start a node; return the process id of its raylet."""
        assert self._process.stdin is not None
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        return int(self._answer()["raylet"])

    def actors(self) -> list[int]:
        """The processes of this project's actors on all nodes; another cluster may run beside it."""
        below = descendants(self._process.pid)
        return [pid for pid in below if command_of(pid).startswith("ray::WorkerActor")]

    @contextmanager
    def node_without(self, folder: Path) -> Iterator[None]:
        """Add a node for which a folder is empty, as where a disk is not mounted."""
        command = [*("unshare", "--mount", "sh", "-c"), _HIDDEN, str(folder), self.address]
        command.append(str(Path(sys.executable).with_name("ray")))
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as node:
            deadline = time.monotonic() + LONGEST_S
            while not (started := raylets(node.pid)):
                assert node.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            try:
                yield
            finally:
                for pid in (*started, node.pid):
                    os.kill(pid, signal.SIGKILL)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)  # type: ignore[no-any-return]
        raise AssertionError("the cluster ended")


def raylets(root: int) -> list[int]:
    """The processes of raylets that a process has started."""
    below = descendants(root)
    return [pid for pid in below if target(Path(f"/proc/{pid}/exe")).endswith("/raylet")]


def descendants(root: int) -> list[int]:
    """The processes below a process."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(path.parent.name))
    found, pids = [], [root]
    while pids:
        children = below.get(pids.pop(), [])
        found += children
        pids += children
    return found


def target(link: Path) -> str:
    """Where a link points; empty when it is gone."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """Start a cluster with this many nodes beside the head."""
    waits = {"RAY_gcs_server_port_wait_time_s": str(int(LONGEST_S))}
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **waits}
    command = [sys.executable, "-m", "tests.support.ray_nodes"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            nodes = RayNodes(process)
            nodes.raylets = [nodes.add() for _ in range(count)]
            yield nodes
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(LONGEST_S)


if __name__ == "__main__":
    serve()
