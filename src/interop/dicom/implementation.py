"""Who we say we are on the wire and in what we make (PS3.7 D.3.3.2, PS3.10 7.1).

The class UID is derived from a UUID (PS3.5 B.2), because nobody handed us an organisation root.
"""

from __future__ import annotations

from typing import Final

IMPLEMENTATION_CLASS_UID: Final = "2.25.76133687430704976828418955598250446012"
IMPLEMENTATION_VERSION_NAME: Final = "DENTALINTEROP01"  # VR SH, at most 16 characters

# General Equipment of the objects we make (SR, SEG). Ingest starts no AI on objects that carry
# this manufacturer, so that our own results, sent back by a PACS, never feed the models.
MANUFACTURER: Final = "dental-interop"
MANUFACTURER_MODEL_NAME: Final = "dental-interop AI"
