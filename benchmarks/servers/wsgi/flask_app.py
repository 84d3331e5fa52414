"""The application `flask`: the same answer by way of a Flask route."""

from __future__ import annotations

from flask import Flask, Response  # type: ignore[import-not-found, unused-ignore]

from ...payloads import HELLO

__all__ = ["application"]

application = Flask(__name__)


@application.get("/hello")  # type: ignore[untyped-decorator, unused-ignore]
def hello() -> Response:
    return Response(HELLO, content_type="text/plain")
