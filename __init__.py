"""imitate: from a hospital archive of chest radiographs and reports to an evaluated vision-language model."""

__version__ = "0.1.0"
