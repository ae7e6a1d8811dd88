"""One file per archive: where its pictures, reports, labels and splits lie in the downloaded layout."""
