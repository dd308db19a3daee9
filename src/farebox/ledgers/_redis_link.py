"""The way to a Redis server: its URL, its connections, and what its errors mean.

Commands are written and read on plain connections and never repeated by the driver.  What is given again here is safe to
be given again: every script is done at most once for each id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers import _redis_scripts as scripts

try:
    from redis import exceptions as failures
    from redis.backoff import NoBackoff
    from redis.connection import Connection, SSLConnection
    from redis.retry import Retry
except ModuleNotFoundError as error:  # pragma: no cover, it is installed where this is tested
    raise ModuleNotFoundError(
        "a redis:// ledger needs the package redis; write: pip install 'farebox[redis]'", name="redis"
    ) from error

pack_command: Callable[[Command], bytes] | None = None
try:
    from hiredis import pack_command
except ImportError:
    pass  # an extra of the driver: without it, what is below

#: A command, or a call of a script, as it goes over the wire.
Command = tuple[Any, ...]

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OPTIONS: Final = ("namespace", "timeout", "wait")
#: Connections kept for later; more than these at a time are closed after use.
_MOST_SPARE: Final = 8


class Wire(Protocol):
    """What is used of a driver's connection."""

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    def read_response(self) -> Any: ...


@attrs.frozen(kw_only=True)
class Address:
    """Where a ledger lives.

    Attributes:
        shown: The URL without its password.
        prefix: What all its keys begin with: one hash tag, so that all lie in one slot of a cluster.
        timeout_seconds: How long an answer may take.
        replicas: How many replicas must have what was reserved before it counts.
        driver: What the driver's connections are made with.
    """

    shown: str
    prefix: str
    is_secure: bool
    timeout_seconds: float
    replicas: int
    driver: dict[str, Any] = attrs.field(repr=False)


def read_url(url: str, **options: Any) -> Address:
    """The address that a URL and options name; options win.

    Raises:
        ValueError: something in them it does not know; the message shows no password.
    """
    parts = urlsplit(url)
    port_text = parts.netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    shown = f"{parts.scheme}://{f'{parts.username}@' if parts.username else ''}{parts.hostname or ''}"
    shown += f"{f':{port_text}' if port_text else ''}{parts.path}"
    example = "it looks like redis://user:password@host:6379/0?namespace=farebox"
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.fragment:
        raise ValueError(f"{shown!r} is no URL of a Redis ledger; {example}")
    if not re.fullmatch(r"\d{0,5}", port_text):
        raise ValueError(f"{shown!r} has no port number; {example}")
    database = parts.path.strip("/")
    if not re.fullmatch(r"\d{0,5}", database):
        raise ValueError(f"{shown!r} names no database number; {example}")
    said = dict(parse_qsl(parts.query, keep_blank_values=True)) | {k: v for k, v in options.items() if v is not None}
    unknown = sorted(set(said) - set(_OPTIONS))
    if unknown:
        raise ValueError(f"{shown!r} does not know the option {unknown[0]!r}; choose from {', '.join(_OPTIONS)}")
    namespace = str(said.get("namespace", "farebox"))
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"namespace={namespace!r} is no name of letters, digits, '_', '.' and '-', at most 64 of them")
    timeout_seconds = _number(said.get("timeout", 0.5), "timeout", "a number of seconds above 0, such as timeout=0.5")
    if not 0 < timeout_seconds <= 3_600:
        raise ValueError(f"timeout={timeout_seconds} is no time to wait; it is above 0 and at most 3600 seconds")
    replicas = _number(said.get("wait", 0), "wait", "a number of replicas, such as wait=1")
    if replicas != int(replicas) or not 0 <= replicas <= 1_000:
        raise ValueError(f"wait={replicas} is no number of replicas; it is whole, and 0 waits for none")
    driver: dict[str, Any] = {
        "host": parts.hostname,
        "port": int(port_text or 6379),
        "db": int(database or 0),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    return Address(
        shown=shown if namespace == "farebox" else f"{shown}?namespace={namespace}",
        prefix=f"fb1:{{{namespace}}}:",
        is_secure=parts.scheme == "rediss",
        timeout_seconds=timeout_seconds,
        replicas=int(replicas),
        driver=driver,
    )


def _number(said: Any, name: str, wanted: str) -> float:
    try:
        return float(said)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={said!r} is not {wanted}") from None


class Link:
    """Connections to one server: each is used by one thread at a time, and kept for the next."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._spare: list[Wire] = []
        self._meta = f"{address.prefix}meta".encode()
        #: What the server's clock is ahead of ours, in seconds, as last seen.
        self.skew_seconds = 0.0

    def call(self, script: scripts.Script, *arguments: Any) -> Command:
        return (b"EVALSHA", script.sha, b"1", self._meta, *arguments)

    def forget(self) -> None:
        """Let go of all connections without a word to the server: they are another process's too, after a fork."""
        self._spare = []

    def close(self) -> None:
        while self._spare:
            self._spare.pop().disconnect()

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to `commands`, given to the server at once.  The answer of one that failed by itself is its error.

        Raises:
            LedgerUnavailable: the server did not answer, or takes no commands now.
            LedgerLost: it has not the ledger that was opened.
        """
        replies = self._exchange(commands)
        if any(isinstance(reply, failures.NoScriptError) for reply in replies):
            # The server has forgotten our scripts, all of them.  All is given again: what was done answers as before.
            self._load()
            replies = self._exchange(commands)
        for reply in replies:
            if type(reply) is list:
                if reply and reply[0] == b"lost":
                    raise self._lost()
            elif isinstance(reply, failures.ResponseError) and not _is_of_one_command(reply):
                raise self._refused(reply)
        if replies and commands[0][0] == b"EVALSHA" and isinstance(replies[0], list):
            self.skew_seconds = float(replies[0][1]) - time.time()
        return replies

    def _lost(self) -> LedgerLost:
        return LedgerLost(
            f"ledger {self._address.shown} is not the one this process has worked with: it was emptied or replaced; "
            "what was spent is not known, and nothing is sent until it is opened again with configure(ledger=...)"
        )

    def run_one(self, command: Command) -> Any:
        """The answer to one command.

        Raises:
            LedgerUnavailable, LedgerLost: as `run`.
        """
        reply = self.run([command])[0]
        if isinstance(reply, failures.ResponseError):
            raise self._refused(reply)
        return reply

    def prepare(self) -> None:
        """See that the server knows all scripts: if it knew some, a batch would be done out of order.

        Raises:
            LedgerUnavailable: it did not answer, or does not let this user run scripts.
        """
        self.run_one(("PING",))  # short: a server that wants a password first reads no long command
        if self.run_one(("SCRIPT", "EXISTS", *(script.sha for script in scripts.ALL))) != [1] * len(scripts.ALL):
            self._load()

    def _load(self) -> None:
        for reply in self._exchange([("SCRIPT", "LOAD", script.text) for script in scripts.ALL]):
            if isinstance(reply, failures.ResponseError):
                raise self._refused(reply)

    def run_freely(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands that the server may refuse; the answer of one that was refused is its error.

        Raises:
            LedgerUnavailable: the server did not answer.
        """
        return self._exchange(commands)

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        while True:
            try:
                connection, is_new = self._spare.pop(), False
            except IndexError:
                connection, is_new = self._make(), True
            done = False
            try:
                connection.send_packed_command([_packed(commands)], check_health=False)
                replies = [_reply(connection) for _ in commands]
                done = True
            except (failures.ConnectionError, failures.TimeoutError, OSError) as error:
                # One that stood idle may have been closed by the other side: that says nothing about the server.
                if is_new or isinstance(error, (failures.TimeoutError, TimeoutError)):
                    raise self._unreachable(error) from error
                self.close()
                continue
            finally:
                if not done:
                    connection.disconnect()  # also after a signal: an answer left on it would be taken for the next one
            if len(self._spare) < _MOST_SPARE:
                self._spare.append(connection)
            else:
                connection.disconnect()
            return replies

    def _make(self) -> Wire:
        kind = SSLConnection if self._address.is_secure else Connection
        connection = cast(Wire, kind(**self._address.driver))
        try:
            connection.connect()
        except (failures.RedisError, OSError) as error:
            connection.disconnect()
            raise self._unreachable(error) from error
        return connection

    def _unreachable(self, error: Exception) -> LedgerUnavailable:
        shown = self._address.shown
        if isinstance(error, failures.BusyLoadingError):
            return LedgerUnavailable(f"ledger {shown} is still loading its data")
        if isinstance(error, failures.AuthenticationError):
            return LedgerUnavailable(f"ledger {shown} does not accept the user or password of its URL")
        if isinstance(error, (failures.TimeoutError, TimeoutError)):
            return LedgerUnavailable(
                f"ledger {shown} did not answer within {self._address.timeout_seconds:g} seconds (timeout=)"
            )
        if isinstance(error, failures.ResponseError):
            return self._refused(error)
        return LedgerUnavailable(f"ledger {shown} can't be reached: {error}")

    def _refused(self, error: failures.ResponseError) -> LedgerUnavailable:
        shown, text = self._address.shown, str(error)
        if isinstance(error, failures.ReadOnlyError) or "READONLY" in text:
            why = "is a replica, which takes no writes; give the address of its primary"
        elif isinstance(error, failures.MovedError):
            why = f"is one node of a cluster, and another keeps these keys; give the address {error.host}:{error.port}"
        elif isinstance(error, failures.OutOfMemoryError) or "OOM" in text:
            why = "has no memory left; raise maxmemory, and keep maxmemory-policy noeviction"
        elif isinstance(error, (failures.NoPermissionError, failures.AuthenticationError)) or "NOPERM" in text:
            why = (
                f"does not let this user do what is needed: {text}; "
                f"allow +@scripting +@read +@write +@fast on ~{self._address.prefix}*"
            )
        elif "DB index" in text:
            why = "has no database of that number"
        else:
            why = f"refuses: {text}"
        return LedgerUnavailable(f"ledger {shown} {why}")


def _packed(commands: Sequence[Command]) -> bytes:
    """Commands as they go over the wire; the driver's own way takes three times as long."""
    if pack_command is not None:
        return b"".join(map(pack_command, commands))
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            text = argument if isinstance(argument, bytes) else str(argument).encode()
            parts += (b"$%d\r\n" % len(text), text, b"\r\n")
    return b"".join(parts)


def _reply(connection: Wire) -> Any:
    try:
        return connection.read_response()
    except failures.ResponseError as error:
        return error


def _is_of_one_command(error: failures.ResponseError) -> bool:
    """Whether a script found fault with what it was given, so that the other commands are none the worse for it."""
    return type(error) is failures.ResponseError and "farebox: " in str(error)
