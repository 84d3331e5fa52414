"""Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, jsonify, redirect, request, send_from_directory, session, stream_with_context

from .parts import FOLDER, STREAMS, failure, summary

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
app = Flask(__name__, static_folder=str(FOLDER), static_url_path="/static")
app.secret_key = "minimal"


@app.route("/echo", methods=METHODS, defaults={"rest": ""})
@app.route("/echo/<path:rest>", methods=METHODS)
def echo(rest: str) -> Any:
    return {
        "method": request.method,
        "rest": rest,
        "query": dict(request.args.lists()),
        "header": request.headers.get("X-Header"),
        "port": request.environ["REMOTE_PORT"],
    }


@app.post("/form")
def form() -> Any:
    files = [
        [field, file.filename, file.mimetype, summary(file)] for field, files in request.files.lists() for file in files
    ]
    return {"fields": dict(request.form.lists()), "files": files}


@app.post("/json")
def json() -> Any:
    return jsonify(request.get_json()), 201, {"X-Count": str(len(request.get_json()))}


@app.route("/raw", methods=["POST", "PUT"])
def raw() -> Any:
    return summary(request.stream, encoding=request.headers.get("Content-Encoding"))


@app.post("/input")
def wsgi_input() -> Any:
    return summary(request.environ["wsgi.input"])


@app.post("/visits")
def visits() -> Any:
    session["visits"] = session.get("visits", 0) + 1
    response = jsonify(visits=session["visits"], theme=request.cookies.get("theme"), lang=request.cookies.get("lang"))
    response.set_cookie("theme", "dark blue", path="/", httponly=True)
    response.set_cookie("lang", "de", max_age=3600)
    return response


@app.get("/only-get")
def only_get() -> str:
    return "got"


@app.get("/redirect")
def redirected() -> Any:
    return redirect("/echo?by=redirect")


@app.route("/moved", methods=["POST", "PUT"])
def moved() -> Any:
    return redirect("/raw", 308)


@app.get("/status/<int:code>")
def status(code: int) -> Any:
    return f"status {code}", code


@app.get("/odd")
def odd() -> Any:
    return "odd", "599 Odd Thing"


@app.get("/broken")
def broken() -> Any:
    failure()


@app.get("/stream/<name>")
def stream(name: str) -> Any:
    def pieces() -> Any:
        yield from STREAMS[name].pieces()
        yield request.args.get("last", "")  # the request is still there

    return Response(stream_with_context(pieces()), mimetype="text/plain")


@app.get("/endless/<name>")
def endless(name: str) -> Any:
    return Response(STREAMS[name].endless(), mimetype="text/plain")


@app.get("/events/<name>")
def events(name: str) -> Any:
    return Response(STREAMS[name].events(request.environ["greenhttp.closed"]), mimetype="text/event-stream")


@app.get("/file/<name>")
def file(name: str) -> Any:
    return send_from_directory(FOLDER, name, as_attachment=True)
