"""DIMSE: the storage and verification SCP, the SCU, and the guard between them and the network.

Accepted associations run in `association`; `c_store` is the data path; pynetdicom negotiates,
encodes and serves the rest (docs/decisions/0003-dimse-data-path.md).
"""
