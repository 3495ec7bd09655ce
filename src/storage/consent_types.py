"""What a patient can consent to (data-schema.md II, `consents.consent_type`)."""

from __future__ import annotations

from typing import Final

CONSENT_TYPES: Final = ("AI_ANALYSIS", "RESEARCH", "DATA_SHARING", "MARKETING")
