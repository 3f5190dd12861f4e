"""The console: the status page made anew at every look, and a page to try cases and to decide, on this machine alone.

Nothing is changed by looking. Whatever changes something is first shown with its consequence, comes from a page of this
console, wants the token, and is noted with who and why.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from email import message_from_bytes
from email.policy import HTTP
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ..config import PACKAGE, load
from ..contract import ProjectError
from ..features import from_request
from ..log.truth import told, word
from ..monitor import Monitor
from ..register import events
from ..release import deploy
from ..release.bundle import Bundle
from ..release.policy import Policy
from ..release.store import opened
from ..retrain import Say, ended_by_signals
from ..retrain.simulate import Caller
from ..serve.app import answered, class_names, listening
from ..serve.guard import Refusal, refusal
from . import desk, page
from .desk import Answer
from .drawn import LANGUAGES, Words, first
from .facts import LINKED, PAGE, gather
from .happened import Step, approvals, before, step

TOKEN, LEAST = "CONSOLE_TOKEN", 16
"""Environment variable that holds the token, and the fewest characters that it may have."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with less, a browser would not say where a form comes from
    "X-Content-Type-Options": "nosniff",
}
Given: TypeAlias = Mapping[str, Any]


def refuse_others(method: str, headers: Mapping[str, str], port: int) -> None:
    """Raise Refusal (403) for a request under another name than this machine's, or from a page of another site."""
    host = headers.get("host", "")
    if host not in {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}:
        raise Refusal(403, f"the console answers to 127.0.0.1:{port}, not to '{host[:100]}'")
    if method == "POST" and headers.get("origin") != f"http://{host}":
        raise Refusal(403, "this was not sent from a page of this console")


def refuse_without(token: str, given: str) -> None:
    """Raise Refusal (403) for another token; the comparison takes as long for any other one."""
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Refusal(403, f"this is not the token: `make console` printed it, or {TOKEN} holds it")


def serve(port: str, environment: str, address: str, say: Say) -> None:
    """Serve the console until Ctrl-C, which raises KeyboardInterrupt; `address` is that of the running service.

    Raises ProjectError for a port that cannot be had, or a token that is too short.
    """
    Caller(address).close()  # another machine is told at once
    token = os.environ.get(TOKEN, "").strip()
    if token and len(token) < LEAST:
        raise ProjectError(f"{TOKEN}: has {len(token)} characters, at least {LEAST} are wanted; or leave it out")
    with listening("127.0.0.1", port) as listener, ended_by_signals():
        number = listener.getsockname()[1]
        app = Console(environment, address, token or secrets.token_urlsafe(16), number)
        say(f"the console is on http://127.0.0.1:{number}; Ctrl-C ends it")
        if not token:
            say(f"the token for what changes something: {app.token}")
        config = uvicorn.Config(app, lifespan="off", ws="none", access_log=False, log_level="warning")
        uvicorn.Server(config).run([listener])


class Console:
    """The pages of one environment, as an ASGI callable."""

    def __init__(self, environment: str, address: str, token: str, port: int) -> None:
        """Prepare to answer; raises ProjectError for a mistake in `config/`."""
        self.environment, self.address, self.token, self.port = environment, address, token, port
        self.policy, self.language = load(Policy), load(Monitor).alerts.language
        self.store = opened(self.policy)
        self.largest = int(self.policy.limits.body_mb * 2**20)
        self._lock = Lock()
        self._bundle: Bundle | None = None
        self._pages: dict[tuple[str, str], Callable[[Words, Given], Response]] = {
            ("GET", "/"): lambda words, _: RedirectResponse(f"/{PAGE.as_posix()}?lang={words.language}"),
            ("GET", f"/{PAGE.as_posix()}"): self.status,
            ("GET", "/console"): self.desk,
            ("GET", "/confirm"): self.confirm,
            ("POST", "/try"): self.tried,
            ("POST", "/score"): self.scored,
            ("POST", "/do"): self.do,
        }
        for link in LINKED:  # as the status page names them, seen from its own folder
            file = Path(os.path.normpath(PAGE.parent / link))
            self._pages["GET", f"/{file.as_posix()}"] = partial(_shown, file)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        answer = await self._answer(request)
        answer.headers.update(HEADERS)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        given: dict[str, Any] = dict(request.query_params)
        try:
            refuse_others(request.method, request.headers, self.port)
            if (found := self._pages.get((request.method, request.url.path))) is None:
                raise Refusal(404, "there is no such page")
            if request.method == "POST":
                given |= _form(request.headers.get("content-type", ""), await self._body(request))
            return await run_in_threadpool(found, self._words(given), given)
        except Exception as error:  # whatever it is, people get a page
            words = self._words(given)
            status, wrong = _wrong(error, words)
            return HTMLResponse(desk.mistaken(words, PACKAGE.name, wrong), status)

    def _words(self, given: Given) -> Words:
        language = given.get("lang")
        return Words(language if language in LANGUAGES else self.language)

    async def _body(self, request: Request) -> bytes:
        """Return a request's body; one that is too large is read to its end, so that its sender hears why."""
        body, size = bytearray(), 0
        async for part in request.stream():
            size += len(part)
            body += part if size <= self.largest else b""
        if size > self.largest:
            raise Refusal(413, f"this is more than {self.policy.limits.body_mb:g} MB; `make score` takes larger files")
        return bytes(body)

    def status(self, words: Words, _: Given) -> Response:
        """Show the status page of this moment."""
        shown = page(gather(self.environment, time.time()), words.language)
        return HTMLResponse(desk.with_links(shown, [Words(name) for name in LANGUAGES]))

    def desk(
        self, words: Words, given: Given, answer: Answer | None = None, wrong: tuple[int, str] = (200, "")
    ) -> Response:
        """Show the page on which cases are tried and decisions begin."""
        entries, largest = self.store.entries(), self.policy.limits.body_mb
        asked = list(approvals(self.store, entries, events.read(), self.policy))
        stands = largest, asked, before(entries, self.environment)[1], events.frozen()
        view = desk.View(self.environment, self.bundle(), self.address, *stands, given, answer, wrong[1])
        return HTMLResponse(desk.desk(words, PACKAGE.name, view), wrong[0])

    def bundle(self) -> Bundle | None:
        """Return what answers in the environment; None where nothing does."""
        pointer = self.store.settle(self.environment)
        if pointer is None:
            return None
        if self._bundle is None or self._bundle.digest != pointer.champion:
            self._bundle = self.store.load(self.environment)
        return self._bundle

    def _live(self) -> Bundle:
        return self.bundle() or self.store.load(self.environment)  # which says how something comes there

    def tried(self, words: Words, given: Given) -> Response:
        """Answer a case, with the bundle itself, or by asking the running service."""
        try:
            bundle = self._live()
            inputs = bundle.contract.inputs.items()
            case = {name: _cell(given.get(f"{desk.INPUT}{name}", ""), one.type) for name, one in inputs}
            asked = given.get("by") == "service"
            answer = self._asked(case, given.get("token", "")) if asked else _answered(bundle, case)
        except ProjectError as error:
            return self.desk(words, given, wrong=_wrong(error, words))
        return self.desk(words, given, answer)

    def _asked(self, case: Given, token: str) -> Answer:
        """Ask the service, which logs its answer."""
        refuse_without(self.token, token)
        output = self._live().contract.output
        with closing(Caller(self.address)) as caller:
            status, key, said = caller.ask("/invocations", {"dataframe_records": [case]})
        if status != 200:
            raise ProjectError(f"{said.get('detail')}")
        events.append("console", action="try", prediction=f"{key}-1")
        chances = said.get("probabilities", [{}])[0]
        return Answer(output.target, _written(said["predictions"][0], output.unit), chances, f"{key}-1")

    def scored(self, _: Words, given: Given) -> Response:
        """Return a file's rows with their answers."""
        from ..serve.batch import predict

        if not (content := given.get("file")):
            raise ProjectError("no file was chosen, or it is empty")
        with TemporaryDirectory() as folder:
            source, output = Path(folder) / "rows.csv", Path(folder) / "answers.csv"
            source.write_bytes(content)
            try:
                predict(self._live(), source, output, lambda _: None)
            except ProjectError as error:
                raise ProjectError(f"{error}".replace(f"{source}: ", "")) from None
            rows = output.read_bytes()
        answer = Response(rows, media_type="text/csv")
        answer.headers["Content-Disposition"] = 'attachment; filename="answers.csv"'
        return answer

    def confirm(self, words: Words, given: Given) -> Response:
        """Show what an action leads to."""
        asked = step(given, self.environment, self.store.entries())
        return HTMLResponse(desk.confirm(words, PACKAGE.name, asked, given))

    def do(self, words: Words, given: Given) -> Response:
        """Do what was confirmed, and note it; a page that shows what is no more so is refused."""
        asked, said = step(given, self.environment, self.store.entries()), list[str]()
        try:
            refuse_without(self.token, given.get("token", ""))
            if not (why := given.get("why", "").strip()):
                raise ProjectError("a reason is wanted, for those who come after")
            with self._lock:
                if given.get("seen", "") != step(given, self.environment, self.store.entries()).fields.get("seen", ""):
                    raise Refusal(409, "things changed since this page was shown: read anew what it leads to")
                self._act(asked, why, said.append)
                about = {name: value for name, value in asked.fields.items() if name != "seen"}
                events.append("console", action=asked.action, why=why, **about)
        except ProjectError as error:
            status, wrong = _wrong(error, words)
            return HTMLResponse(desk.confirm(words, PACKAGE.name, asked, given, wrong), status)
        return HTMLResponse(desk.outcome(words, PACKAGE.name, asked, said))

    def _act(self, asked: Step, why: str, say: Say) -> None:
        if asked.action == "feedback":
            told([(asked.fields["id"], asked.fields["truth"])])
        elif asked.action == "rollback":
            deploy.rollback(self.policy, self.environment, why, say)
        elif asked.action in ("approve", "refuse"):
            about = asked.fields["version"], asked.fields["environment"]
            getattr(deploy, asked.action)(self.policy, *about, why, say)
        else:
            getattr(events, asked.action)(why)


def _answered(bundle: Bundle, case: Given) -> Answer:
    """Answer a case with the bundle itself; nothing is logged."""
    scorer, output = bundle.scorer, bundle.contract.output
    _, raw = answered(scorer, from_request([case], scorer.signature), bundle.prepare)
    chances = dict(zip(class_names(scorer.signature), raw[0].tolist(), strict=True)) if output.classes else {}
    return Answer(output.target, _written(scorer.answers(raw).tolist()[0], output.unit), chances)


def _written(said: Any, unit: str | None) -> str:
    return f"{said:,.6g} {unit or ''}".strip() if isinstance(said, float) else word(said)


def _cell(text: str, kind: str) -> Any:
    """Return what a field holds, as JSON would carry it: a browser writes numbers in one way, whatever CSV files do."""
    if kind in ("number", "integer"):
        with suppress(ValueError):
            return float(text)
    return text.strip() or None


def _form(media: str, body: bytes) -> dict[str, Any]:
    """Return the fields of a form; of a file its bytes."""
    if not media.startswith("multipart/form-data"):
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    sent, fields = message_from_bytes(f"Content-Type: {media}\r\n\r\n".encode() + body, policy=HTTP), {}
    for part in sent.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), bytes(part.get_payload(decode=True))
        fields[f"{name}"] = content.decode("utf-8", "replace") if part.get_filename() is None else content
    return fields


def _wrong(error: Exception, words: Words) -> tuple[int, str]:
    """Return the status of an error, and what people are told of it, as HTML."""
    found = refusal(error)
    sentence = first(f"{found}")
    return found.status, words.told(sentence) + "." * (not words.told(sentence).endswith("."))


def _shown(file: Path, *_: Any) -> Response:
    if not file.is_file():
        raise Refusal(404, "there is no such page")
    kind = "text/html" if file.suffix == ".html" else "text/plain"
    return FileResponse(file, media_type=f"{kind}; charset=utf-8")
