"""Server pods on a control plane without a node: each a real server process, behind an address that stands in the pod.

Its agent is reached through a small gate that says, as a mount would, where on this machine a claim lies. For tests
only.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.support import served
from tests.support.operators import Team
from topcoat.api import server as api
from topcoat_trainer.model import BaseModel

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
IN_POD = re.compile(r"/topcoat/claims/([a-z-]+)/jobs/[^/\"]+/versions/(v\d+)")


@dataclass
class Pods:
    """A team's server pods. `volume`: where versions lie, by claim and name; what is not there cannot be found."""

    team: Team
    folder: Path
    base: BaseModel
    volume: dict[str, Path] = field(default_factory=dict)
    running: dict[str, served.Server] = field(default_factory=dict)
    """By name of the pod."""
    _gates: dict[str, Gate] = field(default_factory=dict)

    def bodies(self) -> list[Json]:
        """Server pods of the team that stay, oldest first."""
        found = self.team.read("api/v1", "pods")["items"]
        mine = [body for body in found if body["metadata"]["labels"].get("topcoat.dev/role") == "server"]
        staying = [body for body in mine if "deletionTimestamp" not in body["metadata"]]
        return sorted(staying, key=lambda body: (body["metadata"]["creationTimestamp"], body["metadata"]["name"]))

    def start(self, seconds: float = 30) -> served.Server:
        """The newest pod that does not run yet is started and becomes ready, as its kubelet would have it."""
        deadline = time.monotonic() + seconds
        while not (waiting := [body for body in self.bodies() if body["metadata"]["name"] not in self.running]):
            assert time.monotonic() < deadline, "there is no server pod that waits"
            time.sleep(0.05)
        body = waiting[-1]
        name = body["metadata"]["name"]
        volumes = body["spec"]["volumes"]
        claims = {
            volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume
        }
        told = {"adminTokenSha256": self._server_file()["adminTokenSha256"]}
        server = self.running[name] = served.Server(self.folder / name, self.base, told)
        server.start()
        server.until(lambda: server.get("/ready", None).status_code == 200, "it is ready")
        gate = self._gates[name] = Gate(server.agent_port, self.volume, claims)
        self._write(name, gate.ip)
        return server

    def close(self) -> None:
        for server in self.running.values():
            server.stop(9)
        for gate in self._gates.values():
            gate.close()

    def _server_file(self) -> Json:
        found = self.team.read("api/v1", "configmaps")["items"]
        return dict(next(json.loads(body["data"]["server.json"]) for body in found if "server.json" in body["data"]))

    def _write(self, name: str, ip: str) -> None:
        container = {"name": "server", "image": "x", "imageID": "", "restartCount": 0, "ready": True,
                     "state": {"running": {"startedAt": NOW}}}  # fmt: skip
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": NOW} for kind in ("PodScheduled", "Ready")]
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
        patch = json.dumps({"status": {**status, "containerStatuses": [container]}})
        words = ("patch", "pod", name, "-n", self.team.namespace, "--subresource=status", "--type=merge", "-p", patch)
        self.team.plane.kubectl(*words)


class Gate(http.server.ThreadingHTTPServer):
    """On an address of its own, before an agent. What the pod did not mount leads nowhere."""

    daemon_threads = True
    _made = 0

    def __init__(self, port: int, volume: dict[str, Path], claims: set[str]) -> None:
        Gate._made += 1
        self.ip = f"127.77.{Gate._made // 250}.{Gate._made % 250 + 1}"
        super().__init__((self.ip, api.AGENT_PORT), Passage)
        self.port, self.volume, self.claims = port, volume, claims
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def translated(self, body: str) -> str:
        def place(found: re.Match[str]) -> str:
            return str(self.volume.get(f"{found[1]}/{found[2]}", found[0])) if found[1] in self.claims else found[0]

        return IN_POD.sub(place, body)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class Passage(http.server.BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass("GET", None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._pass("POST", self.server.translated(body))

    def _pass(self, method: str, content: str | None) -> None:
        headers = {"authorization": self.headers["Authorization"]}
        url = f"http://127.0.0.1:{self.server.port}{self.path}"
        try:
            said = httpx2.request(method, url, content=content, headers=headers, timeout=5, trust_env=False)
        except httpx2.TransportError:
            self.close_connection = True
            return
        self.send_response(said.status_code)
        self.send_header("Content-Length", str(len(said.content)))
        self.end_headers()
        self.wfile.write(said.content)

    def log_message(self, *_: Any) -> None:
        pass
