"""DICOM objects to display-ready films: bounded walk, header checks, pixel decoding (compressed ones in child processes), LUTs."""
