"""Results as DICOM objects: a TID 1500 structured report and a segmentation."""
