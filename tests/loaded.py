"""A Python that has imported the large libraries: seconds less for each process that tests start.

Run by ``python loaded.py SOCKET`` it is the server, which forks for each client; the client stands
in for ``python [-c CODE | -m MODULE | SCRIPT] ARGUMENT...`` and ends as that process does. Only
libraries are loaded before, so the package and its scripts are imported as ever. Signals are for
the process that a client began, not for the client; what starts itself anew is run by the real
Python in tests.
"""

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import selectors
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

# Those that import none of the package, which registers itself with Asteroid's.
LIBRARIES = (
    "torch._dynamo torch.distributed.run pytorch_lightning scipy.signal scipy.stats scipy.optimize "
    "fast_bss_eval soundfile soxr av yaml tqdm"
).split()
# An answer of the server is a wait status; more than any command with its environment.
LONGEST = 1 << 20
LONGEST_NAME = 107  # of a socket's file, in bytes
CLIENT = """
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect(sys.argv[1])
    words = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(words) + 4096)
    socket.send_fds(server, [words], [0, 1, 2])
    status = int(server.recv(16) or 70 << 8)
if os.WIFSIGNALED(status):
    if os.WTERMSIG(status) != signal.SIGKILL:
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.WEXITSTATUS(status))
"""


@contextlib.contextmanager
def loaded_python(folder: Path) -> Iterator[str]:
    """Start the server, with its files in a folder; gives the path of the client. Where the system
    has no such sockets, or none of so long a name, that of the real Python."""
    address, client = folder / "socket", folder / "python"
    able = hasattr(os, "pidfd_open") and hasattr(socket, "SOCK_SEQPACKET")
    if not able or len(os.fsencode(address)) > LONGEST_NAME:
        yield sys.executable
        return
    (folder / "client.py").write_text(CLIENT)
    words = shlex.join([sys.executable, "-IS", str(folder / "client.py"), str(address)])
    real = shlex.quote(sys.executable)
    client.write_text(
        f'#!/bin/sh\ncase "$1" in -c | -m | [!-]*) exec {words} "$@" ;; esac\nexec {real} "$@"\n'
    )
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, str(Path(__file__)), str(address)]
    # A library may start its threads when it is imported, and those do not live on in a fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        yield str(client) if _works(client) else sys.executable
        assert server.stdin
        server.stdin.close()


def _works(client: Path) -> bool:
    """False where folders of temporary files hold no programs, or processes have no descriptors."""
    try:
        return subprocess.run([client, "-c", ""], timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def serve(address: str) -> list[str]:
    """Wait for clients until the standard input ends; return in each fork, with its command."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    base = [path for path in sys.path[1:] if path not in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                import_module(name)
    gc.collect()
    gc.freeze()
    events = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    events.register(listener, selectors.EVENT_READ)
    events.register(0, selectors.EVENT_READ)
    print("ready", flush=True)
    running: dict[socket.socket, int] = {}
    while True:
        for key, _ in events.select():
            if key.fileobj == 0:
                for pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.fileobj is listener:
                client = listener.accept()[0]
                words, files, *_ = socket.recv_fds(client, LONGEST, 3)
                if not words:
                    client.close()
                    continue
                pid = os.fork()
                if not pid:
                    events.close()
                    client.close()
                    for fileobj in (listener, *running):
                        fileobj.close()
                    return become(*json.loads(words), files, base)
                for file in files:
                    os.close(file)
                running[client] = pid
                events.register(client, selectors.EVENT_READ)
                events.register(os.pidfd_open(pid), selectors.EVENT_READ, client)
            elif key.data is None:
                if key.fileobj in running:  # the client has been killed
                    os.kill(running[key.fileobj], signal.SIGKILL)
                    events.unregister(key.fileobj)
            else:
                status = os.waitpid(running.pop(key.data), 0)[1]
                events.unregister(key.fileobj)
                os.close(key.fileobj)
                with contextlib.suppress(KeyError):
                    events.unregister(key.data)
                with contextlib.suppress(OSError):
                    key.data.send(str(status).encode())
                key.data.close()


def become(words, folder, environment, files, base) -> list[str]:
    """Make this fork what the client is: its files, folder, environment and path of modules."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # The objects of before know whether the files of before could be sought in.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # where workers look for the script
    os.environ.clear()
    os.environ.update(environment)
    first = "" if words[0] in ("-c", "-m") else str(Path(words[0]).resolve().parent)
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [first, *added, *base]
    return words


def execute(words: list[str]) -> int:
    """Run the main module; the status that it ends with."""
    way, *rest = words
    try:
        if way == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif way == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(os.path.abspath(way), run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    status = execute(serve(sys.argv[1]))
    # What the end of a Python does, but for taking down all of the libraries, which takes long.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
