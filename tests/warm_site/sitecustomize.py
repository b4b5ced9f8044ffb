"""Python runs this at its start, in the tests' processes: a worker that Ray starts is forked instead, where it can be.

A worker imports Ray, to find out what to execute if it has an environment of its own, and then Ray, torch, transformers
and peft: some four seconds of processor time, and the tests start about a thousand. Here the process that Ray starts
asks the server of :mod:`tests.warm_workers` for a fork with the libraries in it, stays in its place in the tree, ends
when the worker ends, and the worker when it ends. Ray sees no difference: a worker tells its PID when it registers.

If nobody answers, or the server says no, Python goes on as ever.
"""

import os
import sys

_SERVER = os.environ.get("TESTS_WARM_WORKERS")
_WORKERS = ("ray/_private/workers/setup_worker.py", "ray/_private/workers/default_worker.py")
if _SERVER and len(sys.orig_argv) > 1 and sys.orig_argv[1].endswith(_WORKERS):
    import contextlib
    import json
    import resource
    import socket
    from pathlib import Path

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(_SERVER)
        limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
        told = {
            "arguments": sys.orig_argv[1:],
            "python": str(Path(sys.prefix).resolve()),
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
            "session": os.getsid(0) == os.getpid(),
            "group": os.getpgid(0) == os.getpid(),
            "nice": os.nice(0),
            "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
            "namespaces": {name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "net", "pid")},
        }
        socket.send_fds(server, [json.dumps(told).encode()], [0, 1, 2])
        if worker := server.recv(16):
            Path("/proc/self/comm").write_bytes(b"for %b" % worker)  # for who looks at the processes
            os._exit(int(server.recv(16) or 1) & 0xFF)
