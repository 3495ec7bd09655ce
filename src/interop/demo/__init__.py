"""`make demo`: the whole main job on one machine, with synthetic patients.

Everything goes through the doors that a clinic uses: FHIR for the records, C-STORE and STOW-RS for
the images. Ids, UIDs and bytes are derived from fixed names, so a second run changes nothing.
"""
