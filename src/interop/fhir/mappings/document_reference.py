"""One lens for all DocumentReferences: notes, which clients write, and stored documents.

Another document, such as a PDF that a client sends, is stored whole and has no row.
"""

from __future__ import annotations

from interop.fhir.mappings import clinical_note, document
from interop.fhir.mappings.shared_type import SharedLens


def lens(public_url: str | None) -> SharedLens:
    return SharedLens((document.lens(public_url),), (clinical_note.part(public_url),))
