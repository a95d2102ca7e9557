"""The hub is a port of this machine where nobody listens, somebody who never answers, or one who answers."""

import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants, hf_hub_download

from linnet import hub
from linnet.errors import UserError
from linnet.hub import reach_hub, reason
from linnet.students.network import create_network
from linnet.teachers import load_teacher


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_gave_up", None)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hub that answers with the last of these."""
    answers = [404]

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(answers[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield answers
    server.shutdown()
    server.server_close()


def test_a_hub_that_is_not_there_is_found_out_once(nobody: None, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "linnet"):
        reach_hub("the weights of x")
        reach_hub("the weights of y")
    assert constants.HF_HUB_OFFLINE
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "the weights of x: asking the Hugging Face hub" in caplog.text
    assert "does not answer" in caplog.text


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        reach_hub("x")
        assert constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used(status: list[int]):
    reach_hub("x")
    assert not constants.HF_HUB_OFFLINE
    status.append(503)
    reach_hub("x")
    assert constants.HF_HUB_OFFLINE


def test_it_is_asked_again_later(status: list[int], monkeypatch: pytest.MonkeyPatch):
    status.append(503)
    reach_hub("x")
    status.append(200)
    reach_hub("x")
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub, "PATIENCE", -1.0)
    reach_hub("x")
    assert not constants.HF_HUB_OFFLINE


def test_whoever_chose_offline_is_not_asked_for(nobody: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_ask", lambda endpoint: pytest.fail("asks"))
    reach_hub("x")
    with pytest.raises(Exception, match=".") as caught:
        hf_hub_download("nobody/nothing-at-all", "config.json")
    assert reason(caught.value) == "it was not downloaded before, and HF_HUB_OFFLINE is set"
    assert reason(ValueError("two\nlines")) == "two"


@pytest.mark.parametrize("id", ["timm:resnet10t", "open_clip:ViT-B-32/laion2b_s34b_b79k", "hf:nobody/nothing-at-all"])
def test_what_cannot_be_fetched_fails_at_once(id: str, nobody: None):
    with pytest.raises(UserError, match="not downloaded before, and the Hugging Face hub does not answer.*: check"):
        load_teacher(id)


def test_a_student_whose_weights_cannot_be_fetched_fails_at_once(nobody: None):
    with pytest.raises(
        UserError, match="not downloaded before, and the Hugging Face hub does not answer.*from scratch"
    ):
        create_network("mobilenetv3_small_050", 2, 64, True)
