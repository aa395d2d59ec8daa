"""Lets only the person who started the server use it.

Dagster's web server asks nobody who they are. It runs GraphQL mutations that come by GET, whatever page sent them, so
any page that is open in the same browser could launch or terminate runs. The guard stands in front of the whole
application, websockets included, and lets a request pass only if

- its `Host` is one of ours (a foreign name that resolves to this machine is refused: DNS rebinding);
- its `Origin` and `Sec-Fetch-Site`, where the browser sends them, say that one of our own pages sent it;
- GraphQL comes by POST, as JSON, with the query in the body;
- it carries the cookie that `/login?t=TOKEN` gave in exchange for the token printed at the start.
"""

import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN = "/login"
HEALTH = "/health"
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_LOG_IN = "No access: open the address that was printed when the server started. It ends with /login?t=..."
_ADDED_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may come in."""

    hosts: Collection[str]
    """Values of the `Host` header that are ours, with the port, in lower case."""
    cookie: str
    """Name of the cookie. Cookies do not know ports, so it names ours."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """What the printed address holds."""
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """The cookie's value: another secret, so that a cookie cannot be made from the address in a browser's history."""

    @classmethod
    def to_port(cls, port: int, more_hosts: Collection[str] = ()) -> "Access":
        """Return the access to a server on a port of this machine.

        Args:
            port: the server's port.
            more_hosts: further `Host` values, as a tunnel from another port needs: `localhost:8080`.
        """
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", *(host.lower() for host in more_hosts)}
        return cls(frozenset(hosts), f"lora_assets_{port}")


@dataclass(frozen=True)
class Refusal:
    """Why a request may not pass."""

    status: int
    reason: str


@dataclass(frozen=True)
class Request:
    """What the guard reads of a request or of the opening of a websocket."""

    method: str
    path: str
    headers: Headers
    query: QueryParams
    is_websocket: bool

    @classmethod
    def of(cls, scope: Scope) -> "Request":
        """Read an ASGI scope."""
        is_websocket = scope["type"] == "websocket"
        method = "GET" if is_websocket else scope["method"]
        return cls(method, scope["path"], Headers(scope=scope), QueryParams(scope["query_string"]), is_websocket)


class Guard:
    """An ASGI application that passes on to another what `refusal` lets through."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and answer it here or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = Request.of(scope)
        answer = _answer(request, self._access)
        if answer is None:
            await self._app(scope, receive, _with_headers(send))
        elif request.is_websocket:
            await receive()
            # Before it is accepted, a websocket that is closed is refused with status 403.
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await answer(scope, receive, _with_headers(send))


def refusal(request: Request, access: Access) -> Refusal | None:
    """Return why a request may not pass, or None."""
    return _wrong_sender(request, access) or _wrong_graphql(request) or _no_cookie(request.headers, access)


def _answer(request: Request, access: Access) -> Response | None:
    """Return what the guard itself answers, or None where the application is to answer."""
    wrong = _wrong_sender(request, access)
    if wrong is None and not request.is_websocket and request.method in _SAFE_METHODS:
        if request.path == HEALTH:
            return PlainTextResponse("ok\n")
        if request.path == LOGIN:
            return _log_in(request.query.get("t", ""), access)
    wrong = wrong or refusal(request, access)
    return None if wrong is None else PlainTextResponse(wrong.reason + "\n", wrong.status)


def _wrong_sender(request: Request, access: Access) -> Refusal | None:
    """Hold `Host`, `Origin` and `Sec-Fetch-Site` against our own addresses."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in access.hosts:
        return Refusal(400, "Unknown Host header: this server answers to its own address only.")
    own = {f"http://{host}" for host in access.hosts}
    if any(origin.lower() not in own for origin in request.headers.getlist("origin")):
        return Refusal(403, "The request comes from a page of another origin.")
    site = request.headers.get("sec-fetch-site", "same-origin")
    # A link on another page may lead here; what it shows still needs the cookie, which then is not sent.
    is_navigation = request.headers.get("sec-fetch-mode") == "navigate" and request.method in _SAFE_METHODS
    if site not in {"same-origin", "none"} and not is_navigation:
        return Refusal(403, "The request comes from a page of another site.")
    return None


def _wrong_graphql(request: Request) -> Refusal | None:
    """Refuse GraphQL in any form that another page could send without asking us first."""
    if not request.path.rstrip("/").endswith("/graphql") or request.is_websocket:
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind == "application/json" and "query" not in request.query:
        return None
    return Refusal(403, "GraphQL is accepted as POST with a JSON body only.")


def _no_cookie(headers: Mapping[str, str], access: Access) -> Refusal | None:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(access.cookie)
    except CookieError:
        cookie = None
    known = cookie is not None and hmac.compare_digest(cookie.value.encode(), access.session.encode())
    return None if known else Refusal(403, _LOG_IN)


def _log_in(token: str, access: Access) -> Response:
    """Exchange the token for the cookie."""
    if not hmac.compare_digest(token.encode(), access.token.encode()):
        return PlainTextResponse(_LOG_IN + "\n", 403)
    response = RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
    response.set_cookie(access.cookie, access.session, path="/", httponly=True, samesite="strict")
    return response


def _with_headers(send: Send) -> Send:
    """Add headers that keep other pages from framing or reading ours."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ADDED_HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers
