"""The shop's web server: `uvicorn api:app`, in this folder."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from tasks import app as celery_app
from tasks import book_payment, build_report, send_welcome

WEBHOOK_SECRET = os.environ.get("WEBHOOK_SECRET", "not-a-secret").encode()

app = FastAPI(title="shop")


class SignUp(BaseModel):
    email: str


class ReportOrder(BaseModel):
    rows: int = Field(default=20, gt=0, le=10_000)


@app.get("/")
def alive() -> dict[str, str]:
    return {"shop": "open"}


@app.post("/signups", status_code=202)
def sign_up(form: SignUp) -> dict[str, str]:
    """Answers at once; the mail goes out in the background."""
    return {"task": send_welcome.delay(form.email).id}


@app.post("/reports", status_code=202)
def order_report(order: ReportOrder) -> dict[str, str]:
    return {"task": build_report.delay(order.rows).id}


@app.post("/webhooks/payments", status_code=202)
async def payment_webhook(request: Request) -> dict[str, str]:
    """Checks the signature and answers before the provider gives up; the booking follows."""
    body = await request.body()
    expected = hmac.new(WEBHOOK_SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, request.headers.get("x-signature", "")):
        raise HTTPException(401, "wrong signature")
    return {"task": book_payment.delay(json.loads(body)).id}


@app.get("/tasks/{task_id}")
def task_state(task_id: str) -> dict[str, Any]:
    """What a page asks every second until the state is SUCCESS or FAILURE."""
    result = celery_app.AsyncResult(task_id)
    # Read once: the task goes on while we look at it.
    state = result.state
    answer: dict[str, Any] = {"task": task_id, "state": state}
    if state == "SUCCESS":
        answer["result"] = result.result
    elif state == "FAILURE":
        answer["error"] = repr(result.result)
    elif state == "PROGRESS":
        answer["progress"] = result.info
    return answer
