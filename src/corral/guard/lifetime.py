"""From start to end: the guard, its log, its metrics, and the server if it is Corral's child.

SIGINT and SIGTERM end it: no new connections, running requests finish (bounded by the policy), then the child is sent
the same signal. A second one ends everything at once. SIGHUP reads the policy anew (see `reload`), unless the terminal
that Corral runs in has gone: then it ends too. SIGUSR1 opens the log's file anew, as logrotate wants it. When the
child ends by itself, the guard ends too, with the child's status; nothing is started again.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from corral.guard.access_log import AccessLog
from corral.guard.admin.access import AdminAccess
from corral.guard.admin.api import AdminApi
from corral.guard.admin.server import AdminServer
from corral.guard.launch_arguments import Launch
from corral.guard.launcher import START_TIMEOUT, Server, ServerEndedError, describe_ending, find_program
from corral.guard.metrics import Metrics
from corral.guard.reload import NOWHERE, Origin, Reloader, Say, Voice
from corral.guard.service import Guard
from corral.guard.traces.opening import check_traces, count_traces, open_traces
from corral.policy.address import Endpoint, parse_endpoint
from corral.policy.model import Policy

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AFTER_CRASH = 1.0  # seconds that requests get to end once the server is gone
_FILES_BESIDES = 64  # descriptors that are no connections

Ready = Callable[[Policy], None]


class _Signals:
    """The signals that end the guard: `stop` is set by the first, `at_once` by the second."""

    def __init__(self, log: AccessLog | None) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()
        self.number: int = signal.SIGTERM
        self._has_terminal = _terminal_is_there()
        loop = asyncio.get_running_loop()
        for number in _ENDING_SIGNALS:
            loop.add_signal_handler(number, self._received, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        if log is not None:
            loop.add_signal_handler(signal.SIGUSR1, log.reopen)

    def _hung_up(self) -> None:
        """Tell who asks for a reload from a terminal that was closed: what runs in one ends with it."""
        if self._has_terminal and not _terminal_is_there():
            self._received(signal.SIGHUP)
        else:
            self.reload.set()

    def _received(self, number: int) -> None:
        if self.stop.is_set():
            self.at_once.set()
        else:
            self.number = number
            self.stop.set()


def _terminal_is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


async def serve(
    policy: Policy,
    *,
    origin: Origin = NOWHERE,
    launch: Launch | None = None,
    authz: bool = False,
    start_timeout: float = START_TIMEOUT,
    say: Say = lambda _: None,
    complain: Say = lambda _: None,
    ready: Ready = lambda _: None,
) -> int:
    """Guard until told to end; answers the process's exit status.

    `policy.auth` is resolved ("keys" or "none"). With `launch`, the server is started first and its place taken for
    `upstream`; with `authz` there is none, and proxies are told what may go on. `origin` is where the policy can be
    read again. `say` is told what happens, in sentences, and `complain` what went wrong without ending anything;
    `ready` gets the policy as it runs, with the address bound.

    Raises:
        CorralError: something could not be started; whatever had been is ended.

    """
    check_traces(policy)
    log = AccessLog.open(policy.log)
    try:
        signals = _Signals(log)
        voice = Voice(say, complain)
        if launch is None:
            return await _guard(policy, origin, signals, log=log, server=None, voice=voice, ready=ready, authz=authz)
        find_program(launch)
        if not launch.only_tells:
            await _rehearse(policy)
        server = Server(launch)
        try:
            server.start()
            try:
                ready_in_time = await _done(server.ready(start_timeout, say), unless=signals.stop)
            except ServerEndedError as ended:
                if ended.status:
                    raise
                return 0  # as after --version: there was nothing to serve, and nothing went wrong
            if not ready_in_time:
                return await _stop_server(server, signals)
            return await _guard(
                _in_front_of(policy, server), origin.adjusted(lambda read: _in_front_of(read, server)), signals,
                log=log, server=server, voice=voice, ready=ready,
            )  # fmt: skip
        finally:
            await server.stop(patience=0)
    finally:
        if log is not None:
            log.close()


async def _rehearse(policy: Policy) -> None:
    """Find out that an address is taken or a certificate unusable before a model is loaded for minutes."""
    rehearsal = Guard(policy, access_log=None)
    try:
        await rehearsal.start(ask_servers=False)
    finally:
        await rehearsal.stop(0)


def _in_front_of(policy: Policy, server: Server) -> Policy:
    """Point the policy at the child, with the slots that it has; so many requests run, or fewer if that was said."""
    upstream = replace(policy.upstream, url=server.url)
    if server.slots and upstream.slots is None:
        connections = max(upstream.max_connections, server.slots + 1)
        upstream = replace(upstream, slots=server.slots, max_connections=connections)
    return replace(policy, upstream=upstream)


async def _guard(
    policy: Policy,
    origin: Origin,
    signals: _Signals,
    *,
    log: AccessLog | None,
    server: Server | None,
    voice: Voice,
    ready: Ready,
    authz: bool = False,
) -> int:
    """Run the guard until a signal or the child's end; ends the child too."""
    say = voice.say
    _allow_connections(policy, say)
    metrics = None
    if policy.admin.listen is not None:
        metrics = Metrics()
        if log is not None:
            metrics.counter("corral_log_lines_dropped", "Log lines lost.", lambda: log.dropped)
    traces = open_traces(policy)
    if metrics is not None and traces is not None:
        count_traces(metrics, traces)
    guard = Guard(policy, access_log=log, metrics=metrics, authz=authz, traces=traces)
    reloader = Reloader(origin, policy, guard.reload, voice)
    if metrics is not None:
        reloader.register(metrics)
    admin = reloading = None
    try:
        await guard.start()
        if metrics is not None and policy.admin.listen is not None:
            endpoint = parse_endpoint(policy.admin.listen)
            api = AdminApi(guard, reloader, metrics, AdminAccess(policy, on_loopback=endpoint.is_loopback), say)
            admin = AdminServer(metrics, (endpoint.host, endpoint.port), api)
            await admin.start()
            policy = replace(policy, admin=replace(policy.admin, listen=str(Endpoint(*admin.address))))
        bound = str(Endpoint(*guard.address))
        ready(replace(policy, listen=replace(policy.listen, address=bound)))
        for sentence in guard.servers() if server is None and not authz else ():
            say(sentence)
        # What stands now stands until the end: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # Requests make no cycles, so looking for them every 700 objects (the default) finds nothing and costs 4 %.
        gc.set_threshold(50_000, 20, 50)
        reloading = asyncio.get_running_loop().create_task(reloader.follow(signals.reload))
        if server is not None and await _done(server.ended(), unless=signals.stop):
            status = await server.ended()
            say(f"The server {describe_ending(status)}; the guard ends with it.")
            await guard.stop(_AFTER_CRASH)
            return status
        await signals.stop.wait()
        say(_ending(guard.running + guard.waiting, guard.policy.bounds.shutdown_timeout, signals.number))
        drained = await _done(guard.stop(), unless=signals.at_once)
        if server is not None:
            return await _stop_server(server, signals)
        return 0 if drained else 128 + signals.number
    finally:
        if reloading is not None:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
        await guard.stop(0)
        if admin is not None:
            await admin.stop()
        if traces is not None:
            traces.close()


def _ending(requests: int, patience: float, number: int) -> str:
    """Say what a first signal brings about, and what a second one would."""
    if not requests:
        return "Ending: no request is running."
    again = "A second Ctrl-C" if number == signal.SIGINT else "A second signal"
    running = "1 running request may" if requests == 1 else f"{requests} running requests may"
    return f"Ending: {running} finish, within {patience:g} seconds. {again} ends everything at once."


async def _stop_server(server: Server, signals: _Signals) -> int:
    """Hand the signal on to the child, and end it at once on the second one."""
    if signals.at_once.is_set() or not await _done(server.stop(signals.number), unless=signals.at_once):
        return await server.stop(patience=0)
    return await server.ended()


async def _done(work: Coroutine[Any, Any, object], *, unless: asyncio.Event) -> bool:
    """Await `work`; False, and the work is cancelled, if the event comes first. Raises what the work raises."""
    loop = asyncio.get_running_loop()
    task, event = loop.create_task(work), loop.create_task(unless.wait())
    try:
        await asyncio.wait((task, event), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        task.cancel()
        event.cancel()
        await asyncio.gather(task, event, return_exceptions=True)


def _allow_connections(policy: Policy, say: Say) -> None:
    """Raise the soft bound on open files to the hard one, and say so if even that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems refuse "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    servers = max(1, len(policy.upstreams))
    wanted = policy.bounds.max_connections + servers * policy.upstream.max_connections + _FILES_BESIDES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        say(
            f"This process may open {soft} files, but bounds.max_connections allows {policy.bounds.max_connections} "
            "connections: raise the system's bound (ulimit -n) or lower the setting."
        )
