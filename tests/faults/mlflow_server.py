"""A real MLflow server on loopback that can be killed and started again at the same address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_SECONDS = 400.0


class MlflowServer:
    """Started by `start`; its database and artifacts lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> MlflowServer:
        """Start it, and wait until it answers."""
        command = [
            *(str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.txt").open("a") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **_SETTINGS}, stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + _SECONDS
        while not self._is_up():
            assert self._process.poll() is None, (self.folder / "server.txt").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.txt").read_text()
            time.sleep(0.2)
        return self

    def _is_up(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        """SIGKILL it with its workers."""
        if self._process is None or self._process.poll() is not None:
            return
        below = psutil.Process(self._process.pid).children(recursive=True)
        for process in (self._process, *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(below, timeout=30)
