"""Receives what Switchtower delivers: `WEBHOOK_SECRETS=whsec_… uvicorn receiver:app --port 8000`.

Each delivery is signed in two ways; to verify one is enough. While a secret is rotated, name both, a space between.
"""

import hmac
import os
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from standardwebhooks import Webhook, WebhookVerificationError

SECRETS = os.environ["WEBHOOK_SECRETS"].split()
app = FastAPI()
done: dict[str, Any] = {}


@app.post("/standard", status_code=201)
async def standard(request: Request) -> dict[str, str]:
    """Standard Webhooks: an HMAC of the message, which nobody can send again after five minutes."""
    body = await request.body()
    for secret in SECRETS:
        try:
            return take(Webhook(secret).verify(body, dict(request.headers)), request)
        except WebhookVerificationError:
            continue
    raise HTTPException(401, "no signature that we know")


@app.post("/bearer")
async def bearer(request: Request) -> dict[str, str]:
    """Dispatched: the secret itself, over https or on one machine."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    if not any(hmac.compare_digest(given, secret.encode()) for secret in SECRETS):
        raise HTTPException(401, "not the secret that we know")
    return take(await request.json(), request)


def take(job: dict[str, Any], request: Request) -> dict[str, str]:
    """Does the work once: a delivery may come again, under the same `webhook-id`."""
    done.setdefault(request.headers["webhook-id"], job["payload"])
    return {"took": job["jobId"]}
