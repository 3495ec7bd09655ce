"""Batches and transactions: many requests in one Bundle (FHIR R4 http.html#transaction)."""
