"""Searching the index by the rules of PS3.4 C.2.2.2, for QIDO-RS and C-FIND alike."""
