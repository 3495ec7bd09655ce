"""One lens for all DocumentReferences: notes, which clients write, stored documents, and files.

Another document, such as a PDF that a client sends, is stored whole and has no row.
"""

from __future__ import annotations

from interop.fhir.mappings import clinical_note, document, imaging_file
from interop.fhir.mappings.shared_type import SharedLens


def lens(public_url: str | None) -> SharedLens:
    views = (document.lens(public_url), imaging_file.document(public_url))
    return SharedLens(views, (clinical_note.part(public_url),))
