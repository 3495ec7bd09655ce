"""What every DICOM door shares: spool, parsing, ingest, frames, decoding and rendering."""
