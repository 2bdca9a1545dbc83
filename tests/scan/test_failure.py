"""Why there was no answer, in words."""

import asyncio
import ssl

import httpx2
import pytest

from corral.errors import TargetError
from corral.scan import scan
from corral.scan.failure import in_words


def raised(inner: BaseException, outer: Exception) -> Exception:
    try:
        try:
            raise inner
        except BaseException as cause:
            raise outer from cause
    except Exception as error:  # noqa: BLE001  # whatever it was given
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), "connection refused"),
        (
            raised(ConnectionRefusedError(111, "x"), httpx2.ConnectError("All connection attempts failed")),
            "connection refused",
        ),
        (
            raised(ExceptionGroup("x", [ConnectionRefusedError(111, "x")]), httpx2.ConnectError("")),
            "connection refused",
        ),
        (httpx2.ReadTimeout(""), "timed out"),
        (TimeoutError(), "timed out"),
        (httpx2.RemoteProtocolError("Server disconnected without sending a response."), "connection closed"),
        (httpx2.RemoteProtocolError("illegal status line"), "no valid HTTP"),
        (ConnectionResetError(104, "reset"), "connection closed"),
        (httpx2.ReadError(""), "connection closed"),
        (OSError(113, "x"), "no route to host"),
        (ssl.SSLError(1, "wrong"), "TLS"),
        (ValueError("odd"), "odd"),
    ],
)
def test_it_is_said_in_words(error, words):
    assert words in in_words(error)


def test_a_certificate_that_is_not_trusted_is_named(tls_server):
    with pytest.raises(TargetError, match="TLS: the certificate is not trusted"):
        scan(tls_server)


def test_a_port_where_nobody_listens_is_refused(free_port):
    with pytest.raises(TargetError, match="does not answer: connection refused"):
        scan(f"http://127.0.0.1:{free_port}", timeout=2)


@pytest.fixture
def tls_server(tmp_path):
    """A server whose certificate nobody signed."""
    import threading  # noqa: PLC0415

    import trustme  # noqa: PLC0415

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def close(reader, writer):
        writer.transport.abort()

    async def stop():
        server.close()
        await asyncio.sleep(0.01)  # what was aborted is closed in a later turn

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(close, "127.0.0.1", 0, ssl=context), loop).result(5)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
