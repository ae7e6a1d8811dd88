"""imitate: from a chest X-ray archive to an evaluated vision-language model."""

__version__ = "0.1.0"
