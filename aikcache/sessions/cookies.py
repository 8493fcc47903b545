"""A session's cookie: its values in a request, and the header that sets or deletes it.

Always HttpOnly; Secure unless that is turned off; SameSite=Strict unless another is given; no Domain unless one is
given. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from aikcache.errors import ConfigError

COOKIE: Final = ".AIKernel.Session"
HOST: Final = "__Host-"
_NAME: Final = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z|~]+")
_ATTRIBUTE: Final = re.compile(r"[\x21-\x3a\x3c-\x7e]+")
_SAME_SITE: Final = ("Strict", "Lax", "None")
_PAST: Final = "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass(frozen=True, slots=True)
class Keep:
    """The cookie stays as it is."""


@dataclass(frozen=True, slots=True)
class Set:
    """A new cookie. `max_age`: seconds; None: it ends with the browser's session."""

    value: str
    max_age: int | None


@dataclass(frozen=True, slots=True)
class Drop:
    """The cookie is to be deleted."""


Cookie: TypeAlias = "Keep | Set | Drop"


@dataclass(frozen=True, slots=True)
class CookieForm:
    """The cookie's attributes. `secure=False` is for plain HTTP, as in development.

    Raises:
        ConfigError: browsers would refuse it, or it breaks a rule.
    """

    name: str = COOKIE
    path: str = "/"
    domain: str | None = None
    same_site: str = "Strict"
    secure: bool = True
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"a cookie's name must be letters, digits and signs without spaces, got {self.name!r}.")
        for what, value in (("path", self.path), ("domain", self.domain)):
            if value is not None and not _ATTRIBUTE.fullmatch(value):
                raise ConfigError(f"the cookie's {what} must have neither spaces nor semicolons, got {value!r}.")
        if not self.path.startswith("/"):
            raise ConfigError(f"the cookie's path must begin with '/', got {self.path!r}.")
        if self.same_site not in _SAME_SITE:
            raise ConfigError(f"SameSite must be 'Strict', 'Lax' or 'None', got {self.same_site!r}.")
        if self.same_site == "None" and not self.secure:
            raise ConfigError("SameSite='None' needs a Secure cookie, or browsers refuse it. Use 'Lax', or HTTPS.")
        if self.partitioned and not self.secure:
            raise ConfigError(
                "a partitioned cookie must be Secure, or browsers refuse it, got partitioned=True and secure=False. "
                "Use HTTPS without insecure_cookie, or leave partitioned out."
            )
        if self.name.startswith("__") and not self.secure:
            raise ConfigError(f"the prefix of {self.name!r} needs a Secure cookie. Use HTTPS, or no prefix.")
        if self.name.startswith(HOST) and (self.domain is not None or self.path != "/"):
            raise ConfigError(
                f"a cookie whose name begins with {HOST} has the path '/' and no domain, got {self.path!r} and "
                f"{self.domain!r}. Leave both out, or the prefix."
            )

    def received(self, header: str | None) -> list[str]:
        """The values under this name in a `Cookie` header, in their order."""
        found = []
        for part in (header or "").split(";"):
            name, equals, value = part.strip().partition("=")
            if equals and name == self.name:
                found.append(value)
        return found

    def header(self, cookie: Set | Drop) -> str:
        """The value of a `Set-Cookie` header."""
        value, age = (cookie.value, cookie.max_age) if isinstance(cookie, Set) else ("", 0)
        parts = [f"{self.name}={value}", f"Path={self.path}", "HttpOnly", f"SameSite={self.same_site}"]
        if self.secure:
            parts.append("Secure")
        if self.partitioned:
            parts.append("Partitioned")
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if age is not None:
            parts.append(f"Max-Age={age}")
        if isinstance(cookie, Drop):
            parts.append(f"Expires={_PAST}")
        return "; ".join(parts)
