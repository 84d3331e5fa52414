"""Imports go one way (DESIGN.md section 4): a module of the package imports only those to its left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import greenhttp

PACKAGE = Path(greenhttp.__file__).parent
ORDER = """_version errors status events  headers address framing llhttp parser  workers deadlines rate dialing
           streams sockets pace tls_context tls  incoming outgoing response  connection server
           client_connection agent request client
           https wsgi_environ wsgi_gateway wsgi_log wsgi gunicorn access_log demo cli  __init__ __main__""".split()
PURE = "errors status events headers address framing llhttp parser".split()  # no socket, no clock, no greenlet
IMPURE_IMPORTS = {"gevent", "greenlet", "socket", "ssl", "select", "time", "threading", "asyncio"}
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def imports(name: str) -> tuple[set[str], set[str]]:
    """What a module imports, type-only imports too: modules of the package, and top names of all others."""
    ours: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                if head == "greenhttp":
                    ours.add(rest.partition(".")[0] or "__init__")
                else:
                    others.add(head)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module.partition(".")[0] == "greenhttp":
                inner = module if node.level else module.partition(".")[2]
                found = {inner.partition(".")[0]} if inner else {alias.name for alias in node.names}
                ours |= {name if name in MODULES else "__init__" for name in found}
            else:
                others.add(module.partition(".")[0])
    return ours, others


def test_every_module_has_its_place_in_the_order():
    assert [name for name in MODULES if name not in ORDER] == []
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_stands_to_its_left(name: str):
    left = set(ORDER[: ORDER.index(name)])
    assert imports(name)[0] - left == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_no_inner_module_imports_the_facade(name: str):
    assert "__init__" not in imports(name)[0]


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_knows_no_socket_no_clock_and_no_greenlet(name: str):
    ours, others = imports(name)
    assert others & IMPURE_IMPORTS == set()
    assert ours <= set(PURE)


def test_the_facade_defines_nothing():
    tree = ast.parse(MODULES["__init__"].read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))]
    assert sorted(greenhttp.__all__) == sorted(set(greenhttp.__all__))
    assert [name for name in greenhttp.__all__ if not hasattr(greenhttp, name)] == []


def test_the_reader_of_imports_finds_what_is_there():
    """Or the tests above could not fail."""
    assert imports("_version") == (set(), set())
    ours, others = imports("parser")
    assert ours == {"errors", "framing", "llhttp"}
    assert "httptools" in others
    assert "server" in imports("__init__")[0]
