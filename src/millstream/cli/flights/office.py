"""The tasks of the demo: resize a picture, and mail a link for a new password."""

from __future__ import annotations

import os
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from PIL import Image

import millstream as ms

STORE_VARIABLE = "MILLSTREAM_DEMO_STORE"
WORKER_HEADER = "X-Worker"
TOKEN_HEADER = "X-Token"
SENDER = "office@flights.example"
_JPEG_QUALITY = 88
_SMTP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Office:
    """The tasks, to be called here or sent to workers."""

    resize: ms.Task[[str, str, int], tuple[int, int]]
    mail_password: ms.Task[[int, str, str], int]


def declare(app: ms.App) -> Office:
    """Make the functions of this module tasks of an app: that of the demo, and that of its workers."""
    return Office(
        app.task(name="resize")(resize), app.task(name="mail_password", retries=5)(mail_password)
    )


def resize(source: str, target: str, width: int) -> tuple[int, int]:
    """Write a smaller copy of a picture; return its size in pixels.

    A task may run twice: the copy appears whole, under its own name, and a second one replaces it.
    """
    with Image.open(source) as picture:
        height = round(picture.height * width / picture.width)
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
    partial = Path(f"{target}.{os.getpid()}.partial")
    small.save(partial, "JPEG", quality=_JPEG_QUALITY)
    partial.replace(target)
    return small.size


def mail_password(port: int, recipient: str, token: str) -> int:
    """Send a link for a new password through the mail server on this machine; return the process that sent it.

    A task may run twice: the token is in the mail, so that whoever receives it can tell.
    """
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = SENDER, recipient, "Your new password"
    mail[TOKEN_HEADER], mail[WORKER_HEADER] = token, str(os.getpid())
    mail.set_content(
        f"Choose a new password within an hour: https://flights.example/password/{token}\n"
    )
    # A name is given, because the default asks the network for the name of this machine.
    with smtplib.SMTP(
        "127.0.0.1", port, local_hostname="localhost", timeout=_SMTP_TIMEOUT_S
    ) as server:
        server.send_message(mail)
    return os.getpid()
