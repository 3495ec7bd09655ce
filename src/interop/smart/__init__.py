"""The SMART App Launch authorization server of each tenant: clients, tokens, endpoints."""
