"""Bottle."""

from __future__ import annotations

from typing import Any

from bottle import Bottle, HTTPResponse, redirect, request, response, static_file

from .parts import FOLDER, STREAMS, failure, summary

app = Bottle()


def lists(values: Any) -> dict[str, list[str]]:
    decoded = values.decode()
    return {name: decoded.getall(name) for name in decoded}


@app.route("/echo", method="ANY")
@app.route("/echo/<rest:path>", method="ANY")
def echo(rest: str = "") -> Any:
    return {
        "method": request.method,
        "rest": rest,
        "query": lists(request.query),
        "header": request.headers.get("X-Header"),
        "port": request.environ["REMOTE_PORT"],
    }


@app.post("/form")
def form() -> Any:
    files = [
        [field, file.raw_filename, file.content_type, summary(file.file)]
        for field in request.files
        for file in request.files.getall(field)
    ]
    return {"fields": lists(request.forms), "files": files}


@app.post("/json")
def json() -> Any:
    response.status = 201
    response.set_header("X-Count", str(len(request.json)))
    return request.json


@app.route("/raw", method=["POST", "PUT"])
def raw() -> Any:
    return summary(request.body, encoding=request.headers.get("Content-Encoding"))


@app.post("/input")
def wsgi_input() -> Any:
    return summary(request.environ["wsgi.input"])


@app.post("/visits")
def visits() -> Any:
    count = int(request.get_cookie("visits", "0", secret="minimal")) + 1
    response.set_cookie("visits", str(count), secret="minimal")
    response.set_cookie("theme", "dark blue", path="/", httponly=True)
    response.set_cookie("lang", "de", max_age=3600)
    return {"visits": count, "theme": request.get_cookie("theme"), "lang": request.get_cookie("lang")}


@app.get("/only-get")
def only_get() -> str:
    return "got"


@app.get("/redirect")
def redirected() -> None:
    redirect("/echo?by=redirect", 302)


@app.route("/moved", method=["POST", "PUT"])
def moved() -> None:
    redirect("/raw", 308)


@app.get("/status/<code:int>")
def status(code: int) -> Any:
    return HTTPResponse(f"status {code}", status=code)


@app.get("/odd")
def odd() -> str:
    response.status = "599 Odd Thing"
    return "odd"


@app.get("/broken")
def broken() -> None:
    failure()


@app.get("/stream/<name>")
def stream(name: str) -> Any:
    response.content_type = "text/plain"
    return STREAMS[name].pieces()


@app.get("/endless/<name>")
def endless(name: str) -> Any:
    return STREAMS[name].endless()


@app.get("/events/<name>")
def events(name: str) -> Any:
    response.content_type = "text/event-stream"
    return STREAMS[name].events(request.environ["greenhttp.closed"])


@app.get("/static/<name>")
def static(name: str) -> Any:
    return static_file(name, root=str(FOLDER))


@app.get("/file/<name>")
def file(name: str) -> Any:
    return static_file(name, root=str(FOLDER), download=True)
