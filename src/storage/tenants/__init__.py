"""The life of a tenant: configuration, features, suspension, closing, deletion."""
