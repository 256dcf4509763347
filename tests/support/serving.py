"""A server in a process of its own, and requests to it."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys


@contextlib.contextmanager
def running(detector_file, *options, port=0, env=None):
    """The port of a server in a process of its own, which is ended by SIGTERM."""
    with started(detector_file, *options, port=port, env=env) as (_, found):
        yield found


@contextlib.contextmanager
def started(detector_file, *options, port=0, env=None):
    """As `running`: process and port."""
    command = [sys.executable, "-m", "asdjax", "serve", str(detector_file), "--port", str(port)]
    command += options
    environment = {**os.environ, **(env or {})}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"listening on http://.*:([0-9]+) ", line):
                yield process, int(match[1])
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        process.stderr.close()


def ask(port, method="POST", path="/predict", body=None, headers=None):
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()
