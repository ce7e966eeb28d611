"""A web service that makes small copies of photos: FastAPI takes the orders, workers do them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image

import millstream as ms

FOLDER = Path(os.environ.get("PHOTOS", "photos"))
jobs = ms.App("photos", store=FOLDER / "jobs.mill")


@jobs.task(bind=True, dont_autoretry_for=(OSError,))
def shrink(self: ms.BoundTask, name: str, widths: list[int]) -> list[str]:
    copies = []
    for number, width in enumerate(widths, start=1):
        with Image.open(FOLDER / name) as image:
            image.thumbnail((width, image.height))
            copies.append(f"{width}-{name}")
            image.save(FOLDER / copies[-1])
        self.update_state(meta={"current": number, "total": len(widths)})
    return copies


@asynccontextmanager
async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
    FOLDER.mkdir(exist_ok=True)
    yield
    jobs.close()  # what was accepted is in the store, and survives


api = FastAPI(lifespan=lifespan)


@api.put("/photos/{name}", status_code=202)
async def upload(name: str, request: Request, width: int = 320) -> dict[str, str]:
    (FOLDER / name).write_bytes(await request.body())
    result = await shrink.adelay(name, [width, width // 2])  # durable when this returns
    return {"job": result.id}


@api.get("/jobs/{job}")
async def look(job: str) -> dict[str, object]:
    try:
        result = jobs.tasks.result(job)
        return {"state": result.state, "info": str(result.info)}
    except ms.errors.UnknownTask as error:
        raise HTTPException(404, "there is no such job") from error


@api.get("/jobs/{job}/copies")
async def copies(job: str, response: Response, wait: float = 5) -> list[str]:
    try:
        return await shrink.result(job).aget(timeout=wait)  # no polling: its commit wakes us
    except ms.errors.ResultTimeout:
        response.status_code = 202
        return []
    except ms.errors.UnknownTask as error:
        raise HTTPException(404, "there is no such job") from error
    except (ms.errors.TaskFailed, ms.errors.TaskRevoked) as error:
        raise HTTPException(409, str(error)) from error


@api.delete("/jobs/{job}", status_code=204)
def cancel(job: str) -> None:
    if not shrink.result(job).revoke("its owner asked for it"):
        raise HTTPException(409, "the job has ended, or is not there")
