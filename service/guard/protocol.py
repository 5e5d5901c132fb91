"""A connection that cannot be held open for nothing.

uvicorn's connection waits for as long as it takes: for headers that come a byte at a time, for the
rest of a body, for a client that does not read. Here each of its phases has an end, and what a
client can make the server hold is bounded.
"""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.faces import problems
from service.faces.problems import Problem
from service.guard import heads, limits, refusals
from service.guard.callers import address_of
from service.guard.cycle import Cycle
from service.guard.limits import Phase, Shared
from service.scope import DRAINING, ENDED


class GuardedProtocol(HttpToolsProtocol):
    """One connection; see :meth:`check` for what ends it."""

    cycle: Cycle

    def __init__(
        self, config: Config, state: ServerState, app_state: dict[str, Any], shared: Shared
    ) -> None:
        super().__init__(config, state, app_state)
        self._shared = shared
        self._phase = Phase.HEAD
        self._deadline = math.inf
        self._write_deadline = math.inf
        self._body_deadline = math.inf
        self._unparsed = 0
        """Bytes that came since the last that led to anything: an endless header, for example."""
        self._problem: Problem | None = None
        self._task: asyncio.Task[None] | None = None
        self._address: str | None = None
        """Who holds it, if it was taken in."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or refuse to."""
        super().connection_made(transport)
        self._enter(Phase.HEAD, self._shared.head_seconds)
        held, client = self._shared.connections, address_of(self.client[0] if self.client else None)
        if held.room(client):
            held.add(client)
            self._address = client
            if self._shared.draining:
                self.shutdown()
        elif len(self.connections) - held.total > held.most:
            # Even those that are being told so are too many now.
            transport.abort()
        else:
            self._refuse(refusals.too_many_connections(held, client))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop working for a client that has gone: others wait."""
        super().connection_lost(exc)
        if self._address is not None:
            self._shared.connections.remove(self._address)
        if self._task is not None and not self._task.done() and self.cycle.disconnected:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._phase is Phase.END:
            return
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD, self._shared.head_seconds)
        self._unparsed += len(data)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # There is nothing to upgrade to: the request is served, and so is what follows.
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._stop(self._problem or heads.malformed("It cannot be parsed."))
                return
            else:
                data = b""
        if self._unparsed > limits.HEAD_BYTES:
            self._stop(heads.too_large())

    def on_message_begin(self) -> None:
        """Note the beginning of a request."""
        super().on_message_begin()
        self._enter(Phase.HEAD, self._shared.head_seconds)

    def on_headers_complete(self) -> None:
        """Check the headers and start the application."""
        if self.transport.is_closing():
            # It came behind a request that was to be the last.
            return
        wrong = heads.problem_of(self.url, self.headers, self.parser.get_http_version())
        if wrong is None and len(self.pipeline) >= limits.PIPELINED:
            wrong = heads.malformed("Too many requests came ahead of their answers.")
        if wrong is not None:
            raise self._rejected(wrong)
        self._enter(Phase.BODY, limits.BODY_SECONDS)
        self._body_deadline = self._deadline
        if self._turned_away():
            self._expect_rest()
        else:
            self._begin()
            if self._shared.draining:
                self.scope["state"][DRAINING] = True
                self.cycle.keep_alive = False
        # Trailers come to this list: the application has the one that was checked.
        self.headers = []
        self._unparsed = 0

    def _turned_away(self) -> bool:
        """Answer a request at once if there is no room for it, and it is a plain one."""
        shared, cycle = self._shared, cast("Cycle | None", self.cycle)
        if (
            shared.door is None
            or shared.draining
            or self.flow.write_paused
            or (cycle is not None and not cycle.response_complete)
            or self.parser.get_method() != b"POST"
        ):
            return False
        keep_alive = self._keeps_alive()
        answer = shared.door.refusal(
            self.url,
            self.headers,
            self.server_state.default_headers,
            host=self.client[0] if self.client else None,
            keep_alive=keep_alive,
        )
        if answer is None:
            return False
        self.transport.write(answer)
        if cycle is None:
            self.cycle = cycle = self._new_cycle()
        # There is nothing more to do in it: one that has ended stands for this request.
        cycle.response_complete, cycle.keep_alive = True, keep_alive
        self.server_state.total_requests += 1
        return True

    def _begin(self) -> None:
        """Start the application, or have the request wait for those before it."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = self.parser.get_http_version()
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = cast("Cycle | None", self.cycle)
        self.cycle = self._new_cycle()
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())

    def _new_cycle(self) -> Cycle:
        return Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self._keeps_alive(),
            on_response=self.on_response_complete,
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def until_gone(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not cycle.disconnected:
                    raise

        task = self.loop.create_task(cycle.run_asgi(cast("Any", until_gone)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body; the application is woken when it is whole, or large."""
        self._unparsed = 0
        cycle = self.cycle
        if cycle.response_complete:
            self._expect_rest()
        elif cycle.take(body):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._unparsed = 0
        if self.cycle.response_complete:
            if not self.cycle.keep_alive:
                # Not earlier: closing with bytes unread would reset it, and the answer be lost.
                self.transport.close()
            self._enter(Phase.IDLE, self._shared.idle_seconds)
        else:
            self.cycle.end_of_body()
            self._enter(Phase.ANSWER, math.inf)

    def on_response_complete(self) -> None:
        """Note the end of an answer, and go on with the next request."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        if self.cycle.response_complete and self._phase is Phase.ANSWER:
            self._enter(Phase.IDLE, self._shared.idle_seconds)
        elif self.cycle.response_complete:
            self._expect_rest()

    def pause_writing(self) -> None:
        """Note that the client does not keep up."""
        super().pause_writing()
        self._write_deadline = self.loop.time() + limits.WRITE_SECONDS

    def resume_writing(self) -> None:
        """Note that it does again."""
        super().resume_writing()
        self._write_deadline = math.inf

    def check(self, now: float) -> None:
        """End what has taken too long; the server calls this a few times a second."""
        if self.transport.is_closing():
            # It closes when the client has taken what was written; some never do.
            if self._phase is not Phase.END:
                self._enter(Phase.END, limits.LINGER_SECONDS)
            elif now > self._deadline:
                self.transport.abort()
        elif now > self._write_deadline:
            self.transport.abort()
        elif now > self._deadline:
            self._end_of_time()

    def shutdown(self) -> None:
        """Take no further request, but for one that has begun or is on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._phase is not Phase.END and not self._unparsed:
            self._enter(Phase.IDLE, limits.DRAIN_IDLE_SECONDS)

    def _enter(self, phase: Phase, seconds: float) -> None:
        self._phase = phase
        self._deadline = self.loop.time() + seconds

    def _expect_rest(self) -> None:
        """Go on reading a body that is answered: its client may look for the answer behind it."""
        if self._phase is Phase.BODY:
            self._enter(Phase.BODY, limits.REST_SECONDS)
            self._deadline = min(self._deadline, self._body_deadline)

    def _end_of_time(self) -> None:
        if self._phase is Phase.HEAD and self._unparsed:
            seconds = self._shared.head_seconds
            self._stop(
                Problem(
                    problems.SLOW_HEADERS, f"The headers were not there after {seconds:g} seconds."
                )
            )
        elif self._phase is Phase.IDLE or self._phase is Phase.HEAD:
            self.transport.close()
        elif self._phase is Phase.BODY and not self.cycle.response_complete:
            seconds = limits.BODY_SECONDS
            self._stop(
                Problem(problems.SLOW_BODY, f"The body was not there after {seconds:g} seconds.")
            )
        else:
            self.transport.abort()

    def _rejected(self, problem: Problem) -> Exception:
        # The parser makes its own error of whatever is raised in its callbacks.
        self._problem = problem
        return ValueError(problem.detail)

    def _stop(self, problem: Problem) -> None:
        """Read no further; requests that came whole are answered before the connection ends."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(problem)
        elif not cycle.more_body:
            refusals.count(problem)
            cycle.keep_alive = False
            self._enter(Phase.END, math.inf)
        elif cycle.response_started or self.pipeline:
            refusals.count(problem)
            self.transport.abort()
        else:
            # What is wrong is the body of the request that the application has begun to read.
            cycle.scope["state"][ENDED] = problem.kind.status
            cycle.disconnected = True
            cycle.message_event.set()
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        refusals.count(problem)
        self._enter(Phase.END, limits.LINGER_SECONDS)
        self.transport.write(refusals.as_bytes(problem, self.server_state.default_headers))
        if self.transport.can_write_eof():
            # The client closes when it has read it, or `check` does.
            self.transport.write_eof()
        else:
            self.transport.close()
