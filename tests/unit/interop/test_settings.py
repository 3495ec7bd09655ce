"""Settings: from the environment or files, documented, refused with the name of what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pydantic import ValidationError

from interop.settings import Settings, is_loopback

ROOT = Path(__file__).parents[3]


def test_a_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTEROP_HTTP_PORT", "9000")

    assert Settings().http_port == 9000


def test_a_secret_is_read_from_a_file_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("c2VjcmV0\n")
    monkeypatch.setenv("INTEROP_MASTER_KEY_FILE", str(tmp_path / "key"))

    settings = Settings()

    assert settings.master_key is not None
    assert settings.master_key.get_secret_value() == "c2VjcmV0"
    assert "c2VjcmV0" not in repr(settings)


def test_children_of_the_supervisor_get_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("INTEROP_MASTER_KEY", "c2VjcmV0")
    settings = Settings()

    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert Settings() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PORT", "70000"), ("HTTP_PORT", "web"), ("DURABILITY", "some"), ("TOKEN_SECONDS", "5")],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"INTEROP_{name}", value)

    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_a_setting_never_changes_after_it_was_read() -> None:
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    spec = importlib.util.spec_from_file_location(
        "write_settings_doc", ROOT / "tools" / "write_settings_doc.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.TARGET.read_text(encoding="utf-8") == module.document(), (
        "run: python tools/write_settings_doc.py"
    )
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
