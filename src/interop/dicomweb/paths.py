"""What the paths of DICOMweb URLs mean: UIDs, and the root that URLs of ours begin with."""

from __future__ import annotations

import re

from starlette.requests import Request

from interop.errors import NotFound

_UID = re.compile(r"[0-9.]{1,64}")


def is_uid(text: str) -> bool:
    """Whether the text can be a stored UID (PS3.5 9; leading zeros are seen in the field)."""
    return _UID.fullmatch(text) is not None


def uid_of(request: Request, name: str) -> str:
    """The UID in the path. Raises the NotFound of an object that does not exist."""
    uid: str = request.path_params[name]
    if not is_uid(uid):
        raise NotFound()
    return uid


def root_of(request: Request) -> str:
    """The service root of the tenant, without a slash at its end."""
    public: str = request.app.state.services.settings.effective_public_url
    return f"{public.rstrip('/')}/t/{request.path_params['tenant']}/dicom-web"
