"""`make audit`, against a database of this test's own: what is known is told, and what could not be asked, too."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests import audit

Answer = Callable[[list[Any]], object]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Serve answers to the queries as OSV would; return the address."""
    servers: list[HTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer(queries)).encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_known_weaknesses_of_a_locked_version_are_told(
    serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    def about_httpx(queries: list[Any]) -> object:
        return {"results": [{"vulns": [{"id": "X-1"}]} if q["package"]["name"] == "httpx" else {} for q in queries]}

    assert audit.main(serve(about_httpx)) == audit.WEAK
    assert f"httpx {audit.locked(audit.LOCK.read_text())['httpx']}: X-1\n" in capsys.readouterr().out


def test_nothing_known_is_told_of_all_requirements(
    serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(serve(lambda queries: {"results": [{} for _ in queries]})) == audit.CLEAN
    assert capsys.readouterr().out.endswith("requirements, 0 with known weaknesses\n")


@pytest.mark.parametrize("answer", [{"results": []}, {"code": 3}, None], ids=["too short", "an error", "nothing"])
def test_without_a_whole_answer_nothing_passes_for_clean(
    serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str], answer: object
) -> None:
    assert audit.main(serve(lambda _: answer)) == audit.NOT_ASKED
    assert "NOT DONE" in capsys.readouterr().out


def test_a_database_that_is_not_there_is_no_clean_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main("http://127.0.0.1:1/") == audit.NOT_ASKED
    assert "NOT DONE" in capsys.readouterr().out
