"""The OpenAPI document. After a deliberate change: `python -m app.openapi > tests/app/openapi.json`."""

import json
import sys
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse

from app.auth import OPEN_PATHS
from distillery.views import Problem

_REFERENCES = "#/components/schemas/{model}"


router = APIRouter()


@router.get("/openapi.json", include_in_schema=False, response_class=JSONResponse)
def openapi_document(request: Request) -> Response:
    """Serve the document, made on first use; not in the event loop, since making it takes a while."""
    return JSONResponse(request.app.openapi())


def install(app: FastAPI) -> None:
    """Let `app` describe itself completely: problem documents and the key included."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign] # the way the framework documents for this


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `app`."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    problem = Problem.model_json_schema(ref_template=_REFERENCES)
    schemas = found["components"]["schemas"]
    schemas |= problem.pop("$defs") | {"Problem": problem}
    found["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Needed where the service was started with a key."}
    }
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in OPEN_PATHS else [{"key": []}]
            if path in OPEN_PATHS:
                operation["responses"].pop("401", None)
    return found


def main() -> None:
    """Print the document; needs neither a database nor an artifact store."""
    from app.main import create_app
    from store.config import StoreConfig

    app = create_app(StoreConfig(database_url="sqlite:///unused.db", artifacts_url="unused"))
    json.dump(app.openapi(), sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
