"""A DICOM, PNG or JPG file becomes a checked film, grey levels, and a PNG of known geometry."""
