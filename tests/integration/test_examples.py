"""The programs in examples/ as their users run them: real workers, a mail server, HTTP over a socket."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from PIL import Image

from millstream.cli.flights.post import PostOffice
from tests.architecture.markdown import split

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs run; they find the examples."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def running(
    *command: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program of Python until the block ends, then stop it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in {0, -15}, errors


def python(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ---- the README ------------------------------------------------------------------------------------


def queue_of_the_readme() -> tuple[str, str]:
    """Return the tasks that the README declares, and how it sends them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, last = (text[: text.index(title)].count("\n") for title in ("## Queue", "## Log"))
    blocks = [b for b in split(ROOT / "README.md")[0] if first < b.line < last]
    declared, sent = (block.text for block in blocks if block.language == "python")
    return declared, sent


class BusyPost(PostOffice):
    """Refuses the first mail for now, and takes all others."""

    def __init__(self) -> None:
        super().__init__(set(), lambda _number, _mail: None)
        self.mails: list[str] = []
        self.refused = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if not self.refused:
            self.refused += 1
            return "451 come again"
        self.mails.append((envelope.original_content or b"").decode())
        return "250 OK"


def test_the_pages_show_the_examples() -> None:
    declared, _ = queue_of_the_readme()
    assert declared == (EXAMPLES / "shop.py").read_text(encoding="utf-8")
    shown = split(ROOT / "docs" / "how-to" / "fastapi.md")[0][0].text
    assert shown == (EXAMPLES / "photos.py").read_text(encoding="utf-8")
    blocks = split(ROOT / "docs" / "how-to" / "learn-from-a-stream.md")[0]
    assert (EXAMPLES / "delays.py").read_text(encoding="utf-8") in [block.text for block in blocks]


def test_the_queue_of_the_readme(place: Path) -> None:
    _, sent = queue_of_the_readme()
    wait = "print(result.get(timeout=60)); password.get(timeout=60)"
    with (
        BusyPost() as post,
        running(
            "millstream",
            "worker",
            "-A",
            "shop:app",
            "--concurrency",
            "2",
            environment={"SMTP_PORT": str(post.port)},
        ),
    ):
        said = python(f"from shop import *\n{sent}\n{wait}")
    assert said[-2:] == ["cat-64.jpg", "cat-320.jpg"]
    with Image.open(place / "cat-320.jpg") as small:
        assert small.size == (320, 240)
    assert post.refused == 1
    [mail] = post.mails
    assert "To: ann@example.org" in mail
    assert re.search(r"/password/[\w-]{20,}", mail)


# ---- FastAPI ---------------------------------------------------------------------------------------


@pytest.fixture
def service(place: Path) -> Iterator[httpx.Client]:
    """The web service on a free port, without a worker."""
    with running("uvicorn", "photos:api", "--port", "0") as server:
        assert server.stderr is not None
        for line in server.stderr:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                break
        with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=PATIENCE_S) as client:
            yield client


def photo() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (640, 480), "navy").save(data, "PNG")
    return data.getvalue()


def test_a_web_service_sends_looks_and_waits(service: httpx.Client, place: Path) -> None:
    answer = service.put("/photos/cat.png", params={"width": 200}, content=photo())
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert service.get(f"/jobs/{job}").json() == {"state": "queued", "info": "None"}
    waiting = service.get(f"/jobs/{job}/copies", params={"wait": 0.01})
    assert (waiting.status_code, waiting.json()) == (202, [])
    with running("millstream", "worker", "-A", "photos:jobs", "--concurrency", "1"):
        done = service.get(f"/jobs/{job}/copies", params={"wait": PATIENCE_S})
        assert (done.status_code, done.json()) == (200, ["200-cat.png", "100-cat.png"])
        broken = service.put("/photos/dog.png", content=b"no picture").json()["job"]
        failed = service.get(f"/jobs/{broken}/copies", params={"wait": PATIENCE_S})
    with Image.open(place / "photos" / "200-cat.png") as copy:
        assert copy.size == (200, 150)
    assert failed.status_code == 409
    assert "UnidentifiedImageError" in failed.json()["detail"]
    assert service.get(f"/jobs/{job}").json()["state"] == "succeeded"


def test_a_web_service_withdraws_and_refuses(service: httpx.Client) -> None:
    job = service.put("/photos/cat.png", content=photo()).json()["job"]
    assert service.delete(f"/jobs/{job}").status_code == 204
    assert service.delete(f"/jobs/{job}").status_code == 409
    revoked = service.get(f"/jobs/{job}/copies")
    assert (revoked.status_code, "its owner" in revoked.text) == (409, True)
    assert service.get("/jobs/nothing").status_code == 404
    assert service.get("/jobs/nothing/copies").status_code == 404
    assert service.put("/photos/cat.png", params={"width": "wide"}, content=b"").status_code == 422


def test_what_was_accepted_survives_the_web_service(place: Path) -> None:
    """Killed right after its answer, with the worker started later."""
    with running("uvicorn", "photos:api", "--port", "0") as server:
        assert server.stderr is not None
        port = next(found[1] for line in server.stderr if (found := re.search(r":(\d+) \(", line)))
        answer = httpx.put(f"http://127.0.0.1:{port}/photos/cat.png", content=photo())
        server.kill()
        server.wait(PATIENCE_S)
        server.returncode = 0
    assert answer.status_code == 202
    burst = [sys.executable, "-m", "millstream", "worker", "-A", "photos:jobs", "--burst"]
    subprocess.run([*burst, "--pool", "solo"], check=True, timeout=PATIENCE_S)
    assert (place / "photos" / "320-cat.png").exists()


# ---- models ------------------------------------------------------------------------------------------


def test_flights_are_predicted_better_online_than_once() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "delays", "8000"], capture_output=True, text=True, check=True
    ).stdout
    found = {
        name: float(error) for name, error in re.findall(r"(\w+) +MAE +([\d.]+) minutes", said)
    }
    assert found["online"] < found["batch"] < found["constant"] * 0.8
    assert re.search(r"online model: MAE [\d.]+, RMSE [\d.]+, baseline [\d.]+", said)
