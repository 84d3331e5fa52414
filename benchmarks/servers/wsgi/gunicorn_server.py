"""The contender gunicorn, with one worker of its class `gevent`. No configuration of the user's is read."""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-not-found, import-untyped, unused-ignore]
from gunicorn.util import import_app  # type: ignore[import-not-found, import-untyped, unused-ignore]

from .program import about, announce, target

VERSIONS = about("gunicorn", "gevent")


class Program(BaseApplication):  # type: ignore[misc, unused-ignore]
    def load_config(self) -> None:
        self.cfg.set("bind", "127.0.0.1:0")
        self.cfg.set("workers", 1)
        self.cfg.set("worker_class", "gevent")
        self.cfg.set("when_ready", when_ready)
        if "control_socket_disable" in self.cfg.settings:  # newer versions would leave a socket in the home directory
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Any:
        """In the worker, when all is patched."""
        return import_app(target())


def when_ready(server: Any) -> None:
    """It listens; the worker is started next."""
    announce(server.LISTENERS[0].sock.getsockname()[1], VERSIONS)


if __name__ == "__main__":
    Program().run()
