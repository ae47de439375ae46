"""The API's description and the page that shows it, without anything from elsewhere."""

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi

from upshot.api.answers import json_answer
from upshot.api.auth import scope_of
from upshot.api.events import CloudEventPosted, EventPosted
from upshot.api.problems import ProblemDocument

ASSETS: Final = Path(__file__).parent / "static"
_POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
_REF: Final = "#/components/schemas/{model}"
_DOCUMENTED: Final = (ProblemDocument, EventPosted, CloudEventPosted)
_DESCRIPTION: Final = """\
Apps post events; a trigger waits for them, key by key; when it is met, its deployment is run.

Every error is `application/problem+json` (RFC 9457) with `errors: [{"loc", "msg"}]`. Lists take
`limit` and `cursor` and answer `items` and `next_cursor`. Durations are seconds or ISO 8601
(`PT10M`) and are answered in seconds. Times are RFC 3339.
"""

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return json_answer(describe(request))


@router.get("/docs")
async def docs() -> Response:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Upshot API",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon-32x32.png",
        # By default a badge is fetched from a validator on the internet.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
    )
    page.headers["content-security-policy"] = _POLICY
    return page


def describe(request: Request) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    app = request.app
    if app.openapi_schema is None:
        described = get_openapi(
            title="Upshot",
            version=app.version,
            description=_DESCRIPTION,
            routes=app.routes,
        )
        _add_models(described)
        _add_security(described)
        app.openapi_schema = described
    document: dict[str, Any] = app.openapi_schema
    return document


def _add_models(described: dict[str, Any]) -> None:
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for model in _DOCUMENTED:
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema


def _add_security(described: dict[str, Any]) -> None:
    described["components"]["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key. On loopback none is asked for until one is made.",
        }
    }
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            if path in ("/healthz", "/readyz"):
                continue
            scope = scope_of(method=method.upper(), path=path)
            operation["security"] = [{"key": []}]
            operation["description"] = f"{operation['description']}\n\nScope: `{scope}`."
