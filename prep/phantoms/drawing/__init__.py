"""What a phantom archive is drawn from: patients, films, wordings, DICOM files, packing."""
