"""Django, with its sessions, and uploads that go to disk."""

from __future__ import annotations

import json as json_module
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, HttpResponsePermanentRedirect, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.http import require_POST, require_safe
from django.views.static import serve

from .parts import FOLDER, STREAMS, failure, summary, summary_of

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    FILE_UPLOAD_HANDLERS=["django.core.files.uploadhandler.TemporaryFileUploadHandler"],
    FILE_UPLOAD_TEMP_DIR=str(FOLDER / "uploads"),
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {
            "django": {"handlers": ["stderr"], "level": "ERROR"},
            "django.security": {"level": "CRITICAL"},  # it tells of paths that lead out of a folder
        },
    },
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="minimal",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)


def echo(request: Any, rest: str = "") -> Any:
    return JsonResponse(
        {
            "method": request.method,
            "rest": rest,
            "query": dict(request.GET.lists()),
            "header": request.headers.get("X-Header"),
            "port": request.META["REMOTE_PORT"],
        }
    )


def form(request: Any) -> Any:
    fields = dict(request.POST.lists())
    files = [
        [field, file.name, file.content_type, summary_of(file.chunks(), path=file.temporary_file_path())]
        for field, files in request.FILES.lists()
        for file in files
    ]
    return JsonResponse({"fields": fields, "files": files})


def json(request: Any) -> Any:
    found = json_module.loads(request.body)
    return JsonResponse(found, status=201, headers={"X-Count": len(found)}, safe=False)


def raw(request: Any) -> Any:
    return JsonResponse(summary(request, encoding=request.headers.get("Content-Encoding")))


def wsgi_input(request: Any) -> Any:
    return JsonResponse(summary(request.environ["wsgi.input"]))


@require_POST
def visits(request: Any) -> Any:
    request.session["visits"] = count = request.session.get("visits", 0) + 1
    response = JsonResponse(
        {"visits": count, "theme": request.COOKIES.get("theme"), "lang": request.COOKIES.get("lang")}
    )
    response.set_cookie("theme", "dark blue", path="/", httponly=True)
    response.set_cookie("lang", "de", max_age=3600)
    return response


@require_safe
def only_get(request: Any) -> Any:
    return HttpResponse("got")


def moved(request: Any) -> Any:
    response = HttpResponsePermanentRedirect("/raw")
    response.status_code = 308
    return response


def broken(request: Any) -> Any:
    failure()


def events(request: Any, name: str) -> Any:
    pieces = STREAMS[name].events(request.environ["greenhttp.closed"])
    return StreamingHttpResponse(pieces, content_type="text/event-stream")


def file(request: Any, name: str) -> Any:
    return FileResponse(open(FOLDER / name, "rb"), as_attachment=True)


urlpatterns = [
    path("echo", echo),
    path("echo/<path:rest>", echo),
    path("form", form),
    path("json", json),
    path("raw", raw),
    path("input", wsgi_input),
    path("visits", visits),
    path("only-get", only_get),
    path("redirect", lambda request: redirect("/echo?by=redirect")),
    path("moved", moved),
    path("status/<int:code>", lambda request, code: HttpResponse(f"status {code}", status=code)),
    path("odd", lambda request: HttpResponse("odd", status=599, reason="Odd Thing")),
    path("broken", broken),
    path(
        "stream/<name>",
        lambda request, name: StreamingHttpResponse(STREAMS[name].pieces(), content_type="text/plain"),
    ),
    path("endless/<name>", lambda request, name: StreamingHttpResponse(STREAMS[name].endless())),
    path("events/<name>", events),
    path("static/<path:path>", serve, {"document_root": FOLDER}),
    path("file/<name>", file),
]
app = get_wsgi_application()
