"""The OpenAPI page of a release: BentoML's, which is typed by the contract, with what it leaves out: that
/predict needs a body, and what its refusals look like.
"""

from html import escape
from typing import Any

import orjson

from bentos.errors import (
    Broken,
    Expired,
    Invalid,
    ModelFailed,
    Overloaded,
    TooLarge,
    TooSlow,
    Unavailable,
    Unsupported,
)
from bentos.manifest import Manifest

REFUSALS = {
    Invalid: "The request breaks the contract; each detail names the value.",
    TooSlow: "The request did not arrive in time.",
    TooLarge: "More bytes or rows than are allowed.",
    Unsupported: "The content type or encoding is not spoken here.",
    Overloaded: "It would be answered too late; Retry-After says when to come back.",
    Broken: "The service failed to handle the request.",
    ModelFailed: "The model could not answer the request.",
    Unavailable: "The service is starting or ending, or its model is failing.",
    Expired: "The deadline passed while the request waited.",
}
DETAIL = {
    "type": "object",
    "required": ["type", "loc", "msg"],
    "properties": {
        "type": {"type": "string"},
        "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"type": "string"},
    },
}
REFUSAL = {
    "type": "object",
    "title": "Refusal",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "One sentence."},
        "detail": {"type": "array", "items": DETAIL},
    },
}


HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="static_content/swagger-ui.css">
<div id="page"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "docs.json", dom_id: "#page"}})</script>
</html>
"""


def html(manifest: Manifest) -> str:
    """The page for people. BentoML's own would tell Google who looks at it."""
    return HTML.format(title=escape(f"{manifest.model} {manifest.release_id}"))


def completed(page: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """BentoML's page, which is left as it is, made that of a release."""
    page = orjson.loads(orjson.dumps(page, option=orjson.OPT_NON_STR_KEYS))
    says = f"Predictions of the release {manifest.release_id}."
    page["info"] = {"title": manifest.model, "version": manifest.version, "description": says}
    unused = ("TaskStatusResponse", "InvalidArgument", "NotFound", "InternalServerError")
    schemas = {name: kind for name, kind in page["components"]["schemas"].items() if name not in unused}
    page["components"]["schemas"] = {**schemas, "Refusal": REFUSAL}
    predict = page["paths"]["/predict"]["post"]
    predict["requestBody"]["required"] = True
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    refusals = {
        str(kind.status): {"description": text, "content": content} for kind, text in REFUSALS.items()
    }
    predict["responses"] = {"200": predict["responses"]["200"], **refusals}
    return page
