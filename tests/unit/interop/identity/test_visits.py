"""Where a sign-in leads, where a request comes from, what a form token is good for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from interop.errors import Forbidden
from interop.identity import forms, users
from interop.identity.devices import device_of
from interop.identity.source_address import source_address, throttled_unit
from interop.identity.visits import continue_path
from storage.encryption import MasterKey

KEYS = MasterKey(bytes(32))
DEMO: Any = SimpleNamespace(slug="demo")
PIECES = st.sampled_from(
    ["/", "t", "demo", "other", "..", ".", "%2e", "%2f", "%5c", "\\", "//", "?", "#", "@", ":",
     "https:", "evil.example", "a", "%", "\n", " ", "ä", "&", "="]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_sign_in_never_leads_out_of_its_tenant(rest: str) -> None:
    for asked in (rest, f"/t/demo/{rest}"):
        path = continue_path(DEMO, asked)

        target = urlsplit(urljoin("https://here.example/t/demo/sign-in", path))
        assert (target.scheme, target.netloc) == ("https", "here.example")
        assert target.path.startswith("/t/demo/")
        assert ".." not in unquote(target.path).split("/")
        assert "\n" not in path and "\\" not in path


def test_a_path_of_the_tenant_is_kept_with_its_query() -> None:
    asked = "/t/demo/oauth2/authorize?redirect_uri=https%3A%2F%2Fapp.example%2F..%2Fcb&x=//y"

    assert continue_path(DEMO, asked) == asked


def request(peer: str | None, *forwarded: str) -> Request:
    return Request(
        {
            "type": "http",
            "client": (peer, 1) if peer else None,
            "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
        }
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "expected"),
    [
        ("198.51.100.7", ("1.2.3.4",), "", "198.51.100.7"),
        ("198.51.100.7", ("1.2.3.4",), "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ("1.2.3.4",), "10.0.0.0/8", "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, 1.2.3.4",), "10.0.0.0/8", "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6", "1.2.3.4, 10.0.0.2"), "10.0.0.0/8", "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, not an address",), "10.0.0.0/8", "10.0.0.1"),
        ("10.0.0.1", (), "10.0.0.0/8", "10.0.0.1"),
        ("::1", ("2001:db8::5",), "::1, 10.0.0.0/8", "2001:db8::5"),
        (None, ("1.2.3.4",), "10.0.0.0/8", None),
    ],
)
def test_what_a_client_writes_of_itself_is_not_believed(
    peer: str | None, forwarded: tuple[str, ...], proxies: str, expected: str | None
) -> None:
    settings: Any = SimpleNamespace(trusted_proxies=proxies)

    assert source_address(request(peer, *forwarded), settings) == expected


@pytest.mark.parametrize(
    ("address", "unit"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        (None, "unknown"),
        ("unix:", "unknown"),
    ],
)
def test_a_household_is_slowed_down_as_one(address: str | None, unit: str) -> None:
    assert throttled_unit(address) == unit


def test_a_form_token_is_good_for_its_form_browser_and_tenant_for_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenant, browser = uuid4(), forms.browser_of("cookie", "session")
    token = forms.issue(KEYS, tenant, "/t/demo/sign-in", browser)

    forms.require_token(KEYS, tenant, "/t/demo/sign-in", browser, token)
    wrong: list[tuple[Any, ...]] = [
        (tenant, "/t/demo/sign-out", browser, token),
        (uuid4(), "/t/demo/sign-in", browser, token),
        (tenant, "/t/demo/sign-in", forms.browser_of("cookie", None), token),
        (tenant, "/t/demo/sign-in", forms.browser_of("other", "session"), token),
        (tenant, "/t/demo/sign-in", browser, None),
        (tenant, "/t/demo/sign-in", browser, ""),
        (tenant, "/t/demo/sign-in", browser, "ä"),
        (tenant, "/t/demo/sign-in", browser, token[:-8]),
    ]
    for arguments in wrong:
        with pytest.raises(Forbidden):
            forms.require_token(KEYS, *arguments)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + forms.LIFETIME_SECONDS + 2)
    with pytest.raises(Forbidden, match="too long"):
        forms.require_token(KEYS, tenant, "/t/demo/sign-in", browser, token)


@given(st.text(max_size=60))
def test_anything_may_be_sent_as_a_form_token(text: str) -> None:
    with pytest.raises(Forbidden):
        forms.require_token(KEYS, uuid4(), "/t/demo/sign-in", "browser", text)


AGENTS = {
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0": ("Edge on Windows", "DESKTOP"),
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.0 Mobile/15E148 Safari/604.1": ("Safari on iOS", "MOBILE"),
    "Mozilla/5.0 (Linux; Android 15; SM-X900) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36": ("Chrome on Android", "TABLET"),
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 15.7; rv:140.0) Gecko/20100101 Firefox/140.0": (
        "Firefox on macOS", "DESKTOP",
    ),
    "curl/8.5.0": (None, "OTHER"),
}  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
def test_a_device_is_named_as_its_user_knows_it(agent: str) -> None:
    device = device_of(agent, "198.51.100.7")

    assert (device.name, device.type) == AGENTS[agent]


@given(st.text(max_size=2000))
def test_any_user_agent_is_cut_and_never_fails(agent: str) -> None:
    assert len(device_of(agent, None).user_agent or "") <= 256


@given(st.emails())
def test_an_address_has_one_spelling(email: str) -> None:
    normal = users.normal_email(email)

    assert users.normal_email(normal) == normal
    assert users.normal_email(f" {email.upper()} ") == users.normal_email(email.upper())
