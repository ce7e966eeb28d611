"""Part 4: real work on worker processes, one of which is killed on purpose; afterwards everything is counted."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from PIL import Image

import millstream as ms
from millstream.cli.flights.children import child, last_words
from millstream.cli.flights.drawings import HEIGHT, WIDTH, draw
from millstream.cli.flights.office import (
    STORE_VARIABLE,
    WORKER_HEADER,
    Office,
    declare,
)
from millstream.cli.flights.post import PostOffice
from millstream.cli.flights.screen import Advance, Screen, per_second, require, seconds
from millstream.primitives.clock import SYSTEM_CLOCK

ORIGINALS = 6
WIDTHS = (120, 160, 240, 320, 480, 640, 960, 1280)
MAILS = 200
_LOOK_EVERY_S = 0.1
_PATIENCE_S = 60.0
"""Workers that finish nothing for so long have failed."""
_WORKER_APP = "millstream.cli.flights.worker_app:app"


@dataclass(slots=True)
class Killing:
    """Kills the worker that hands over the middle mail, after the mail arrived and before the worker can know it.

    That is the worst moment: the work is done, and nobody will ever say so.
    """

    at_mail: int
    processes: set[int] = field(default_factory=set)
    killed: int | None = None

    def on_mail(self, number: int, mail: Message) -> None:
        """Take note of the process that sent the mail, and kill it if it is its turn. In the thread of the server."""
        worker = int(str(mail[WORKER_HEADER]))
        self.processes.add(worker)
        if number == self.at_mail:
            # The worker waits for our answer, so this is still its process id.
            os.kill(worker, signal.SIGKILL)
            self.killed = worker


@dataclass(frozen=True, slots=True)
class Sent:
    """What was asked for: the copy that each task makes, the recipient of each token, and the handles."""

    copies: dict[Path, int]
    recipients: dict[str, str]
    resized: list[ms.AsyncResult[tuple[int, int]]]
    mailed: list[ms.AsyncResult[int]]
    duration_s: float

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self.resized) + len(self.mailed)


def run_queue(app: ms.App, screen: Screen, *, folder: Path, workers: int) -> str:
    """Send, work, kill, count; return the throughput. Fails with exit code 1 if anything is missing."""
    screen.heading("4  Queue: pictures and mails on worker processes, one of which is killed")
    originals = _draw(screen, folder)
    office = declare(app)
    tokens = {
        secrets.token_urlsafe(16): f"passenger{number:03}@flights.example"
        for number in range(1, MAILS + 1)
    }
    killing = Killing(at_mail=MAILS // 2)
    with PostOffice(set(tokens), killing.on_mail) as post:
        sent = _send(office, originals, tokens, folder=folder, port=post.port)
        screen.fact(
            "sent",
            f"{len(sent.resized)} pictures to resize and {len(sent.mailed)} mails with a link for a new password, "
            f"each call durable, in {seconds(sent.duration_s)}: {per_second(sent.tasks, sent.duration_s)} tasks/s",
        )
        duration_s = _work(app, screen, sent, post, folder=folder, workers=workers)
    _tell(screen, sent, killing, duration_s, workers=workers)
    _count(app, screen, sent, post, killing)
    return f"{per_second(sent.tasks, duration_s)} tasks/s"


def _draw(screen: Screen, folder: Path) -> list[Path]:
    originals = [folder / f"evening{seed}.jpg" for seed in range(ORIGINALS)]
    begun_s = SYSTEM_CLOCK.monotonic_s()
    with screen.bars(draw=ORIGINALS) as bars:
        for seed, original in enumerate(originals):
            draw(original, seed)
            bars["draw"](seed + 1)
    screen.fact(
        "drawn",
        f"{ORIGINALS} evenings at an airport, {WIDTH} × {HEIGHT} pixels: drawings as large as photographs, "
        f"in {seconds(SYSTEM_CLOCK.monotonic_s() - begun_s)}",
    )
    return originals


def _send(
    office: Office, originals: list[Path], tokens: dict[str, str], *, folder: Path, port: int
) -> Sent:
    """Send all tasks, each with a commit of its own, pictures and mails mixed as in life."""
    (folder / "copies").mkdir()
    copies = {
        folder / "copies" / f"{original.stem}-{width}.jpg": (original, width)
        for original in originals
        for width in WIDTHS
    }
    resized, mailed = [], []
    each = -(-len(tokens) // len(copies))
    waiting = iter(tokens.items())
    begun_s = SYSTEM_CLOCK.monotonic_s()
    for copy, (original, width) in copies.items():
        resized.append(office.resize.delay(str(original), str(copy), width))
        for _, (token, recipient) in zip(range(each), waiting, strict=False):
            mailed.append(office.mail_password.delay(port, recipient, token))
    duration_s = SYSTEM_CLOCK.monotonic_s() - begun_s
    widths = {copy: width for copy, (_, width) in copies.items()}
    return Sent(widths, tokens, resized, mailed, duration_s)


def _work(
    app: ms.App, screen: Screen, sent: Sent, post: PostOffice, *, folder: Path, workers: int
) -> float:
    """Run workers until nothing is left to do; return how long that took, their start included."""
    log = folder / "workers.log"
    arguments = [
        "millstream",
        "worker",
        "-A",
        _WORKER_APP,
        "--concurrency",
        str(workers),
        "--burst",
    ]
    begun_s = SYSTEM_CLOCK.monotonic_s()
    store = str(Path(app.store_path).absolute())
    with (
        screen.bars(pictures=len(sent.copies), mails=len(sent.mailed)) as bars,
        child(arguments, log=log, environment={STORE_VARIABLE: store}) as process,
    ):
        _watch(app, process, post, bars, folder=folder)
    duration_s = SYSTEM_CLOCK.monotonic_s() - begun_s
    require(process.returncode == 0, f"the workers failed: {last_words(log)}")
    return duration_s


def _watch(
    app: ms.App,
    process: subprocess.Popen[str],
    post: PostOffice,
    bars: dict[str, Advance],
    *,
    folder: Path,
) -> None:
    """Move the bars until the process ends; fails when nothing moves any more."""
    seen, moved_s = -1, SYSTEM_CLOCK.monotonic_s()
    while True:
        try:
            process.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        finally:
            bars["mails"](len(post.arrived))
            bars["pictures"](sum(1 for _ in (folder / "copies").glob("*.jpg")))
        done = app.tasks_engine.depth().get(ms.TaskState.SUCCEEDED, 0)
        now_s = SYSTEM_CLOCK.monotonic_s()
        if done != seen:
            seen, moved_s = done, now_s
        stuck = f"no task ended for {_PATIENCE_S:.0f} s: {last_words(folder / 'workers.log')}"
        require(now_s - moved_s < _PATIENCE_S, stuck)


def _tell(screen: Screen, sent: Sent, killing: Killing, duration_s: float, *, workers: int) -> None:
    many = "1 worker process" if workers == 1 else f"{workers} worker processes"
    screen.fact(
        "worked",
        f"{sent.tasks} tasks on {many}, their start and the death included, in {seconds(duration_s)}: "
        f"{per_second(sent.tasks, duration_s)} tasks/s",
    )
    screen.fact(
        "killed",
        f"worker process {killing.killed} with SIGKILL, when mail {killing.at_mail} had arrived and the worker did not "
        "know it yet; another one was started in its place",
    )


def _count(app: ms.App, screen: Screen, sent: Sent, post: PostOffice, killing: Killing) -> None:
    """Look at every task, every picture and every mail."""
    depth = {state: count for state, count in app.tasks_engine.depth().items() if count}
    require(killing.killed is not None, "no worker was killed")
    require(depth == {ms.TaskState.SUCCEEDED: sent.tasks}, f"tasks are {depth}")
    senders = {mailed.get(0) for mailed in sent.mailed}
    require(senders <= killing.processes, "a task tells of a process that sent no mail")
    sizes = [resized.get(0) for resized in sent.resized]
    for copy, size in zip(sent.copies, sizes, strict=True):
        with Image.open(copy) as picture:
            picture.load()  # To its last byte: half a file raises here.
            require(picture.size == tuple(size), f"{copy.name} has {picture.size} pixels")
    found = sorted(path.name for path in next(iter(sent.copies)).parent.iterdir())
    require(found == sorted(copy.name for copy in sent.copies), f"the pictures are {found}")
    screen.good(
        f"every picture is there once: {len(found)} of {len(sent.copies)}, each opened and measured"
    )
    missing = sent.recipients.keys() - post.arrived.keys()
    require(not missing, f"{len(missing)} mails never arrived")
    _tell_of_mails(screen, sent, post)


def _tell_of_mails(screen: Screen, sent: Sent, post: PostOffice) -> None:
    twice = sum(count > 1 for count in post.arrived.values())
    extra = post.arrived.total() - len(sent.recipients)
    screen.good(
        f"every mail arrived: {len(post.arrived)} of {len(sent.recipients)} recipients; nothing is lost"
    )
    mails = "1 recipient got the mail" if twice == 1 else f"{twice} recipients got the mail"
    times = "twice" if extra == twice else f"more than once ({extra} more in all)"
    screen.note(
        f"{mails} {times}: delivered before the kill, not yet reported as done, so run again. Tasks run at least "
        "once; the token in each mail lets a receiver tell."
    )
