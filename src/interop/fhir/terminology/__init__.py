"""Code systems and value sets: what a code is, and where it may stand (FHIR R4 terminologies.html).

`terminology()` knows R4's own and the packages of profiles/; a tenant's stored CodeSystems and
ValueSets lie over them (`tenant.py`).
"""

from interop.fhir.terminology.evaluation import Limits, NotExpandable, Terminology
from interop.fhir.terminology.packages import terminology

__all__ = ["Limits", "NotExpandable", "Terminology", "terminology"]
