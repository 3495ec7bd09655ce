"""The demo's dentist, with whose password the printed address of the viewer is opened."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from interop.command_line import Opened
from interop.demo.person import PASSWORD_FILE, sign_in_of_dentist
from interop.identity.sessions import COOKIE
from interop.settings import Settings
from tests.integration.smart.conftest import SmartServer, forms_of


@pytest.fixture
def opened(smart: SmartServer, tmp_path: Path) -> Opened:
    """What a command works with, in a folder of its own."""
    settings = Settings(data_dir=tmp_path)
    return Opened(settings, smart.owner_url, smart.services.database, smart.services.tenants)


def signs_in(smart: SmartServer, email: str, password: str) -> bool:
    """Whether the printed lines open the viewer."""
    with httpx.Client(base_url=smart.url, follow_redirects=True, timeout=60) as visitor:
        asked = visitor.get(f"/t/{smart.tenant.slug}/viewer?StudyInstanceUIDs=1.2.3")
        action, fields = forms_of(asked.text)[0]
        answer = visitor.post(
            action,
            data={**fields, "email": email, "password": password},
            headers={"Origin": smart.url},
        )
        return COOKIE in visitor.cookies and answer.url.path.endswith("/viewer/viewer")


def test_what_the_demo_prints_opens_the_viewer_again_and_again(
    smart: SmartServer, opened: Opened
) -> None:
    first = sign_in_of_dentist(opened, smart.tenant)
    again = sign_in_of_dentist(opened, smart.tenant)
    path = opened.settings.data_dir / PASSWORD_FILE
    mode = path.stat().st_mode & 0o777
    path.unlink()
    new = sign_in_of_dentist(opened, smart.tenant)

    assert first == again
    assert mode == 0o600
    assert new[0] == first[0] and new[1] != first[1]
    assert signs_in(smart, *new)
    assert not signs_in(smart, *first)
