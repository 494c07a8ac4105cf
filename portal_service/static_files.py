"""The HTML pages: files in `assets` that need no build step and load nothing from other hosts."""

from importlib.resources import files

from aiohttp.web import Application, Request, Response

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_SHARED = ("page.css", "icon.svg", "format.js")


def add(app: Application, page: str) -> None:
    """Serve the page called `page` at `/<page>`, and its files below that path."""
    _serve(app, f"/{page}", f"{page}.html")
    for name in (f"{page}.js", *_SHARED):
        _serve(app, f"/{page}/{name}", name)


def _serve(app: Application, path: str, name: str) -> None:
    body = (files("portal_service") / "assets" / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def answer(_request: Request) -> Response:
        return Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    app.router.add_get(path, answer)
