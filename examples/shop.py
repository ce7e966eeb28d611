"""The tasks of a shop: smaller pictures, and mails with a link for a new password."""

import os
import smtplib
from email.message import EmailMessage
from pathlib import Path
from secrets import token_urlsafe

from PIL import Image

import millstream as ms

app = ms.App("shop", store="./shop.mill")  # one directory, made on first use


@app.task(retries=3, backoff="exponential")
def resize(photo: Path, width: int) -> Path:
    small = photo.with_stem(f"{photo.stem}-{width}")
    with Image.open(photo) as image:
        image.thumbnail((width, image.height))
        image.save(small)
    return small


@app.task(queue="mail", priority=9, retry_on={OSError: 10})  # a mail server that is away
def send_password(address: str) -> None:
    mail = EmailMessage()
    mail["To"], mail["From"], mail["Subject"] = address, "shop@example.org", "Your new password"
    mail.set_content(f"Choose it here: https://shop.example.org/password/{token_urlsafe()}")
    with smtplib.SMTP("localhost", int(os.environ.get("SMTP_PORT", "25"))) as server:
        server.send_message(mail)
