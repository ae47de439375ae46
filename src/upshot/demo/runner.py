"""A small real runner: takes calls, checks that they come from Upshot, and says what it was given.

Run it by itself with `RUNNER_SECRET=whsec_... python -m upshot.demo.runner --port 9000`.
"""

import argparse
import json
import os
import threading
from collections import OrderedDict
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from standardwebhooks import Webhook

LISTENING = "listening on "
BODY_BYTES_MAX = 1024 * 1024
RUNS_REMEMBERED_MAX = 10_000
IDLE_SECONDS_MAX = 60


class Runner(ThreadingHTTPServer):
    """Knows the runs that it has done, since a call may come twice."""

    daemon_threads = True

    def __init__(self, *, port: int, secret: str) -> None:
        super().__init__(("127.0.0.1", port), _Call)
        self.webhook = Webhook(secret)
        self._done: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/run"

    def take(self, run_id: str) -> bool:
        """Whether this run is new; from now on it is not."""
        with self._lock:
            if run_id in self._done:
                return False
            self._done[run_id] = None
            if len(self._done) > RUNS_REMEMBERED_MAX:
                self._done.popitem(last=False)
            return True


class _Call(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX
    # An answer leaves in one piece. Of two the second waits 40 ms for the first to be acknowledged.
    wbufsize = -1

    def do_POST(self) -> None:
        runner = cast(Runner, self.server)
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._answer(413, {"error": "the body is too large, or does not say how large it is"})
            return
        body = self.rfile.read(int(length))
        try:
            call = runner.webhook.verify(body, dict(self.headers.items()))
            run_id, parameters = call["run_id"], call["parameters"]
        except Exception as error:
            # Whatever is wrong with it, it is not a call that this runner takes.
            _say(f"refused a call: {error}")
            self._answer(401, {"error": "the signature is not valid"})
            return
        if runner.take(run_id):
            _say(
                f"run {run_id} of {call['deployment']}, attempt {call['attempt']}, "
                f"signature valid: {json.dumps(parameters)}"
            )
        else:
            _say(f"run {run_id} was done before, and is not done again")
        self._answer(200, {"done": True})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what there is to say about a call is said above."""


def _say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m upshot.demo.runner", description=__doc__)
    arguments.add_argument("--port", type=int, default=0, help="0: any that is free")
    port: int = arguments.parse_args().port
    secret = os.environ.get("RUNNER_SECRET", "")
    if not secret:
        arguments.error("name the deployment's secret in RUNNER_SECRET")
    with Runner(port=port, secret=secret) as runner:
        print(f"{LISTENING}{runner.url}", flush=True)
        runner.serve_forever()


if __name__ == "__main__":
    main()
