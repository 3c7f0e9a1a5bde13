"""HTTP with bounds: in threads, so that the calls go on, and given up at once when its task is."""
import asyncio
import concurrent.futures
import contextlib
import http.client
import socket
import urllib.parse

STEP_TIMEOUT_S = 15
PIECE_BYTES = 8192
REDIRECTS_MAX = 3
# Each step of each request takes a thread for as long as it waits.
THREADS_MAX = 256
_threads = concurrent.futures.ThreadPoolExecutor(THREADS_MAX, "http")


class WebError(Exception):
    """An address did not give what was asked of it; the text says which and why."""


def check_url(url, schemes=("http", "https")):
    """The parts of an absolute address, or WebError."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(not 32 < ord(character) < 127 for character in url):
        raise WebError(f"{url[:200]!r} is no address: need {' or '.join(schemes)}://host[:port]/path")
    return parts


def with_default_path(url, path):
    """An address that names no path gets that of OpenAI's interface."""
    parts = check_url(url)
    return urllib.parse.urlunsplit(parts._replace(path=path)) if parts.path in ("", "/") else url


async def _in_thread(function, *args):
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *args)


def _close(connection, sock):
    # Wakes a thread that still waits for bytes.
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.asynccontextmanager
async def _answer(method, url, body, headers):
    """An open response. Its connection is closed at the end, whatever comes."""
    parts = check_url(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=STEP_TIMEOUT_S)
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    sock = None
    try:
        await _in_thread(connection.connect)
        sock = connection.sock
        headers = {"Accept-Encoding": "identity", "Connection": "close", **headers}
        await _in_thread(connection.request, method, path, body, headers)
        yield await _in_thread(connection.getresponse)
    except (OSError, http.client.HTTPException) as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error or type(error).__name__
        raise WebError(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}: {reason}") from error
    finally:
        _close(connection, sock)


async def stream(method, url, body=None, headers={}, limit=0, follow=False):
    """The pieces of an answer of 2xx, at most `limit` bytes in all."""
    for _ in range(REDIRECTS_MAX + 1):
        async with _answer(method, url, body, headers) as response:
            location = response.headers.get("Location")
            if follow and location and response.status in (301, 302, 303, 307, 308):
                url = urllib.parse.urljoin(url, location)
                continue
            if not 200 <= response.status < 300:
                told = await _in_thread(response.read, 300)
                told = told.decode("utf-8", "replace").strip()
                raise WebError(f"{url[:200]} answered {response.status}: {told or response.reason}")
            got = 0
            while piece := await _in_thread(response.read1, PIECE_BYTES):
                got += len(piece)
                if got > limit:
                    raise WebError(f"{url[:200]} answered more than {limit} bytes: refused")
                yield piece
            return
    raise WebError(f"{url[:200]}: more than {REDIRECTS_MAX} redirects")


async def fetch(method, url, body=None, headers={}, limit=0, timeout=30, follow=False):
    """The whole answer."""
    try:
        async with asyncio.timeout(timeout):
            pieces = stream(method, url, body, headers, limit, follow)
            async with contextlib.aclosing(pieces):
                return b"".join([piece async for piece in pieces])
    except TimeoutError as error:
        raise WebError(f"{url[:200]}: no whole answer within {timeout} s") from error
