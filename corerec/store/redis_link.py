"""One Redis database: connections, whether it is durable, scripts; what Redis says becomes ours.

A connection is made only to a server that would keep what it acknowledges, so that a server which
came back without its log, or another in its place, is noticed before anything is written to it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from redis import connection, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from corerec.errors import InvalidArgument, Unavailable
from corerec.store.redis_errors import Refused, explained
from corerec.store.redis_scripts import BOOT, Script

# These have no types.
_parse_url: Any = connection.parse_url
_Pool: Any = connection.BlockingConnectionPool

Durability = Literal["always", "everysec"]

FORMAT = "corerec-store 1"
SMALLEST_VERSION = (6, 2)
MAX_CONNECTIONS = 32
PATIENCE = 60.0
"""Seconds that a step of seeding may take, which moves many rows at once."""


class Link:
    """Connections to one database, used by many threads; every failure is Unavailable."""

    def __init__(
        self, url: str, *, prefix: str, busy_seconds: float, durability: Durability
    ) -> None:
        """Connect, and make sure that the server keeps what it acknowledges.

        Raises:
            InvalidArgument: the URL or an option is malformed.
            Unavailable: no such server answers, or it is not set up to be durable.
        """
        if durability not in ("always", "everysec"):
            raise InvalidArgument(f"durability must be always or everysec, got {durability!r}")
        try:
            given = dict(_parse_url(url))
        except ValueError as error:
            raise InvalidArgument(f"store address must be redis://host:port/db: {error}") from None
        # Without the password, which an URL may have.
        self.name = f"redis://{given.get('host', 'localhost')}:{given.get('port', 6379)}"
        self.name += f"/{given.get('db', 0)}"
        self.prefix, self._busy_seconds, self._durability = prefix, busy_seconds, durability
        self._identity: bytes | None = None
        self._closed = False
        self._pools = {seconds: self._pool(given, seconds) for seconds in (busy_seconds, PATIENCE)}
        self._identity_lock = threading.Lock()
        with self._lent(busy_seconds):
            pass

    def key(self, name: str) -> str:
        """Return a key of this store."""
        return f"{self.prefix}:{name}"

    def call(self, *command: Any, again: bool = False, seconds: float | None = None) -> Any:
        """Return what Redis answers to one command.

        `again`: whether the command may be sent twice, when its connection was lost.
        `seconds`: how long the answer may take, `busy_seconds` or PATIENCE.
        """
        try:
            return self._call(command, seconds or self._busy_seconds)
        except exceptions.TimeoutError as error:
            raise Unavailable(explained(self.name, self._busy_seconds, error)) from error
        except exceptions.ConnectionError as error:
            if not again or isinstance(error, Refused):
                raise Unavailable(explained(self.name, self._busy_seconds, error)) from error
        except exceptions.RedisError as error:
            raise Unavailable(explained(self.name, self._busy_seconds, error)) from error
        return self.call(*command, seconds=seconds)

    def run(
        self,
        script: Script,
        keys: list[str],
        arguments: list[Any],
        *,
        again: bool = False,
        seconds: float | None = None,
    ) -> Any:
        """Return what a script answers; it does nothing unless this is the store that was opened.

        `keys` are names without the prefix.
        """
        named = [self.key("store"), *(self.key(name) for name in keys)]
        rest = (len(named), *named, self._identity or b"", *arguments)
        try:
            return self.call("EVALSHA", script.sha, *rest, again=again, seconds=seconds)
        except Unavailable as error:
            if not isinstance(error.__cause__, exceptions.NoScriptError):
                raise
        return self.call("EVAL", script.text, *rest, again=again, seconds=seconds)

    def check(self) -> None:
        """Raise Unavailable unless the server is still set up to be durable, and takes writes."""
        try:
            with self._lent(self._busy_seconds) as link:
                self._inspect(link)
        except exceptions.RedisError as error:
            raise Unavailable(explained(self.name, self._busy_seconds, error)) from error
        self.call("SET", self.key("probe"), "", again=True)

    def close(self) -> None:
        """Close all connections; a second call does nothing."""
        self._closed = True
        for pool in self._pools.values():
            pool.disconnect()

    def _pool(self, given: dict[str, Any], seconds: float) -> Any:
        options: dict[str, Any] = {
            "connection_class": connection.Connection,
            "socket_timeout": seconds,
            "socket_connect_timeout": self._busy_seconds,
            "protocol": 2,
            # A command that was sent may have been done: whether to send it again is ours to say.
            "retry": Retry(NoBackoff(), 0),
            **given,
            "redis_connect_func": self._greet,
        }
        return _Pool(max_connections=MAX_CONNECTIONS, timeout=self._busy_seconds, **options)

    def _call(self, command: tuple[Any, ...], seconds: float) -> Any:
        with self._lent(seconds) as link:
            link.send_command(*command, check_health=False)
            return link.read_response()

    @contextmanager
    def _lent(self, seconds: float) -> Iterator[Any]:
        """Lend a connection; one that may still have an answer to come is not used again."""
        if self._closed:
            raise Unavailable(f"store {self.name}: is closed")
        pool = self._pools[seconds]
        try:
            link = pool.get_connection()
        except (exceptions.RedisError, OSError) as error:
            raise Unavailable(explained(self.name, self._busy_seconds, error)) from error
        try:
            yield link
        except exceptions.ResponseError:
            raise
        except BaseException:
            link.disconnect()
            raise
        finally:
            pool.release(link)

    def _greet(self, link: Any) -> None:
        """Set up a new connection, and refuse a server that is not to be trusted with writes."""
        link.on_connect()
        run = self._inspect(link)
        with self._identity_lock:
            self._identify(link, run)

    def _inspect(self, link: Any) -> str:
        """Raise Refused unless the server keeps what it acknowledges; return the id of its run."""
        server = _table(_ask(link, "INFO", "server"))
        version = tuple(int(part) for part in server["redis_version"].split(".")[:2])
        if version < SMALLEST_VERSION:
            wanted = ".".join(str(part) for part in SMALLEST_VERSION)
            raise Refused(f"must be Redis {wanted} or later, got {server['redis_version']}")
        try:
            pairs = [*_ask(link, "CONFIG", "GET", "*append*")]
            pairs += _ask(link, "CONFIG", "GET", "maxmemory-policy")
        except exceptions.ResponseError as error:
            raise Refused(
                f"its settings cannot be read ({error}); allow CONFIG GET, without which nobody "
                "knows whether it keeps what it acknowledges"
            ) from None
        settings = dict(zip(map(_text, pairs[::2]), map(_text, pairs[1::2]), strict=True))
        safe = ("always",) if self._durability == "always" else ("always", "everysec")
        for name, allowed in (
            ("appendonly", ("yes",)),
            ("appendfsync", safe),
            ("no-appendfsync-on-rewrite", ("no",)),
            ("maxmemory-policy", ("noeviction",)),
        ):
            if settings.get(name) not in allowed:
                raise Refused(
                    f"its {name} must be {' or '.join(allowed)}, got {settings.get(name)}, or it "
                    f"loses what it acknowledged; set it in redis.conf, or CONFIG SET {name} "
                    f"{allowed[0]}"
                )
        return server["run_id"]

    def _identify(self, link: Any, run: str) -> None:
        fresh = f"{FORMAT} {uuid.uuid4().hex}"
        jump = int(self._durability == "everysec")
        keys = [self.key(name) for name in ("store", "run", "position", "seq")]
        found = _ask(link, "EVAL", BOOT.text, len(keys), *keys, fresh, run, jump)
        if not _text(found).startswith(f"{FORMAT} "):
            raise Refused(f"must hold a store of format {FORMAT!r}, got {found!r}; use another one")
        if self._identity not in (None, found):
            raise Refused(
                "it is not the store that was opened, it was emptied or replaced; bring the old "
                "one back, or restart to use this one"
            )
        self._identity = found


def _ask(link: Any, *command: Any) -> Any:
    link.send_command(*command, check_health=False)
    return link.read_response()


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _table(raw: Any) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(raw).splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}
