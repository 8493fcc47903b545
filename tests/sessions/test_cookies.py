"""The session's cookie as it is sent, and as it is found in a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache.errors import ConfigError
from aikcache.sessions import Drop, Set
from aikcache.sessions.cookies import CookieForm


def test_a_cookie_is_strict_secure_and_hidden_from_scripts() -> None:
    """Unless it is said otherwise; an age only where there is one."""
    form = CookieForm()
    flags = "Path=/; HttpOnly; SameSite=Strict; Secure"
    assert form.header(Set("x", None)) == f".AIKernel.Session=x; {flags}"
    assert form.header(Set("x", 60)) == f".AIKernel.Session=x; {flags}; Max-Age=60"
    assert form.header(Drop()).startswith(f".AIKernel.Session=; {flags}; Max-Age=0; Expires=Thu, 01 Jan 1970")
    other = CookieForm("sid", "/shop", "example.org", "Lax", secure=False)
    assert other.header(Set("x", None)) == "sid=x; Path=/shop; HttpOnly; SameSite=Lax; Domain=example.org"
    assert CookieForm(partitioned=True).header(Set("x", None)) == f".AIKernel.Session=x; {flags}; Partitioned"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"same_site": "None", "secure": False}, "SameSite='None' needs a Secure cookie"),
        ({"partitioned": True, "secure": False}, "must be Secure, .* got partitioned=True and secure=False. Use HTTPS"),
        ({"same_site": "strict"}, "SameSite must be 'Strict', 'Lax' or 'None', got 'strict'"),
        ({"name": "__Host-sid", "domain": "example.org"}, "has the path '/' and no domain"),
        ({"name": "__Host-sid", "path": "/shop"}, "has the path '/' and no domain"),
        ({"name": "__Host-sid", "secure": False}, "needs a Secure cookie. Use HTTPS, or no prefix"),
        ({"name": "a b"}, "a cookie's name must be"),
        ({"path": "shop"}, "must begin with '/'"),
        ({"domain": "a; Secure"}, "neither spaces nor semicolons"),
    ],
)
def test_what_browsers_refuse_is_an_error(arguments: dict[str, Any], message: str) -> None:
    """With the way out in its message."""
    with pytest.raises(ConfigError, match=message):
        CookieForm(**arguments)


def test_cookies_of_one_name_come_in_their_order() -> None:
    """Others are passed over."""
    assert CookieForm("sid").received("a=1; sid=x; sidx=3;sid=y=; sid; =; SID=z") == ["x", "y="]
    assert CookieForm("sid").received(None) == []


@given(st.text())
def test_any_header_is_read(header: str) -> None:
    """Without an exception."""
    assert isinstance(CookieForm("sid").received(header), list)
