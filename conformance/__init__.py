"""What DICOM asks of a server, as checks that run against any server; and what ours claims."""
