"""A Django application in one file: a stream, server-sent events, a long poll that notices when its client has gone,
and an upload that is read as it comes.

Try it:
    pip install django
    python examples/wsgi_django.py [port]
    curl -N http://127.0.0.1:8000/stream
    curl -N http://127.0.0.1:8000/events
    curl http://127.0.0.1:8000/news &
    curl -d fresh http://127.0.0.1:8000/news
    curl -T large-file http://127.0.0.1:8000/upload
"""

from gevent import monkey

monkey.patch_all()

import hashlib
import sys
import time

import gevent
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods
from gevent.event import AsyncResult

from greenhttp.wsgi import WSGIServer

waiting = set()


@require_GET
def stream(request):
    def lines():
        for number in range(5):
            yield f"{number}\n"  # leaves at once
            time.sleep(0.1)

    return StreamingHttpResponse(lines(), content_type="text/plain")


@require_GET
def events(request):
    def each():
        number = 0
        try:
            while True:
                yield f"id: {number}\ndata: {time.ctime()}\n\n"
                number += 1
                time.sleep(0.2)
        finally:  # the next one could not be sent
            print("a listener has gone", flush=True)

    return StreamingHttpResponse(each(), content_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@require_http_methods(["GET", "POST"])
def news(request):
    if request.method == "POST":
        told = len(waiting)
        while waiting:
            waiting.pop().set(request.body)
        return HttpResponse(f"told {told}\n", content_type="text/plain")
    mine = AsyncResult()
    waiting.add(mine)
    closed = request.environ["greenhttp.closed"]  # set when the client has gone away
    gevent.wait([mine, closed], count=1)
    if not mine.ready():
        waiting.discard(mine)
        print("a reader has gone", flush=True)
        return HttpResponse()  # nobody gets it
    return HttpResponse(mine.get(), content_type="text/plain")


@require_http_methods(["POST", "PUT"])
def upload(request):
    size, digest = 0, hashlib.sha256()
    while data := request.read(65536):  # in pieces: it may be larger than the memory
        size += len(data)
        digest.update(data)
    return HttpResponse(f"{size} {digest.hexdigest()}\n", content_type="text/plain")


urlpatterns = [path("stream", stream), path("events", events), path("news", news), path("upload", upload)]
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)


def main(port=8000):
    server = WSGIServer(("127.0.0.1", port), get_wsgi_application(), log=None)
    server.start()
    print("http://{}:{}/".format(*server.address), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
