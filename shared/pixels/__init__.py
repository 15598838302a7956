"""DICOM objects and image files to display-ready frames."""
