"""The reference of the API as one page, made of its description: no script, all in itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Description = Mapping[str, Any]

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}code,pre{font-family:monospace}pre{overflow:auto;padding:.6rem;"
    "border:1px solid #8888}table{border-collapse:collapse;width:100%}td,th{text-align:left;"
    "vertical-align:top;padding:.15rem .8rem .15rem 0}section{border-top:1px solid #8888;"
    "margin-top:1.5rem}h3{margin-bottom:.2rem}.method{font-weight:bold}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_INTRODUCTION = (
    "Bearer token of POST /api/v1/login, or an API token (cairn api-token create), in the header "
    "Authorization. Errors are application/problem+json with a stable code, a cause and a remedy. "
    "Lists have pages: send `next` of one as `cursor` for the following. A versioned thing is "
    "answered with an ETag; PATCH needs it as If-Match. The same as data: openapi.json."
)


def page(description: Description) -> str:
    """Return the page (HTML)."""
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    body = "".join((*_operations(description), *_models(description)))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1><p>{escape(_INTRODUCTION)}</p>{body}</main></body></html>"
    )


def _operations(description: Description) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method.upper(), path, operation))
    links = "".join(f'<li><a href="#{_id(tag)}">{escape(tag)}</a></li>' for tag in by_tag)
    yield f"<nav><ul>{links}</ul></nav>"
    for tag, sections in by_tag.items():
        yield f'<h2 id="{_id(tag)}">{escape(tag)}</h2>{"".join(sections)}'


def _operation(method: str, path: str, operation: Description) -> str:
    parts = [
        f'<section id="{_id(f"{method}{path}")}"><h3><span class="method">{method}</span> '
        f"<code>{escape(path)}</code></h3><p>{escape(operation.get('description', ''))}</p>"
    ]
    if parameters := operation.get("parameters"):
        rows = [
            (
                escape(each["name"]),
                each["in"],
                _type(each.get("schema", {})),
                escape(each.get("description", "")),
            )
            for each in parameters
        ]
        parts.append(_table(("Parameter", "in", "type", ""), rows))
    for body in operation.get("requestBody", {}).get("content", {}).values():
        parts.append(f"<p>Body: {_type(body['schema'])}</p>")
        if "example" in body:
            parts.append(f"<pre>{escape(json.dumps(body['example'], indent=2))}</pre>")
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2"):
            parts.append(f"<p>{escape(status)}: {_type(schema) if schema else '-'}</p>")
    return "".join((*parts, "</section>"))


def _models(description: Description) -> Iterator[str]:
    yield "<h2>Types</h2>"
    for name, schema in sorted(description["components"]["schemas"].items()):
        needed = schema.get("required", ())
        rows = [
            (
                escape(field),
                _type(each) + ("" if field in needed else ", may be left out"),
                escape(each.get("description", "")),
            )
            for field, each in schema.get("properties", {}).items()
        ]
        told = escape(schema.get("description", ""))
        values = escape(", ".join(map(str, schema.get("enum", ()))))
        yield (
            f'<section id="{_id(name)}"><h3><code>{escape(name)}</code></h3><p>{told}</p>'
            f"<p>{values}</p>{_table(('Field', 'type', ''), rows) if rows else ''}</section>"
        )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; cells are HTML."""
    heads = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _kind(schema: Description) -> str:
    """Return the type in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_kind(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "anything")), *bounds])


_BOUNDS = {
    "format": "as",
    "minimum": "from",
    "maximum": "to",
    "minLength": "of at least",
    "maxLength": "of at most",
    "pattern": "like",
}


def _id(text: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in text)


def _type(schema: Description) -> str:
    """Return the type in words as HTML; one that has a name leads to its fields."""
    text = escape(_kind(schema))
    return f'<a href="#{_id(text)}"><code>{text}</code></a>' if "$ref" in schema else text
