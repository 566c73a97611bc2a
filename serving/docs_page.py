"""The page of the interface: Swagger UI as fastapi-offline packs it, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><title>HyMiRec</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui"})'
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)


TAGS = {
    "recommend": "What to show to whom.",
    "events": "What users did, in recommendations a moment later.",
    "operate": "Which version answers, and how it is.",
    "mlflow": "MLflow's own way of asking.",
}
"""Groups of operations; clients are generated with a module for each."""


def add_docs(app: FastAPI) -> None:
    """Add `/docs`, and say in the OpenAPI document how a request is authorised."""
    app.mount(
        "/docs/static", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")
    )

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        headers = {"content-security-policy": POLICY}
        return Response(PAGE, media_type="text/html", headers=headers)

    @app.get("/docs/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(START, media_type="text/javascript")

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description,
                routes=app.routes,
            )  # fmt: skip
            made["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description":
                          "Needed where the gateway has tokens; see docs/serving.md."}
            }  # fmt: skip
            made["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
            made["security"] = [{"token": []}, {}]
            app.openapi_schema = made
        return app.openapi_schema

    # As FastAPI's documentation has it (Extending OpenAPI).
    app.openapi = document  # type: ignore[method-assign]
