"""Status codes with their phrases, and the methods that the parser knows (RFC 9110 sections 9 and 15)."""

from __future__ import annotations

import http

__all__ = ["METHODS", "SAFE_METHODS", "STATUS_CODES"]

# The phrases of the standard library grow newer with each Python; ours are the same on all of them.
STATUS_CODES: dict[int, str] = {status.value: status.phrase for status in http.HTTPStatus} | {
    302: "Found",
    408: "Request Timeout",
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    418: "I'm a Teapot",
    422: "Unprocessable Entity",
    504: "Gateway Timeout",
    509: "Bandwidth Limit Exceeded",
}

# The HTTP methods of llhttp (its RTSP ones are not HTTP).
METHODS: list[str] = sorted(
    """ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE
    NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND
    UNLINK UNLOCK UNSUBSCRIBE""".split()
)

#: Those that only read (RFC 9110 section 9.2.1, and IANA's registry of methods).
SAFE_METHODS = frozenset("GET HEAD OPTIONS PROPFIND QUERY REPORT SEARCH TRACE".split())
