"""The administration of a tenant over HTTP: /api/v1/tenants/{tenant}/... (OpenAPI)."""
