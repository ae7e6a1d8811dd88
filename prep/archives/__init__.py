"""One file an archive: where pictures, reports, labels and splits lie in what is downloaded."""
