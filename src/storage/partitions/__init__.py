"""Places of tenants beside the tables of the installation: made, filled, migrated, removed.

A SCHEMA tenant has a copy of the tenant tables in a schema of its own (`schemas`), a DATABASE
tenant all tables in a database of its own (`databases`, with what belongs to the platform kept
there by `mirror`). `provisioning` makes one for a tenant, `upgrading` migrates all of them;
`storage.places` leads to them (decision 0011).
"""
