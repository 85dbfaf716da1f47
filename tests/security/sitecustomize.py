"""Put on PYTHONPATH, this notes in the file CGD_WATCH what every Python process asks of the network, and of whom."""

import os
import sys

_FILE = os.environ.get("CGD_WATCH")
_WATCHED = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
_WATCHED |= {"socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_PACKAGES = {"ray", "mlflow", "optuna", "scanpy", "diffusers"}  # noted as they are first imported, with these
_SWITCHES = ("RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")


def _note(event, where):
    line = f"{os.getpid()}\t{event}\t{where!r}\n".encode(errors="backslashreplace")
    handle = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, line)  # one write of a short line: processes do not mix theirs
    os.close(handle)


def _watch(event, args):
    if event == "import" and args[0] in _PACKAGES:
        _PACKAGES.remove(args[0])
        _note(event, (args[0], {key: os.environ.get(key) for key in _SWITCHES}))
    elif event in _WATCHED:
        # the first argument is the socket where there is one; of the rest the address comes first
        given = args[1] if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg") else args[0]
        _note(event, given)


if _FILE:
    _note("start", sys.argv)
    sys.addaudithook(_watch)
