"""The first administrator, made on the command line, signs in to the server as it is shipped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.live_server import CLI, LiveServer
from tests.integration.identity.conftest import PASSWORD, Browser

pytestmark = pytest.mark.timeout(600)
CREATE = ("user", "create", "--tenant", "demo", "--role", "TENANT_ADMIN", "--email")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path_factory.mktemp("identity"))
    made.start("http")
    made.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    yield made
    made.stop()


def run(server: LiveServer, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """A command with something on its standard input."""
    return subprocess.run(
        [*CLI, *arguments], env=server.environment, input=given, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture
def browser(server: LiveServer) -> Iterator[Browser]:
    made = Browser(server.url, "demo")
    yield made
    made.http.close()


def test_the_first_administrator_signs_in(server: LiveServer, browser: Browser) -> None:
    made = run(
        server, *CREATE, "ada@clinic.example", "--password-stdin", "--json", given=f"{PASSWORD}\n"
    )
    assert made.returncode == 0, made.stderr

    answer = browser.sign_in("ada@clinic.example")

    assert json.loads(made.stdout)["sign_in"] == f"{server.url}/t/demo/sign-in"
    assert answer.headers["location"] == "/t/demo/account"
    assert "Ada, demo" in browser.get("account").text
    (listed,) = json.loads(server.cli("user", "list", "--tenant", "demo", "--json"))
    assert (listed["email"], listed["roles"], listed["status"]) == (
        "ada@clinic.example", ["TENANT_ADMIN"], "ACTIVE",
    )  # fmt: skip


def test_an_invitation_link_is_printed_and_works(server: LiveServer, browser: Browser) -> None:
    link = json.loads(server.cli(*CREATE, "bob@clinic.example", "--json"))["link"]

    page = browser.get(link.removeprefix(server.url))
    answer = browser.submit(page, "sign-in/invitation", password=PASSWORD, repeated=PASSWORD)

    assert answer.status_code == 303
    assert browser.sign_in("bob@clinic.example").status_code == 303


def test_d17_the_quota_of_users_holds_on_the_command_line(server: LiveServer) -> None:
    server.cli("tenant", "create", "full")
    create = ("user", "create", "--tenant", "full", "--email")
    server.cli("tenant", "quota", "full", "max_users=1")
    made = run(server, *create, "one@full.example", "--password-stdin", given=f"{PASSWORD}\n")

    refused = run(server, *create, "two@full.example", "--password-stdin", given=f"{PASSWORD}\n")

    assert (made.returncode, refused.returncode) == (0, 1)
    assert "may have 1 users" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr
    listed = json.loads(server.cli("user", "list", "--tenant", "full", "--json"))
    assert [one["email"] for one in listed] == ["one@full.example"]


def test_a_disabled_user_is_out_at_once(server: LiveServer, browser: Browser) -> None:
    run(server, *CREATE, "cora@clinic.example", "--password-stdin", given=f"{PASSWORD}\n")
    browser.sign_in("cora@clinic.example")
    assert browser.get("account").status_code == 200

    server.cli("user", "disable", "--tenant", "demo", "--email", "cora@clinic.example")

    assert browser.get("account").status_code == 303
    assert browser.sign_in("cora@clinic.example").status_code == 401
    server.cli("user", "enable", "--tenant", "demo", "--email", "cora@clinic.example")
    assert browser.sign_in("cora@clinic.example").status_code == 303


def test_roles_and_passwords_are_changed(server: LiveServer, browser: Browser) -> None:
    run(server, *CREATE, "dan@clinic.example", "--password-stdin", given=f"{PASSWORD}\n")
    who = ("--tenant", "demo", "--email", "dan@clinic.example")

    server.cli(
        "user", "role", *who, "--add", "CLINICIAN", "--scope", "SELF", "--until", "2100-01-01"
    )
    left = json.loads(server.cli("user", "role", *who, "--remove", "TENANT_ADMIN", "--json"))
    changed = run(server, "user", "password", *who, given="nine purple elephants\n")

    assert [(one["role"], one["scope"]) for one in left] == [("CLINICIAN", "SELF")]
    assert changed.returncode == 0, changed.stderr
    assert browser.sign_in("dan@clinic.example").status_code == 401
    assert browser.sign_in("dan@clinic.example", "nine purple elephants").status_code == 303


def test_a_provider_is_set_up_and_taken_away(server: LiveServer, browser: Browser) -> None:
    made = run(
        server, "provider", "set", "--tenant", "demo", "--name", "hospital", "--issuer",
        "https://login.hospital.example", "--client-id", "interop", "--display-name",
        "City Hospital", "--secret-stdin", "--json", given="a secret\n",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr

    offered = browser.get("sign-in").text
    server.cli("provider", "disable", "--tenant", "demo", "--name", "hospital")

    assert json.loads(made.stdout)["redirect_uri"] == (
        f"{server.url}/t/demo/sign-in/oidc/hospital/callback"
    )
    assert "Sign in with City Hospital" in offered
    assert "City Hospital" not in browser.get("sign-in").text


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        ((*CREATE, "eve@clinic.example", "--password-stdin"), "short\n", "at least 12"),
        ((*CREATE, "not an address", "--password-stdin"), PASSWORD, "name@example.org"),
        (
            ("user", "create", "--tenant", "demo", "--email", "e@x.example", "--role", "KING"),
            "",
            "TENANT_ADMIN",
        ),
        ((*CREATE, "e@x.example", "--type", "KING"), "", "HYGIENIST"),
        ((*CREATE, "e@x.example", "--scope", "LOCATION"), "", "location"),
        (("user", "disable", "--tenant", "demo", "--email", "no@x.example"), "", "no user"),
        (
            ("provider", "set", "--tenant", "demo", "--name", "x", "--client-id", "x", "--issuer",
             "http://x.example"),
            "",
            "https",
        ),
    ],
)  # fmt: skip
def test_an_error_is_one_line_that_says_what_to_change(
    server: LiveServer, arguments: tuple[str, ...], given: str, expected: str
) -> None:
    done = run(server, *arguments, given=given)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert expected in done.stderr.replace("\n", " ")
