"""FHIR R4 search (search.html): what is indexed, what is asked, and the SQL between the two."""
