"""FHIR R4: the interactions, the search, and the lenses between resources and relational rows."""
