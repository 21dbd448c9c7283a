"""A FastAPI application whose requests need an API key of trust-auth. Needs Python 3.11.

    pip install fastapi httpx uvicorn
    TRUST_AUTH_URL=http://127.0.0.1:8080 uvicorn fastapi_app:app

Only an answer 200 that names the trust grants a request. Every failure refuses it.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.security import APIKeyHeader

VERIFY = os.environ.get("TRUST_AUTH_URL", "http://127.0.0.1:8080") + "/verify"
KEY_HEADER = APIKeyHeader(name="X-Api-Key", auto_error=False)  # `--header` of the service
SECONDS = 3.0  # more than `--query-timeout` of the service


@dataclass(frozen=True)
class Trust:
    """The tenant that has the key of the request."""

    id: str
    name: str
    attributes: Any  # None, unless the service runs with `--send-attributes`


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    # Idle connections end here before `--header-timeout` of the service ends them.
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=20)
    async with httpx.AsyncClient(limits=limits, timeout=SECONDS, trust_env=False) as client:
        yield {"trust_auth": client}


async def authenticated(
    request: Request, _: Annotated[str | None, Security(KEY_HEADER)] = None
) -> Trust:
    """Returns the trust that has the key of the request. Raises 401 or 503 otherwise."""
    client: httpx.AsyncClient = request.state.trust_auth
    # The bytes of all values: the service refuses several keys.
    wanted = KEY_HEADER.model.name.lower().encode()
    keys = [header for header in request.headers.raw if header[0] == wanted]
    try:
        async with asyncio.timeout(SECONDS):
            answer = await client.get(VERIFY, headers=keys)
        if answer.status_code == 200:
            id, name = answer.headers["X-Trust-Id"], answer.headers["X-Trust-Name"]
            attributes = json.loads(answer.headers.get("X-Trust-Attributes") or "null")
            return Trust(id=id, name=unquote(name), attributes=attributes)
        if answer.status_code not in (401, 503):
            raise ValueError(f"trust-auth answered {answer.status_code}")
        detail = str(answer.json()["detail"])
    except (httpx.HTTPError, TimeoutError, ValueError, LookupError, TypeError) as error:
        detail = "Authentication is unavailable; try again."
        raise HTTPException(503, detail, {"Retry-After": "1"}) from error
    passed_on = ("WWW-Authenticate", "Retry-After")
    headers = {name: answer.headers[name] for name in passed_on if name in answer.headers}
    raise HTTPException(answer.status_code, detail, headers)


app = FastAPI(lifespan=lifespan)


@app.get("/orders/{order}")
async def show_order(order: int, trust: Annotated[Trust, Depends(authenticated)]) -> dict[str, str]:
    return {"order": str(order), "id": trust.id, "name": trust.name}
