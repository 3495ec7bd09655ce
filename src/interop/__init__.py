"""What is spoken on a wire: FHIR R4, DICOMweb, DIMSE, and the composition root."""
