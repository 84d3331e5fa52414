"""Falcon."""

from __future__ import annotations

from typing import Any

import falcon

from .parts import FOLDER, STREAMS, failure, summary

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def lists(values: dict[str, Any]) -> dict[str, list[str]]:
    """What Falcon gives as a string if it came once."""
    return {name: value if isinstance(value, list) else [value] for name, value in values.items()}


class Echo:
    def on_get(self, req: Any, resp: Any, rest: str = "") -> None:
        resp.media = {
            "method": req.method,
            "rest": rest,
            "query": lists(req.params),
            "header": req.get_header("X-Header"),
            "port": req.env["REMOTE_PORT"],
        }

    on_head = on_post = on_put = on_patch = on_delete = on_options = on_get


class Bodies:
    def on_post_form(self, req: Any, resp: Any) -> None:
        form = req.get_media()
        fields: dict[str, list[str]] = {}
        files = []
        if isinstance(form, dict):
            fields = lists(form)
        else:
            for part in form:
                if part.filename is None:
                    fields.setdefault(part.name, []).append(part.text)
                else:
                    files.append([part.name, part.filename, part.content_type, summary(part.stream)])
        resp.media = {"fields": fields, "files": files}

    def on_post_json(self, req: Any, resp: Any) -> None:
        resp.media = req.get_media()
        resp.status = falcon.HTTP_201
        resp.set_header("X-Count", str(len(resp.media)))

    def on_post_raw(self, req: Any, resp: Any) -> None:
        resp.media = summary(req.stream, encoding=req.get_header("Content-Encoding"))

    on_put_raw = on_post_raw

    def on_post_input(self, req: Any, resp: Any) -> None:
        resp.media = summary(req.env["wsgi.input"])

    def on_post_visits(self, req: Any, resp: Any) -> None:
        visits = int(req.cookies.get("visits", 0)) + 1
        resp.media = {"visits": visits, "theme": req.cookies.get("theme"), "lang": req.cookies.get("lang")}
        resp.set_cookie("visits", str(visits), secure=False)
        resp.set_cookie("theme", "dark blue", path="/", secure=False)
        resp.set_cookie("lang", "de", max_age=3600, secure=False)


class Answers:
    def on_get_only(self, req: Any, resp: Any) -> None:
        resp.text = "got"

    on_head_only = on_get_only

    def on_get_redirect(self, req: Any, resp: Any) -> None:
        raise falcon.HTTPFound("/echo?by=redirect")

    def on_post_moved(self, req: Any, resp: Any) -> None:
        raise falcon.HTTPPermanentRedirect("/raw")

    on_put_moved = on_post_moved

    def on_get_status(self, req: Any, resp: Any, code: int) -> None:
        resp.status = code
        resp.text = f"status {code}"

    def on_get_odd(self, req: Any, resp: Any) -> None:
        resp.status = "599 Odd Thing"
        resp.text = "odd"

    def on_get_broken(self, req: Any, resp: Any) -> None:
        failure()

    def on_get_stream(self, req: Any, resp: Any, name: str) -> None:
        resp.content_type = "text/plain"
        resp.stream = STREAMS[name].pieces()

    def on_get_endless(self, req: Any, resp: Any, name: str) -> None:
        resp.stream = STREAMS[name].endless()

    def on_get_events(self, req: Any, resp: Any, name: str) -> None:
        resp.content_type = "text/event-stream"
        resp.stream = STREAMS[name].events(req.env["greenhttp.closed"])


app = falcon.App()
app.add_route("/echo", Echo())
app.add_route("/echo/{rest:path}", Echo())
for name in ("form", "json", "raw", "input", "visits"):
    app.add_route(f"/{name}", Bodies(), suffix=name)
app.add_route("/only-get", Answers(), suffix="only")
for name in ("redirect", "moved", "odd", "broken"):
    app.add_route(f"/{name}", Answers(), suffix=name)
app.add_route("/status/{code:int}", Answers(), suffix="status")
for name in ("stream", "endless", "events"):
    app.add_route(f"/{name}/{{name}}", Answers(), suffix=name)
app.add_static_route("/static", str(FOLDER))
